"""The shared layers against formulas written out in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models.layers import ACTIVATIONS, LayerNorm, normal, padded, positions_like, sinusoids

pytestmark = pytest.mark.core


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_layer_norm(dtype, tolerance):
    """A mean of 30 would eat a variance of 1 in bfloat16, were the moments not computed in float32."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(30 + rng.normal(size=(2, 3, 64)), dtype)
    scale, bias = rng.normal(size=(2, 64))
    y = LayerNorm(1e-5).apply({"params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}}, x)
    exact = np.asarray(x, np.float64)
    wanted = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5) * scale + bias
    assert y.dtype == dtype
    np.testing.assert_allclose(np.float64(y), wanted, atol=tolerance * 4)


def test_layer_norm_keeps_eps_under_the_root():
    y = LayerNorm(1e-2).apply({"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}, jnp.array([[0.1, -0.1]]))
    np.testing.assert_allclose(y, [[0.1 / math.sqrt(0.02), -0.1 / math.sqrt(0.02)]], rtol=1e-6)


def test_activations():
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    erf = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    tanh = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x]
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), erf, atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["gelu_tanh"](x), tanh, atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["relu"](x), np.maximum(x, 0))


def test_sinusoids():
    """Vaswani et al. 2017, section 3.5, element by element."""
    found = sinusoids(jnp.array([[0, 3, 70]]), 6)
    for (row, position), i in ((p, i) for p in enumerate([0, 3, 70]) for i in range(3)):
        angle = position / 10000 ** (2 * i / 6)
        np.testing.assert_allclose(found[0, row, 2 * i : 2 * i + 2], [math.sin(angle), math.cos(angle)], atol=1e-5)


def test_sinusoids_in_halves():
    """All sines, then all cosines: at the paper's frequencies, and at tensor2tensor's, which reach 1/10000 itself."""
    marian, t2t = (
        sinusoids(jnp.array([[0, 3, 70]]), 6, f"sinusoidal_{name}")[0] for name in ("marian", "tensor2tensor")
    )
    for (row, position), i in ((p, i) for p in enumerate([0, 3, 70]) for i in range(3)):
        for found, divisor in ((marian, 10000 ** (2 * i / 6)), (t2t, 10000 ** (i / 2))):
            np.testing.assert_allclose(found[row, i], math.sin(position / divisor), atol=1e-5)
            np.testing.assert_allclose(found[row, 3 + i], math.cos(position / divisor), atol=1e-5)


def test_padded_rows_start_at_zero():
    table = padded(normal(0.5), 3)(jax.random.key(0, impl="rbg"), (5, 200))
    assert (table[3:] == 0).all()
    assert np.std(table[:3]) == pytest.approx(0.5, rel=0.15)


def test_positions_like():
    np.testing.assert_array_equal(positions_like(jnp.zeros((2, 3), jnp.int32)), [[0, 1, 2], [0, 1, 2]])
