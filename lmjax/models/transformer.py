"""The Transformer (Vaswani et al. 2017): an encoder, and a decoder that also attends to what the encoder made.

As published: post-LN, ReLU, one table (times sqrt(D)) for both languages and the output, no output bias. What the paper
leaves open follows tensor2tensor v1.0.7, the code of the time: biases in attention, LayerNorm eps 1e-6, Glorot uniform
kernels, dropout on sublayer outputs and on embeddings alone. Not taken over is its learned "target space" vector.
`MarianMTModel` is the same network with eps 1e-5 and sinusoids in halves. Letters as in `layers`; S encoder length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.lax import dynamic_update_slice_in_dim
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.models import gpt
from lmjax.models.architecture import Architecture, AttentionConfig, EncoderDecoderConfig, PositionForm
from lmjax.models.layers import (
    Attention,
    Dropout,
    Embedding,
    LayerNorm,
    Mlp,
    PositionEmbedding,
    hold_batch,
    layer_outputs,
    normal,
    padded,
    positions_like,
    stack,
)
from lmjax.models.weights import Weight
from lmjax.ops.attention import attention_mask
from lmjax.ops.vocabulary import VocabLogits
from lmjax.types import Array, Outputs


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(EncoderDecoderConfig):
    """Shape of a Transformer; the defaults are the base model.

    `num_hidden_layers` counts those of the encoder, and of the decoder as well. `initializer_range` is of learned
    positions alone. A translation starts from `decoder_start_token_id` (the padding token, as in Marian).
    """

    vocab_size: int = 37000
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    max_position_embeddings: int = 1024
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-6
    position_embedding: PositionForm = "sinusoidal"
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "relu"
    norm: Literal["post", "pre"] = "post"
    scale_embedding: bool = True
    decoder_start_token_id: int = 0
    eos_token_id: int = 3


def _glorot(inputs: int, outputs: int) -> Any:
    """Glorot uniform, for a kernel whose first `inputs` axes are read and the next `outputs` written."""
    written = tuple(range(inputs, inputs + outputs))
    return nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", tuple(range(inputs)), written)


def _attention(cfg: TransformerConfig, train: bool, name: str, cross: bool = False) -> Attention:
    return Attention(cfg, train, _glorot(1, 2), _glorot(2, 1), cross, name=name)


def _residual(cfg: TransformerConfig, train: bool, name: str, x_BLD: Array, sublayer: Any) -> tuple[Array, Any]:
    """LN(x + Drop(sublayer(x))), or x + Drop(sublayer(LN(x))) with pre-LN; and what else the sublayer returns."""
    norm, drop = LayerNorm(cfg.layer_norm_eps, name=f"{name}_norm"), Dropout(cfg.hidden_dropout, train)
    changed_BLD, *rest = sublayer(norm(x_BLD) if cfg.norm == "pre" else x_BLD)
    x_BLD = x_BLD + drop(changed_BLD)
    return x_BLD if cfg.norm == "pre" else norm(x_BLD), rest


class TransformerLayer(nn.Module):
    """Self-attention, attention to `memory` where it has a mask (in the decoder), and a feed-forward network."""

    cfg: TransformerConfig
    train: bool
    collect: bool

    @nn.compact
    def __call__(
        self, x_BLD: Array, cache: Any, mask: Array, offset: Array | int, memory: Array | None, read_mask: Array | None
    ) -> tuple[Array, dict[str, Any]]:
        cfg, train = self.cfg, self.train
        own, others, cross = (None, None, None) if cache is None else (cache["self"], cache["cross"], None)
        attend = _attention(cfg, train, "attention")
        x_BLD, (own, p) = _residual(cfg, train, "attention", x_BLD, lambda x: attend(x, mask, own, offset))
        if read_mask is not None:
            read, name = _attention(cfg, train, "cross_attention", cross=True), "cross_attention"
            x_BLD, (others, cross) = _residual(cfg, train, name, x_BLD, lambda x: read(x, read_mask, others, 0, memory))
        mlp = Mlp(cfg, cfg.activation, _glorot(1, 1), _glorot(1, 1), name="mlp")
        x_BLD = hold_batch(_residual(cfg, train, "mlp", x_BLD, lambda x: (mlp(x),))[0])
        collected = {"hidden": x_BLD, "attention": p, "cross_attention": cross} if self.collect else {}
        return x_BLD, collected | ({} if cache is None else {"cache": {"self": own, "cross": others}})


class Coder(nn.Module):
    """The encoder or the decoder: positions, dropout, a stack of layers, and a last LayerNorm with pre-LN.

    Returns (output [B, L, D], input of the first layer [B, L, D], per-layer outputs).
    """

    cfg: TransformerConfig
    train: bool
    collect: bool

    @nn.compact
    def __call__(self, x_BLD: Array, positions_BL: Array, cache: Any, *shared: Any) -> tuple[Array, Array, Any]:
        cfg = self.cfg
        x_BLD = PositionEmbedding(cfg, normal(cfg.initializer_range), name="positions")(x_BLD, positions_BL)
        x_BLD = first_BLD = hold_batch(Dropout(cfg.hidden_dropout, self.train)(x_BLD.astype(cfg.dtype)))
        layers = stack(TransformerLayer, cfg, self.train, self.collect, len(shared), cached=cache is not None)
        x_BLD, collected = layers(x_BLD, cache, *shared)
        if cfg.norm == "pre":
            x_BLD = LayerNorm(cfg.layer_norm_eps, name="final_norm")(x_BLD)
        return x_BLD, first_BLD, collected


class Transformer(nn.Module):
    """Both sides; with head "seq2seq" the logits, and with head "output_bias" a bias a word on them, as in Marian."""

    cfg: TransformerConfig
    heads: tuple[str, ...]

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        encoder_tokens: Array | None = None,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        encoder_segment_ids: Array | None = None,
        encoder_positions: Array | None = None,
        cache: Mapping[str, Any] | None = None,
        *,
        train: bool = False,
        collect: bool = False,
    ) -> Outputs:
        """Reads int32 `encoder_tokens` [B, S] and the translation so far, `tokens` [B, L].

        A token of the decoder sees itself, what stands before it in its own segment, and the encoder's tokens of that
        segment (0 is padding). `cache`: see `empty_cache`; the tokens are appended to it. The first call with a cache
        reads the encoder's tokens into it, and later calls need none.

        Returns hidden [B, L, D]; logits (VocabLogits) with head "seq2seq"; encoder_hidden [B, S, D] where the encoder
        ran; the cache, if one was given; with `collect`, the decoder's hidden states and all attention probabilities.
        """
        cfg, D, length = self.cfg, self.cfg.hidden_size, tokens.shape[1]
        words = Embedding(cfg.padded_vocab_size, D, padded(normal(D**-0.5), cfg.vocab_size), name="word_embeddings")
        scale = D**0.5 if cfg.scale_embedding else 1.0
        outputs: dict[str, Any] = {}
        if encoder_tokens is not None:
            encoder, S = Coder(cfg, train, collect, name="encoder"), encoder_tokens.shape[1]
            encoder_segment_ids = jnp.ones_like(encoder_tokens) if encoder_segment_ids is None else encoder_segment_ids
            mask = attention_mask(encoder_segment_ids, None, causal=False, length=S, key_length=S)
            at = positions_like(encoder_tokens) if encoder_positions is None else encoder_positions
            outputs["encoder_hidden"], _, seen = encoder(words(encoder_tokens) * scale, at, None, mask, 0, None, None)
            outputs |= {"encoder_attentions": seen["attention"]} if collect else {}
        elif cache is not None:
            encoder_segment_ids = cache["encoder_segment_ids"]
        else:
            raise ValueError("encoder_tokens are missing, and no cache holds them")

        layers, offset, key_length = None, 0, length
        key_segments = segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        if cache is not None:
            offset, layers = cache["length"], cache["layers"]
            key_segments = dynamic_update_slice_in_dim(cache["segment_ids"], segment_ids, offset, axis=1)
            key_length = key_segments.shape[1]
        mask = attention_mask(segment_ids, key_segments, True, length, key_length, offset)
        memory_mask = attention_mask(segment_ids, encoder_segment_ids, causal=False, length=length, key_length=0)
        decoder = Coder(cfg, train, collect, name="decoder")
        where = positions_like(tokens) if positions is None else positions
        memory_BSD = outputs.get("encoder_hidden")
        x_BLD = words(tokens) * scale
        x_BLD, first_BLD, collected = decoder(x_BLD, where, layers, mask, offset, memory_BSD, memory_mask)
        outputs |= {"hidden": x_BLD, **(layer_outputs(collected, first_BLD) if collect else {})}
        bias_V = None
        if "output_bias" in self.heads:
            bias_V = self.param("output_bias", nn.initializers.zeros, (cfg.padded_vocab_size,), jnp.float32)
        if "seq2seq" in self.heads:
            outputs["logits"] = VocabLogits(x_BLD, words.embedding, bias_V, cfg.vocab_size)
        if cache is not None:
            held = {"segment_ids": key_segments, "encoder_segment_ids": encoder_segment_ids}
            outputs["cache"] = {"layers": collected["cache"], "length": offset + length, **held}
        return outputs


def empty_cache(cfg: AttentionConfig, batch: int, length: int, encoder_length: int) -> dict[str, Any]:
    """Of each layer "self", room for `length` tokens of the decoder, and "cross", for just `encoder_length` of the
    encoder; with "encoder_segment_ids", and otherwise as in `gpt.empty_cache`."""
    own, cross = (gpt.empty_cache(cfg, batch, size) for size in (length, encoder_length))
    both = zip(own["layers"], cross["layers"], strict=True)
    layers = tuple({"self": of_tokens, "cross": of_encoder} for of_tokens, of_encoder in both)
    return own | {"layers": layers, "encoder_segment_ids": cross["segment_ids"]}


_LAYERS = r"(encoder|decoder)/layers"
SHARDING = (
    (r"word_embeddings/embedding", P(("tensor", "fsdp"), None)),
    (r"(encoder|decoder)/positions/(position/embedding|combine/(kernel|bias))", P()),
    (rf"{_LAYERS}/(cross_)?attention/(query|key|value)/kernel", P("fsdp", "tensor", None)),
    (rf"{_LAYERS}/(cross_)?attention/(query|key|value)/bias", P("tensor", None)),
    (rf"{_LAYERS}/(cross_)?attention/out/kernel", P("tensor", None, "fsdp")),
    (rf"{_LAYERS}/mlp/up/kernel", P("fsdp", "tensor")),
    (rf"{_LAYERS}/mlp/up/bias", P("tensor")),
    (rf"{_LAYERS}/mlp/down/kernel", P("tensor", "fsdp")),
    (rf"{_LAYERS}/((cross_)?attention/out|mlp/down)/bias", P()),
    (rf"{_LAYERS}/((cross_)?attention|mlp)_norm/(scale|bias)", P()),
    (r"(encoder|decoder)/final_norm/(scale|bias)", P()),
    (r"output_bias", P("tensor")),
)


def weights(cfg: TransformerConfig) -> list[Weight]:
    """Names as in `MarianMTModel`."""
    rows = [
        Weight("model.shared.weight", ("word_embeddings/embedding",), "table", vocabulary=True),
        Weight("final_logits_bias", ("output_bias",), "row", vocabulary=True),
    ]
    attentions = {"encoder": {"self_attn": "attention"}}
    attentions["decoder"] = attentions["encoder"] | {"encoder_attn": "cross_attention"}
    for side, found in attentions.items():
        layer, path = f"model.{side}.layers.{{}}", f"{side}/layers"
        linear, norms = {"fc1": "mlp/up", "fc2": "mlp/down"}, {"final_layer_norm": "mlp_norm"}
        for theirs, ours in found.items():
            linear |= {f"{theirs}.{name[0]}_proj": f"{ours}/{name}" for name in ("query", "key", "value")}
            linear[f"{theirs}.out_proj"] = f"{ours}/out"
            norms[f"{theirs}_layer_norm"] = f"{ours}_norm"
        for theirs, ours in linear.items():
            inputs = 2 if ours.endswith("out") else 1
            rows.append(Weight(f"{layer}.{theirs}.weight", (f"{path}/{ours}/kernel",), "linear", inputs))
        for theirs, ours in norms.items():
            rows.append(Weight(f"{layer}.{theirs}.weight", (f"{path}/{ours}/scale",), "vector"))
        for theirs, ours in {**linear, **norms}.items():
            rows.append(Weight(f"{layer}.{theirs}.bias", (f"{path}/{ours}/bias",), "vector"))
    return rows


# Hugging Face's config keys, each with its default there (config.json leaves defaults out) -> ours
_HF_KEYS: dict[tuple[str, ...], tuple[Any, str]] = {
    ("vocab_size",): (58101, "vocab_size"),
    ("d_model",): (1024, "hidden_size"),
    ("encoder_layers", "decoder_layers"): (12, "num_hidden_layers"),
    ("encoder_attention_heads", "decoder_attention_heads"): (16, "num_attention_heads"),
    ("encoder_ffn_dim", "decoder_ffn_dim"): (4096, "intermediate_size"),
    ("max_position_embeddings",): (1024, "max_position_embeddings"),
    ("dropout",): (0.1, "hidden_dropout"),
    ("attention_dropout",): (0.0, "attention_dropout"),
    ("init_std",): (0.02, "initializer_range"),
    ("scale_embedding",): (False, "scale_embedding"),
    ("decoder_start_token_id",): (58100, "decoder_start_token_id"),
    ("eos_token_id",): (0, "eos_token_id"),
}
_HF_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
_MARIAN: dict[str, Any] = {
    "position_embedding": "sinusoidal_marian",
    "position_combine": "add",
    "norm": "post",
    "layer_norm_eps": 1e-5,
}


def to_hf(cfg: TransformerConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    """Hugging Face's config.json. Raises UserError for a shape that `MarianMTModel` does not have."""
    for field, value in _MARIAN.items():
        if getattr(cfg, field) != value:
            raise UserError(f"Marian knows {field} {value!r} alone; this model has another and cannot be converted")
    shape = {theirs: getattr(cfg, ours) for keys, (_, ours) in _HF_KEYS.items() for theirs in keys}
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel" if "seq2seq" in heads else "MarianModel"],
        "activation_function": {"gelu_tanh": "gelu_new"}.get(cfg.activation, cfg.activation),
        "decoder_vocab_size": cfg.vocab_size,
        "pad_token_id": cfg.decoder_start_token_id,
        "forced_eos_token_id": None,
        **shape,
    }


