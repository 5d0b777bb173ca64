"""One whole update equals trl 1.12.0's PPOTrainer on the same rollout: two epochs of two minibatches, a network for the
values, whitened rewards, a penalty for answers without an end (tests/golden/make_ppo.py)."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models import MODELS
from lmjax.models.architecture import abstract_params
from lmjax.models.weights import flatten, from_hf
from lmjax.parallel import MeshConfig
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PpoConfig
from lmjax.rlhf.networks import NETWORK
from lmjax.rlhf.program import assemble_ppo
from lmjax.rlhf.rollout import RolloutConfig, answered
from lmjax.train.optim import OptimConfig
from tests.rlhf.mdp import assert_same, on_devices

RECORD = Path(__file__).parents[1] / "golden" / "ppo.npz"
EOS, PAD = 60, 59
GPT2 = MODELS["gpt2"]


def part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def network(arrays: dict[str, np.ndarray], prefix: str, cfg: Any) -> dict[str, Any]:
    """Ours of a GPT-2's tensors; "score" is the reward head."""
    tensors = part(arrays, f"{prefix}/")
    score = {name: tensors.pop(f"score.{name}", None) for name in ("weight", "bias")}
    params = from_hf(GPT2.weights(cfg), tensors, abstract_params(GPT2, cfg, ("clm",)), cfg.vocab_size)
    if score["weight"] is None:
        return params
    return {**params, "reward": {"kernel": score["weight"].T, "bias": score["bias"]}}


@pytest.fixture(scope="module")
def found() -> Any:
    """(trl's record, our experience, figures, parameters after, metrics)."""
    with np.load(RECORD, allow_pickle=False) as file:
        trl = dict(file)
    recipe, model = json.loads(str(trl["recipe"])), GPT2.from_hf(json.loads(str(trl["config"])))
    rows, length = trl["query_responses"].shape
    answer = trl["advantages_plain"].shape[1]
    cfg = PpoConfig(
        prompts="no_file",
        rollout=RolloutConfig(length - answer, answer, recipe["temperature"]),
        shaping=ShapingConfig(
            missing_eos="subtract",
            missing_eos_penalty=recipe["missing_eos_penalty"],
            kl_estimator=recipe["kl_estimator"],
            score_at="after_eos",
            whiten_rewards=recipe["whiten_rewards"],
            gamma=recipe["gamma"],
            gae_lambda=recipe["lam"],
        ),
        kl=KlConfig(recipe["kl_coef"]),
        iterations=1,
        batch_size=rows,
        epochs=recipe["num_ppo_epochs"],
        minibatches=recipe["num_mini_batches"],
        clip=recipe["cliprange"],
        value_clip=recipe["cliprange_value"],
        value_coefficient=recipe["vf_coef"],
        optim=OptimConfig(peak_lr=recipe["learning_rate"], eps=1e-8, weight_decay=0.0, clip_norm=0.0),
        mesh=MeshConfig(data=1),
    )
    with on_devices(1):
        program = assemble_ppo(cfg, model, model, EOS, PAD)
    params = {**network(trl, "weights/policy", model), NETWORK: network(trl, "weights/value", model)}
    prompts, new = np.split(trl["query_responses"].astype(np.int32), [length - answer], axis=1)
    starts = {"tokens": jnp.asarray(prompts), "segment_ids": jnp.asarray(prompts != PAD).astype(jnp.int32)}
    given = answered(starts, jnp.asarray(new), EOS, PAD) | {"sampler_log_probs": jnp.zeros(new.shape)}
    orders = jnp.asarray(trl["orders"].reshape(-1, 1, cfg.micro_batch), jnp.int32)
    with jax.set_mesh(program.mesh):
        state = program.init_state()
        state = state.replace(params=jax.tree.map(lambda x, s: jax.device_put(s, x.sharding), state.params, params))
        reference = network(trl, "weights/reference", model)
        experience, figures = program.score(state, reference, given, trl["scores"])
        experience = jax.device_get(experience)
        state, metrics = program.update_on(state, experience, {}, figures["kl"], orders)
    return trl, model, experience, jax.device_get(figures), jax.device_get(state.params), jax.device_get(metrics)


def test_advantages_of_the_rollout(found):
    trl, _, experience, _, _, _ = found
    real = trl["advantages_mask"]
    np.testing.assert_array_equal(experience["loss_weights"] > 0, real)
    np.testing.assert_array_equal(experience["value_weights"] > 0, trl["rewards_mask"])
    np.testing.assert_allclose(
        experience["rewards"][trl["rewards_mask"]], trl["rewards_plain"][trl["rewards_mask"]], atol=1e-5
    )
    np.testing.assert_allclose(experience["advantages"][real], trl["advantages_whitened"][real], atol=1e-4)


def test_metrics_of_the_update(found):
    trl, _, _, figures, _, metrics = found
    theirs = json.loads(str(trl["metrics"]))
    names = {"loss/value_avg": "value", "policy/clipfrac_avg": "clip_fraction", "loss/policy_avg": "policy"}
    names |= {"val/clipfrac_avg": "value_clip_fraction"}
    for name, ours in names.items():
        assert metrics[ours] == pytest.approx(float(theirs[name]), rel=1e-3, abs=1e-4), name
    assert figures["kl"] == pytest.approx(float(theirs["objective/kl"]), rel=1e-3)


def test_parameters_after_the_update(found):
    trl, model, _, _, after, _ = found
    own = {name: value for name, value in after.items() if name != NETWORK}
    for ours, prefix in ((own, "policy"), (after[NETWORK], "value")):
        before, expected = (flatten(network(trl, f"{when}/{prefix}", model)) for when in ("weights", "after"))
        moved = max(np.abs(expected[name] - before[name]).max() for name in expected)
        assert moved > 0.03  # four steps of 0.01
        # Adam divides a tiny gradient by its own size: as the suite compiles, one entry is 2.4e-4 off on an EPYC.
        # Another clip, gamma, lambda, temperature, variance or coefficient of the divergence: 0.02 or more.
        assert_same(ours, network(trl, f"after/{prefix}", model), atol=5e-4)
