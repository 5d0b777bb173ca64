"""PPO's losses: by a plain loop, by rlax, and where their gradients vanish."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.objectives import ppo, with_pretraining
from lmjax.ops.vocabulary import VocabLogits

GOLDEN = Path(__file__).parents[1] / "golden"
B, N, D, V = 5, 7, 4, 9
RNG = np.random.default_rng(1)
HIDDEN = RNG.normal(size=(B, N, D)).astype(np.float32)
TABLE = RNG.normal(size=(V, D)).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, N)).astype(np.int32)
WEIGHTS = (np.arange(N)[None] < np.array([7, 2, 4, 1, 6])[:, None]).astype(np.float32)
T = 0.7


def log_probs(hidden):
    logits = jnp.einsum("bnd,vd->bnv", hidden, TABLE) / T
    return jnp.take_along_axis(jax.nn.log_softmax(logits), TARGETS[..., None], -1)[..., 0]


def batch(log_ratios, advantages, weights=WEIGHTS, **more):
    """Rows whose tokens have these log-ratios."""
    zeros = np.zeros((B, N), np.float32)
    rows = {
        "targets": TARGETS,
        "old_log_probs": log_probs(HIDDEN) - log_ratios,
        "advantages": advantages,
        "old_values": zeros,
        "returns": zeros,
        "loss_weights": weights,
        "value_weights": weights,
    }
    return rows | more


def terms(rows, hidden=HIDDEN, values=None, **options):
    objective = ppo(temperature=T, **options)
    rows = objective.prepare({k: jnp.asarray(v) for k, v in rows.items()})
    values = jnp.zeros((B, N)) if values is None else values
    found = objective.terms({"logits": VocabLogits(hidden, TABLE, None, V), "values": values}, rows)
    return found, objective.loss(found)


def test_the_clipped_surrogate_equals_rlax():
    with np.load(GOLDEN / "rlax.npz", allow_pickle=False) as rlax:
        ratios, advantages, expected, gradient = (
            rlax[k] for k in ("ratios", "advantages", "surrogate", "surrogate_gradient")
        )
    everywhere = np.ones((B, N), np.float32)
    rows = batch(np.log(ratios), advantages, everywhere)
    assert float(terms(rows)[0]["policy"].value()) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)

    def of_old(old):
        return terms(rows | {"old_log_probs": old})[0]["policy"].total

    # A ratio falls with the old log-probability as it rises with its own logarithm.
    np.testing.assert_allclose(-jax.grad(of_old)(rows["old_log_probs"]) / ratios, gradient, rtol=1e-5, atol=1e-6)


def test_losses_by_a_plain_loop():
    log_ratios, advantages, values, old, returns = RNG.normal(0, 0.4, (5, B, N)).astype(np.float32)
    rows = batch(log_ratios, advantages, old_values=old, returns=returns)
    policy, value, clipped, value_clipped, kl = [], [], [], [], []
    for b in range(B):
        for n in range(N):
            if WEIGHTS[b, n]:
                rho, a = np.exp(log_ratios[b, n]), advantages[b, n]
                policy.append(max(-a * rho, -a * min(max(rho, 0.7), 1.3)))
                clipped.append(-a * min(max(rho, 0.7), 1.3) > -a * rho)
                near = min(max(values[b, n], old[b, n] - 0.1), old[b, n] + 0.1)
                errors = (values[b, n] - returns[b, n]) ** 2, (near - returns[b, n]) ** 2
                value.append(0.5 * max(errors))
                value_clipped.append(errors[1] > errors[0])
                kl.append(0.5 * log_ratios[b, n] ** 2)
    found, loss = terms(rows, values=jnp.asarray(values), clip=0.3, value_clip=0.1, value_coefficient=0.5)
    expected = {"policy": policy, "value": value, "clip_fraction": clipped, "value_clip_fraction": value_clipped}
    expected |= {"approximate_kl": kl, "ratio": np.exp(log_ratios)[WEIGHTS == 1]}
    for name, each in expected.items():
        assert float(found[name].value()) == pytest.approx(np.mean(each), rel=1e-6, abs=1e-6), name
    assert float(loss) == pytest.approx(np.mean(policy) + 0.5 * np.mean(value), rel=1e-6, abs=1e-6)


def test_clipping_goes_by_the_sign_of_the_advantage():
    """Beyond the clip nothing pulls further out; what pulls back always does."""
    for ratio, advantage, moves in ((1.5, 1, False), (1.5, -1, True), (0.5, 1, True), (0.5, -1, False), (1.1, 1, True)):
        shape = np.ones((B, N), np.float32)
        rows = batch(np.log(ratio) * shape, advantage * shape)
        gradient = jax.grad(lambda h, rows=rows: terms(rows, hidden=h)[1])(jnp.asarray(HIDDEN))
        assert bool(np.any(np.abs(gradient) > 1e-7)) == moves, (ratio, advantage)


def test_the_temperature_divides_the_logits_of_the_loss():
    """Or else the ratio of an unchanged policy would not be 1."""
    found, _ = terms(batch(0.0, np.ones((B, N), np.float32)))
    assert float(found["ratio"].value()) == pytest.approx(1, abs=1e-6)
    assert float(found["approximate_kl"].value()) < 1e-12
    p = jax.nn.softmax(jnp.einsum("bnd,vd->bnv", HIDDEN, TABLE) / T)
    entropy = -jnp.sum(p * jnp.log(p), -1)
    assert float(found["entropy"].value()) == pytest.approx(float((entropy * WEIGHTS).sum() / WEIGHTS.sum()), rel=1e-5)


def test_padding_is_in_no_loss_and_no_gradient():
    noise = np.where(WEIGHTS == 0, 300.0, 0).astype(np.float32)  # a ratio that overflows
    clean, dirty = (batch(x, 1 + x, old_values=x, returns=-x) for x in (0 * noise, noise))

    def loss(values_and_hidden, rows):
        return terms(rows, hidden=values_and_hidden[1], values=values_and_hidden[0])[1]

    inputs = (jnp.asarray(HIDDEN[..., 0]), jnp.asarray(HIDDEN))
    found = [jax.value_and_grad(loss)(inputs, rows) for rows in (clean, dirty)]
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert not np.any(found[0][1][1][WEIGHTS == 0])


def test_pretraining_text_is_added_with_its_coefficient():
    text = VocabLogits(HIDDEN[:2], TABLE, None, V)
    rows = batch(0.0, np.ones((B, N), np.float32)) | {
        "text_targets": TARGETS[:2], "text_loss_weights": WEIGHTS[:2],
    }  # fmt: skip
    objective = with_pretraining(ppo(temperature=T), 27.8)
    rows = objective.prepare({k: jnp.asarray(v) for k, v in rows.items()})
    outputs = {"logits": VocabLogits(HIDDEN, TABLE, None, V), "values": jnp.zeros((B, N)), "text": {"logits": text}}
    found = objective.terms(outputs, rows)
    logits = jnp.einsum("bnd,vd->bnv", HIDDEN[:2], TABLE)
    plain = jnp.take_along_axis(jax.nn.log_softmax(logits), TARGETS[:2, :, None], -1)[..., 0]
    expected = -float((plain * WEIGHTS[:2]).sum() / WEIGHTS[:2].sum())
    assert float(found["pretraining"].value()) == pytest.approx(expected, rel=1e-5)
    assert float(objective.loss(found)) == pytest.approx(float(found["policy"].total) + 27.8 * expected, rel=1e-5)
