"""The layers that families share. `stack` is the only place that scans and rematerialises.

Letters: B batch, L query length, S key length, D hidden size, H heads, K head size, F feed-forward size, V padded
vocabulary, T positions, N layers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.models.architecture import AttentionConfig, ModelConfig, PositionForm
from lmjax.ops.attention import appended, attention, attention_mask, cached_attention
from lmjax.ops.dense import dense
from lmjax.ops.dropout import dropout
from lmjax.parallel import BATCH_AXES, constrain
from lmjax.types import Array

Initializer = Callable[..., Array]


def _gelu(x: Array) -> Array:
    """x times the normal distribution function (Hendrycks and Gimpel 2016), computed in float32."""
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * math.sqrt(0.5)))).astype(x.dtype)


# GELU takes little to compute and its intermediates much to keep: the backward pass starts from its input again.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": jax.checkpoint(_gelu),
    "gelu_tanh": jax.checkpoint(lambda x: jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
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
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, self.inputs + self.outputs, jnp.float32)
        bias = self.param("bias", self.bias_init, self.outputs, jnp.float32) if self.use_bias else None
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
    """A float32 table [rows, D] looked up by id.

    `table_dropout` drops elements of the table itself, so that all who read it miss the same ones (GPT-1).
    """

    rows: int
    features: int
    kernel_init: Initializer
    table_dropout: float = 0.0

    def setup(self) -> None:
        table = self.param("embedding", self.kernel_init, (self.rows, self.features), jnp.float32)
        self.embedding = dropout(table, self.table_dropout, self.make_rng("dropout") if self.table_dropout else None)

    def __call__(self, ids: Array) -> Array:
        return jnp.take(self.embedding, ids, axis=0)


def sinusoids(positions_BL: Array, features: int, form: PositionForm = "sinusoidal") -> Array:
    """Sines and cosines of the positions, float32 [B, L, D].

    "sinusoidal" interleaves them, wavelengths 2 pi 10000^(2i/D) (Vaswani et al. 2017, section 3.5). The code of the
    time lays all sines before all cosines: "sinusoidal_marian" at the same wavelengths, "sinusoidal_tensor2tensor" at
    others, which reach 2 pi 10000 itself (tensor2tensor v1.0.7, common_attention.py).
    """
    half = features // 2
    steps = max(half - 1, 1) if form == "sinusoidal_tensor2tensor" else half
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half) / steps)
    angles = positions_BL[..., None] * frequencies[None, None]
    if form != "sinusoidal":
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions_BL.shape, features)


class PositionEmbedding(nn.Module):
    """Adds positions to token vectors, or concatenates [token ; position] and projects 2D -> D, as the config says.

    `offset`: rows of the learned table that come before position 0.
    """

    cfg: AttentionConfig
    kernel_init: Initializer
    table_dropout: float = 0.0
    offset: int = 0

    def setup(self) -> None:
        cfg, D = self.cfg, self.cfg.hidden_size
        if cfg.position_embedding == "learned":
            rows = cfg.max_position_embeddings + self.offset
            self.position = Embedding(rows, D, self.kernel_init, self.table_dropout)
        if cfg.position_combine == "concat":
            self.combine = Dense((2 * D,), (D,), self.kernel_init)

    def __call__(self, x_BLD: Array, positions_BL: Array) -> Array:
        cfg = self.cfg
        if cfg.position_embedding == "learned":
            position_BLD = self.position(positions_BL + self.offset)
        else:
            position_BLD = sinusoids(positions_BL, cfg.hidden_size, cfg.position_embedding)
        if cfg.position_combine == "add":
            return x_BLD + position_BLD
        return self.combine(jnp.concatenate([x_BLD, position_BLD], -1))


class Attention(nn.Module):
    """Multi-head attention with biases: of tokens to each other, or, with `cross`, to the states `memory_BSD`.

    With a `cache` {"key", "value": [B, H, S, K]}, keys and values are written to it, from `offset` on, and attention
    runs over all that it holds. A cross-attention without `memory_BSD` reads what an earlier call has written.
    Returns (output [B, L, D], the cache or None, probabilities [B, H, L, S] or None).
    """

    cfg: AttentionConfig
    train: bool
    kernel_init: Initializer
    out_init: Initializer
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x_BLD: Array,
        mask: Array | None,
        cache: dict[str, Array] | None = None,
        offset: Array | int = 0,
        memory_BSD: Array | None = None,
    ) -> tuple[Array, dict[str, Array] | None, Array | None]:
        cfg = self.cfg
        D, heads = cfg.hidden_size, (cfg.num_attention_heads, cfg.head_size)
        q = Dense((D,), heads, self.kernel_init, name="query")(x_BLD)
        read_BSD, read = memory_BSD if self.cross else x_BLD, {}
        if read_BSD is not None:
            read = {name: Dense((D,), heads, self.kernel_init, name=name)(read_BSD) for name in ("key", "value")}
        if cache is not None:
            cache = appended(cache, read, offset) if read else cache
            mixed, probabilities = cached_attention(q, cache, mask)
        else:
            key = self.make_rng("dropout") if self.train and cfg.attention_dropout else None
            k, v, options = read["key"], read["value"], {"dropout_key": key, "implementation": cfg.attention}
            mixed, probabilities = attention(q, k, v, mask, dropout_rate=cfg.attention_dropout, **options)
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


def post_norm(
    cfg: AttentionConfig,
    train: bool,
    activation: str,
    init: Initializer,
    x_BLD: Array,
    mask: Array | None,
    cache: dict[str, Array] | None = None,
    offset: Array | int = 0,
) -> tuple[Array, dict[str, Array] | None, Array | None]:
    """The modules of a post-LN block, for a layer's own `__call__`: x = LN(x + Drop(attention(x))), then x = LN(x +
    Drop(mlp(x))). Returns the output, and the cache and the probabilities as `Attention` does."""
    mixed_BLD, cache, probabilities = Attention(cfg, train, init, init, name="attention")(x_BLD, mask, cache, offset)
    mixed_BLD = Dropout(cfg.hidden_dropout, train)(mixed_BLD)
    x_BLD = LayerNorm(cfg.layer_norm_eps, name="attention_norm")(x_BLD + mixed_BLD)
    changed_BLD = Dropout(cfg.hidden_dropout, train)(Mlp(cfg, activation, init, init, name="mlp")(x_BLD))
    x_BLD = hold_batch(LayerNorm(cfg.layer_norm_eps, name="mlp_norm")(x_BLD + changed_BLD))
    return x_BLD, cache, probabilities


def stack(
    block: type[nn.Module],
    cfg: ModelConfig,
    train: bool,
    collect: bool,
    shared: int = 2,
    period: int = 1,
    cached: bool = False,
) -> nn.Module:
    """`cfg.num_hidden_layers` copies of `block`, parameters stacked [N, ...] under "layers".

    The result maps (x_BLD, a tuple of one cache a layer or None, mask, offset) to (x_BLD, per-layer outputs stacked
    over N, the caches again a tuple). Mask and offset are what all layers share; a block may ask for another number of
    such arguments. With a `period`, `mask` is a tuple of so many masks, for the layers in turn. With that, or with
    caches (`cached`), parameters must be there already.
    """
    body = rematerialised(block, cfg, prevent_cse=False)  # a scan's body is not merged with its copy anyway
    if cached or period > 1:
        return InTurn(body, cfg, train, collect, name="layers")
    scanned = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *[nn.broadcast] * shared),  # pyright: ignore[reportArgumentType]  (flax's hint says int)
        length=cfg.num_hidden_layers,
        unroll=min(cfg.unroll, cfg.num_hidden_layers),
    )
    return scanned(cfg, train, collect, name="layers")


class InTurn(nn.Module):
    """Layers one after another, each with the next of P masks. With caches all of them, unrolled: decoding then writes
    to each in place, where a loop over layers would copy what it hands on. Without, P of them in a scan over parameters
    viewed as [N/P, P, ...], so that masks stay constants of its body."""

    body: type[nn.Module]
    cfg: ModelConfig
    train: bool
    collect: bool

    def __call__(self, x_BLD: Array, caches: tuple[Any, ...] | None, mask: Any, *shared: Any) -> tuple[Array, Any]:
        masks = mask if isinstance(mask, tuple) else (mask,)
        N, P = self.cfg.num_hidden_layers, len(masks)
        layer = self.body(self.cfg, self.train, self.collect, parent=None)
        keys = jax.random.split(self.make_rng("dropout"), N) if self.train and self.has_rng("dropout") else None
        stacked = self.variables["params"], keys

        def in_turn(x_BLD: Array, inputs: Any, before: tuple[Any, ...]) -> tuple[Array, dict[str, Any]]:
            outputs = []
            for i, cache in enumerate(before):
                params, key = jax.tree.map(lambda leaf: leaf[i], inputs)  # noqa: B023  (called at once)
                rngs = {} if key is None else {"dropout": key}
                x_BLD, output = layer.apply({"params": params}, x_BLD, cache, masks[i % P], *shared, rngs=rngs)
                outputs.append(output)
            after = tuple(output.pop("cache", None) for output in outputs)
            return x_BLD, {"cache": after, **jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)}

        if caches is not None:
            return in_turn(x_BLD, stacked, caches)
        periods = jax.tree.map(lambda leaf: leaf.reshape(N // P, P, *leaf.shape[1:]), stacked)
        unroll = max(1, min(self.cfg.unroll, N) // P)
        x_BLD, outputs = jax.lax.scan(lambda x, period: in_turn(x, period, (None,) * P), x_BLD, periods, unroll=unroll)
        return x_BLD, jax.tree.map(lambda leaf: leaf.reshape(N, *leaf.shape[2:]), outputs)


def run_causally(
    layers: nn.Module,
    x_BLD: Array,
    segment_ids_BL: Array | None,
    cache: Mapping[str, Any] | None,
    windows: tuple[int, ...] = (0,),
) -> tuple[Array, dict[str, Any], dict[str, Any]]:
    """A decoder's stack on embedded tokens: each sees itself and what stands before it in its own segment.

    Args:
      cache: see `gpt.empty_cache`; the tokens are appended to it.
      windows: how far back the layers see, in turn (0 = to the beginning); see `attention_mask`.

    Returns:
      The last layer's output, the layers' outputs stacked over N, and {"cache": ...} if one was given.
    """
    length, offset, keys, states = x_BLD.shape[1], 0, segment_ids_BL, None
    if cache is not None:
        new = jnp.ones(x_BLD.shape[:2], jnp.int32) if segment_ids_BL is None else segment_ids_BL
        offset, states, segment_ids_BL = cache["length"], cache["layers"], new
        keys = jax.lax.dynamic_update_slice_in_dim(cache["segment_ids"], new, offset, axis=1)
    key_length = length if keys is None else keys.shape[1]
    masks = tuple(attention_mask(segment_ids_BL, keys, True, length, key_length, offset, window) for window in windows)
    x_BLD, collected = layers(x_BLD, states, masks[0] if len(masks) == 1 else masks, offset)
    if cache is None:
        return x_BLD, collected, {}
    return x_BLD, collected, {"cache": {"layers": collected["cache"], "segment_ids": keys, "length": offset + length}}


def rematerialised(block: type[nn.Module], cfg: ModelConfig, prevent_cse: bool = True) -> Any:
    """`block`, of which the backward pass computes again what `cfg.remat` says."""
    policies = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}
    return block if cfg.remat == "none" else nn.remat(block, prevent_cse=prevent_cse, policy=policies[cfg.remat])


def hold_batch(x_BLD: Array) -> Array:
    """Keeps rows on their devices: after the embedding and after each block."""
    return constrain(x_BLD, BATCH_AXES, None, None)


def positions_like(tokens_BL: Array) -> Array:
    """0, 1, 2, ... in every row."""
    return jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)[None], tokens_BL.shape)


def layer_outputs(collected: dict[str, Any], first_BLD: Array) -> dict[str, Any]:
    """For Outputs: `hidden_states` [N + 1, B, L, D] (the embedding first), `attentions` [N, B, H, L, L] and, where a
    layer has it, `cross_attentions` [N, B, H, L, S]."""
    hidden = jnp.concatenate([first_BLD[None], collected["hidden"]])
    cross = {"cross_attentions": collected["cross_attention"]} if "cross_attention" in collected else {}
    return {"hidden_states": hidden, "attentions": collected["attention"], **cross}
