"""The layers that families share. `stack` is the only place that scans and rematerialises.

Letters: B batch, L query length, S key length, D hidden size, H heads, K head size, F feed-forward size, V padded
vocabulary, T positions, N layers.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.models.architecture import ModelConfig
from lmjax.ops.attention import attention
from lmjax.ops.dense import dense
from lmjax.ops.dropout import dropout
from lmjax.parallel import BATCH_AXES, constrain
from lmjax.types import Array

Initializer = Callable[..., Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def normal(stddev: float) -> Initializer:
    return nn.initializers.normal(stddev)


def padded(initializer: Initializer, rows: int) -> Initializer:
    """`initializer` with every row from `rows` on zero: entries that only pad a vocabulary."""
    return lambda key, shape, dtype=jnp.float32: initializer(key, shape, dtype).at[rows:].set(0)


class Dense(nn.Module):
    """`ops.dense` with a float32 kernel of shape `inputs + outputs`, the shape that the sharding rules speak of."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel_init: Initializer
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, self.inputs + self.outputs, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.outputs, jnp.float32) if self.use_bias else None
        return dense(x, kernel, bias, inputs=len(self.inputs))


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016), computed in float32, returned in the dtype of `x`."""

    eps: float

    @nn.compact
    def __call__(self, x_BLD: Array) -> Array:
        scale_D = self.param("scale", nn.initializers.ones, x_BLD.shape[-1:], jnp.float32)
        bias_D = self.param("bias", nn.initializers.zeros, x_BLD.shape[-1:], jnp.float32)
        x = x_BLD.astype(jnp.float32)
        centred = x - jnp.mean(x, -1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + self.eps)
        affine = (1,) * (x.ndim - 1)
        return (normal * scale_D.reshape(*affine, -1) + bias_D.reshape(*affine, -1)).astype(x_BLD.dtype)


class Dropout(nn.Module):
    """`ops.dropout` with a key of the "dropout" stream while training; the identity otherwise."""

    rate: float
    train: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return dropout(x, self.rate, self.make_rng("dropout") if self.train and self.rate else None)


class Embedding(nn.Module):
    """A float32 table [rows, D] looked up by id."""

    rows: int
    features: int
    kernel_init: Initializer

    def setup(self) -> None:
        self.embedding = self.param("embedding", self.kernel_init, (self.rows, self.features), jnp.float32)

    def __call__(self, ids: Array) -> Array:
        return jnp.take(self.embedding, ids, axis=0)


def sinusoids(positions_BL: Array, features: int) -> Array:
    """Sine and cosine interleaved, wavelengths 2 pi 10000^(2i/D) (Vaswani et al. 2017, section 3.5). float32 [B, L,
    D]."""
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(0, features, 2) / features)
    angles = positions_BL[..., None] * frequencies[None, None]
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions_BL.shape, features)


class PositionEmbedding(nn.Module):
    """Adds positions to token vectors, or concatenates [token ; position] and projects 2D -> D, as the config says.

    `offset`: rows of the learned table that come before position 0.
    """

    cfg: ModelConfig
    kernel_init: Initializer
    offset: int = 0

    @nn.compact
    def __call__(self, x_BLD: Array, positions_BL: Array) -> Array:
        cfg, D = self.cfg, self.cfg.hidden_size
        if cfg.position_embedding == "learned":
            rows = cfg.max_position_embeddings + self.offset
            position_BLD = Embedding(rows, D, self.kernel_init, name="position")(positions_BL + self.offset)
        else:
            position_BLD = sinusoids(positions_BL, D)
        if cfg.position_combine == "add":
            return x_BLD + position_BLD
        return Dense((2 * D,), (D,), self.kernel_init, name="combine")(jnp.concatenate([x_BLD, position_BLD], -1))


class Attention(nn.Module):
    """Multi-head self-attention with biases.

    With a `cache` {"key", "value": [B, S, H, K]}, the new keys and values are written at `offset` and attention runs
    over the whole cache. Returns (output [B, L, D], cache or None, probabilities [B, H, L, S] or None).
    """

    cfg: ModelConfig
    train: bool
    kernel_init: Initializer
    out_init: Initializer

    @nn.compact
    def __call__(
        self, x_BLD: Array, mask: Array | None, cache: dict[str, Array] | None = None, offset: Array | int = 0
    ) -> tuple[Array, dict[str, Array] | None, Array | None]:
        cfg = self.cfg
        D, heads = cfg.hidden_size, (cfg.num_attention_heads, cfg.head_size)
        q, k, v = (Dense((D,), heads, self.kernel_init, name=name)(x_BLD) for name in ("query", "key", "value"))
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache["key"], k.astype(cache["key"].dtype), offset, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(cache["value"], v.astype(cache["value"].dtype), offset, axis=1)
            cache = {"key": k, "value": v}
        key = self.make_rng("dropout") if self.train and cfg.attention_dropout else None
        mixed, probabilities = attention(
            q, k, v, mask, dropout_rate=cfg.attention_dropout, dropout_key=key, implementation=cfg.attention
        )
        return Dense(heads, (D,), self.out_init, name="out")(mixed), cache, probabilities


class Mlp(nn.Module):
    """Two dense layers around an activation."""

    cfg: ModelConfig
    activation: str
    kernel_init: Initializer
    out_init: Initializer

    @nn.compact
    def __call__(self, x_BLD: Array) -> Array:
        D, F = self.cfg.hidden_size, self.cfg.intermediate_size
        x_BLF = ACTIVATIONS[self.activation](Dense((D,), (F,), self.kernel_init, name="up")(x_BLD))
        return Dense((F,), (D,), self.out_init, name="down")(x_BLF)


def stack(block: type[nn.Module], cfg: ModelConfig, train: bool, collect: bool) -> nn.Module:
    """`cfg.num_hidden_layers` copies of `block`, parameters stacked [N, ...] under "layers".

    The result maps (x_BLD, cache stacked over N or None, mask, offset) to (x_BLD, per-layer outputs stacked over N).
    """
    policies = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}
    body = block if cfg.remat == "none" else nn.remat(block, prevent_cse=False, policy=policies[cfg.remat])
    scanned = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]  (flax's hint says int)
        length=cfg.num_hidden_layers,
        unroll=min(cfg.unroll, cfg.num_hidden_layers),
    )
    return scanned(cfg, train, collect, name="layers")


def hold_batch(x_BLD: Array) -> Array:
    """Keeps rows on their devices: after the embedding and after each block."""
    return constrain(x_BLD, BATCH_AXES, None, None)


def positions_like(tokens_BL: Array) -> Array:
    """0, 1, 2, ... in every row."""
    return jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)[None], tokens_BL.shape)


def layer_outputs(collected: dict[str, Any], first_BLD: Array) -> dict[str, Any]:
    """`hidden_states` [N + 1, B, L, D] (the embedding first) and `attentions` [N, B, H, L, S] for Outputs."""
    hidden = jnp.concatenate([first_BLD[None], collected["hidden"]])
    return {"hidden_states": hidden, "attentions": collected["attention"]}
