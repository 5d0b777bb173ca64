"""Rows for a bidirectional language model over words: windows over sentences in a seeded order, in both directions.

Letters: n rows, L words a row, C characters a word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lmjax.data.instances import Columns, InstanceConfig
from lmjax.data.store import Split
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError


@dataclass(frozen=True)
class WordStreams(InstanceConfig):
    """All sentences in a permuted order, one stream, cut into windows of `length` predictions.

    Forwards a sentence is read as <S> w1 ... wn and predicts w1 ... wn </S>; backwards it is read as </S> wn ... w1 and
    predicts wn ... w1 <S>: n + 1 predictions either way, so both directions see the same sentences in a window, as in
    bilm-tf's data.py (where each direction shuffles for itself). The order is drawn once; every pass has it.

    `carry`: row r of each batch goes on where row r of the batch before it ended, for a model that carries its
    state; otherwise windows are shuffled like any other rows.

    Features, int32: tokens and backward_tokens [n, L, C], what is read, spelled (see `words.spell`); targets and
    backward_targets [n, L], what follows in that direction.
    """

    carry: bool = False
    whole: ClassVar[tuple[str, ...]] = ("sentence", "begins")

    @property
    def contiguous(self) -> bool:
        return self.carry

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        if not tokenizer.word_level:
            raise UserError("a biLM over words needs a tokenizer of kind 'words'")
        lengths = np.diff(np.asarray(split.sentence_starts[:]))
        order = np.random.default_rng([seed, len(lengths)]).permutation(len(lengths))
        begins = np.concatenate([[0], np.cumsum(lengths[order])[:-1]])
        starts = np.arange(lengths.sum() // self.length, dtype=np.int64) * self.length
        yield {"start": starts, "sentence": order.astype(np.int64), "begins": begins.astype(np.int64)}

    def gather(self, split: Split, tokenizer: Tokenizer, columns: Columns) -> dict[str, np.ndarray]:
        position = columns["start"][:, None] + np.arange(self.length)
        number = np.searchsorted(columns["begins"], position, side="right") - 1
        sentence, within = columns["sentence"][number], position - columns["begins"][number]
        first, end = np.asarray(split.sentence_starts[sentence]), np.asarray(split.sentence_starts[sentence + 1])
        forward, backward = first + within, end - 1 - within  # a sentence is stored as w1 ... wn </S>
        begins, ends = within == 0, forward == end - 1
        bos: Any = tokenizer.cls_id
        return {
            "tokens": _spelled(split, tokenizer, np.where(begins, forward, forward - 1), begins),
            "backward_tokens": _spelled(split, tokenizer, backward, np.zeros_like(begins)),
            "targets": _ids(split, forward),
            "backward_targets": np.where(ends, bos, _ids(split, np.where(ends, backward, backward - 1))),
        }


def _ids(split: Split, index: np.ndarray) -> np.ndarray:
    return np.asarray(split.tokens[index]).astype(np.int32)


def _spelled(split: Split, tokenizer: Any, index: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """The spelling of the words at `index`, int32 [n, L, C]; that of <S> where a sentence `begins`."""
    ids = np.where(begins, tokenizer.cls_id, _ids(split, index))
    spelled = tokenizer.spellings[ids].astype(np.int32)
    unknown = ids == tokenizer.unk_id
    if unknown.any():
        which = np.searchsorted(split.unknown_at, index[unknown])
        characters = which[:, None] * spelled.shape[-1] + np.arange(spelled.shape[-1])
        spelled[unknown] = np.asarray(split.unknown_spelling[characters])
    return spelled
