"""Every dense product of every model, in one place.

Products take inputs of the compute dtype and accumulate in float32, in both passes. The weight gradient contracts the
batch axes without flattening them: XLA's CPU backend has a fast path for that form alone (`docs/performance.md`).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lmjax.types import Array


def dense(x: Array, kernel: Array, bias: Array | None = None, *, inputs: int = 1) -> Array:
    """Contracts the last `inputs` axes of `x` with the first `inputs` axes of `kernel`, and adds `bias`.

    Args:
      x: [*batch, *in], of the compute dtype.
      kernel: [*in, *out], float32; cast to the dtype of `x`.
      bias: [*out] or None.
      inputs: number of input axes (2 for an attention's output, whose input is [heads, head width]).

    Returns:
      [*batch, *out] in the dtype of `x`. Gradients of kernel and bias are float32.
    """
    batch = x.shape[: x.ndim - inputs]
    out = kernel.shape[inputs:]
    width = math.prod(x.shape[len(batch) :])
    y = _dense(x.reshape(*batch, width), kernel.reshape(width, -1), None if bias is None else bias.reshape(-1))
    return y.reshape(*batch, *out)


def _product(x: Array, y: Array, x_axes: tuple[int, ...], y_axes: tuple[int, ...]) -> Array:
    return lax.dot_general(x, y, ((x_axes, y_axes), ((), ())), preferred_element_type=jnp.float32)


def _dense_forward(x: Array, kernel: Array, bias: Array | None) -> tuple[Array, tuple[Array, Array, Array | None]]:
    y = _product(x, kernel.astype(x.dtype), (x.ndim - 1,), (0,))
    if bias is not None:
        y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
    return y.astype(x.dtype), (x, kernel, bias)


def _dense_backward(saved: tuple[Array, Array, Array | None], g: Array) -> tuple[Array, Array, Array | None]:
    x, kernel, bias = saved
    batch_axes = tuple(range(x.ndim - 1))
    dx = _product(g, kernel.astype(g.dtype), (g.ndim - 1,), (1,)).astype(x.dtype)
    dkernel = _product(x, g, batch_axes, batch_axes).astype(kernel.dtype)
    dbias = None if bias is None else jnp.sum(g, batch_axes, dtype=jnp.float32).astype(bias.dtype)
    return dx, dkernel, dbias


_dense: Any = jax.custom_vjp(lambda x, kernel, bias: _dense_forward(x, kernel, bias)[0])
_dense.defvjp(_dense_forward, _dense_backward)
