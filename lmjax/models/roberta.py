"""RoBERTa (Liu et al. 2019): BERT's encoder, pretrained on masked tokens alone.

Follows the released checkpoints: erf GELU, LayerNorm eps 1e-5, one token type (its row is added everywhere), an
untruncated normal initialiser with zeros in padding's rows. Positions count the real tokens of a row and begin at row 2
of the table: row 1, the pad id, is padding's, and row 0 is never read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lmjax.models import encoder
from lmjax.models.architecture import Architecture
from lmjax.models.encoder import linear, norm
from lmjax.models.task_layers import ALIKE
from lmjax.models.weights import Weight

PAD = 1  # in the vocabulary of every released model


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(encoder.EncoderConfig):
    """Shape of a RoBERTa; the defaults are RoBERTa-base, whose 512 positions take 514 rows."""

    position_offset: ClassVar[int] = PAD + 1
    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    initializer: Literal["truncated_normal", "normal"] = "normal"


def weights(cfg: RobertaConfig) -> list[Weight]:
    """Names as in `RobertaForMaskedLM`."""
    return [
        *encoder.backbone_weights("roberta"),
        *linear("lm_head.dense", "mlm/transform"),
        *norm("lm_head.layer_norm", "mlm/norm"),
        Weight("lm_head.bias", ("mlm/bias",), "vector", vocabulary=True),
    ]


def to_hf(cfg: RobertaConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    content = encoder.to_hf(cfg, "roberta", "RobertaForMaskedLM" if "mlm" in heads else "RobertaModel")
    return content | {"bos_token_id": 0, "pad_token_id": PAD, "eos_token_id": 2}


def from_hf(data: Mapping[str, Any]) -> RobertaConfig:
    return encoder.from_hf(RobertaConfig, data)


PRESETS = {
    "roberta-base": RobertaConfig(),
    "roberta-large": RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}

ARCHITECTURE = Architecture(
    config=RobertaConfig,
    build=encoder.Encoder,
    heads=("mlm", "pooler"),
    inputs=("tokens", "segment_ids", "positions", "mlm_positions"),
    sharding=encoder.SHARDING,
    weights=weights,
    to_hf=to_hf,
    from_hf=from_hf,
    hf_prefix="roberta.",
    hf_tied={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    hf_ignored=(r"roberta\.embeddings\.(position_ids|token_type_ids)",),
    hf_fixed={
        "tie_word_embeddings": True,
        "is_decoder": False,
        "position_embedding_type": "absolute",
        "pad_token_id": PAD,
    },
    hf_tasks={
        **ALIKE,
        "ForSequenceClassification": {"classifier.dense": "roberta.pooler.dense", "classifier.out_proj": "classifier"},
    },
    flops=encoder.flops,
    presets=PRESETS,
)
