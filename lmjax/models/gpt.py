"""GPT-2 (Radford et al. 2019): a causal decoder, pre-LN, with a final LayerNorm and the token table tied as the output.

Residual projections start at `initializer_range / sqrt(2 N)`, N layers: the reading of the paper's "1/sqrt(N)" that
Hugging Face takes. Positions start at 0.01, as in the released code. Letters as in `layers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.lax import dynamic_update_slice_in_dim
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.models.architecture import Architecture, ModelConfig
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
class GptConfig(ModelConfig):
    """Shape of a GPT-2; the defaults are GPT-2 small."""

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 1024
    embedding_dropout: float = 0.1
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu_tanh"


class GptLayer(nn.Module):
    """Pre-LN block: x += Drop(attention(LN(x))); x += Drop(mlp(LN(x)))."""

    cfg: GptConfig
    train: bool
    collect: bool

    @nn.compact
    def __call__(
        self, x_BLD: Array, cache: dict[str, Array] | None, mask: Array | None, offset: Array | int
    ) -> tuple[Array, dict[str, Any]]:
        cfg = self.cfg
        init = normal(cfg.initializer_range)
        out_init = normal(cfg.initializer_range / (2 * cfg.num_hidden_layers) ** 0.5)
        attention = Attention(cfg, self.train, init, out_init, name="attention")
        mixed_BLD, cache, probabilities = attention(
            LayerNorm(cfg.layer_norm_eps, name="attention_norm")(x_BLD), mask, cache, offset
        )
        x_BLD = x_BLD + Dropout(cfg.hidden_dropout, self.train)(mixed_BLD)
        mlp = Mlp(cfg, cfg.activation, init, out_init, name="mlp")
        changed_BLD = mlp(LayerNorm(cfg.layer_norm_eps, name="mlp_norm")(x_BLD))
        x_BLD = hold_batch(x_BLD + Dropout(cfg.hidden_dropout, self.train)(changed_BLD))
        collected = {"hidden": x_BLD, "attention": probabilities} if self.collect else {}
        return x_BLD, {"cache": cache, **collected}


class Gpt(nn.Module):
    """The decoder; with head "clm" also its logits (no parameters of their own)."""

    cfg: GptConfig
    heads: tuple[str, ...]

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        cache: Mapping[str, Any] | None = None,
        *,
        train: bool = False,
        collect: bool = False,
    ) -> Outputs:
        """Reads int32 `tokens` [B, L]; each sees itself and what stands before it in its own segment (0 is padding).

        `cache`: see `empty_cache`; the tokens are appended to it.

        Returns hidden [B, L, D]; logits (VocabLogits) with head "clm"; the cache, if one was given; with `collect`,
        every layer's hidden states and attention probabilities.
        """
        cfg = self.cfg
        init, length = normal(cfg.initializer_range), tokens.shape[1]
        words = Embedding(cfg.padded_vocab_size, cfg.hidden_size, padded(init, cfg.vocab_size), name="word_embeddings")
        x_BLD = PositionEmbedding(cfg, normal(0.01), name="positions")(
            words(tokens), positions_like(tokens) if positions is None else positions
        )
        x_BLD = embedded_BLD = hold_batch(Dropout(cfg.embedding_dropout, train)(x_BLD.astype(cfg.dtype)))

        layers, offset, key_segments, key_length = None, 0, segment_ids, length
        if cache is not None:
            segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids
            offset, layers = cache["length"], cache["layers"]
            key_segments = dynamic_update_slice_in_dim(cache["segment_ids"], segment_ids, offset, axis=1)
            key_length = key_segments.shape[1]
        mask = attention_mask(
            segment_ids, key_segments, causal=True, length=length, key_length=key_length, offset=offset
        )
        x_BLD, collected = stack(GptLayer, cfg, train, collect)(x_BLD, layers, mask, offset)
        x_BLD = LayerNorm(cfg.layer_norm_eps, name="final_norm")(x_BLD)

        outputs: dict[str, Any] = {"hidden": x_BLD, **(layer_outputs(collected, embedded_BLD) if collect else {})}
        if "clm" in self.heads:
            outputs["logits"] = VocabLogits(x_BLD, words.embedding, None, cfg.vocab_size)
        if cache is not None:
            outputs["cache"] = {"layers": collected["cache"], "segment_ids": key_segments, "length": offset + length}
        return outputs


def empty_cache(cfg: ModelConfig, batch: int, length: int) -> dict[str, Any]:
    """Room for `length` tokens a row: keys and values [N, B, S, H, K], segment ids [B, S], and how many are filled."""
    shape = (cfg.num_hidden_layers, batch, length, cfg.num_attention_heads, cfg.head_size)
    return {
        "layers": {"key": jnp.zeros(shape, cfg.dtype), "value": jnp.zeros(shape, cfg.dtype)},
        "segment_ids": jnp.zeros((batch, length), jnp.int32),
        "length": jnp.zeros((), jnp.int32),
    }


SHARDING = (
    (r"word_embeddings/embedding", P(("tensor", "fsdp"), None)),
    (r"positions/position/embedding|positions/combine/(kernel|bias)", P()),
    (r"layers/attention/(query|key|value)/kernel", P("fsdp", "tensor", None)),
    (r"layers/attention/(query|key|value)/bias", P("tensor", None)),
    (r"layers/attention/out/kernel", P("tensor", None, "fsdp")),
    (r"layers/mlp/up/kernel", P("fsdp", "tensor")),
    (r"layers/mlp/up/bias", P("tensor")),
    (r"layers/mlp/down/kernel", P("tensor", "fsdp")),
    (r"layers/(attention/out|mlp/down)/bias|layers/(attention_norm|mlp_norm)/(scale|bias)", P()),
    (r"final_norm/(scale|bias)", P()),
)


def weights(cfg: GptConfig) -> list[Weight]:
    """Names as in `GPT2LMHeadModel`."""
    h, qkv = "transformer.h.{}", tuple(f"layers/attention/{n}" for n in ("query", "key", "value"))
    rows = [
        Weight("transformer.wte.weight", ("word_embeddings/embedding",), "table", vocabulary=True),
        Weight("transformer.wpe.weight", ("positions/position/embedding",), "table"),
        Weight(f"{h}.attn.c_attn.weight", tuple(f"{p}/kernel" for p in qkv), "conv1d"),
        Weight(f"{h}.attn.c_attn.bias", tuple(f"{p}/bias" for p in qkv), "vector"),
        Weight(f"{h}.attn.c_proj.weight", ("layers/attention/out/kernel",), "conv1d", inputs=2),
        Weight(f"{h}.attn.c_proj.bias", ("layers/attention/out/bias",), "vector"),
        Weight(f"{h}.mlp.c_fc.weight", ("layers/mlp/up/kernel",), "conv1d"),
        Weight(f"{h}.mlp.c_fc.bias", ("layers/mlp/up/bias",), "vector"),
        Weight(f"{h}.mlp.c_proj.weight", ("layers/mlp/down/kernel",), "conv1d"),
        Weight(f"{h}.mlp.c_proj.bias", ("layers/mlp/down/bias",), "vector"),
    ]
    norms = {f"{h}.ln_1": "layers/attention_norm", f"{h}.ln_2": "layers/mlp_norm", "transformer.ln_f": "final_norm"}
    for name, path in norms.items():
        rows.append(Weight(f"{name}.weight", (f"{path}/scale",), "vector"))
        rows.append(Weight(f"{name}.bias", (f"{path}/bias",), "vector"))
    return rows


# Hugging Face's config key -> ours
_HF_KEYS = {
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "resid_pdrop": "hidden_dropout",
    "attn_pdrop": "attention_dropout",
    "embd_pdrop": "embedding_dropout",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
}


def to_hf(cfg: GptConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    """Hugging Face's config.json. Raises UserError for an input layer that Hugging Face does not have."""
    if (cfg.position_embedding, cfg.position_combine) != ("learned", "add"):
        raise UserError(
            "Hugging Face's GPT-2 adds learned positions; this model does otherwise and cannot be converted"
        )
    activation = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}[cfg.activation]
    shape = {theirs: getattr(cfg, ours) for theirs, ours in _HF_KEYS.items()}
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel" if "clm" in heads else "GPT2Model"],
        "activation_function": activation,
        "n_inner": cfg.intermediate_size,
        "tie_word_embeddings": True,
        **shape,
    }


