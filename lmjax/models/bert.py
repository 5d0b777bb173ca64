"""BERT (Devlin et al. 2019): a bidirectional encoder, pretrained on masked tokens and next-sentence prediction.

Follows the released checkpoints as Hugging Face runs them: erf GELU (google-research/bert's later code took the tanh
form, here `activation="gelu_tanh"`), positions added to words, LayerNorm eps 1e-12. The initialiser is the original's
truncated normal. Letters as in `layers`; M masked positions a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.models.architecture import Architecture, ModelConfig
from lmjax.models.layers import (
    ACTIVATIONS,
    Attention,
    Dense,
    Dropout,
    Embedding,
    LayerNorm,
    Mlp,
    PositionEmbedding,
    hold_batch,
    layer_outputs,
    padded,
    positions_like,
    stack,
)
from lmjax.models.weights import Weight
from lmjax.ops.attention import attention_mask
from lmjax.ops.vocabulary import VocabLogits
from lmjax.types import Array, Outputs


@dataclass(frozen=True, kw_only=True)
class BertConfig(ModelConfig):
    """Shape of a BERT; the defaults are BERT-base, uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"


def _init(cfg: BertConfig) -> Any:
    return nn.initializers.truncated_normal(cfg.initializer_range)


class BertLayer(nn.Module):
    """Post-LN block: x = LN(x + Drop(attention(x))); x = LN(x + Drop(mlp(x)))."""

    cfg: BertConfig
    train: bool
    collect: bool

    @nn.compact
    def __call__(self, x_BLD: Array, _cache: None, mask: Array | None, _offset: int) -> tuple[Array, dict[str, Any]]:
        cfg, init = self.cfg, _init(self.cfg)
        mixed_BLD, _, probabilities = Attention(cfg, self.train, init, init, name="attention")(x_BLD, mask)
        mixed_BLD = Dropout(cfg.hidden_dropout, self.train)(mixed_BLD)
        x_BLD = LayerNorm(cfg.layer_norm_eps, name="attention_norm")(x_BLD + mixed_BLD)
        changed_BLD = Dropout(cfg.hidden_dropout, self.train)(Mlp(cfg, cfg.activation, init, init, name="mlp")(x_BLD))
        x_BLD = hold_batch(LayerNorm(cfg.layer_norm_eps, name="mlp_norm")(x_BLD + changed_BLD))
        return x_BLD, {"hidden": x_BLD, "attention": probabilities} if self.collect else {}


class Bert(nn.Module):
    """The encoder and the heads "mlm", "pooler" and "nsp" (which reads the pooler)."""

    cfg: BertConfig
    heads: tuple[str, ...]

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        token_type_ids: Array | None = None,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        mlm_positions: Array | None = None,
        *,
        train: bool = False,
        collect: bool = False,
    ) -> Outputs:
        """Encodes int32 `tokens` [B, L].

        `segment_ids` [B, L]: tokens see their own segment, 0 is padding (all one segment when absent).
        `mlm_positions` [B, M]: predict there only (everywhere when absent).

        Returns hidden [B, L, D]; logits (VocabLogits over M or L) with head "mlm"; pooled [B, D] with "pooler";
        next_sentence_logits float32 [B, 2] with "nsp" (index 0 = is next); with `collect`, every layer's hidden states
        and attention probabilities.
        """
        cfg, init = self.cfg, _init(self.cfg)
        words = Embedding(cfg.padded_vocab_size, cfg.hidden_size, padded(init, cfg.vocab_size), name="word_embeddings")
        types = Embedding(cfg.type_vocab_size, cfg.hidden_size, init, name="token_type_embeddings")
        x_BLD = PositionEmbedding(cfg, init, name="positions")(
            words(tokens), positions_like(tokens) if positions is None else positions
        )
        x_BLD = x_BLD + types(jnp.zeros_like(tokens) if token_type_ids is None else token_type_ids)
        x_BLD = LayerNorm(cfg.layer_norm_eps, name="embeddings_norm")(x_BLD).astype(cfg.dtype)
        x_BLD = embedded_BLD = hold_batch(Dropout(cfg.hidden_dropout, train)(x_BLD))
        length = tokens.shape[1]
        mask = attention_mask(segment_ids, None, causal=False, length=length, key_length=length)
        x_BLD, collected = stack(BertLayer, cfg, train, collect)(x_BLD, None, mask, 0)

        outputs: dict[str, Any] = {"hidden": x_BLD, **(layer_outputs(collected, embedded_BLD) if collect else {})}
        if "mlm" in self.heads:
            outputs["logits"] = MlmHead(cfg, name="mlm")(x_BLD, mlm_positions, words.embedding)
        if "pooler" in self.heads or "nsp" in self.heads:
            D = cfg.hidden_size
            outputs["pooled"] = jnp.tanh(Dense((D,), (D,), init, name="pooler")(x_BLD[:, 0]))
        if "nsp" in self.heads:
            logits_B2 = Dense((cfg.hidden_size,), (2,), init, name="nsp")(outputs["pooled"])
            outputs["next_sentence_logits"] = logits_B2.astype(jnp.float32)
        return outputs


