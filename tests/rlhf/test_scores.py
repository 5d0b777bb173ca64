"""Scores as a program asks for them, by a pure function that is jitted; and what is refused.

What a trained model scores is tested with its task, in tests/tasks/test_reward.py.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.weights import flatten
from lmjax.models.wrapped import wrap
from lmjax.rlhf.scores import abstract_reward_params, load_reward_model, reward_function
from lmjax.tasks.reward import every_reward
from tests.models.tiny import VOCAB, tiny
from tests.tiny_runs import write_run


@pytest.fixture(scope="module")
def params() -> Any:
    rng = np.random.default_rng(0)
    abstract = abstract_reward_params(tiny("gpt2"))
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), abstract)


def test_the_score_is_the_reward_at_the_last_token(params: Any) -> None:
    cfg = tiny("gpt2")
    score = jax.jit(reward_function(cfg))
    module = wrap(architecture_of(cfg), cfg, (), every_reward)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (3, 12)).astype(np.int32)
    last = np.array([11, 4, 0], np.int32)
    found = score(params, tokens, last)
    texts = {"tokens": tokens, "segment_ids": np.ones((3, 12), np.int32)}
    every: Any = jax.jit(lambda batch: module.apply({"params": params}, batch)["rewards"])(texts)
    np.testing.assert_allclose(found, every[np.arange(3), last], atol=1e-5)  # causal: what follows does not matter
    noise = np.where(np.arange(12) > last[:, None], (tokens + 1) % VOCAB, tokens)
    np.testing.assert_array_equal(score(params, noise, last), found)


def test_the_head_lies_beside_the_backbone(params: Any) -> None:
    assert {"reward/kernel", "reward/bias", "word_embeddings/embedding"} <= set(flatten(params))


def test_runs_that_are_no_reward_model_are_refused(tmp_path: Path) -> None:
    write_run("gpt2", tmp_path / "gpt2")
    (tmp_path / "gpt2/result.json").write_text(json.dumps({"step": 2, "figures": {"shift": 0.0}}))
    with pytest.raises(UserError, match="gpt2 is no reward model"):
        load_reward_model(tmp_path / "gpt2")
    with pytest.raises(UserError, match="no directory"):
        load_reward_model(tmp_path / "nothing")
