"""BERT (Devlin et al. 2019): a bidirectional encoder, pretrained on masked tokens and next-sentence prediction.

Follows the released checkpoints as Hugging Face runs them: erf GELU (google-research/bert's later code took the tanh
form, here `activation="gelu_tanh"`), positions added to words, LayerNorm eps 1e-12. The initialiser is the original's
truncated normal. Label 0 of the next-sentence head means that B follows A.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmjax.models import encoder
from lmjax.models.architecture import Architecture
from lmjax.models.task_layers import ALIKE
from lmjax.models.weights import Weight


@dataclass(frozen=True, kw_only=True)
class BertConfig(encoder.EncoderConfig):
    """Shape of a BERT; the defaults are BERT-base, uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512


def weights(cfg: BertConfig) -> list[Weight]:
    """Names as in `BertForPreTraining`."""
    return encoder.pretraining_weights("bert")


def to_hf(cfg: BertConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    return encoder.to_hf(cfg, "bert", encoder.pretraining_class("Bert", heads))


def from_hf(data: Mapping[str, Any]) -> BertConfig:
    return encoder.from_hf(BertConfig, data)


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
    build=encoder.Encoder,
    heads=("mlm", "pooler", "nsp"),
    inputs=("tokens", "token_type_ids", "segment_ids", "positions", "mlm_positions"),
    sharding=encoder.SHARDING,
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
    hf_tasks=ALIKE,
    flops=encoder.flops,
    presets=PRESETS,
)
