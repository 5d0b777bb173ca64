"""The few types that every other module speaks of."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Batch = Mapping[
    str, Array
]  # tokens, targets, loss_weights, positions, segment_ids, token_type_ids, example_weights ...
Outputs = Mapping[str, Any]  # hidden, logits, pooled, next_sentence_logits ...
Params = Mapping[str, Any]


class Mean(struct.PyTreeNode):
    """A weighted mean that is not divided yet: added over micro-batches, devices, hosts and evaluation steps.

    `total` = sum of weight * value and `weight` = sum of weight, both float32 scalars.
    """

    total: Array
    weight: Array

    @classmethod
    def of(cls, values: Array, weights: Array) -> "Mean":
        """Weighs `values` by `weights` (same shape, or broadcast) and sums both."""
        values = jnp.asarray(values, jnp.float32)
        weights = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), values.shape)
        # A weight of 0 silences its value, be it infinite or not a number.
        return cls(jnp.sum(jnp.where(weights == 0, 0, values * weights)), jnp.sum(weights))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.weight + other.weight)

    def value(self) -> Array:
        """total / weight; not a number where nothing was weighed (reports print n/a)."""
        return jnp.where(self.weight == 0, jnp.nan, self.total / jnp.where(self.weight == 0, 1, self.weight))


class TrainState(struct.PyTreeNode):
    """All that a run carries from step to step, and all that a checkpoint holds.

    `step` int32 scalar; `key` the run's base key (each step folds its number in); `extra` named pytrees that a model or
    an algorithm carries along (a window of recent losses, an LSTM's state, a KL coefficient).
    """

    step: Array
    params: Params
    opt_state: Any
    key: Array
    extra: Mapping[str, Any] = struct.field(default_factory=dict)
