"""Sampled softmax: the sampler's frequencies, the correction, a plain numpy computation, and the limit of all words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.ops.sampled_softmax import (
    Negatives,
    expected_counts,
    log_uniform,
    loss_against,
    probability,
    sample,
    sampled_softmax_loss,
)
from lmjax.ops.vocabulary import VocabLogits

pytestmark = pytest.mark.core

V, D, ROWS, COLUMNS = 50, 8, 3, 4


def _logits(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    hidden, table = rng.normal(size=(rows, COLUMNS, D)), rng.normal(size=(128, D))
    arrays = (jnp.asarray(x, jnp.float32) for x in (hidden, table, rng.normal(size=128)))
    return VocabLogits(*arrays, V), rng.integers(0, V, (rows, COLUMNS)).astype(np.int32)


def test_draws_are_log_uniform():
    """Each word's share within five standard deviations, and its probabilities add up to 1."""
    n = 400_000
    share = np.bincount(log_uniform(jax.random.key(0), n, V), minlength=V) / n
    p = np.asarray(probability(jnp.arange(V), V))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / n)).all()


def test_the_end_of_a_large_vocabulary_is_drawn_evenly():
    """Floats alone have gaps there: of 1,000 neighbours some would never come."""
    large, n = 793_471, 2_000_000
    drawn = np.asarray(jax.jit(log_uniform, static_argnums=(1, 2))(jax.random.key(1), n, large))
    assert drawn.min() == 0
    assert drawn.max() < large
    tail = drawn[drawn >= large - 400_000]
    share = n * np.log((large + 1) / (large - 400_000 + 1)) / np.log(large + 1)
    assert len(tail) == pytest.approx(share, abs=5 * share**0.5)
    assert len(np.unique(tail)) > 0.85 * len(tail)
    assert (tail % 2 == 1).mean() == pytest.approx(0.5, abs=0.01)


def test_negatives_all_differ_and_are_a_function_of_the_key():
    draw = jax.jit(sample, static_argnums=(1, 2))
    one, again, other = (draw(jax.random.key(k), 20, V) for k in (0, 0, 1))
    np.testing.assert_array_equal(one.ids, again.ids)
    assert int(one.tries) == int(again.tries)
    assert set(np.asarray(one.ids).tolist()) != set(np.asarray(other.ids).tolist())
    for found in (one, other):
        assert len(set(np.asarray(found.ids).tolist())) == 20
        assert int(found.tries) > 20  # the most frequent words came again
    everything = draw(jax.random.key(2), V, V)
    assert sorted(np.asarray(everything.ids).tolist()) == list(range(V))
    with pytest.raises(UserError, match="51 negatives cannot all differ in a vocabulary of 50"):
        sample(jax.random.key(0), 51, V)


def test_expected_counts_are_the_share_of_samples_that_hold_a_word():
    """Averaged over many samples, each with its own number of tries."""
    many = jax.jit(jax.vmap(lambda key: sample(key, 10, V)))(jax.random.split(jax.random.key(0), 4000))
    held = np.bincount(np.asarray(many.ids).ravel(), minlength=V) / 4000
    wanted = np.asarray(jax.vmap(lambda tries: expected_counts(jnp.arange(V), tries, V))(many.tries)).mean(0)
    np.testing.assert_allclose(held, wanted, atol=0.03)  # the estimate itself is off by up to 0.02
    assert wanted.sum() == pytest.approx(10, rel=0.02)


def test_the_loss_is_that_of_a_plain_loop():
    """float64, position by position, with accidental hits left out; and its gradient is that of differences."""
    logits, targets = _logits()
    negatives = Negatives(jnp.array([0, 3, 7, 11, int(targets[0, 0])]), jnp.int32(9))
    assert (targets[..., None] == np.asarray(negatives.ids)).any()
    hidden, table, bias = (np.asarray(x, np.float64) for x in (logits.hidden_BLD, logits.table_VD, logits.bias_V))

    def offset(word):
        p = np.log((word + 2) / (word + 1)) / np.log(V + 1)
        return bias[word] - np.log(1 - (1 - p) ** 9)

    wanted = np.empty(targets.shape)
    for row, column in np.ndindex(targets.shape):
        h, target = hidden[row, column], targets[row, column]
        scores = [h @ table[target] + offset(target)]
        scores += [h @ table[word] + offset(word) for word in np.asarray(negatives.ids) if word != target]
        wanted[row, column] = np.log(np.sum(np.exp(scores))) - scores[0]
    np.testing.assert_allclose(jax.jit(loss_against)(logits, targets, negatives), wanted, rtol=1e-6, atol=1e-6)
    gradients = jax.grad(lambda x: jnp.sum(loss_against(x, targets, negatives)), allow_int=True)(logits)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    used = np.union1d(np.asarray(negatives.ids), targets)
    np.testing.assert_array_equal(np.flatnonzero(np.abs(gradients.table_VD).sum(-1)), used)


def test_with_every_word_as_a_negative_it_is_the_full_softmax():
    """After so many tries every expected count is 1 and the correction is 0."""
    logits, targets = _logits()
    full = -logits.statistics(targets).target_log_probability
    everything = Negatives(jnp.arange(V), jnp.int32(10_000))
    np.testing.assert_allclose(loss_against(logits, targets, everything), full, rtol=1e-5, atol=1e-5)


def test_its_gradient_tends_to_the_full_softmax():
    """Averaged over draws, the gradient by the hidden states points as the full one does, and more so with more."""
    logits, targets = _logits(rows=1)

    def gradient(loss):
        return jax.grad(lambda h: jnp.sum(loss(logits.replace(hidden_BLD=h))))(logits.hidden_BLD)

    full = gradient(lambda x: -x.statistics(targets).target_log_probability)
    keys = jax.random.split(jax.random.key(0), 300)

    def error(count):
        mean = jnp.mean(
            jax.jit(jax.vmap(lambda k: gradient(lambda x: sampled_softmax_loss(x, targets, count, k))))(keys), 0
        )
        return float(jnp.linalg.norm(mean - full) / jnp.linalg.norm(full))

    few, many = error(5), error(40)
    assert many < 0.15
    assert many < few / 2
