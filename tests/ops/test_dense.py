"""ops.dense against einsum, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.ops.dense import dense

pytestmark = pytest.mark.core

CASES = {  # name: (einsum, shape of x, shape of the kernel, input axes)
    "mlp": ("bld,df->blf", (2, 3, 8), (8, 6), 1),
    "heads": ("bld,dhk->blhk", (2, 3, 8), (8, 2, 3), 1),
    "out": ("blhk,hkd->bld", (2, 3, 2, 4), (2, 4, 6), 2),
    "rows": ("bd,df->bf", (4, 8), (8, 2), 1),
}


def _with_gradients(function, *arguments):
    """The value of `function` and its gradients under one cotangent, the same for every function of that shape."""

    @jax.jit
    def run(*arguments):
        y, pullback = jax.vjp(function, *arguments)
        return y, *pullback(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))

    return run(*arguments)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_einsum(case, with_bias):
    equation, x_shape, kernel_shape, inputs = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=x_shape).astype(np.float32), rng.normal(size=kernel_shape).astype(np.float32)
    bias = [rng.normal(size=kernel_shape[inputs:]).astype(np.float32)] if with_bias else []

    def reference(x, kernel, bias=None):
        y = jnp.einsum(equation, x, kernel, precision="highest")
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)

    found = _with_gradients(lambda *a: dense(*a, inputs=inputs), x, kernel, *bias)
    for ours, theirs in zip(found, _with_gradients(reference, x, kernel, *bias), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_stays_close_to_float32(case):
    equation, x_shape, kernel_shape, inputs = CASES[case]
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=x_shape).astype(np.float32), rng.normal(size=kernel_shape).astype(np.float32)
    found = _with_gradients(lambda *a: dense(*a, inputs=inputs), jnp.bfloat16(x), kernel)
    assert [a.dtype for a in found] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for ours, exact in zip(found, _with_gradients(lambda *a: jnp.einsum(equation, *a), x, kernel), strict=True):
        assert np.linalg.norm(np.float32(ours) - exact) < 1e-2 * np.linalg.norm(exact)


def test_gradients_accumulate_in_float32():
    """4100 ones: bfloat16 holds 4096 and next 4128."""
    x, kernel = jnp.ones((4, 1025, 8), jnp.bfloat16), jnp.ones((8, 2), jnp.float32)

    def total(kernel, bias):
        return jnp.sum(dense(x, kernel, bias).astype(jnp.float32))

    dkernel, dbias = jax.jit(jax.grad(total, (0, 1)))(kernel, jnp.zeros(2))
    np.testing.assert_array_equal(dkernel, np.full((8, 2), 4100.0))
    np.testing.assert_array_equal(dbias, np.full(2, 4100.0))
