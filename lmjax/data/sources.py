"""Where text comes from: the embedded corpus, files of text, of JSON lines, of translations, of conversations, or a
TFDS data set, as (id, group, text).

A document's id does not depend on the directory that its file lies in, so that a copy of the corpus elsewhere is cut
into the same training and held-out sides. A group is held out as a whole: the package for `Docs`, else the document.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from etils import epath

from lmjax.config import to_json
from lmjax.data import annotated, docs_source
from lmjax.data.dialogue import turns_as_lines
from lmjax.data.files import CHUNK, find_files, json_rows, read_lines
from lmjax.data.tf_datasets import prepared, rows_of
from lmjax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class SourceConfig:
    """Where text comes from."""


@dataclass(frozen=True)
class Docs(SourceConfig):
    """The embedded corpus of API documentation; see `docs_source`."""


@dataclass(frozen=True)
class TextFiles(SourceConfig):
    """Text files, plain or .gz. `paths` are files or globs (locally with `**`), on disk or on gs://.

    A document is a file, a block between blank lines, a line, or what lies between matches of the regex `pattern`; what
    matches is dropped, unless it is a look-ahead: `(?=^CHAPTER )`, where ^ starts any line.
    """

    paths: tuple[str, ...]
    encoding: str = "utf-8"
    documents: Literal["file", "blank_line", "line", "regex"] = "file"
    pattern: str = ""

    def __post_init__(self) -> None:
        if (self.documents == "regex") != bool(self.pattern):
            raise UserError(f"documents {self.documents} with pattern '{self.pattern}': regex needs one, and it alone")


@dataclass(frozen=True)
class Jsonl(SourceConfig):
    """Files of one JSON object a line, plain or .gz; the text stands under `field`."""

    paths: tuple[str, ...]
    field: str = "text"


@dataclass(frozen=True)
class ParallelText(SourceConfig):
    """Two text files, plain or .gz, of which each line of `target` translates that line of `source`.

    A document is such a pair: two lines, the source's first. Pairs with a blank side are left out.
    """

    source: str
    target: str
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Tfds(SourceConfig):
    """A data set of TensorFlow Datasets that lies ready under `data_dir` (its default directory when empty)."""

    name: str
    split: str = "train"
    field: str = "text"
    data_dir: str = ""


@dataclass(frozen=True)
class Annotated(SourceConfig):
    """Texts NAME.txt with entity spans in NAME.ann beside them, or .tar.gz archives of both; a file is a document.

    `width`: in hard-wrapped Chinese text, how many characters a line has that goes on in the next one (0: none does).
    """

    paths: tuple[str, ...]
    width: int = 0


@dataclass(frozen=True)
class Dialogues(SourceConfig):
    """Files of one conversation a line, plain or .gz; see `dialogue.turns_as_lines`. A turn is a sentence."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class ErnieRecords(SourceConfig):
    """Files of ERNIE's released instances, plain or .gz; see `records`. They are ids, and no text."""

    paths: tuple[str, ...]


def texts(source: SourceConfig) -> Iterator[tuple[str, str, str]]:
    """Yields (id, group, text) of each document in a fixed order; line ends are "\\n" and a byte order mark
    is dropped.

    Raises:
      UserError: no such file, bytes that are no text, a bad JSON line, a missing field, or a TFDS data set that is
        unknown or not prepared. Nothing is ever downloaded.
    """
    match source:
        case Docs():
            yield from docs_source.documents()
        case TextFiles():
            for name, path in find_files(source.paths):
                for number, text in enumerate(_split(source, path), 1):
                    id_ = name if source.documents == "file" else f"{name}:{number}"
                    yield id_, id_, text
        case Jsonl():
            for name, path in find_files(source.paths):
                for number, text in _json_texts(path, source.field):
                    yield f"{name}:{number}", f"{name}:{number}", text
        case ParallelText():
            yield from _pairs(source)
        case Annotated():
            for name, text in annotated.documents(find_files(source.paths), source.width):
                yield name, name, text
        case Dialogues():
            for name, path in find_files(source.paths):
                for number, row in json_rows(path):
                    yield f"{name}:{number}", f"{name}:{number}", turns_as_lines(row, f"{path}, line {number}")
        case Tfds():
            builder = prepared(source.name, source.data_dir)
            for number, text in enumerate(_rows(builder, source)):
                id_ = f"{builder.info.full_name}:{source.split}:{number}"
                yield id_, id_, text
        case _:
            known = "Docs, TextFiles, Jsonl, ParallelText, Annotated, Dialogues or Tfds"
            raise UserError(f"no source of text: {type(source).__name__}; choose {known}")


