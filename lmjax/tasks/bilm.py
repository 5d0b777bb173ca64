"""ELMo's pretraining task: each word from the words before it, and from the words after it."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lmjax import objectives
from lmjax.data.masking import MaskingConfig, RowKeys
from lmjax.data.tf import tensorflow
from lmjax.data.word_streams import WordStreams
from lmjax.data.words import CHARACTERS
from lmjax.tasks.task import Features, Task, TaskConfig


@dataclass(frozen=True)
class BilmConfig(TaskConfig):
    """Bidirectional language modelling (Peters et al. 2018, section 3.1) on `data.word_streams`.

    `carry`: states go on from batch to batch, as in the original; without it each row begins with none. `negatives`:
    words that a training step scores beside the targets; 0 = the whole vocabulary.
    """

    carry: bool = True
    negatives: int = 8192


def bilm(cfg: BilmConfig) -> Task:
    def features(rows: int, length: int, masking: MaskingConfig | None) -> Features:
        words = jax.ShapeDtypeStruct((rows, length), np.int32)
        spelled = jax.ShapeDtypeStruct((rows, length, CHARACTERS), np.int32)
        return {
            "tokens": spelled,
            "backward_tokens": spelled,
            "targets": words,
            "backward_targets": words,
            "loss_weights": jax.ShapeDtypeStruct((rows, length), np.float32),
            "example_weights": jax.ShapeDtypeStruct((rows,), np.float32),
        }

    return Task(
        heads=("bilm",),
        objective=objectives.bilm(cfg.negatives),
        instances=lambda length: WordStreams(length, cfg.carry),
        transform=lambda masking, tokenizer: _weigh,
        features=features,
        predictions=lambda length, masking: length,
        headline="bilm",
        carry=cfg.carry,
    )


def _weigh(features: dict[str, Any], keys: RowKeys) -> dict[str, Any]:
    """Every prediction counts alike."""
    tf = tensorflow()
    return features | {"loss_weights": tf.ones_like(features["targets"], tf.float32)}
