"""From scores to advantages: by hand, by a plain loop, by rlax and by trl, and what each published rule does."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.rlhf.advantages import (
    KlConfig,
    ShapingConfig,
    adapted,
    advantages_and_returns,
    final_scores,
    shaped,
    token_kl,
    token_rewards,
    value_mask,
    whiten,
)

GOLDEN = Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (6, 5)).astype(np.float32)
MASK = (np.arange(5)[None] < np.array([5, 1, 3, 4, 2, 5])[:, None]).astype(np.float32)
# Of five places: an answer that ends at its third token, and one that never does.
ENDED = jnp.array([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def test_whitening_under_a_mask_by_hand():
    real = X[MASK == 1]
    for variance, ddof in (("population", 0), ("bessel", 1)):
        spread = np.sqrt(real.var(ddof=ddof) + 1e-8)
        found = whiten(X, MASK, variance=variance)
        np.testing.assert_allclose(found[MASK == 1], (real - real.mean()) / spread, rtol=1e-5)
        found = whiten(X, MASK, shift=False, variance=variance)
        np.testing.assert_allclose(found[MASK == 1], (real - real.mean()) / spread + real.mean(), rtol=1e-5)
        assert not np.any(found[MASK == 0])
    assert np.all(np.isfinite(whiten(X, np.eye(6, 5) * (np.arange(6) == 0)[:, None])))  # one token alone


def test_whitening_equals_trl():
    with np.load(GOLDEN / "ppo.npz", allow_pickle=False) as trl:
        for name, shift in (("rewards", False), ("advantages", True)):
            plain, mask, whitened = (trl[f"{name}_{kind}"] for kind in ("plain", "mask", "whitened"))
            found = whiten(plain, mask.astype(np.float32), shift=shift)
            np.testing.assert_allclose(found[mask], whitened[mask], rtol=1e-6, atol=1e-6)


def test_whitened_rewards_keep_their_mean():
    """A shift of the rewards would pay, or fine, each further token."""
    found = whiten(X, MASK, shift=False)
    assert float(jnp.sum(found * MASK) / MASK.sum()) == pytest.approx(X[MASK == 1].mean(), rel=1e-5)
    cfg = ShapingConfig(whiten_rewards=True, whiten_advantages=False, gae_lambda=1.0, variance="population")
    advantages, _ = shaped(jnp.asarray(X), jnp.zeros((6, 5)), jnp.asarray(MASK), cfg)
    real = X[MASK == 1]
    np.testing.assert_allclose(advantages[1, 0], (X[1, 0] - real.mean()) / real.std() + real.mean(), rtol=1e-5)


def test_generalised_advantages_by_a_loop():
    values = RNG.normal(size=X.shape).astype(np.float32)
    for gamma, gae_lambda in ((1.0, 0.95), (0.9, 0.5), (1.0, 1.0)):
        advantages, returns = advantages_and_returns(X, values, gamma, gae_lambda)
        expected, later, next_value = np.zeros_like(X), np.zeros(6), np.zeros(6)
        for t in reversed(range(5)):
            later = X[:, t] + gamma * next_value - values[:, t] + gamma * gae_lambda * later
            expected[:, t], next_value = later, values[:, t]
        np.testing.assert_allclose(advantages, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(returns, expected + values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        returns, np.cumsum(X[:, ::-1], 1)[:, ::-1], rtol=1e-5, atol=1e-5
    )  # of gamma = lambda = 1


def test_generalised_advantages_equal_rlax():
    with np.load(GOLDEN / "rlax.npz", allow_pickle=False) as rlax:
        for name in ("gae_1.0_0.95", "gae_0.9_0.7"):
            gamma, gae_lambda = map(float, name.split("_")[1:])
            found, _ = advantages_and_returns(rlax["rewards"], rlax["values"], gamma, gae_lambda)
            np.testing.assert_allclose(found, rlax[name], rtol=1e-6, atol=1e-6)


def test_the_score_stands_on_the_end_token_or_behind_it():
    nothing, scores = jnp.zeros((2, 5)), jnp.array([0.7, 0.4])
    found = token_rewards(nothing, scores, ENDED, jnp.float32(0.1), "last_token")
    np.testing.assert_allclose(found, [[0, 0, 0.7, 0, 0], [0, 0, 0, 0, 0.4]])
    np.testing.assert_array_equal(value_mask(ENDED, "last_token"), ENDED)
    found = token_rewards(nothing, scores, ENDED, jnp.float32(0.1), "after_eos")
    np.testing.assert_allclose(found, [[0, 0, 0, 0.7, 0], [0, 0, 0, 0, 0.4]])
    np.testing.assert_array_equal(value_mask(ENDED, "after_eos"), [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def test_a_fraction_of_a_reward_survives():
    """Rewards are floats, whatever the scores are."""
    for scores in (jnp.array([0.7, 0.25]), np.array([0.7, 0.25]), jnp.array([0.7, 0.25], jnp.bfloat16)):
        final = final_scores(jnp.asarray(scores), jnp.array([True, True]), ShapingConfig())
        found = token_rewards(jnp.zeros((2, 5)), final, ENDED, jnp.float32(0), "last_token")
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(jnp.sum(found, 1), [0.7, 0.25], rtol=5e-3)
    found = final_scores(jnp.array([2, 3]), jnp.array([True, False]), ShapingConfig(missing_eos_penalty=0.5))
    np.testing.assert_allclose(found, [2, -0.5])


def test_an_answer_without_an_end():
    scores, ended = jnp.array([0.7, 0.7]), jnp.array([True, False])
    for rule, expected in (("replace", -0.5), ("subtract", 0.2), ("none", 0.7)):
        found = final_scores(scores, ended, ShapingConfig(missing_eos=rule, missing_eos_penalty=0.5))
        np.testing.assert_allclose(found, [0.7, expected], rtol=1e-6)


def test_estimates_of_the_divergence():
    """Both are right on average; k3 is never negative."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    kl = float(np.sum(p * np.log(p / q)))
    rows = [np.log(x).astype(np.float32)[None] for x in (p, q)]
    for estimator in ("k1", "k3"):
        found = token_kl(*rows, jnp.ones((1, 3)), estimator)
        assert float(jnp.sum(found[0] * p)) == pytest.approx(kl, rel=1e-5)
        assert not np.any(token_kl(*rows, jnp.zeros((1, 3)), estimator))
    assert np.all(found >= 0)


