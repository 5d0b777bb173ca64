"""Instances are index tables over a store: which tokens make up each training row. Tokens are read when a row is."""

import hashlib
import json
import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from etils import epath
from tqdm import tqdm

from lmjax.config import to_json
from lmjax.data.store import ArrayWriter, Split, Store, built_aside, open_array, write_array
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

COUNTED = 10_000_000  # tokens that frequencies are taken from
Columns = dict[str, Any]  # name -> integers [rows]


@dataclass(frozen=True)
class InstanceConfig:
    """How rows of `length` tokens are cut from a store.

    `contiguous`: rows are read in the table's order, row r of a batch after row r of the batch before (`pipeline`).
    `whole`: columns that describe no row: `gather` gets all of them.
    `token_types`: how many kinds their token_type_ids tell.
    """

    token_types: ClassVar[int] = 1
    length: int
    whole: ClassVar[tuple[str, ...]] = ()

    @property
    def contiguous(self) -> bool:
        return False

    def once(self) -> "InstanceConfig":
        """The same instances without duplicates, for held-out rows."""
        return self

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        """One table for each pass over the data, to be repeated in this order."""
        raise NotImplementedError

    def gather(self, split: Split, tokenizer: Tokenizer, columns: Columns) -> dict[str, np.ndarray]:
        """The features of the rows [n] that `columns` describe."""
        raise NotImplementedError

    def predicted(self, split: Split) -> np.ndarray:
        """The first tokens that a model learns to predict, for their frequencies."""
        return np.asarray(split.tokens[:COUNTED])


