"""The shipped PPO finds the optimum of a world small enough to list."""

from pathlib import Path

import pytest

from lmjax.rlhf.ppo import train_ppo
from tests.rlhf import mdp


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    mdp.write_world(root)
    return root


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_exact_optimum_is_reached(world, seed):
    """What is left of the way from the reference to the optimum: at most a fiftieth."""
    with mdp.on_devices(1):
        state = train_ppo(mdp.config(world, directory=str(world / f"run{seed}"), seed=seed), mdp.reward)
    assert mdp.gap(state.params) <= 0.02
