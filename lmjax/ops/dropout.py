"""Dropout, in one place."""

import jax
import jax.numpy as jnp

from lmjax.types import Array


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Zeroes elements of `x` with probability `rate` and scales the rest by 1 / (1 - rate); the identity without a key.

    Draws 16 random bits an element, half of what `jax.random.bernoulli` takes; `rate` is rounded to a multiple of
    1/65536.
    """
    if key is None or rate == 0:
        return x
    kept = round((1 - rate) * 65536)
    keep = jax.random.bits(key, x.shape, jnp.uint16) < kept
    return jnp.where(keep, x * jnp.asarray(65536 / kept, x.dtype), 0)