class MlmHead(nn.Module):
    """Dense, activation, LayerNorm, then the word table tied as the output, with a bias a word."""

    cfg: BertConfig

    @nn.compact
    def __call__(self, x_BLD: Array, mlm_positions_BM: Array | None, table_VD: Array) -> VocabLogits:
        cfg, D = self.cfg, self.cfg.hidden_size
        if mlm_positions_BM is not None:
            x_BLD = jnp.take_along_axis(x_BLD, mlm_positions_BM[..., None], axis=1)
        x_BLD = ACTIVATIONS[cfg.activation](Dense((D,), (D,), _init(cfg), name="transform")(x_BLD))
        x_BLD = LayerNorm(cfg.layer_norm_eps, name="norm")(x_BLD)
        bias_V = self.param("bias", nn.initializers.zeros, (cfg.padded_vocab_size,), jnp.float32)
        return VocabLogits(x_BLD, table_VD, bias_V, cfg.vocab_size)


SHARDING = (
    (r"word_embeddings/embedding", P(("tensor", "fsdp"), None)),
    (r"(token_type_embeddings|positions/position)/embedding", P()),
    (r"positions/combine/(kernel|bias)", P()),
    (r"embeddings_norm/(scale|bias)|mlm/norm/(scale|bias)", P()),
    (r"layers/attention/(query|key|value)/kernel", P("fsdp", "tensor", None)),
    (r"layers/attention/(query|key|value)/bias", P("tensor", None)),
    (r"layers/attention/out/kernel", P("tensor", None, "fsdp")),
    (r"layers/mlp/up/kernel", P("fsdp", "tensor")),
    (r"layers/mlp/up/bias", P("tensor")),
    (r"layers/mlp/down/kernel", P("tensor", "fsdp")),
    (r"layers/(attention/out|mlp/down)/bias|layers/(attention_norm|mlp_norm)/(scale|bias)", P()),
    (r"(pooler|mlm/transform)/kernel", P("fsdp", None)),
    (r"(pooler|mlm/transform)/bias|nsp/(kernel|bias)", P()),
    (r"mlm/bias", P("tensor")),
)


def _linear(name: str, path: str, inputs: int = 1) -> list[Weight]:
    return [
        Weight(f"{name}.weight", (f"{path}/kernel",), "linear", inputs),
        Weight(f"{name}.bias", (f"{path}/bias",), "vector"),
    ]


def _norm(name: str, path: str) -> list[Weight]:
    return [Weight(f"{name}.weight", (f"{path}/scale",), "vector"), Weight(f"{name}.bias", (f"{path}/bias",), "vector")]


def weights(cfg: BertConfig) -> list[Weight]:
    """Names as in `BertForPreTraining`."""
    embeddings, layer = "bert.embeddings", "bert.encoder.layer.{}"
    rows = [
        Weight(f"{embeddings}.word_embeddings.weight", ("word_embeddings/embedding",), "table", vocabulary=True),
        Weight(f"{embeddings}.position_embeddings.weight", ("positions/position/embedding",), "table"),
        Weight(f"{embeddings}.token_type_embeddings.weight", ("token_type_embeddings/embedding",), "table"),
        *_norm(f"{embeddings}.LayerNorm", "embeddings_norm"),
        *_linear(f"{layer}.attention.output.dense", "layers/attention/out", inputs=2),
        *_norm(f"{layer}.attention.output.LayerNorm", "layers/attention_norm"),
        *_linear(f"{layer}.intermediate.dense", "layers/mlp/up"),
        *_linear(f"{layer}.output.dense", "layers/mlp/down"),
        *_norm(f"{layer}.output.LayerNorm", "layers/mlp_norm"),
        *_linear("bert.pooler.dense", "pooler"),
        *_linear("cls.predictions.transform.dense", "mlm/transform"),
        *_norm("cls.predictions.transform.LayerNorm", "mlm/norm"),
        Weight("cls.predictions.bias", ("mlm/bias",), "vector", vocabulary=True),
        *_linear("cls.seq_relationship", "nsp"),
    ]
    for name in ("query", "key", "value"):
        rows += _linear(f"{layer}.attention.self.{name}", f"layers/attention/{name}")
    return rows


