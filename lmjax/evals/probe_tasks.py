"""What layers are probed for: words, pairs of words and sentences with labels, from files of treebanks and the like.

A target is one span of words or two, and a label (edge probing, Tenney et al. 2019b). A reader yields sentences as
words with their targets.
"""

import csv
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from etils import epath

from lmjax import metrics
from lmjax.data.files import read_lines
from lmjax.data.labelled import read_file
from lmjax.data.tagged import read_sentences
from lmjax.errors import UserError, did_you_mean

Span = tuple[int, int]  # of words, the end behind the last


class Target(NamedTuple):
    spans: tuple[Span, ...]  # one, or two
    label: str


class Sentence(NamedTuple):
    words: list[str]
    targets: list[Target]


@dataclass(frozen=True)
class ProbeTask:
    """`asks`: what is told from the vectors. `files`: split -> its file below the data folder, "A.zip/B" one in an
    archive; of one without "heldout" each fifth sentence is held out."""

    asks: str
    files: Mapping[str, str]
    read: Callable[[epath.Path], Iterator[Sentence]]


def tagged(path: epath.Path, column: int, columns: int) -> Iterator[Sentence]:
    """A label for each word, from a column of a CoNLL file."""
    for rows in _blocks(path, columns, None):
        yield Sentence([row[0] for row in rows], [Target(((i, i + 1),), row[column]) for i, row in enumerate(rows)])


def entities(path: epath.Path) -> Iterator[Sentence]:
    """The kind of each entity, whose words are given; tags in either form of IOB."""
    for words, tags, _ in read_sentences(path, "conll2003"):
        found = sorted(metrics.entities(tags, strict=False), key=itemgetter(1))
        yield Sentence(list(words), [Target(((begin, end),), kind) for kind, begin, end in found])


def arcs(path: epath.Path) -> Iterator[Sentence]:
    """The relation of each word to its head, without its subtype; roots have none."""
    for rows in _blocks(path, 10, "\t"):
        rows = [row for row in rows if row[0].isdigit()]  # without empty nodes and joined words
        targets = []
        for i, row in enumerate(rows):
            head = int(row[6]) - 1 if row[6].isdigit() else -1
            if 0 <= head < len(rows):
                targets.append(Target(((i, i + 1), (head, head + 1)), row[7].partition(":")[0]))
        yield Sentence([row[1] for row in rows], targets)