def from_hf(data: Mapping[str, Any]) -> TransformerConfig:
    """Raises UserError where encoder and decoder differ in shape, or the activation is unknown."""
    activation = data.get("activation_function", "gelu")
    if activation not in _HF_ACTIVATIONS:
        raise UserError(f"config.json: activation_function '{activation}' is none of {', '.join(_HF_ACTIVATIONS)}")
    shape = {}
    for keys, (default, ours) in _HF_KEYS.items():
        shape[ours], *others = (data.get(theirs, default) for theirs in keys)
        if any(value != shape[ours] for value in others):
            raise UserError(f"config.json: {' and '.join(keys)} differ; lmjax's Transformer has one {ours} for both")
    return TransformerConfig(activation=_HF_ACTIVATIONS[activation], **shape, **_MARIAN)  # type: ignore[arg-type]


def flops(cfg: TransformerConfig, length: int, heads: tuple[str, ...], predictions: int) -> float:
    """Forward operations of one row, `length` tokens on either side: 2 a weight and token in products; in attention
    4 T D a token and layer, 2 T D where it is causal."""
    D, F, V = cfg.hidden_size, cfg.intermediate_size, cfg.padded_vocab_size
    encoder = 2 * (4 * D * D + 2 * D * F) + 4 * length * D
    decoder = 2 * (8 * D * D + 2 * D * F) + 6 * length * D
    combine = 8 * length * D * D if cfg.position_combine == "concat" else 0
    head = 2 * predictions * D * V if "seq2seq" in heads else 0
    return length * cfg.num_hidden_layers * (encoder + decoder) + combine + head


PRESETS = {
    "transformer-base": TransformerConfig(),
    "transformer-big": TransformerConfig(
        hidden_size=1024, num_attention_heads=16, intermediate_size=4096, hidden_dropout=0.3
    ),
}

ARCHITECTURE = Architecture(
    config=TransformerConfig,
    build=Transformer,
    heads=("seq2seq", "output_bias"),
    inputs=(
        *("tokens", "segment_ids", "positions", "cache"),
        *("encoder_tokens", "encoder_segment_ids", "encoder_positions"),
    ),
    sharding=SHARDING,
    weights=weights,
    to_hf=to_hf,
    from_hf=from_hf,
    hf_prefix="model.",
    hf_tied=dict.fromkeys(
        ["lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"],
        "model.shared.weight",
    ),
    hf_ignored=(r"model\.(encoder|decoder)\.embed_positions\.weight",),
    hf_fixed={
        "tie_word_embeddings": True,
        "share_encoder_decoder_embeddings": True,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
    },
    flops=flops,
    presets=PRESETS,
)
