"""A fresh state takes over the weights of a trained model, leaf by leaf by their names; the rest stays as it was drawn.

What was drawn and what was not used is named on the screen. Tables of words and positions may be longer than the
trained ones: then their last rows stay as they were drawn. A task's layer is taken over where it is the same task's.
"""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import ModelConfig
from lmjax.models.task_layers import TaskLayer, outputs_in_order
from lmjax.models.weights import flatten, unflatten
from lmjax.train.saved import read_saved
from lmjax.types import Array, TrainState

POSITIONS = "positions/position/embedding"


def warm_started(state: TrainState, source: str, cfg: ModelConfig, layer: TaskLayer | None = None) -> TrainState:
    """`state` with the parameters of the model at `source` ("" = none); the optimizer's state stays empty. `layer`: the
    task's.

    Raises:
      UserError: nothing there, another architecture, or another shape.
    """
    if not source:
        return state
    saved, architecture = read_saved(source).model, architecture_of(cfg)
    if architecture_of(saved.config) is not architecture:
        ours, theirs = architecture.config.__name__, type(saved.config).__name__
        raise UserError(f"init_from {source} is a {theirs}, the run's model a {ours}")
    drawn, trained = flatten(state.params), flatten(saved.params)
    if saved.layer:
        trained = _same_layer(trained, saved.layer, drawn, layer)
    words = {path for row in architecture.weights(saved.config) if row.vocabulary for path in row.paths}
    taken = {}
    for path, leaf in drawn.items():
        if path in trained:
            rows = saved.config.vocab_size if path in words else None
            found = _onto(leaf, np.asarray(trained[path])[:rows], path in words or path == POSITIONS)
            if found is None:
                shapes = f"{tuple(trained[path].shape)}, in the run's model {tuple(leaf.shape)}"
                raise UserError(f"init_from {source}: {path} has shape {shapes}")
            taken[path] = found
    tables = {"words": ("vocab_size", words), "positions": ("max_position_embeddings", {POSITIONS})}
    longer = {name: field for name, (field, paths) in tables.items() if paths & set(taken)}
    more = {name: getattr(cfg, field) - getattr(saved.config, field) for name, field in longer.items()}
    rows = [f"{count} rows of {name}" for name, count in more.items() if count > 0]
    kept = {layer.name} if layer and any(path.startswith(f"{layer.name}/") for path in taken) else set()
    unused = flatten(saved.params).keys() - set(taken)
    said = {
        "taken over with the task's layer": sorted(kept),
        "drawn from the seed": [*_groups(set(drawn) - set(taken)), *rows],
        "not used": _groups(unused),
    }
    for what, names in said.items():
        if names:
            print(f"lmjax: weights of {source}: {what}: {', '.join(names)}", file=sys.stderr)
    return state.replace(params=unflatten(drawn | taken))


def _same_layer(
    trained: dict[str, Array], theirs: TaskLayer, drawn: dict[str, Array], ours: TaskLayer | None
) -> dict[str, Array]:
    """`trained` with the layer's outputs in the order of ours, or without the layer, where it is another task's."""
    order, of_layer = outputs_in_order(theirs, ours), {f"{theirs.name}/kernel", f"{theirs.name}/bias"}
    found = {path: leaf for path, leaf in trained.items() if path not in of_layer}
    if order is None:
        return found
    new = {path: jnp.asarray(np.asarray(trained[path])[..., order]) for path in of_layer}
    return found | (new if all(drawn[path].shape == leaf.shape for path, leaf in new.items()) else {})


def _onto(drawn: Array, trained: np.ndarray, may_be_longer: bool) -> Array | None:
    """`trained` in the shape of `drawn` and where that lies, or None where that cannot be."""
    if drawn.shape == trained.shape:
        return jax.device_put(trained, drawn.sharding)
    if may_be_longer and drawn.shape[1:] == trained.shape[1:] and len(drawn) > len(trained):
        # By the devices: no process may hold all of `drawn`.
        return jax.jit(lambda x, y: x.at[: len(y)].set(y), out_shardings=drawn.sharding)(drawn, trained)
    return None


def _groups(paths: set[str]) -> list[str]:
    """Their parents, each once: `mlm/norm/scale` and `mlm/norm/bias` are mlm/norm."""
    return sorted({re.sub("/[^/]+$", "", path) for path in paths})
