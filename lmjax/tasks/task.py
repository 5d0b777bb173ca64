"""What a task is: how rows become batches, what the model carries on top, and what is optimised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from lmjax.data.instances import InstanceConfig
from lmjax.data.masking import MaskingConfig
from lmjax.objectives import Objective

Features = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class TaskConfig:
    """Base of the tasks' configs."""


@dataclass(frozen=True)
class Task:
    """One task, built from its config.

    Attributes:
      heads: what the model carries.
      objective: what is optimised and reported.
      instances: row length -> how rows are cut from a store.
      transform: (the stage's masking or None, tokenizer) -> a function of (TensorFlow features, RowKeys) to features.
      features: (rows, length, the stage's masking or None) -> the batch that `transform` gives, without its values.
      predictions: (length, the stage's masking or None) -> positions of a row that reach the output layer.
      headline: the held-out term that keep-best minimises.
      carry: whether the model's state goes on from batch to batch.
    """

    heads: tuple[str, ...]
    objective: Objective
    instances: Callable[[int], InstanceConfig]
    transform: Callable[[MaskingConfig | None, Any], Callable[..., dict[str, Any]]]
    features: Callable[[int, int, MaskingConfig | None], Features]
    predictions: Callable[[int, MaskingConfig | None], int]
    headline: str
    carry: bool = False