def test_the_coefficient_follows_its_target():
    """Ziegler et al. 2019: by a fifth of n / horizon at most, and not at all where it is fixed."""
    cfg = KlConfig(0.15, target=6.0, horizon=1000)
    for kl, factor in ((60.0, 1.02), (0.0, 0.98), (6.6, 1.01), (6.0, 1.0)):
        assert float(adapted(jnp.float32(0.15), jnp.float32(kl), 100, cfg)) == pytest.approx(0.15 * factor)
    assert float(adapted(jnp.float32(0.15), jnp.float32(60), 100, KlConfig(0.15))) == np.float32(0.15)
    assert float(adapted(jnp.float32(0.15), jnp.float32(jnp.nan), 100, cfg)) == np.float32(0.15)  # or it stayed so


def test_padding_says_nothing():
    """What stands behind an answer's end changes neither advantages nor returns."""
    values = RNG.normal(size=X.shape).astype(np.float32)
    other = np.where(MASK > 0, values, 1e3).astype(np.float32)
    for score_at in ("last_token", "after_eos"):
        cfg = ShapingConfig(whiten_rewards=True, score_at=score_at)
        wide = np.asarray(value_mask(jnp.asarray(MASK), score_at)) > 0
        ours, theirs = (
            shaped(jnp.where(wide, X, 0), jnp.where(wide, values, v), jnp.asarray(MASK), cfg) for v in (values, other)
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert not np.any(ours[0][MASK == 0])


def test_impossible_shaping():
    with pytest.raises(UserError, match="gae_lambda"):
        ShapingConfig(gae_lambda=1.5)
    for bad in ({"coefficient": -0.1}, {"target": -1.0}, {"horizon": 0.0}):
        with pytest.raises(UserError, match=next(iter(bad))):
            KlConfig(**bad)
    with pytest.raises(UserError, match="a coefficient of 0 adapts to no target"):
        KlConfig(0.0, target=6.0)
