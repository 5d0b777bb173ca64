"""ERNIE 1.0 (Sun et al. 2019): BERT's encoder with ReLU, pretrained on Chinese by masking words, phrases and entities.

Follows the released model (PaddlePaddle/ERNIE, May 2019): ReLU everywhere, LayerNorm eps 1e-5, 513 positions, 18,000
rows for the 17,964 entries of its vocabulary. Label 1 of the pair head means that the pair is true, the opposite of
BERT's. For the dialogue objective `type_vocab_size` is 4: types 2 and 3, query and response, are the dialogue embedding
that takes the place of the sentence types 0 and 1 (see `data.dialogue`); no released model has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lmjax.models import encoder
from lmjax.models.architecture import Architecture
from lmjax.models.task_layers import ALIKE
from lmjax.models.weights import Weight


@dataclass(frozen=True, kw_only=True)
class ErnieConfig(encoder.EncoderConfig):
    """Shape of an ERNIE; the defaults are those of the released model."""

    vocab_size: int = 18000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 513
    layer_norm_eps: float = 1e-5
    activation: Literal["gelu", "gelu_tanh", "relu"] = "relu"


def weights(cfg: ErnieConfig) -> list[Weight]:
    """Names as in `ErnieForPreTraining`."""
    return encoder.pretraining_weights("ernie")


def to_hf(cfg: ErnieConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    return encoder.to_hf(cfg, "ernie", encoder.pretraining_class("Ernie", heads)) | {"use_task_id": False}


def from_hf(data: Mapping[str, Any]) -> ErnieConfig:
    return encoder.from_hf(ErnieConfig, data)


ARCHITECTURE = Architecture(
    config=ErnieConfig,
    build=encoder.Encoder,
    heads=("mlm", "pooler", "nsp"),
    inputs=("tokens", "token_type_ids", "segment_ids", "positions", "mlm_positions"),
    sharding=encoder.SHARDING,
    weights=weights,
    to_hf=to_hf,
    from_hf=from_hf,
    hf_prefix="ernie.",
    hf_tied={
        "cls.predictions.decoder.weight": "ernie.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    hf_ignored=(r"ernie\.embeddings\.(position_ids|token_type_ids)",),
    hf_fixed={
        "tie_word_embeddings": True,
        "is_decoder": False,
        "position_embedding_type": "absolute",
        "use_task_id": False,
    },
    hf_tasks=ALIKE,
    flops=encoder.flops,
    presets={"ernie-1.0": ErnieConfig()},
)