def coreference(path: epath.Path) -> Iterator[Sentence]:
    """GAP: whether the pronoun means the name; two names a text."""
    for number, row in enumerate(csv.DictReader(read_lines(path, "utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE), 2):
        try:
            text, pronoun = row["Text"], (row["Pronoun"], int(row["Pronoun-offset"]))
            names = [((row[k], int(row[f"{k}-offset"])), row[f"{k}-coref"].upper()) for k in "AB"]
            words = list(WORD.finditer(text))
            who = _covered(words, *pronoun)
            targets = [Target((who, _covered(words, *name)), label) for name, label in names]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"{path}, line {number}: not a row of GAP (Text, Pronoun, Pronoun-offset, A, ...)"
            ) from None
        if bad := {label for _, label in names} - {"TRUE", "FALSE"}:
            raise UserError(f"{path}, line {number}: '{min(bad)}' is neither TRUE nor FALSE")
        yield Sentence([word.group() for word in words], targets)


def labelled(path: epath.Path, name: str) -> Iterator[Sentence]:
    """A label of the whole sentence, from a set of `data.labelled`."""
    for example in read_file(path, name, True):
        words = WORD.findall(example.texts[0])
        yield Sentence(words, [Target(((0, len(words)),), str(example.label))] if words else [])


WORD = re.compile(r"\w+(?:'\w+)*|'\w+|[^\w\s]")
CONLL2003 = {"train": "conll2003/eng.train", "heldout": "conll2003/eng.testa"}
CONLL2000 = {split: f"conll2000/conll2000.zip/conll2000/{file}.txt" for split, file in
             (("train", "train"), ("heldout", "test"))}  # fmt: skip
GAP = {"train": "gap_coreference/gap-development.tsv", "heldout": "gap_coreference/gap-validation.tsv"}
PROBES: dict[str, ProbeTask] = {
    "pos": ProbeTask("a word's part of speech", CONLL2003, partial(tagged, column=1, columns=4)),
    "chunks": ProbeTask("a word's chunk tag", CONLL2000, partial(tagged, column=2, columns=3)),
    "entities": ProbeTask("an entity's kind", CONLL2003, entities),
    "dependency": ProbeTask(
        "the relation of a word to its head", {"train": "ud_english_ewt/en_ewt-ud-dev.conllu.gz"}, arcs
    ),
    "coreference": ProbeTask("whether a pronoun means a name", GAP, coreference),
    "sentiment": ProbeTask(
        "a sentence's sentiment", {"train": "glue/SST-2/train.tsv.gz", "heldout": "glue/SST-2/dev.tsv"},
        partial(labelled, name="sst2"),
    ),
    "acceptability": ProbeTask(
        "whether a sentence is acceptable", {"train": "glue/CoLA/train.tsv", "heldout": "glue/CoLA/dev.tsv"},
        partial(labelled, name="cola"),
    ),
}  # fmt: skip


def check_tasks(tasks: Sequence[str], folder: str) -> None:
    """Raises UserError for a task that is unknown, or whose files are not there."""
    for name in tasks:
        if name not in PROBES:
            raise UserError(f"unknown probing task '{name}'{did_you_mean(name, PROBES)}")
        for file in PROBES[name].files.values():
            if not (epath.Path(folder) / _parted(file)[0]).is_file():
                raise UserError(f"no {_parted(file)[0]} in {folder}, which {name} reads; --data names the folder")


def read_probe(name: str, folder: str, limit: int, seed: int) -> dict[str, list[Sentence]]:
    """The sentences of "train" and "heldout" that have targets, at most `limit` and a quarter of that; which ones, and
    in what order, follows from the seed.

    Raises:
      UserError: a file with other rows than the task's; nothing to learn from.
    """
    task = PROBES[name]
    splits = {split: list(task.read(epath.Path(folder) / file)) for split, file in task.files.items()}
    if "heldout" not in splits:
        whole = splits["train"]
        splits = {"train": [s for i, s in enumerate(whole) if i % 5], "heldout": whole[::5]}
    found = {}
    for split, sentences in splits.items():
        chosen = [sentences[i] for i in np.random.default_rng(seed).permutation(len(sentences))]
        found[split] = list(_limited(chosen, limit if split == "train" else max(1, limit // 4)))
        if not found[split]:
            raise UserError(f"{task.files.get(split, task.files['train'])} in {folder} has no labelled row for {name}")
    return found


def _limited(sentences: Iterable[Sentence], limit: int) -> Iterator[Sentence]:
    for words, targets in sentences:
        if targets[:limit]:
            yield Sentence(words, targets[:limit])
        limit -= min(limit, len(targets))


def _blocks(path: epath.Path, columns: int, separator: str | None) -> Iterator[list[list[str]]]:
    """The rows of each sentence; -DOCSTART- is passed over, and comments of UD's files, whose cells a tab separates."""
    block: list[list[str]] = []
    for number, line in enumerate(chain(_lines(path), [""]), 1):
        row = line.rstrip("\n").split(separator)
        if not line.strip() or row[0] == "-DOCSTART-":
            if block:
                yield block
            block = []
        elif not (separator and line.startswith("#")):
            if len(row) != columns:
                raise UserError(f"{path}, line {number}: {len(row)} columns, expected {columns}")
            block.append(row)


def _lines(path: epath.Path) -> Iterator[str]:
    archive, member = _parted(str(path))
    if not member:
        yield from read_lines(path, "utf-8")
        return
    try:
        with zipfile.ZipFile(archive) as files:
            yield from files.read(member).decode("utf-8").splitlines()
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {member} in {archive}: {error}") from None


def _parted(file: str) -> tuple[str, str]:
    archive, inside, member = file.partition(".zip/")
    return (f"{archive}.zip", member) if inside else (file, "")


def _covered(words: Sequence[re.Match], text: str, offset: int) -> Span:
    """The words that a stretch of the text touches. Raises ValueError where it touches none."""
    touched = [i for i, word in enumerate(words) if word.start() < offset + len(text) and word.end() > offset]
    if not touched:
        raise ValueError(f"no word at {offset}")
    return touched[0], touched[-1] + 1