# Hugging Face's config key -> ours
_HF_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
_HF_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


def to_hf(cfg: BertConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    """Hugging Face's config.json. Raises UserError for an input layer that Hugging Face does not have."""
    if (cfg.position_embedding, cfg.position_combine) != ("learned", "add"):
        raise UserError("Hugging Face's BERT adds learned positions; this model does otherwise and cannot be converted")
    classes = {
        ("mlm", "nsp"): "BertForPreTraining",
        ("mlm",): "BertForMaskedLM",
        ("nsp",): "BertForNextSentencePrediction",
    }
    name = classes.get(tuple(h for h in ("mlm", "nsp") if h in heads), "BertModel")
    activation = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}[cfg.activation]
    shape = {theirs: getattr(cfg, ours) for theirs, ours in _HF_KEYS.items()}
    return {
        "model_type": "bert",
        "architectures": [name],
        "hidden_act": activation,
        "tie_word_embeddings": True,
        **shape,
    }


def from_hf(data: Mapping[str, Any]) -> BertConfig:
    activation = data.get("hidden_act", "gelu")
    if activation not in _HF_ACTIVATIONS:
        raise UserError(f"config.json: hidden_act '{activation}' is none of {', '.join(_HF_ACTIVATIONS)}")
    shape = {ours: data[theirs] for theirs, ours in _HF_KEYS.items() if theirs in data}
    return BertConfig(activation=_HF_ACTIVATIONS[activation], **shape)  # type: ignore[arg-type]


def flops(cfg: BertConfig, length: int, heads: tuple[str, ...], predictions: int) -> float:
    """Forward operations of one row: 2 a weight and token in products, 4 T D a token and layer in attention."""
    D, F, V = cfg.hidden_size, cfg.intermediate_size, cfg.padded_vocab_size
    layer = 2 * (4 * D * D + 2 * D * F) + 4 * length * D
    head = 2 * predictions * (D * D + D * V) if "mlm" in heads else 0
    combine = 4 * length * D * D if cfg.position_combine == "concat" else 0
    return (
        length * cfg.num_hidden_layers * layer
        + combine
        + head
        + (2 * D * D if "nsp" in heads or "pooler" in heads else 0)
    )


def _preset(layers: int, size: int, heads: int, vocab_size: int = 30522) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * size,
    )


PRESETS = {
    "bert-tiny": _preset(2, 128, 2),
    "bert-mini": _preset(4, 256, 4),
    "bert-small": _preset(4, 512, 8),
    "bert-medium": _preset(8, 512, 8),
    "bert-base-uncased": _preset(12, 768, 12),
    "bert-base-cased": _preset(12, 768, 12, 28996),
    "bert-large-uncased": _preset(24, 1024, 16),
    "bert-large-cased": _preset(24, 1024, 16, 28996),
    "bert-base-multilingual-cased": _preset(12, 768, 12, 119547),
    "bert-base-multilingual-uncased": _preset(12, 768, 12, 105879),
    "bert-base-chinese": _preset(12, 768, 12, 21128),
}

ARCHITECTURE = Architecture(
    config=BertConfig,
    build=Bert,
    heads=("mlm", "pooler", "nsp"),
    inputs=("tokens", "token_type_ids", "segment_ids", "positions", "mlm_positions"),
    sharding=SHARDING,
    weights=weights,
    to_hf=to_hf,
    from_hf=from_hf,
    hf_prefix="bert.",
    hf_tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    hf_ignored=(r"bert\.embeddings\.(position_ids|token_type_ids)",),
    hf_fixed={"tie_word_embeddings": True, "is_decoder": False, "position_embedding_type": "absolute"},
    flops=flops,
    presets=PRESETS,
)
