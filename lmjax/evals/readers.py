"""Files of zero- and few-shot tasks as rows of columns. A reader yields (where the row stands, row)."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from lmjax.data.choices import read_choices
from lmjax.data.files import json_rows, read_lines
from lmjax.errors import UserError

Row = Mapping[str, Any]
Reader = Callable[[Sequence[epath.Path]], Iterator[tuple[str, Row]]]


def json_lines(paths: Sequence[epath.Path]) -> Iterator[tuple[str, Row]]:
    for path in paths:
        yield from ((f"{path}, line {number}", row) for number, row in json_rows(path))


def completions(paths: Sequence[epath.Path]) -> Iterator[tuple[str, Row]]:
    """GPT-3's files: their contexts begin with the newlines that part them from what stands before."""
    for where, row in json_lines(paths):
        yield where, {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}


def minimal_pairs(paths: Sequence[epath.Path]) -> Iterator[tuple[str, Row]]:
    """BLiMP: a pair of each file in turn; the first sentence is the good one."""
    for found in itertools.zip_longest(*(json_lines([path]) for path in paths)):
        for where, row in filter(None, found):
            sentences = [row[k] for k in ("sentence_good", "sentence_bad") if k in row]
            yield where, {"sentences": sentences, "good": 0} if len(sentences) == 2 else row


def openbookqa(paths: Sequence[epath.Path]) -> Iterator[tuple[str, Row]]:
    """Its TSV, as for fine-tuning."""
    for path in paths:
        for number, one in enumerate(read_choices(path, "openbookqa", True), 1):
            row = {"question": one.context, "choices": list(one.endings), "gold": one.label}
            yield f"{path}, question {number}", row


def translations(paths: Sequence[epath.Path]) -> Iterator[tuple[str, Row]]:
    """Two files of as many lines."""
    for number, sides in enumerate(itertools.zip_longest(*(read_lines(path, "utf-8") for path in paths)), 1):
        if None in sides:
            raise UserError(f"{paths[0]} and {paths[1]} have not as many lines")
        source, target = (side.strip() for side in sides)
        yield f"{paths[0]}, line {number}", {"source": source, "target": target}


def news(paths: Sequence[epath.Path]) -> Iterator[tuple[str, Row]]:
    """CNN/Daily Mail as prompt and completion: without the prompt's own instruction and the end token."""
    for where, row in json_lines(paths):
        if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
            row = {
                "article": row["prompt"].partition("\n\n")[2].strip(),
                "summary": row["completion"].removesuffix("<|endoftext|>"),
            }
        yield where, row


def wiki_articles(paths: Sequence[epath.Path]) -> Iterator[tuple[str, Row]]:
    """WikiText, an article at a time: its text as it stands, which the words are counted of."""
    for path in paths:
        text = "".join(read_lines(path, "utf-8"))
        for number, article in enumerate(re.split(r"(?m)(?=^ = [^=\n]+ = $)", text)[1:], 1):
            yield f"{path}, article {number}", {"text": article.strip()}


def wikitext_detokenized(text: str) -> str:
    """WikiText as it was before it was cut into words; marks are joined again to what they belong to."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r"[ \n]*\n *", "\n", text).replace("= =", "==").replace("= =", "==")
    text = re.sub(r'(?<!\S)" ([^"\n]*) "', r'"\1"', text)
    text = re.sub(r"([(\[{$£]) ", r"\1", text)
    return re.sub(r" ([.,:;!?%)\]}]|'(?:s|t|re|ve|m|ll|d)?(?!\w))", r"\1", text)