def record_lines(source: ErnieRecords) -> Iterator[tuple[str, str, str]]:
    """(id, where, line) of each record."""
    for name, path in find_files(source.paths):
        for number, line in enumerate(read_lines(path, "utf-8"), 1):
            yield f"{name}:{number}", f"{path}, line {number}", line


def fingerprint(source: SourceConfig, contents: bool = True) -> str:
    """sha256 over how the source is read and the names, sizes and contents of what it reads (for a TFDS data set its
    version and shards), wherever the files lie; without `contents` no file is read."""
    rule = {k: v for k, v in to_json(source).items() if k not in ("paths", "source", "target", "data_dir")}
    digest = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    match source:
        case Docs():
            digest.update(docs_source.fingerprint().encode())
        case TextFiles() | Jsonl() | ParallelText() | Annotated() | Dialogues() | ErnieRecords():
            files = find_files((source.source, source.target) if isinstance(source, ParallelText) else source.paths)
            if isinstance(source, Annotated):
                files += [(f"{name}.ann", path.with_suffix(".ann")) for name, path in files if path.suffix == ".txt"]
            for name, path in files:
                digest.update(f"\n{name} {path.stat().length}\n".encode())
                if contents:
                    _update(digest, path)
        case Tfds():
            info = prepared(source.name, source.data_dir).info
            digest.update(repr([info.full_name, {k: v.shard_lengths for k, v in sorted(info.splits.items())}]).encode())
    return digest.hexdigest()


def _update(digest: Any, path: epath.Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)


def _split(source: TextFiles, path: epath.Path) -> Iterator[str]:
    lines = read_lines(path, source.encoding)
    match source.documents:
        case "file":
            yield "".join(lines)
        case "line":
            yield from lines
        case "blank_line":
            blocks = itertools.groupby(lines, key=str.isspace)
            yield from ("".join(block) for blank, block in blocks if not blank)
        case "regex":
            try:
                boundary = re.compile(source.pattern, re.MULTILINE)
            except re.error as error:
                raise UserError(f"pattern {source.pattern!r} is no regular expression: {error}") from None
            text = "".join(lines)
            cuts = [m.span() for m in boundary.finditer(text)]
            for (_, start), (end, _) in itertools.pairwise([(0, 0), *cuts, (len(text), 0)]):
                yield text[start:end]


def _pairs(source: ParallelText) -> Iterator[tuple[str, str, str]]:
    files = [find_files((path,)) for path in (source.source, source.target)]
    if any(len(found) != 1 for found in files):
        raise UserError(f"{source.source}, {source.target}: parallel text is one file on either side")
    ((name, first),), ((_, second),) = files
    lines = itertools.zip_longest(*(read_lines(path, source.encoding) for path in (first, second)))
    for number, pair in enumerate(lines, 1):
        if None in pair:
            counts = [sum(1 for _ in read_lines(path, source.encoding)) for path in (first, second)]
            raise UserError(
                f"{first} has {counts[0]} lines and {second} {counts[1]}; parallel files have as many lines"
            )
        if all(line.strip() for line in pair):
            yield f"{name}:{number}", f"{name}:{number}", "\n".join(line.strip() for line in pair)


def _json_texts(path: epath.Path, field: str) -> Iterator[tuple[int, str]]:
    for number, row in json_rows(path):
        if field not in row:
            raise UserError(f"{path}, line {number}: no field '{field}'{did_you_mean(field, row)}")
        if not isinstance(row[field], str):
            raise UserError(f"{path}, line {number}: field '{field}' is {type(row[field]).__name__}, not text")
        yield number, row[field]


def _rows(builder: Any, source: Tfds) -> Iterator[str]:
    where, features = builder.info.full_name, builder.info.features
    if source.field not in features:
        raise UserError(f"{where}: no field '{source.field}'{did_you_mean(source.field, features)}")
    for number, row in enumerate(rows_of(builder, source.split)):
        try:
            yield row[source.field].decode("utf-8")
        except (UnicodeDecodeError, AttributeError) as error:
            raise UserError(f"{where}, row {number}: '{source.field}' is not text ({error})") from None
