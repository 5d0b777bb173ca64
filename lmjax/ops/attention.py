"""Every attention of every model, in one place.

Letters: B batch, L query length, S key length, H heads, K head width.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lmjax.ops.dropout import dropout
from lmjax.types import Array

Implementation = Literal["xla", "cudnn"]


def attention_mask(
    segment_ids_BL: Array | None,
    key_segment_ids_BS: Array | None,
    causal: bool,
    length: int,
    key_length: int,
    offset: Array | int = 0,
    window: int = 0,
) -> Array | None:
    """Who may look at whom: bool [B or 1, 1, L, S], or None when everyone may look at everyone.

    A query sees the keys of its own segment. Segment 0 is padding, so padding sees padding alone and real tokens never
    do. With `causal` it sees no key after itself, and with a `window` the last `window` keys only, its own among them;
    `offset` is the position of the first query among the keys (a decoding cache).
    """
    mask = None
    if segment_ids_BL is not None:
        keys = segment_ids_BL if key_segment_ids_BS is None else key_segment_ids_BS
        mask = (segment_ids_BL[:, :, None] == keys[:, None, :])[:, None]
    if causal:
        behind = jnp.arange(length)[:, None] + offset - jnp.arange(key_length)[None, :]
        order = ((behind >= 0) & (behind < window) if window else behind >= 0)[None, None]
        mask = order if mask is None else mask & order
    return mask


def attention(
    q_BLHK: Array,
    k_BSHK: Array,
    v_BSHK: Array,
    mask: Array | None = None,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    implementation: Implementation = "xla",
) -> tuple[Array, Array | None]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1).

    Args:
      q_BLHK, k_BSHK, v_BSHK: queries, keys, values in the compute dtype.
      mask: bool, broadcast to [B, H, L, S]; False hides a key.
      dropout_key: drops attention probabilities at `dropout_rate` when given.
      implementation: "xla" everywhere; "cudnn" is NVIDIA's fused kernel (16-bit inputs, no dropout, no probabilities).

    Returns:
      The mixed values [B, L, H, K] in the dtype of `q_BLHK`, and the probabilities float32 [B, H, L, S] before dropout
      (None with "cudnn").
    """
    if implementation == "cudnn":
        if dropout_key is not None and dropout_rate:
            raise ValueError("cudnn attention has no dropout here; use implementation='xla' or attention_dropout=0")
        return jax.nn.dot_product_attention(q_BLHK, k_BSHK, v_BSHK, mask=mask, implementation="cudnn"), None
    scale = q_BLHK.shape[-1] ** -0.5
    scores_BHLS = _product("BLHK,BSHK->BHLS", q_BLHK, k_BSHK) * scale
    if mask is not None:
        # A finite value: a row that may see nothing (padding before a decoding prompt) stays a number.
        scores_BHLS = jnp.where(mask, scores_BHLS, -1e9)
    probabilities_BHLS = jax.nn.softmax(scores_BHLS, axis=-1)
    mixed_BHLS = dropout(probabilities_BHLS.astype(q_BLHK.dtype), dropout_rate, dropout_key)
    out_BLHK = _product("BHLS,BSHK->BLHK", mixed_BHLS, v_BSHK)
    return out_BLHK.astype(q_BLHK.dtype), probabilities_BHLS


def cached_attention(q_BLHK: Array, cache: Mapping[str, Array], mask: Array | None) -> tuple[Array, Array]:
    """The same over what a cache holds. Needs no gradient.

    Args:
      q_BLHK: queries.
      cache: "key" and "value" [B, H, S, K].
      mask: as `attention` takes it; it hides the places that are not filled.

    Returns:
      The mixed values [B, L, H, K] in the dtype of `q_BLHK`, and the probabilities float32 [B, H, L, S].
    """
    scores_BHLS = _einsum("BLHK,BHSK->BHLS", q_BLHK, cache["key"]) * q_BLHK.shape[-1] ** -0.5
    if mask is not None:
        scores_BHLS = jnp.where(mask, scores_BHLS, -1e9)
    p_BHLS = jax.nn.softmax(scores_BHLS, axis=-1)
    mixed_BLHK = _einsum("BHLS,BHSK->BLHK", p_BHLS.astype(q_BLHK.dtype), cache["value"])
    return mixed_BLHK.astype(q_BLHK.dtype), p_BHLS


def appended(cache: Mapping[str, Array], new: Mapping[str, Array], offset: Array | int) -> dict[str, Array]:
    """A cache ("key" and "value" [B, H, S, K]) with those of L tokens [B, L, H, K] in the places from `offset` on."""
    write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=offset, axis=2)
    return {name: write(cache[name], jnp.swapaxes(x, 1, 2).astype(cache[name].dtype)) for name, x in new.items()}


def _einsum(axes: str, x: Array, y: Array) -> Array:
    """Of the compute dtype, accumulated in float32."""
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


def _product_forward(axes: str, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return _einsum(axes, x, y), (x, y)


def _product_backward(axes: str, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, y = saved
    inputs, out_axes = axes.split("->")
    x_axes, y_axes = inputs.split(",")
    g = g.astype(x.dtype)
    dx = _einsum(f"{out_axes},{y_axes}->{x_axes}", g, y)
    (x_halves, x), (g_halves, g) = _halve_queries(x_axes, x), _halve_queries(out_axes, g)
    dy = _einsum(f"{x_halves},{g_halves}->{y_axes}", x, g)
    return dx.astype(y.dtype), dy.astype(y.dtype)


def _halve_queries(axes: str, x: Array) -> tuple[str, Array]:
    """The query axis L as two, "lL": XLA's CPU backend contracts two axes of bfloat16 arrays, but not always one.

    An odd length stays whole, in float32.
    """
    at = axes.index("L")
    length = x.shape[at]
    if length % 2:
        return axes, x.astype(jnp.float32)
    return axes.replace("L", "lL"), x.reshape(*x.shape[:at], 2, length // 2, *x.shape[at + 1 :])


# Gradients too are products of the compute dtype: the cotangent, float32, is cast first.
_product: Any = jax.custom_vjp(_einsum, nondiff_argnums=(0,))
_product.defvjp(_product_forward, _product_backward)
