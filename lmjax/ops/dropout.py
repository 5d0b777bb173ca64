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
    if kept == 65536:  # which 16 bits do not hold
        return x
    return jnp.where(_bits(key, x.shape) < kept, x * jnp.asarray(65536 / kept, x.dtype), 0)


def _bits(key: Array, shape: tuple[int, ...]) -> Array:
    """uint16 bits, two elements from each 32-bit word: generators make whole words, whatever they are asked for."""
    words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // 2)), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*shape[:-1], -1)[..., : shape[-1]]
