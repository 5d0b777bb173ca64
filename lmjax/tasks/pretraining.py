"""The pretraining tasks: masked tokens with or without next-sentence prediction, and causal language modelling."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from lmjax import objectives
from lmjax.data.instances import InstanceConfig, SentencePairs, Windows
from lmjax.data.masking import MaskingConfig, RowKeys, mask_tokens
from lmjax.data.shifting import document_segments, next_token_targets
from lmjax.errors import UserError
from lmjax.tasks.task import Features, Task, TaskConfig


@dataclass(frozen=True)
class MlmConfig(TaskConfig):
    """Masked language modelling on BERT's sentence pairs (Devlin et al. 2019, section 3.1).

    `duplicates`: how many times the pairs are drawn anew; `short_fraction`: share of rows cut to a random shorter
    length.
    """

    next_sentence: bool = True
    duplicates: int = 10
    short_fraction: float = 0.1
    masking: MaskingConfig = field(default_factory=MaskingConfig)


@dataclass(frozen=True)
class ClmConfig(TaskConfig):
    """Causal language modelling on contiguous windows.

    `document_walls`: no token sees another document's, though all are predicted: a document's first token from the end
    of the one before. Positions run on through a row. GPT-3 was trained without walls (Brown et al. 2020, appendix B).
    """

    document_walls: bool = False


def _int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def mlm(cfg: MlmConfig) -> Task:
    def predictions(length: int, masking: MaskingConfig | None) -> int:
        return min((masking or cfg.masking).max_predictions, length)

    def instances(length: int) -> InstanceConfig:
        return SentencePairs(length, cfg.duplicates, cfg.short_fraction, cfg.next_sentence)

    def transform(masking: MaskingConfig | None, tokenizer: Any) -> Any:
        def mask(features: dict[str, Any], keys: RowKeys) -> dict[str, Any]:
            features = mask_tokens(features, keys, masking or cfg.masking, tokenizer.mask_id, tokenizer.vocab_size)
            if not cfg.next_sentence:
                del features["next_sentence_labels"]
            return features

        return mask

    def features(rows: int, length: int, masking: MaskingConfig | None) -> Features:
        masked = predictions(length, masking)
        labels = {"next_sentence_labels": _int32(rows)} if cfg.next_sentence else {}
        return labels | {
            "tokens": _int32(rows, length),
            "token_type_ids": _int32(rows, length),
            "segment_ids": _int32(rows, length),
            "mlm_positions": _int32(rows, masked),
            "targets": _int32(rows, masked),
            "loss_weights": _float32(rows, masked),
            "example_weights": _float32(rows),
        }

    return Task(
        heads=("mlm", "nsp") if cfg.next_sentence else ("mlm",),
        objective=objectives.mlm(cfg.next_sentence),
        instances=instances,
        transform=transform,
        features=features,
        predictions=predictions,
        headline="mlm",
    )


def clm(cfg: ClmConfig) -> Task:
    def transform(masking: MaskingConfig | None, tokenizer: Any) -> Any:
        if not cfg.document_walls:
            return next_token_targets
        if tokenizer.eos_id is None:
            raise UserError("task.document_walls needs a tokenizer with an end-of-text token, and this one has none")

        def shift(features: dict[str, Any], keys: RowKeys) -> dict[str, Any]:
            features = next_token_targets(features, keys)
            return features | {"segment_ids": document_segments(features["tokens"], tokenizer.eos_id)}

        return shift

    def features(rows: int, length: int, masking: MaskingConfig | None) -> Features:
        walls = {"segment_ids": _int32(rows, length)} if cfg.document_walls else {}
        return walls | {
            "tokens": _int32(rows, length),
            "targets": _int32(rows, length),
            "loss_weights": _float32(rows, length),
            "example_weights": _float32(rows),
        }

    return Task(
        heads=("clm",),
        objective=objectives.clm(),
        instances=Windows,
        transform=transform,
        features=features,
        predictions=lambda length, masking: length,
        headline="clm",
    )
