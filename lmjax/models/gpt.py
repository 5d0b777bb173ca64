"""GPT-2 (Radford et al. 2019): a causal decoder, pre-LN, with a final LayerNorm and the token table tied as the output.
GPT-3 (Brown et al. 2020) is the same with every second layer's attention locally banded: `window`.

Residual projections start at `initializer_range / sqrt(2 N)`, N layers: the reading of the paper's "1/sqrt(N)" that
Hugging Face takes. Positions start at 0.01, as in the released code. GPT-3's bands, which layer begins and its dropout
were never published: here 256 tokens (as GPT-Neo, its open reproduction), a dense layer first, and none. Letters as in
`layers`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.models.architecture import Architecture, AttentionConfig
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
    run_causally,
    stack,
)
from lmjax.models.weights import Weight
from lmjax.ops.vocabulary import VocabLogits
from lmjax.parallel import BATCH_AXES, constrain
from lmjax.types import Array, Outputs


@dataclass(frozen=True, kw_only=True)
class GptConfig(AttentionConfig):
    """Shape of a GPT-2; the defaults are GPT-2 small.

    `window`: the second, fourth, ... layer sees that many tokens only, the current one among them (0 = all see all).
    """

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 1024
    embedding_dropout: float = 0.1
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu_tanh"
    window: int = 0

    def __post_init__(self) -> None:
        if self.window < 0 or (self.window and self.num_hidden_layers % 2):
            raise UserError(
                f"window {self.window} with {self.num_hidden_layers} layers: dense and banded layers alternate, so "
                "their number must be even, and a window positive (0 = none)"
            )

    @property
    def windows(self) -> tuple[int, ...]:
        """How far back the layers see, in turn; 0 is all the way."""
        return (0, self.window) if self.window else (0,)


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
        init = normal(cfg.initializer_range)
        words = Embedding(cfg.padded_vocab_size, cfg.hidden_size, padded(init, cfg.vocab_size), name="word_embeddings")
        x_BLD = PositionEmbedding(cfg, normal(0.01), name="positions")(
            words(tokens), positions_like(tokens) if positions is None else positions
        )
        x_BLD = embedded_BLD = hold_batch(Dropout(cfg.embedding_dropout, train)(x_BLD.astype(cfg.dtype)))

        # Parameters are drawn without regard to the masks.
        windows = cfg.windows[:1] if self.is_initializing() else cfg.windows
        layers = stack(GptLayer, cfg, train, collect, period=len(windows), cached=cache is not None)
        x_BLD, collected, cached = run_causally(layers, x_BLD, segment_ids, cache, windows)
        x_BLD = LayerNorm(cfg.layer_norm_eps, name="final_norm")(x_BLD)

        outputs: dict[str, Any] = {"hidden": x_BLD, **(layer_outputs(collected, embedded_BLD) if collect else {})}
        if "clm" in self.heads:
            outputs["logits"] = VocabLogits(x_BLD, words.embedding, None, cfg.vocab_size)
        return outputs | cached


def empty_cache(cfg: AttentionConfig, batch: int, length: int) -> dict[str, Any]:
    """Room for `length` tokens a row: each layer's keys and values [B, H, S, K]; and of all of them the segment ids
    [B, S], and how many places are filled."""
    shape = (batch, cfg.num_attention_heads, length, cfg.head_size)

    def states() -> Array:  # arrays of their own, since a step may take over their memory
        return constrain(jnp.zeros(shape, cfg.dtype), BATCH_AXES, "tensor", None, None)

    return {
        "layers": tuple({"key": states(), "value": states()} for _ in range(cfg.num_hidden_layers)),
        "segment_ids": jnp.zeros((batch, length), jnp.int32),
        "length": jnp.zeros((), jnp.int32),
    }


def flush_right(prompts: Sequence[Sequence[int]], multiple_of: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as a cache wants them: int32 tokens and segment ids [B, P], P a multiple, padding (segment 0) first."""
    lengths = np.array([len(prompt) for prompt in prompts])
    width = -(-int(lengths.max()) // multiple_of) * multiple_of
    tokens_BP = np.array([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], np.int32)
    return tokens_BP, (np.arange(width)[None] >= width - lengths[:, None]).astype(np.int32)


DECODER_SHARDING = (
    (r"word_embeddings/embedding", P(("tensor", "fsdp"), None)),
    (r"positions/position/embedding|positions/combine/(kernel|bias)", P()),
    (r"layers/attention/(query|key|value)/kernel", P("fsdp", "tensor", None)),
    (r"layers/attention/(query|key|value)/bias", P("tensor", None)),
    (r"layers/attention/out/kernel", P("tensor", None, "fsdp")),
    (r"layers/mlp/up/kernel", P("fsdp", "tensor")),
    (r"layers/mlp/up/bias", P("tensor")),
    (r"layers/mlp/down/kernel", P("tensor", "fsdp")),
    (r"layers/(attention/out|mlp/down)/bias|layers/(attention_norm|mlp_norm)/(scale|bias)", P()),
)
SHARDING = (*DECODER_SHARDING, (r"final_norm/(scale|bias)", P()))


def weights(cfg: GptConfig) -> list[Weight]:
    """Names as in `GPT2LMHeadModel`."""
    return [
        Weight("transformer.wte.weight", ("word_embeddings/embedding",), "table", vocabulary=True),
        Weight("transformer.wpe.weight", ("positions/position/embedding",), "table"),
        *layer_weights(),
        Weight("transformer.ln_f.weight", ("final_norm/scale",), "vector"),
        Weight("transformer.ln_f.bias", ("final_norm/bias",), "vector"),
    ]


def layer_weights() -> list[Weight]:
    """The layers' tensors, alike in GPT-1 and GPT-2."""
    h, qkv = "transformer.h.{}", tuple(f"layers/attention/{n}" for n in ("query", "key", "value"))
    rows = [
        Weight(f"{h}.attn.c_attn.weight", tuple(f"{p}/kernel" for p in qkv), "conv1d"),
        Weight(f"{h}.attn.c_attn.bias", tuple(f"{p}/bias" for p in qkv), "vector"),
        Weight(f"{h}.attn.c_proj.weight", ("layers/attention/out/kernel",), "conv1d", inputs=2),
        Weight(f"{h}.attn.c_proj.bias", ("layers/attention/out/bias",), "vector"),
        Weight(f"{h}.mlp.c_fc.weight", ("layers/mlp/up/kernel",), "conv1d"),
        Weight(f"{h}.mlp.c_fc.bias", ("layers/mlp/up/bias",), "vector"),
        Weight(f"{h}.mlp.c_proj.weight", ("layers/mlp/down/kernel",), "conv1d"),
        Weight(f"{h}.mlp.c_proj.bias", ("layers/mlp/down/bias",), "vector"),
    ]
    for name, path in {f"{h}.ln_1": "layers/attention_norm", f"{h}.ln_2": "layers/mlp_norm"}.items():
        rows.append(Weight(f"{name}.weight", (f"{path}/scale",), "vector"))
        rows.append(Weight(f"{name}.bias", (f"{path}/bias",), "vector"))
    return rows


# Hugging Face's config key -> ours
HF_KEYS = {
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
    """Hugging Face's config.json, GPT-2's. Raises UserError for an input layer or bands, which that does not have."""
    if cfg.window:
        raise UserError(
            f"Hugging Face's GPT-2 has no banded attention; this model (window {cfg.window}) cannot be converted"
        )
    if (cfg.position_embedding, cfg.position_combine) != ("learned", "add"):
        raise UserError(
            "Hugging Face's GPT-2 adds learned positions; this model does otherwise and cannot be converted"
        )
    activation = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}[cfg.activation]
    shape = {theirs: getattr(cfg, ours) for theirs, ours in HF_KEYS.items()}
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
    shape = {ours: data[theirs] for theirs, ours in HF_KEYS.items() if theirs in data}
    inner = data.get("n_inner") or 4 * shape.get("hidden_size", 768)
    return GptConfig(activation=activations[activation], intermediate_size=inner, **shape)  # type: ignore[arg-type]


def flops(cfg: GptConfig, length: int, heads: tuple[str, ...], predictions: int) -> float:
    """Forward operations of one row; see `decoder_flops`."""
    return decoder_flops(cfg, length, predictions if "clm" in heads else 0, cfg.windows)


def decoder_flops(cfg: AttentionConfig, length: int, predictions: int, windows: tuple[int, ...] = (0,)) -> float:
    """2 a weight and token in products; 4 D in attention for each pair of tokens of which one may see the other:
    T^2 / 2 in a causal layer, W T - W^2 / 2 under a band of W < T."""
    D, F, V, T = cfg.hidden_size, cfg.intermediate_size, cfg.padded_vocab_size, length
    pairs = [W * T - W * W / 2 for W in (min(window or T, T) for window in windows)]
    layer = 2 * T * (4 * D * D + 2 * D * F) + 4 * D * sum(pairs) / len(pairs)
    combine = 4 * T * D * D if cfg.position_combine == "concat" else 0
    return cfg.num_hidden_layers * layer + combine + 2 * predictions * D * V


def _preset(layers: int, size: int, heads: int) -> GptConfig:
    return GptConfig(hidden_size=size, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * size)


def _gpt3(layers: int, size: int, heads: int) -> GptConfig:
    quiet = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    return replace(_preset(layers, size, heads), max_position_embeddings=2048, window=256, **quiet)


PRESETS = {
    "gpt2": _preset(12, 768, 12),
    "gpt2-medium": _preset(24, 1024, 16),
    "gpt2-large": _preset(36, 1280, 20),
    "gpt2-xl": _preset(48, 1600, 25),
    # Brown et al. 2020, Table 2.1, but for two slips: XL's 24 heads of 128 (2048 is 16 of them) and 13B's width of 5140
    # (40 heads of 128 are 5120).
    "gpt3-small": _gpt3(12, 768, 12),
    "gpt3-medium": _gpt3(24, 1024, 16),
    "gpt3-large": _gpt3(24, 1536, 16),
    "gpt3-xl": _gpt3(24, 2048, 16),
    "gpt3-2.7b": _gpt3(32, 2560, 32),
    "gpt3-6.7b": _gpt3(32, 4096, 32),
    "gpt3-13b": _gpt3(40, 5120, 40),
    "gpt3-175b": _gpt3(96, 12288, 96),
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
