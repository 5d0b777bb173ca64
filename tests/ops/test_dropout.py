"""ops.dropout: how often, how much, and what the gradient sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.ops.dropout import dropout

pytestmark = pytest.mark.core

ONES = jnp.ones((64, 1024))  # one shape for all: XLA takes seconds to compile a generator


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    y = np.asarray(dropout(3 * ONES, rate, jax.random.key(0)))
    zeros = (y == 0).sum()
    sigma = (y.size * rate * (1 - rate)) ** 0.5
    assert abs(zeros - rate * y.size) < 4 * sigma
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=2e-4)  # the rate is a multiple of 1/65536


def test_the_mean_is_kept_where_the_rate_is_rounded():
    """The factor belongs to the rounded rate: 1/3 is none of the multiples of 1/65536."""
    y = np.unique(dropout(ONES, 1 / 3, jax.random.key(1)))
    np.testing.assert_allclose(y, [0, 65536 / round(65536 * 2 / 3)], rtol=1e-7)


def test_without_a_key_or_a_rate_nothing_happens():
    x = jnp.arange(6.0).reshape(2, 3)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


def test_a_rate_that_rounds_to_none_drops_nothing():
    x = jnp.ones((64, 64))
    np.testing.assert_array_equal(dropout(x, 1e-6, jax.random.key(0)), x)


def test_gradient_passes_where_the_value_passed():
    x = 2 * ONES
    y, pullback = jax.vjp(lambda x: dropout(x, 0.25, jax.random.key(2)), x)
    (gradient,) = pullback(jnp.ones_like(y))
    np.testing.assert_allclose(gradient, y / x, rtol=1e-6)
    assert 0 < (np.asarray(gradient) == 0).sum() < x.size


def test_keys_draw_different_masks_and_one_key_the_same():
    x = jnp.bfloat16(ONES)
    one, again, other = (dropout(x, 0.5, jax.random.key(k)) for k in (3, 3, 4))
    assert one.dtype == jnp.bfloat16
    np.testing.assert_array_equal(one, again)
    assert 0.4 < np.mean(one != other) < 0.6
