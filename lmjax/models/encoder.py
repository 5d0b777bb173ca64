"""The bidirectional post-LN encoder that BERT, RoBERTa and ERNIE are, and their heads.

The families differ in activation, initialiser, table sizes and where positions begin, all of it in the config, and in
the names of their tensors, which stand in their own files. Letters as in `layers`; M masked positions a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.models.architecture import AttentionConfig
from lmjax.models.layers import (
    ACTIVATIONS,
    Dense,
    Dropout,
    Embedding,
    Initializer,
    LayerNorm,
    PositionEmbedding,
    hold_batch,
    layer_outputs,
    padded,
    positions_like,
    post_norm,
    stack,
)
from lmjax.models.weights import Weight
from lmjax.ops.attention import attention_mask
from lmjax.ops.vocabulary import VocabLogits
from lmjax.types import Array, Outputs


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(AttentionConfig):
    """What the configs of these families share.

    `max_position_embeddings` counts the positions that text may take. `position_offset`: the first of them reads this
    row of the table; where it is not 0, padding reads the row before, as it does in the word table, and both rows begin
    as zero.
    """

    position_offset: ClassVar[int] = 0
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    initializer: Literal["truncated_normal", "normal"] = "truncated_normal"


C = TypeVar("C", bound=EncoderConfig)


def _init(cfg: EncoderConfig) -> Initializer:
    initializers = {"truncated_normal": nn.initializers.truncated_normal, "normal": nn.initializers.normal}
    return initializers[cfg.initializer](cfg.initializer_range)


def _table_init(cfg: EncoderConfig) -> Initializer:
    """`_init`, with zeros in padding's row where the family has one."""
    init, rows = _init(cfg), range(cfg.position_offset)[-1:]
    return lambda key, shape, dtype=jnp.float32: init(key, shape, dtype).at[jnp.array(rows, int)].set(0)


class EncoderLayer(nn.Module):
    """One `post_norm` block."""

    cfg: EncoderConfig
    train: bool
    collect: bool

    @nn.compact
    def __call__(self, x_BLD: Array, _cache: None, mask: Array | None, _offset: int) -> tuple[Array, dict[str, Any]]:
        cfg = self.cfg
        x_BLD, _, probabilities = post_norm(cfg, self.train, cfg.activation, _init(cfg), x_BLD, mask)
        return x_BLD, {"hidden": x_BLD, "attention": probabilities} if self.collect else {}


class Encoder(nn.Module):
    """The encoder and the heads "mlm", "pooler" and "nsp" (which reads the pooler)."""

    cfg: EncoderConfig
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
        next_sentence_logits float32 [B, 2] with "nsp"; with `collect`, every layer's hidden states and attention
        probabilities.
        """
        cfg, init, table = self.cfg, _init(self.cfg), _table_init(self.cfg)
        words = Embedding(cfg.padded_vocab_size, cfg.hidden_size, padded(table, cfg.vocab_size), name="word_embeddings")
        types = Embedding(cfg.type_vocab_size, cfg.hidden_size, init, name="token_type_embeddings")
        positions = _positions(cfg, tokens, segment_ids, positions)
        x_BLD = PositionEmbedding(cfg, table, offset=cfg.position_offset, name="positions")(words(tokens), positions)
        x_BLD = x_BLD + types(jnp.zeros_like(tokens) if token_type_ids is None else token_type_ids)
        x_BLD = LayerNorm(cfg.layer_norm_eps, name="embeddings_norm")(x_BLD).astype(cfg.dtype)
        x_BLD = embedded_BLD = hold_batch(Dropout(cfg.hidden_dropout, train)(x_BLD))
        length = tokens.shape[1]
        mask = attention_mask(segment_ids, None, causal=False, length=length, key_length=length)
        x_BLD, collected = stack(EncoderLayer, cfg, train, collect)(x_BLD, None, mask, 0)

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


def _positions(cfg: EncoderConfig, tokens_BL: Array, segment_ids_BL: Array | None, given_BL: Array | None) -> Array:
    """0, 1, 2, ... where none are given. Where padding has a row of its own, that is -1, and only real tokens count."""
    if segment_ids_BL is None or not cfg.position_offset:
        return positions_like(tokens_BL) if given_BL is None else given_BL
    real_BL = segment_ids_BL > 0
    counted_BL = jnp.cumsum(real_BL, axis=1, dtype=jnp.int32) - 1
    return jnp.where(real_BL, counted_BL if given_BL is None else given_BL, -1)


class MlmHead(nn.Module):
    """Dense, activation, LayerNorm, then the word table tied as the output, with a bias a word."""

    cfg: EncoderConfig

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


def linear(name: str, path: str, inputs: int = 1) -> list[Weight]:
    return [
        Weight(f"{name}.weight", (f"{path}/kernel",), "linear", inputs),
        Weight(f"{name}.bias", (f"{path}/bias",), "vector"),
    ]


def norm(name: str, path: str) -> list[Weight]:
    return [Weight(f"{name}.weight", (f"{path}/scale",), "vector"), Weight(f"{name}.bias", (f"{path}/bias",), "vector")]


def backbone_weights(prefix: str) -> list[Weight]:
    """Tensors of the encoder and its pooler, as Hugging Face names them below the family's `prefix`."""
    embeddings, layer = f"{prefix}.embeddings", f"{prefix}.encoder.layer.{{}}"
    rows = [
        Weight(f"{embeddings}.word_embeddings.weight", ("word_embeddings/embedding",), "table", vocabulary=True),
        Weight(f"{embeddings}.position_embeddings.weight", ("positions/position/embedding",), "table"),
        Weight(f"{embeddings}.token_type_embeddings.weight", ("token_type_embeddings/embedding",), "table"),
        *norm(f"{embeddings}.LayerNorm", "embeddings_norm"),
        *linear(f"{layer}.attention.output.dense", "layers/attention/out", inputs=2),
        *norm(f"{layer}.attention.output.LayerNorm", "layers/attention_norm"),
        *linear(f"{layer}.intermediate.dense", "layers/mlp/up"),
        *linear(f"{layer}.output.dense", "layers/mlp/down"),
        *norm(f"{layer}.output.LayerNorm", "layers/mlp_norm"),
        *linear(f"{prefix}.pooler.dense", "pooler"),
    ]
    for name in ("query", "key", "value"):
        rows += linear(f"{layer}.attention.self.{name}", f"layers/attention/{name}")
    return rows


