"""The pretraining tasks: masked tokens with or without next-sentence prediction, and causal language modelling."""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from lmjax import objectives
from lmjax.data.instances import InstanceConfig, SentencePairs, Sentences, Windows
from lmjax.data.masking import MaskingConfig, RowKeys, mask_tokens
from lmjax.data.shifting import document_segments, next_token_targets
from lmjax.errors import UserError
from lmjax.tasks.task import Features, Task, TaskConfig


@dataclass(frozen=True)
class MlmConfig(TaskConfig):
    """Masked language modelling on BERT's sentence pairs (Devlin et al. 2019, section 3.1) or, without next-sentence
    prediction, on RoBERTa's FULL-SENTENCES or DOC-SENTENCES (Liu et al. 2019, section 4.2).

    Of pairs, `duplicates`: how many times they are drawn anew; `short_fraction`: share of rows cut to a random shorter
    length; `true_label`: the label of a pair that belongs together (0 in BERT, 1 in ERNIE).
    """

    input_format: Literal["sentence_pairs", "full_sentences", "doc_sentences"] = "sentence_pairs"
    next_sentence: bool = True
    duplicates: int = 10
    short_fraction: float = 0.1
    true_label: Literal[0, 1] = 0
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
    """Raises UserError where next-sentence prediction has no pairs."""
    pairs = cfg.input_format == "sentence_pairs"
    if cfg.next_sentence and not pairs:
        raise UserError(
            f"task.input_format '{cfg.input_format}' has no sentence pairs; set task.next_sentence to False"
        )

    def predictions(length: int, masking: MaskingConfig | None) -> int:
        return (masking or cfg.masking).predictions(length)

    def instances(length: int) -> InstanceConfig:
        if not pairs:
            return Sentences(length, cross_documents=cfg.input_format == "full_sentences")
        return SentencePairs(length, cfg.duplicates, cfg.short_fraction, cfg.next_sentence, cfg.true_label)

    def transform(masking: MaskingConfig | None, tokenizer: Any) -> Any:
        def mask(features: dict[str, Any], keys: RowKeys) -> dict[str, Any]:
            features = mask_tokens(features, keys, masking or cfg.masking, tokenizer.mask_id, tokenizer.vocab_size)
            if pairs and not cfg.next_sentence:
                del features["next_sentence_labels"]
            return features

        return mask

    def features(rows: int, length: int, masking: MaskingConfig | None) -> Features:
        masked = predictions(length, masking)
        more: dict[str, Any] = {"token_type_ids": _int32(rows, length)} if pairs else {}
        more |= {"next_sentence_labels": _int32(rows)} if cfg.next_sentence else {}
        if (masking or cfg.masking).selection == "ernie":
            more |= {"mlm_overflow": _float32(rows), "masking_level": _float32(rows)}
        return more | {
            "tokens": _int32(rows, length),
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
