"""Texts with entity spans beside them, NAME.txt and NAME.ann, as brat writes them and as Chinese corpora come.

The spans are carried inside the text, between two characters of private use, so that they survive the cutting into
sentences; `chinese.take_marks` takes them out again.
"""

import io
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from etils import epath

from lmjax.errors import UserError

ENTITY_BEGIN, ENTITY_END = "\ue000", "\ue001"
ENTITY = re.compile(r"T\d+\t\S+ (\d+)[ \d;]*?(\d+)\t(.*)")  # T1 <tab> Type 11 14 <tab> the text; 11 14;15 17 is split


class Span(NamedTuple):
    """Characters begin..end of a text, which should read `text`."""

    begin: int
    end: int
    text: str


def documents(files: Sequence[tuple[str, epath.Path]], width: int) -> Iterator[tuple[str, str]]:
    """(name, text with its entities marked) of each text in files .txt, with .ann beside them, or in archives of both.

    `width`: a line of just so many characters goes on in the next one (0: no line does).

    Raises:
      UserError: a text without annotations, or one that is not UTF-8.
    """
    found = unread = 0
    for name, path in files:
        for member, text, annotations in _pairs(name, path):
            spans = entities(annotations)
            good = [s for s in spans if _bare(text[s.begin : s.end]) == _bare(s.text)]
            found, unread = found + len(spans), unread + len(spans) - len(good)
            yield member, marked(text, good, width)
    if unread:
        warnings.warn(f"{unread} of {found} annotated entities are not what their text reads; left out", stacklevel=2)


def entities(annotations: str) -> list[Span]:
    """The entities of an .ann file, each with its pieces as one; relations and notes are passed over."""
    return [Span(int(m[1]), int(m[2]), m[3]) for m in map(ENTITY.fullmatch, annotations.splitlines()) if m]


def marked(text: str, spans: Sequence[Span], width: int) -> str:
    """The text with marks around its entities, wrapped lines joined. Of entities that overlap the first stays, of those
    that begin together the longest."""
    marks, end = {}, 0
    for span in sorted(spans, key=lambda s: (s.begin, -s.end)):
        if span.begin >= end:
            marks[span.begin], end = marks.get(span.begin, "") + ENTITY_BEGIN, span.end
            marks[end] = ENTITY_END
    lines = [-1, *(m.start() for m in re.finditer("\n", text))]
    wraps = {b for a, b in pairwise(lines) if width and b - a - 1 == width}
    pieces = (
        marks.get(i, "") + ("" if i in wraps or c in (ENTITY_BEGIN, ENTITY_END) else c) for i, c in enumerate(text)
    )
    return "".join(pieces) + marks.get(len(text), "")


def _bare(text: str) -> str:
    return "".join(text.split())


def _pairs(name: str, path: epath.Path) -> Iterator[tuple[str, str, str]]:
    """(name, text, annotations) of what a file holds."""
    if not path.name.endswith((".tar.gz", ".tgz", ".tar")):
        beside = path.with_suffix(".ann")
        if not beside.exists():
            raise UserError(f"{path} has no annotations: {beside.name} should lie beside it")
        yield name, _decoded(path.read_bytes(), str(path)), _decoded(beside.read_bytes(), str(beside))
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
            members = {member.name: member for member in archive.getmembers() if member.isfile()}
            for member in sorted(members):
                if member.endswith(".txt"):
                    beside = f"{member.removesuffix('.txt')}.ann"
                    if beside not in members:
                        raise UserError(f"{path}: {member} has no annotations; {beside} should lie beside it")
                    read = (archive.extractfile(members[part]) for part in (member, beside))
                    text, annotations = (_decoded(file.read() if file else b"", f"{path}: {member}") for file in read)
                    yield f"{name}/{member}", text, annotations
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not utf-8 at byte {error.start} ({error.reason}); mend it") from None