@dataclass(frozen=True)
class Windows(InstanceConfig):
    """Contiguous windows for causal models: `length` inputs and as many targets, each token a target once.

    Documents follow each other in the store's order, each closed by the tokenizer's end-of-text token.
    Features: tokens int32 [n, length + 1].
    """

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        yield {"start": np.arange((split.tokens.shape[0] - 1) // self.length, dtype=np.int64) * self.length}

    def gather(self, split: Split, tokenizer: Tokenizer, columns: Columns) -> dict[str, np.ndarray]:
        index = columns["start"][:, None] + np.arange(self.length + 1)
        return {"tokens": np.asarray(split.tokens[index]).astype(np.int32)}


@dataclass(frozen=True)
class SentencePairs(InstanceConfig):
    """BERT's [CLS] A [SEP] B [SEP], by its own sequential builder (create_pretraining_data.py), one table a duplicate.

    `short_fraction`: share of documents cut to a random shorter length. Without `next_sentence`, B always follows A; it
    is left out, with its [SEP], where a chunk is one sentence.
    Features, int32: tokens, token_type_ids (0 up to the first [SEP], then 1), segment_ids (1 real, 0 padding) and flags
    (uint8, see `store`; special tokens 0) [n, length]; next_sentence_labels [n] (`true_label` where B follows A, 0 in
    BERT, 1 in ERNIE).
    """

    token_types: ClassVar[int] = 2
    duplicates: int = 10
    short_fraction: float = 0.1
    next_sentence: bool = True
    true_label: int = 0

    def once(self) -> "SentencePairs":
        return replace(self, duplicates=1)

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        special_ids(tokenizer)
        if self.length < 5 or self.duplicates < 1:
            raise UserError(
                f"sentence pairs: length {self.length} must be at least 5, and duplicates {self.duplicates} at least 1"
            )
        starts, documents = np.asarray(split.sentence_starts[:]), np.asarray(split.document_starts[:])
        for duplicate in range(self.duplicates):
            pairs = sentence_pairs(starts, documents, self, random.Random(f"{seed} {duplicate}"))
            names = {
                "a_start": np.int64,
                "a_length": np.int32,
                "b_start": np.int64,
                "b_length": np.int32,
                "random": np.uint8,
            }
            rows = np.fromiter((v for pair in pairs for v in pair), np.int64).reshape(-1, len(names))
            yield {name: rows[:, i].astype(dtype) for i, (name, dtype) in enumerate(names.items())}

    def gather(self, split: Split, tokenizer: Tokenizer, columns: Columns) -> dict[str, np.ndarray]:
        a_length, b_length = columns["a_length"][:, None], columns["b_length"][:, None]
        position = np.arange(self.length, dtype=np.int32)
        b_begins = a_length + 2
        end = b_begins + b_length + (b_length > 0)
        in_a = (position > 0) & (position <= a_length)
        in_b = (position >= b_begins) & (position < b_begins + b_length)
        index = np.where(in_a, columns["a_start"][:, None] - 1, columns["b_start"][:, None] - b_begins) + position
        index = np.where(in_a | in_b, index, 0)
        pad, cls, sep = special_ids(tokenizer)
        special = np.where(position < end, sep, pad)
        special[:, 0] = cls
        return {
            "tokens": np.where(in_a | in_b, np.asarray(split.tokens[index]), special).astype(np.int32),
            "flags": np.where(in_a | in_b, np.asarray(split.flags[index]), 0).astype(np.uint8),
            "token_type_ids": ((position >= b_begins) & (position < end)).astype(np.int32),
            "segment_ids": (position < end).astype(np.int32),
            "next_sentence_labels": columns["random"].astype(np.int32) ^ self.true_label,
        }


@dataclass(frozen=True)
class Sentences(InstanceConfig):
    """RoBERTa's <s> ... </s>: as many whole sentences, one after the other, as a row holds (Liu et al. 2019, section
    4.2).

    FULL-SENTENCES, where `cross_documents`: a row goes on into the next document, after the </s> that closes the one
    before in the store. DOC-SENTENCES: it does not, and the last row of a document is padded. Only a sentence
    longer than a row is cut.
    Features, int32: tokens, segment_ids (1 real, 0 padding) and flags (uint8; special tokens 0) [n, length].
    """

    cross_documents: bool = True

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        special_ids(tokenizer)
        if self.length < 3:
            raise UserError(f"rows of {self.length} tokens have no room between <s> and </s>; raise the length")
        if tokenizer.eos_id != tokenizer.sep_id:
            raise UserError("full and document sentences need a tokenizer with </s> as RoBERTa's; choose roberta_bpe")
        starts, documents = np.asarray(split.sentence_starts[:]), np.asarray(split.document_starts[:])
        ends = starts[documents]
        contents = starts - np.isin(starts, ends[1:])  # where a document's </s> stands, the row's own will do
        stretches = [(ends[0], ends[-1])] if self.cross_documents else pairwise(ends)
        rows = [r for a, b in stretches for r in sentence_rows(starts, contents, int(a), int(b), self.length - 2)]
        begin, end = np.array(rows).T
        yield {"start": begin, "size": (end - begin - np.isin(end, ends)).astype(np.int32)}

    def gather(self, split: Split, tokenizer: Tokenizer, columns: Columns) -> dict[str, np.ndarray]:
        position, size = np.arange(self.length, dtype=np.int32), columns["size"][:, None]
        text = (position > 0) & (position <= size)
        index = np.where(text, columns["start"][:, None] - 1 + position, 0)
        pad, cls, sep = special_ids(tokenizer)
        special = np.where(position <= size + 1, sep, pad)
        special[:, 0] = cls
        return {
            "tokens": np.where(text, np.asarray(split.tokens[index]), special).astype(np.int32),
            "flags": np.where(text, np.asarray(split.flags[index]), 0).astype(np.uint8),
            "segment_ids": (position <= size + 1).astype(np.int32),
        }


def sentence_rows(
    starts: np.ndarray, contents: np.ndarray, begin: int, end: int, room: int
) -> Iterator[tuple[int, int]]:
    """Cuts the tokens begin..end into stretches of whole sentences, as long as `room` allows; a sentence that is longer
    by itself is cut.

    Args:
      starts: int64 [sentences + 1], the token at which each sentence begins, and the end.
      contents: the same without what needs no room: how far a stretch that ends there is counted.
    """
    while begin < end:
        fits = int(starts[np.searchsorted(contents, begin + room, side="right") - 1])
        stop = min(fits, end) if fits > begin else begin + room
        yield begin, stop
        begin = stop


def special_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """[PAD], [CLS] and [SEP]. Raises UserError where a vocabulary lacks them."""
    pad, cls, sep = tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id
    if pad is None or cls is None or sep is None:
        raise UserError(
            "rows for masking need a tokenizer with [CLS], [SEP] and [PAD]; choose a WordPiece tokenizer or roberta_bpe"
        )
    return pad, cls, sep


def sentence_pairs(
    starts: np.ndarray, documents: np.ndarray, cfg: SentencePairs, rng: random.Random
) -> Iterator[tuple[int, int, int, int, bool]]:
    """One pass of BERT's builder over all documents: a_start, a_length, b_start, b_length (tokens), is B random?

    Args:
      starts: int64 [sentences + 1], the token at which each sentence begins, and the end.
      documents: int64 [documents + 1], the sentence at which each document begins, and the end.
    """
    longest = cfg.length - 3
    for document in range(len(documents) - 1):
        target = rng.randint(2, longest) if rng.random() < cfg.short_fraction else longest
        first, last = int(documents[document]), int(documents[document + 1])
        at = starts[first : last + 1].tolist()  # numpy's scalars are slow
        begin = end = 0
        while end < last - first:
            end += 1
            if end < last - first and at[end] - at[begin] < target:
                continue
            middle = begin + (rng.randint(1, end - begin - 1) if end - begin > 1 else 1)
            a = (at[begin], at[middle])
            is_random = cfg.next_sentence and (end - begin == 1 or rng.random() < 0.5)
            if is_random:
                b = _random_sentences(starts, documents, document, target - (a[1] - a[0]), rng)
                end = middle  # the sentences that B did not use are put back
            else:
                b = (at[middle], at[end])
            yield *truncate(a, b, longest, rng), is_random
            begin = end


def _random_sentences(
    starts: np.ndarray, documents: np.ndarray, document: int, target: int, rng: random.Random
) -> tuple[int, int]:
    """Sentences from a random place of another document, until `target` tokens or the document's end."""
    other = document
    for _ in range(10):  # as in BERT's code: after ten draws the same document will do
        other = rng.randrange(len(documents) - 1)
        if other != document:
            break
    first, last = int(documents[other]), int(documents[other + 1])
    sentence = rng.randrange(first, last)
    end = bisect_left(starts, starts[sentence] + target, sentence + 1, last)
    return int(starts[sentence]), int(starts[end])


def truncate(a: tuple[int, int], b: tuple[int, int], longest: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Takes single tokens off the longer side (B when equal), at its front or back by a coin each, until both fit."""
    a_length, b_length = a[1] - a[0], b[1] - b[0]
    excess = max(0, a_length + b_length - longest)
    off_longer = min(excess, abs(a_length - b_length))
    off_a = (off_longer if a_length > b_length else 0) + (excess - off_longer) // 2
    off_b = excess - off_a
    a_front, b_front = (rng.getrandbits(n).bit_count() if n else 0 for n in (off_a, off_b))  # n coins at once
    return a[0] + a_front, a_length - off_a, b[0] + b_front, b_length - off_b


@dataclass(frozen=True)
class Table:
    """An open instance table. `pass_ends` int64 [passes]: the row at which each pass's part of the table ends."""

    cfg: InstanceConfig
    split: Split
    tokenizer: Tokenizer
    columns: Columns
    pass_ends: np.ndarray

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Features of the given rows, int64 [n], of the table."""
        whole = self.cfg.whole
        columns = {name: c if name in whole else np.asarray(c[rows]) for name, c in self.columns.items()}
        return self.cfg.gather(self.split, self.tokenizer, columns)


def build_table(cfg: InstanceConfig, store: Store, split: str, seed: int) -> None:
    """Writes the table into the store, unless it is there: its presence under its name means that it is whole.

    Raises:
      UserError: the split is shorter than one sequence.
    """
    directory = _directory(cfg, store, split, seed)
    if directory.exists():
        return
    if (tokens := store.meta["counts"][split]["tokens"]) <= cfg.length:
        raise UserError(
            f"{store.directory}: the {split} side has {tokens} tokens, fewer than one sequence of length {cfg.length} "
            "needs; give it more text (or more of it held out), or a shorter length"
        )
    cfg = cfg.once() if split == "heldout" else cfg
    with built_aside(directory) as building:
        writers: dict[str, ArrayWriter] = {}
        rows = []
        passes = cfg.tables(store.split(split), store.tokenizer, seed)
        for columns in tqdm(
            passes,
            f"{type(cfg).__name__} {cfg.length} {split}",
            getattr(cfg, "duplicates", 1),
            unit=" pass",
            disable=None,
            delay=1,
        ):
            for name, column in columns.items():
                if name not in writers:
                    writers[name] = ArrayWriter(building / name, column.dtype)
                writers[name].append(column)
            rows.append(len(next(iter(columns.values()))))
        for writer in writers.values():
            writer.close()
        write_array(building / "pass_ends", np.cumsum(rows))


def open_table(cfg: InstanceConfig, store: Store, split: str, seed: int) -> Table:
    """Raises UserError where the store has no such table."""
    directory = _directory(cfg, store, split, seed)
    if not directory.exists():
        raise UserError(f"{store.directory} has no table {directory.name}; `python -m lmjax prepare CONFIG` makes it")
    columns = {path.name: open_array(path) for path in directory.iterdir()}
    columns |= {name: np.asarray(columns[name][:]) for name in cfg.whole}
    pass_ends = np.asarray(columns.pop("pass_ends")[:])
    return Table(cfg, store.split(split), store.tokenizer, columns, pass_ends)


def _directory(cfg: InstanceConfig, store: Store, split: str, seed: int) -> epath.Path:
    described = json.dumps([to_json(cfg), seed, split], sort_keys=True)
    name = f"{type(cfg).__name__}-{cfg.length}-{split}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    return store.directory / "tables" / name
