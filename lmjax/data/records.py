"""ERNIE's released pretraining instances, which are ids already: no text is cut, paired or tokenized.

A line is `token_ids;sentence_type_ids;position_ids;seg_labels;next_sentence_label`: [CLS] A [SEP] B [SEP], segment
label 0 where a word begins, 1 inside, -1 for special tokens, and label 1 for a true pair (PaddlePaddle/ERNIE, reader).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lmjax.data.instances import Columns, SentencePairs, truncate
from lmjax.data.store import MARKED, WORD_BEGINS, WORD_INSIDE, Split
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

Sentence = tuple[list[int], list[int]]  # ids and flags


def parse(line: str, where: str) -> list[Sentence]:
    """A and B of a record, without the special tokens; the tokens of a B that follows A are marked.

    Raises:
      UserError: a line that is no such record.
    """
    fields = line.strip().split(";")
    try:
        ids, types, positions, labels = ([int(x) for x in field.split()] for field in fields[:4])
        (true_pair,) = map(int, fields[4:])
    except ValueError:
        raise UserError(f"{where}: not a record of five fields of integers, apart by semicolons") from None
    special = [i for i, label in enumerate(labels) if label == -1]
    length = len(ids)
    if not (
        len(types) == len(positions) == len(labels) == length and len(special) == 3 and special[::2] == [0, length - 1]
    ):
        raise UserError(f"{where}: not [CLS] A [SEP] B [SEP] with as many of each id")
    middle = special[1]
    if positions != list(range(length)) or types != [0] * (middle + 1) + [1] * (length - middle - 1):
        raise UserError(f"{where}: positions or sentence types are not those of [CLS] A [SEP] B [SEP]")

    def sentence(a: int, b: int, mark: int) -> Sentence:
        return ids[a:b], [(WORD_INSIDE if label else WORD_BEGINS) | mark for label in labels[a:b]]

    return [sentence(1, middle, 0), sentence(middle + 1, length - 1, MARKED * (true_pair == 1))]


@dataclass(frozen=True)
class ReadyPairs(SentencePairs):
    """The records as they stand, one a row; those longer than a row lose tokens as BERT's pairs do."""

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        starts, rng = np.asarray(split.sentence_starts[:]), random.Random(seed)
        a, b, end = starts[:-1:2].tolist(), starts[1::2].tolist(), starts[2::2].tolist()
        rows = [truncate((x, y), (y, z), self.length - 3, rng) for x, y, z in zip(a, b, end, strict=True)]
        names = ("a_start", "a_length", "b_start", "b_length")
        columns = dict(zip(names, np.array(rows).T, strict=True))
        yield columns | {"random": (np.asarray(split.flags[starts[1:-1:2]]) & MARKED == 0).astype(np.uint8)}