def pretraining_weights(prefix: str) -> list[Weight]:
    """The same with the heads of `BertForPreTraining` and `ErnieForPreTraining`."""
    return [
        *backbone_weights(prefix),
        *linear("cls.predictions.transform.dense", "mlm/transform"),
        *norm("cls.predictions.transform.LayerNorm", "mlm/norm"),
        Weight("cls.predictions.bias", ("mlm/bias",), "vector", vocabulary=True),
        *linear("cls.seq_relationship", "nsp"),
    ]


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


def to_hf(cfg: EncoderConfig, model_type: str, class_name: str) -> dict[str, Any]:
    """Hugging Face's config.json. Raises UserError for an input layer that Hugging Face does not have."""
    if (cfg.position_embedding, cfg.position_combine) != ("learned", "add"):
        raise UserError(
            f"Hugging Face's {model_type} adds learned positions; this model does otherwise and cannot be converted"
        )
    activation = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}[cfg.activation]
    shape = {theirs: getattr(cfg, ours) for theirs, ours in _HF_KEYS.items()}
    shape["max_position_embeddings"] += cfg.position_offset
    return {
        "model_type": model_type,
        "architectures": [class_name],
        "hidden_act": activation,
        "tie_word_embeddings": True,
        **shape,
    }


def pretraining_class(family: str, heads: tuple[str, ...]) -> str:
    """Hugging Face's class for these heads of BERT or ERNIE."""
    classes = {("mlm", "nsp"): "ForPreTraining", ("mlm",): "ForMaskedLM", ("nsp",): "ForNextSentencePrediction"}
    return family + classes.get(tuple(h for h in ("mlm", "nsp") if h in heads), "Model")


def from_hf(config: type[C], data: Mapping[str, Any]) -> C:
    """The inverse; what the file does not say, the family's config says."""
    activation = data.get("hidden_act", "gelu")
    if activation not in _HF_ACTIVATIONS:
        raise UserError(f"config.json: hidden_act '{activation}' is none of {', '.join(_HF_ACTIVATIONS)}")
    shape = {ours: data[theirs] for theirs, ours in _HF_KEYS.items() if theirs in data}
    if "max_position_embeddings" in shape:
        shape["max_position_embeddings"] -= config.position_offset
    return config(activation=_HF_ACTIVATIONS[activation], **shape)  # type: ignore[arg-type]


def flops(cfg: EncoderConfig, length: int, heads: tuple[str, ...], predictions: int) -> float:
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