def from_hf(data: Mapping[str, Any]) -> GptConfig:
    activations = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
    activation = data.get("activation_function", "gelu_new")
    if activation not in activations:
        raise UserError(f"config.json: activation_function '{activation}' is none of {', '.join(activations)}")
    shape = {ours: data[theirs] for theirs, ours in _HF_KEYS.items() if theirs in data}
    inner = data.get("n_inner") or 4 * shape.get("hidden_size", 768)
    return GptConfig(activation=activations[activation], intermediate_size=inner, **shape)  # type: ignore[arg-type]


def flops(cfg: GptConfig, length: int, heads: tuple[str, ...], predictions: int) -> float:
    """Forward operations of one row: 2 a weight and token in products, 2 T D a token and layer in attention (4 T D
    halved, since a causal model needs half of the scores)."""
    D, F, V = cfg.hidden_size, cfg.intermediate_size, cfg.padded_vocab_size
    layer = 2 * (4 * D * D + 2 * D * F) + 2 * length * D
    combine = 4 * length * D * D if cfg.position_combine == "concat" else 0
    return length * cfg.num_hidden_layers * layer + combine + (2 * predictions * D * V if "clm" in heads else 0)


def _preset(layers: int, size: int, heads: int) -> GptConfig:
    return GptConfig(hidden_size=size, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * size)


PRESETS = {
    "gpt2": _preset(12, 768, 12),
    "gpt2-medium": _preset(24, 1024, 16),
    "gpt2-large": _preset(36, 1280, 20),
    "gpt2-xl": _preset(48, 1600, 25),
}

ARCHITECTURE = Architecture(
    config=GptConfig,
    build=Gpt,
    heads=("clm",),
    inputs=("tokens", "segment_ids", "positions", "cache"),
    sharding=SHARDING,
    weights=weights,
    to_hf=to_hf,
    from_hf=from_hf,
    hf_prefix="transformer.",
    hf_tied={"lm_head.weight": "transformer.wte.weight"},
    hf_ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    hf_fixed={
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    flops=flops,
    presets=PRESETS,
)
