"""Sentences with a tag for each word, in columns: CoNLL-2003 and MSRA's named entities.

A line holds a word, its columns and last its tag; a blank line ends a sentence, and -DOCSTART- begins a document. Tags
are read as IOB1 (CoNLL-2003) or IOB2 and become IOB2: B- begins each entity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from etils import epath

from lmjax.data.files import read_lines
from lmjax.errors import UserError, did_you_mean

DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class TaggedSet:
    """`entities`: their types. `columns`: of a line, the word first and the tag last. `files`: split -> official name.
    `separator`: between columns."""

    entities: tuple[str, ...]
    columns: int
    files: Mapping[str, str]
    separator: str = " "

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of their ids."""
        return ("O", *(f"{mark}-{name}" for name in self.entities for mark in "BI"))


class Sentence(NamedTuple):
    """`tags`: IOB2. `document`: its number."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    document: int


SETS = {
    "conll2003": TaggedSet(
        ("PER", "ORG", "LOC", "MISC"), 4, {"train": "eng.train", "heldout": "eng.testa", "test": "eng.testb"}
    ),
    "msra_ner": TaggedSet(("PER", "ORG", "LOC"), 2, {"train": "train", "heldout": "dev", "test": "test"}, "\t"),
}


def tagged_set(name: str) -> TaggedSet:
    """Raises UserError on an unknown name."""
    if name not in SETS:
        raise UserError(f"unknown set of tagged sentences '{name}'{did_you_mean(name, SETS)}")
    return SETS[name]


def read_sentences(file: epath.Path, name: str) -> list[Sentence]:
    """The sentences of a file.

    Raises:
      UserError: a line with another number of columns, an unknown tag, an empty word; with file and line.
    """
    record, found, document = tagged_set(name), [], 0
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*read_lines(file, "utf-8"), "\n"], 1):
        columns = line.rstrip("\n").split(record.separator)
        if not line.strip():
            if words:
                found.append(Sentence(tuple(words), tuple(iob2(tags)), document))
            words, tags = [], []
            continue
        if len(columns) != record.columns:
            raise UserError(f"{file}, line {number}: {len(columns)} columns, not {record.columns}")
        if columns[0] == DOCUMENT:
            document += 1
            continue
        if not columns[0]:
            raise UserError(f"{file}, line {number}: the word is empty")
        if columns[-1] not in record.labels:
            raise UserError(f"{file}, line {number}: tag '{columns[-1]}' is none of {', '.join(record.labels)}")
        words.append(columns[0])
        tags.append(columns[-1])
    if not found:
        raise UserError(f"{file} has no sentence")
    return found


def iob2(tags: Sequence[str]) -> list[str]:
    """Tags in which B- begins each entity, from such where it stands between two of one type only (IOB1), or always."""
    before = ["O", *tags]
    return [
        f"B-{tag[2:]}" if tag.startswith("I-") and last[2:] != tag[2:] else tag
        for last, tag in zip(before, tags, strict=False)
    ]
