"""Documents as lists of sentences, which keep the whitespace before them: joined, they are the document's text.

So a byte-level tokenizer sees the spaces and line ends that it was made for, and a model that generates learns them.

Splitting is by `sentencex`. On 26,921 sentences of the Brown corpus and 2,001 of the English Web Treebank its
boundaries have F1 0.89 and 0.87 (syntok 0.92 and 0.85; pysbd 0.86, on a quarter of the first, and 0.85), at 13 MB/s and
more (syntok 0.9, pysbd 0.2).
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import sentencex

from lmjax.data import records
from lmjax.data.sources import Dialogues, ErnieRecords, SourceConfig, record_lines, texts

FIRST_CHINESE = "\u2e80"  # characters from here on are written without spaces
SentenceRule = Literal["line", "split"]  # split: at sentence ends, found by a library


class Document(NamedTuple):
    """`group`: what is held out as a whole, the package for `Docs` and the document itself elsewhere. Sentences are
    text, but for `ErnieRecords`."""

    id: str
    group: str
    sentences: list[Any]


def documents(source: SourceConfig, sentences: SentenceRule) -> Iterator[Document]:
    """The source's documents, cut into sentences; empty ones are dropped. Raises UserError as `texts` does."""
    if isinstance(source, ErnieRecords):
        yield from (Document(id_, id_, records.parse(line, where)) for id_, where, line in record_lines(source))
        return
    rule = "line" if isinstance(source, Dialogues) else sentences
    cut = {"line": split_lines, "split": split_sentences}[rule]
    for id_, group, text in texts(source):
        if found := cut(text):
            yield Document(id_, group, found)


def split_lines(text: str) -> list[str]:
    """One sentence a line; blank lines go with the line after them."""
    return re.findall(r"\s*\S.*", text)


def split_sentences(text: str) -> list[str]:
    """Sentences of English and other languages that end them with .!? and of Chinese and Japanese, mixed at will."""
    found, space = [], ""
    for paragraph in unwrap(text):
        for piece in split_paragraph(paragraph):
            sentence = piece.strip()
            if sentence:
                found.append(space + sentence)
            space = " " if piece[-1:].isspace() else ""
        space = "\n"
    return found


def split_paragraph(paragraph: str) -> list[str]:
    """Pieces that join to `paragraph`: cut after each run of 。！？ with the quotes and brackets closed there (where
    sentencex keeps a whole speech together), and between them by sentencex, whose rules for English serve for all."""
    pieces = []
    for body, end in re.findall(r"([^。！？]*)([。！？][。！？”’」』）》〉】〕]*|$)", paragraph):
        *before, last = sentencex.segment("en", body) or [""]  # type: ignore[attr-defined]
        pieces += [*before, last + end]
    return [piece for piece in pieces if piece]


def unwrap(text: str) -> list[str]:
    """Paragraphs. In hard-wrapped text a line end is a wrap where the next line's first word would not have fitted in.

    Text is taken as hard-wrapped when the longest of its lines, a tenth left aside, has 40 to 120 characters; nine
    tenths of that are its width. (In 42 MB of novels 0.7% of the line ends before a small letter are missed so.) Lines
    that start in Chinese characters are never joined: there every line has room for one more.
    """
    lines = [line.strip() for line in text.split("\n")]
    lengths = sorted(map(len, filter(None, lines)))
    longest = lengths[len(lengths) * 9 // 10] if lengths else 0
    width = 0.9 * longest if 40 <= longest <= 120 else math.inf
    paragraphs, length = [], 0
    for line in lines:
        if line and length and length + len(line.split(maxsplit=1)[0]) >= width and line[0] < FIRST_CHINESE:
            paragraphs[-1] += f" {line}"
        elif line:
            paragraphs.append(line)
        length = len(line)
    return paragraphs
