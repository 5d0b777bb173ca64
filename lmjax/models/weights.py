"""Parameters to Hugging Face tensors and back, by a table of rows that stands beside each model. Numpy only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmjax.errors import UserError

Layout = Literal["linear", "conv1d", "vector", "row", "table"]


@dataclass(frozen=True)
class Weight:
    """One Hugging Face tensor and the parameters that it holds.

    `name` carries `{}` where the layer's number stands; then the parameters lie stacked under `layers/`.
    Several `paths` (GPT-2's packed query, key, value) are joined along the output axis.
    Layouts: "linear" [out, in], "conv1d" [in, out], "vector" flat, "row" [1, out], "table" as it is, one row an entry.
    `inputs`: how many leading axes of the parameter are input. `vocabulary`: the rows are padded here, not there.
    """

    name: str
    paths: tuple[str, ...]
    layout: Layout
    inputs: int = 1
    vocabulary: bool = False


def to_hf(rows: Sequence[Weight], params: Mapping[str, Any], vocab_size: int) -> dict[str, np.ndarray]:
    """Hugging Face's tensors, float32. Parameters without a row raise ValueError: a table must be complete."""
    leaves = flatten(params)
    tensors = {}
    for row in rows:
        if row.paths[0] not in leaves:
            continue  # a head that this model does not carry
        arrays = [np.asarray(leaves.pop(path)) for path in row.paths]
        for layer, name in _names(row, arrays[0]):
            tensors[name] = _join(row, [a if layer is None else a[layer] for a in arrays], vocab_size)
    if leaves:
        raise ValueError(f"no weight row for {sorted(leaves)}")
    return tensors


def from_hf(
    rows: Sequence[Weight], tensors: Mapping[str, np.ndarray], abstract: Mapping[str, Any], vocab_size: int
) -> dict[str, Any]:
    """Parameters shaped like `abstract`, float32.

    Raises:
      UserError: a tensor that is missing, of another shape, or of no known name.
    """
    shapes, unread, leaves = flatten(abstract), dict(tensors), {}
    for row in rows:
        if row.paths[0] not in shapes:
            continue
        pieces: list[list[np.ndarray]] = [[] for _ in row.paths]
        wanted = [shapes[path].shape for path in row.paths]
        stacked = "{}" in row.name
        for _, name in _names(row, shapes[row.paths[0]]):
            if name not in unread:
                raise UserError(f"weights: tensor {name} is missing")
            tensor = np.asarray(unread.pop(name), np.float32)
            cut = _split(row, name, tensor, [s[1:] if stacked else s for s in wanted], vocab_size)
            for piece, array in zip(pieces, cut, strict=True):
                piece.append(array)
        for path, piece in zip(row.paths, pieces, strict=True):
            leaves[path] = np.stack(piece) if stacked else piece[0]
    if unread:
        first, more = min(unread), len(unread) - 1
        raise UserError(f"weights: unknown tensor {first} (and {more} more); is this another architecture?")
    return unflatten(leaves)


def _names(row: Weight, stacked: Any) -> list[tuple[int | None, str]]:
    if "{}" not in row.name:
        return [(None, row.name)]
    return [(layer, row.name.format(layer)) for layer in range(stacked.shape[0])]


def _join(row: Weight, arrays: list[np.ndarray], vocab_size: int) -> np.ndarray:
    if row.vocabulary:
        arrays = [a[:vocab_size] for a in arrays]
    if row.layout == "table":
        return arrays[0]
    if row.layout in ("vector", "row"):
        return np.concatenate([a.reshape(-1) for a in arrays]).reshape([1] * (row.layout == "row") + [-1])
    flat = np.concatenate([a.reshape(int(np.prod(a.shape[: row.inputs])), -1) for a in arrays], axis=1)
    return np.ascontiguousarray(flat.T) if row.layout == "linear" else flat


def _split(
    row: Weight, name: str, tensor: np.ndarray, shapes: list[tuple[int, ...]], vocab_size: int
) -> list[np.ndarray]:
    inputs = 0 if row.layout in ("vector", "row") else row.inputs
    wanted = [math.prod(shapes[0][:inputs])] * bool(inputs) + [len(shapes) * math.prod(shapes[0][inputs:])]
    if row.layout == "table":
        wanted = list(shapes[0])
    padding = [(0, wanted[0] - vocab_size if row.vocabulary else 0)] + [(0, 0)] * (len(wanted) - 1)
    wanted = [size - pad for size, (_, pad) in zip(wanted, padding, strict=True)]
    if row.layout == "linear":
        wanted = wanted[::-1]
    if row.layout == "row":
        wanted = [1, *wanted]
    if list(tensor.shape) != wanted:
        raise UserError(f"weights: {name} has shape {list(tensor.shape)}; this config wants {wanted}")
    tensor = tensor[0] if row.layout == "row" else tensor
    tensor = np.pad(tensor.T if row.layout == "linear" else tensor, padding)
    return [p.reshape(s) for p, s in zip(np.split(tensor, len(shapes), axis=-1), shapes, strict=True)]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their path, `layers/attention/query/kernel`."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree
