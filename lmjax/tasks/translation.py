"""Translation: a pair's source goes into the encoder, and the decoder predicts its target."""

from dataclasses import dataclass

import jax
import numpy as np

from lmjax import objectives
from lmjax.data.masking import MaskingConfig
from lmjax.data.packing import PackedPairs
from lmjax.data.shifting import real_targets
from lmjax.tasks.task import Features, Task, TaskConfig


@dataclass(frozen=True)
class TranslationConfig(TaskConfig):
    """Pairs of `ParallelText`, several packed into a row (Vaswani et al. 2017, section 5)."""

    label_smoothing: float = 0.1


def translation(cfg: TranslationConfig) -> Task:
    def features(rows: int, length: int, masking: MaskingConfig | None) -> Features:
        integers = ("tokens", "segment_ids", "positions", "targets")
        integers += ("encoder_tokens", "encoder_segment_ids", "encoder_positions")
        return {
            **{name: jax.ShapeDtypeStruct((rows, length), np.int32) for name in integers},
            "loss_weights": jax.ShapeDtypeStruct((rows, length), np.float32),
            "example_weights": jax.ShapeDtypeStruct((rows,), np.float32),
        }

    return Task(
        heads=("seq2seq",),
        objective=objectives.seq2seq(cfg.label_smoothing),
        instances=PackedPairs,
        transform=lambda masking, tokenizer: real_targets,
        features=features,
        predictions=lambda length, masking: length,
        headline="seq2seq",
    )
