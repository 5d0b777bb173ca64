"""Labelled examples: finite tables of encoded rows, written once beside the tokenizer that made them.

A task encodes each split of its data to arrays [rows, ...] and to notes, one JSON value an example (ids, texts,
answers), which its scores and its prediction files need. The directory is named after all that its content depends on;
so its presence under that name means that it is whole and right. Training draws rows as from any other table: epochs
are permutations that follow from (seed, step) alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from lmjax.data.instances import InstanceConfig, Split, Table
from lmjax.data.sources import SourceConfig
from lmjax.data.store import SCHEMA_VERSION, Store, built_aside, open_array, write_array
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

VERSION = 2  # of what tasks write into a store of examples; with another one they are written anew


@dataclass(frozen=True)
class TaskData(SourceConfig):
    """No text of its own: what the run's task names, see `SupervisedConfig`."""


@dataclass(frozen=True)
class Encoded:
    """A split as its task encodes it.

    Attributes:
      features: name -> integers or floats [rows, ...]; names that end in `_weights` are float32 in a batch.
      notes: what else scores and prediction files need, as JSON values; as many as the task likes.
      labelled: whether it can be scored.
    """

    features: Mapping[str, np.ndarray]
    notes: list[Any]
    labelled: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))


@dataclass(frozen=True)
class EncodedRows(InstanceConfig):
    """Rows that lie ready: their columns are their features. Words also come spelled, `characters` int32 [..., C]."""

    def gather(self, split: Split, tokenizer: Any, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        rows = {name: column.astype(_in_batch(name, column.dtype)) for name, column in columns.items()}
        if not tokenizer.word_level:
            return rows
        return {**rows, "characters": tokenizer.spellings[rows["tokens"]].astype(np.int32)}


def store_name(name: str, *described: str) -> str:
    """The name of a store whose content depends on the texts `described`."""
    return f"{name}-{hashlib.sha256(json.dumps((VERSION, *described)).encode()).hexdigest()[:12]}"


def digest_of(files: Iterable[epath.PathLike]) -> str:
    """sha256 over the contents of some files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(epath.Path(file).read_bytes()).digest())
    return digest.hexdigest()


def write_examples(directory: epath.PathLike, tokenizer: Tokenizer, splits: Mapping[str, Encoded]) -> None:
    """Writes the store of a task's splits, all or nothing.

    Raises:
      UserError: a split without rows.
    """
    directory = epath.Path(directory)
    with built_aside(directory) as building:
        tokenizer.save(building / "tokenizer")
        described = {}
        for name, split in splits.items():
            if not len(split):
                raise UserError(f"the {name} split has no example")
            for feature, array in split.features.items():
                write_array(building / name / feature, _narrow(array).reshape(-1))
            (building / name / "notes.json").write_text(json.dumps(split.notes, ensure_ascii=False))
            shapes = {feature: array.shape for feature, array in split.features.items()}
            described[name] = {"shapes": shapes, "labelled": split.labelled}
        meta = {
            "schema_version": SCHEMA_VERSION,
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "splits": described,
        }
        (building / "meta.json").write_text(json.dumps(meta, indent=1))


def open_examples(store: Store) -> dict[str, Encoded]:
    """The splits by name, their features as they lie on disk."""
    return {name: _open(store.directory / name, split) for name, split in store.meta["splits"].items()}


def table_of(split: Encoded, length: int, tokenizer: Tokenizer) -> Table:
    """The rows of a split as the pipeline reads them."""
    nothing = Split(None, None, None, None)
    return Table(EncodedRows(length), nothing, tokenizer, dict(split.features), np.array([len(split)]))


def _open(directory: epath.Path, split: Mapping[str, Any]) -> Encoded:
    shapes = split["shapes"]
    features = {name: np.asarray(open_array(directory / name)[:]).reshape(shape) for name, shape in shapes.items()}
    return Encoded(features, json.loads((directory / "notes.json").read_text()), split["labelled"])


def _narrow(array: np.ndarray) -> np.ndarray:
    """The smallest integers that hold the values; numbers with a point as float32."""
    if array.dtype.kind not in "iub":
        return array.astype(np.float32)
    if array.min() < 0:
        return array.astype(np.int32)
    return array.astype(np.min_scalar_type(int(array.max())))


def _in_batch(name: str, dtype: np.dtype) -> type:
    return np.float32 if dtype.kind == "f" or name.endswith("_weights") else np.int32
