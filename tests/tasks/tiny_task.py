"""A task on a tiny random model, as a function of the batch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmjax.models import MODELS
from lmjax.models.features import FeatureConfig
from lmjax.models.wrapped import TRAINED, init_wrapped, wrap
from tests.models.tiny import VOCAB, tiny


def batch_of(task: Any, rows: int = 3, length: int = 12) -> dict[str, np.ndarray]:
    """Random tokens, of which the last three of each text are padding; ones elsewhere."""
    rng = np.random.default_rng(0)
    batch = {k: np.ones(v.shape, v.dtype) for k, v in task.features(rows, length, None).items()}
    batch["tokens"] = rng.integers(0, VOCAB, batch["tokens"].shape).astype(np.int32)
    batch["segment_ids"] = batch["segment_ids"] * (np.arange(length) < length - 3).astype(np.int32)
    return batch


def module_of(family: str, task: Any, features: FeatureConfig = TRAINED) -> tuple[Any, dict[str, Any]]:
    """A random model and its parameters."""
    architecture, cfg = MODELS[family], tiny(family)
    module = wrap(architecture, cfg, task.heads_of(architecture), task.supervised.read, features)
    abstract = jax.eval_shape(lambda key: init_wrapped(module, task.features(1, 12, None), key), jax.random.key(0))
    rng = np.random.default_rng(0)
    return module, jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), abstract)


def model_of(family: str, task: Any, features: FeatureConfig = TRAINED) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """The same as a function of the batch."""
    module, params = module_of(family, task, features)
    return jax.jit(lambda batch: module.apply({"params": params}, batch)), params
