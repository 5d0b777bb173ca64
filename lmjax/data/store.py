"""Where tokens lie: one-dimensional zarr arrays in a directory, local or on gs://, under a `meta.json`.

Each array is one zarr 3 shard of uncompressed chunks followed by their index. Locally that file is memory-mapped (20
times the rate of TensorStore's gathers); on object storage TensorStore reads the same file by ranges, chunk by chunk.

A split holds `tokens` (uint16, or uint32 for large vocabularies), `flags` (uint8, one for each token: bits 0/1 a word
begins/goes on here, 2/3 a phrase, 4/5 an entity, 6 its sentence is marked; 0 = a special token, never masked),
`sentence_starts` (int64 into tokens, with the end at the end) and `document_starts` (int64 into sentences, with the end
at the end). A vocabulary of words adds `unknown_at` (int64, where tokens are unknown words) and `unknown_spelling`
(uint16, see `words.spell`).
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from lmjax.data.tokenizers import Tokenizer, load_tokenizer
from lmjax.errors import UserError

SCHEMA_VERSION = 2  # raised whenever an older store would be read differently
SPLITS = ("train", "heldout")
CHUNK = 1 << 16  # elements that one range read fetches
CACHE_BYTES = 1 << 30

WORD_BEGINS, WORD_INSIDE, PHRASE_BEGINS, PHRASE_INSIDE, ENTITY_BEGINS, ENTITY_INSIDE = (1 << bit for bit in range(6))
MARKED = 1 << 6  # what of: a response among turns, a B that follows its A among ready pairs


class ArrayWriter:
    """Appends to a new array of `dtype` at `path`; only `close` makes it readable."""

    def __init__(self, path: epath.Path, dtype: np.dtype):
        self.path, self.dtype, self.size = path, np.dtype(dtype).newbyteorder("<"), 0
        (path / "c").mkdir(parents=True)
        self.file = (path / "c" / "0").open("wb")

    def append(self, values: Any) -> None:
        values = np.asarray(values, self.dtype)
        self.file.write(values.tobytes())
        self.size += values.size

    def close(self) -> None:
        chunks = max(1, -(-self.size // CHUNK))
        chunk_bytes = CHUNK * self.dtype.itemsize
        self.file.write(bytes((chunks * CHUNK - self.size) * self.dtype.itemsize))
        self.file.write(np.array([(c * chunk_bytes, chunk_bytes) for c in range(chunks)], "<u8").tobytes())
        self.file.close()
        raw = [{"name": "bytes", "configuration": {"endian": "little"}}]
        shard = {"chunk_shape": [CHUNK], "codecs": raw, "index_codecs": raw, "index_location": "end"}
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.size],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunks * CHUNK]}},
            "chunk_key_encoding": {"name": "default"},
            "fill_value": 0,
            "codecs": [{"name": "sharding_indexed", "configuration": shard}],
        }
        (self.path / "zarr.json").write_text(json.dumps(metadata))


def write_array(path: epath.Path, values: np.ndarray) -> None:
    writer = ArrayWriter(path, values.dtype)
    writer.append(values)
    writer.close()


def open_array(path: epath.Path) -> Any:
    """A lazy array: `np.asarray(array[indices])` gathers, with an index array of any shape."""
    if "://" in str(path):
        return _remote_array(str(path))
    metadata = json.loads((path / "zarr.json").read_text())
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    # Without the memmap subclass, whose bookkeeping costs more than a gather of 256 rows.
    return np.asarray(np.memmap(path / "c" / "0", dtype, "r", shape=tuple(metadata["shape"])))


def _remote_array(url: str) -> Any:
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": url + "/", "recheck_cached_data": "open"}
    return ts.open(spec, read=True, context=_cache()).result()


@functools.cache
def _cache() -> Any:
    import tensorstore as ts

    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


@contextlib.contextmanager
def built_aside(directory: epath.Path) -> Iterator[epath.Path]:
    """A new directory that takes the name of `directory` when the block ends well; otherwise nothing is left of it."""
    building = directory.with_name(f"{directory.name}.building-{os.getpid()}")
    building.rmtree(missing_ok=True)
    building.mkdir(parents=True)
    try:
        yield building
        if not directory.exists():  # another process may have finished the same work meanwhile
            building.rename(directory)
    finally:
        building.rmtree(missing_ok=True)


@dataclass(frozen=True)
class Split:
    """The arrays of one side of the hold-out."""

    tokens: Any
    flags: Any
    sentence_starts: Any
    document_starts: Any
    unknown_at: Any = None
    unknown_spelling: Any = None


@dataclass(frozen=True)
class Store:
    """An open store. `meta` is its meta.json: schema, config, fingerprints and counts."""

    directory: epath.Path
    meta: dict[str, Any]
    tokenizer: Tokenizer

    @classmethod
    def open(cls, directory: str | epath.Path) -> "Store":
        """Raises UserError where there is no store, one of another schema, or one whose tokenizer was changed."""
        directory = epath.Path(directory)
        if not (directory / "meta.json").exists():
            raise UserError(f"no data store at {directory}; `python -m lmjax prepare CONFIG` makes it")
        meta = json.loads((directory / "meta.json").read_text())
        if meta.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{directory}: store schema {meta.get('schema_version')}, this lmjax reads {SCHEMA_VERSION}; "
                "delete the store and prepare it anew"
            )
        tokenizer = load_tokenizer(directory / "tokenizer")
        if tokenizer.fingerprint != meta["tokenizer_fingerprint"]:
            raise UserError(
                f"{directory}: its tokenizer is not the one that made its tokens; delete the store and prepare it anew"
            )
        return cls(directory, meta, tokenizer)

    def split(self, name: str) -> Split:
        """The "train" or the "heldout" side."""
        return Split(**{path.name: open_array(path) for path in (self.directory / name).iterdir()})
