"""A backbone with a task's own layers on top, in one flat tree of parameters: the backbone's names, and the new ones.

What a task computes is a function of (model, batch, train) that stands with the task; here is what it may call. New
layers begin as the backbone's do and are replicated on a mesh, whatever the architecture.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.models.architecture import Architecture, ModelConfig, abstract_params, model_inputs
from lmjax.models.features import BiLstm, FeatureConfig, check_features, combined
from lmjax.models.layers import Dense
from lmjax.ops.dropout import dropout
from lmjax.parallel import Rules
from lmjax.types import Array, Batch, Outputs, Params

Read = Callable[["Wrapped", Batch, bool], Outputs]
TRAINED = FeatureConfig()  # the backbone itself


class Wrapped(nn.Module):
    """`apply(variables, batch, train=...)` gives what `read(model, batch, train)` gives."""

    architecture: Architecture
    cfg: ModelConfig
    backbone: nn.Module
    read: Read
    features: FeatureConfig = TRAINED

    def setup(self) -> None:
        nn.share_scope(self, self.backbone)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool = False) -> Outputs:
        return self.read(self, batch, train)

    def run(self, batch: Batch, train: bool, collect: bool = False) -> dict[str, Any]:
        """The backbone's outputs on the features of the batch that it reads; of a frozen one `hidden` alone, made of
        its layers (see `models.features`). Words come spelled, as `characters` [B, L, C]."""
        batch = {**batch, "tokens": batch["characters"]} if "characters" in batch else batch
        inputs, frozen = model_inputs(self.architecture, batch), self.features.frozen
        outputs = dict(self.backbone(**inputs, train=train and not frozen, collect=collect or frozen))  # type: ignore[operator]
        if not frozen:
            return outputs
        real_BL = batch["segment_ids"] > 0
        counted_BL = real_BL & (batch["example_weights"] > 0)[:, None] if "example_weights" in batch else real_BL
        hidden_BLD = combined(self.features, self.architecture, outputs["hidden_states"], counted_BL)
        hidden_BLD = self.dropout(hidden_BLD, train)
        for number, cells in enumerate(self.features.lstm):
            hidden_BLD = self.dropout(BiLstm(cells, name=f"bilstm_{number}")(hidden_BLD, real_BL), train)
        return {"hidden": hidden_BLD}

    def dense(self, name: str, x: Array, features: int, stddev: float | None = None) -> Array:
        """x [..., D] -> float32 [..., features] by a new layer, its bias at zero and its kernel at N(0, stddev), if
        that is given, or drawn as the backbone's are."""
        kinds = {"normal": nn.initializers.normal, "truncated_normal": nn.initializers.truncated_normal}
        init = kinds[getattr(self.cfg, "initializer", "normal")](getattr(self.cfg, "initializer_range", 0.02))
        init = init if stddev is None else nn.initializers.normal(stddev)
        return Dense((x.shape[-1],), (features,), init, name=name)(x).astype(jnp.float32)

    def dropout(self, x: Array, train: bool) -> Array:
        """Drops as the backbone's hidden layers do."""
        rate = self.cfg.hidden_dropout
        return dropout(x, rate, self.make_rng("dropout") if train and rate else None)

    def vector(self, outputs: Outputs, batch: Batch) -> Array:
        """One vector a row [B, D]: the pooled one where the architecture has a pooler, a causal model's last real
        token; [B, 2D] on a frozen backbone, mean and maximum over the real tokens. Raises UserError for an architecture
        with none of these."""
        if self.features.frozen:
            real_BL1, hidden_BLD = batch["segment_ids"][..., None] > 0, outputs["hidden"]
            mean_BD = jnp.sum(hidden_BLD * real_BL1, 1) / jnp.maximum(jnp.sum(real_BL1, 1), 1)
            return jnp.concatenate([mean_BD, jnp.max(jnp.where(real_BL1, hidden_BLD, -jnp.inf), 1)], -1)
        if "pooled" in outputs:
            return outputs["pooled"]
        if "cache" not in self.architecture.inputs:
            kind = type(self.cfg).__name__.removesuffix("Config")
            raise UserError(f"{kind} has no vector of a whole row; this task needs a pooler or a causal model")
        last_B = jnp.sum(batch["segment_ids"] > 0, axis=1) - 1
        return jnp.take_along_axis(outputs["hidden"], last_B[:, None, None], axis=1)[:, 0]


def wrap(
    architecture: Architecture,
    cfg: ModelConfig,
    heads: tuple[str, ...],
    read: Read,
    features: FeatureConfig = TRAINED,
) -> Wrapped:
    """Raises UserError for features that are not to be had of this model."""
    check_features(features, architecture, cfg)
    return Wrapped(architecture, cfg, architecture.build(cfg, heads), read, features)


def init_wrapped(module: Wrapped, batch: Mapping[str, jax.ShapeDtypeStruct], key: jax.Array) -> Params:
    """Fresh parameters; of the batch only the shapes are read."""
    return module.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(batch)))["params"]


def with_new_layers(architecture: Architecture, cfg: ModelConfig, heads: Sequence[str], params: Params) -> Rules:
    """The architecture's sharding rules, and one that replicates what stands beside the backbone in `params`."""
    new = sorted(set(params) - set(abstract_params(architecture, cfg, tuple(heads))))
    return (*architecture.sharding, *((rf"{name}/.*", P()) for name in new))
