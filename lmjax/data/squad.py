"""Questions whose answers are spans of a paragraph: SQuAD's JSON (1.1, 2.0, and CMRC 2018 in that style), and the
windows in which a model reads a paragraph that is longer than its rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from lmjax.data.files import read_lines
from lmjax.errors import UserError, did_you_mean

Offsets = Sequence[tuple[int, int]]  # the characters (begin, end) of each token


@dataclass(frozen=True)
class SpanSet:
    """`files`: split -> the official name. `unanswerable`: whether some questions have no answer. `chinese`: whether
    answers are compared as CMRC 2018 does."""

    files: Mapping[str, str]
    unanswerable: bool = False
    chinese: bool = False


SETS = {
    "squad1": SpanSet({"train": "train-v1.1", "heldout": "dev-v1.1", "test": "test-v1.1"}),
    "squad2": SpanSet({"train": "train-v2.0", "heldout": "dev-v2.0", "test": "test-v2.0"}, unanswerable=True),
    "cmrc2018": SpanSet({"train": "cmrc2018_train", "heldout": "cmrc2018_dev", "test": "cmrc2018_test"}, chinese=True),
}


class Answer(NamedTuple):
    """`begin`: the character of the paragraph at which `text` should stand."""

    text: str
    begin: int

    def stands(self, context: str) -> bool:
        return self.begin >= 0 and context[self.begin : self.begin + len(self.text)] == self.text


class Question(NamedTuple):
    """`answers`: none for a question that has none, None where they are not told. `article`: its number."""

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...] | None
    article: int


def span_set(name: str) -> SpanSet:
    """Raises UserError on an unknown name."""
    if name not in SETS:
        raise UserError(f"unknown set of questions '{name}'{did_you_mean(name, SETS)}")
    return SETS[name]


def read_questions(file: epath.Path, name: str, has_answers: bool) -> list[Question]:
    """The questions of a file. Answers that do not stand at their offset are counted on the screen.

    Raises:
      UserError: another format, an empty text, a question without an answer that should have one, or with the id of
        another; named by its id.
    """
    record = span_set(name)
    try:
        articles = json.loads("".join(read_lines(file, "utf-8")))["data"]
        found = [q for i, article in enumerate(articles) for q in _questions(article, i, str(file))]
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not in SQuAD's format ({type(error).__name__}: {error})") from None
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            raise UserError(f"{file}, question {question.id}: another one has the same id")
        seen.add(question.id)
        for what, text in (("question", question.text), ("context", question.context)):
            if not text.strip():
                raise UserError(f"{file}, question {question.id}: its {what} is empty")
        if question.answers is None and has_answers:
            raise UserError(f"{file}, question {question.id}: it has no answers")
        if question.answers == () and not record.unanswerable:
            raise UserError(f"{file}, question {question.id}: it is unanswerable; set task.data to squad2")
    if has_answers:
        stands = [answer.stands(q.context) for q in found for answer in q.answers or ()]
        if not all(stands):
            print(f"{file}: {len(stands) - sum(stands)} of {len(stands)} answers are not at their offset", flush=True)
    return found


def _questions(article: Mapping[str, Any], number: int, file: str) -> Iterator[Question]:
    for paragraph in article["paragraphs"]:
        for asked in paragraph["qas"]:
            where = f"{file}, question {asked['id']}"
            told = [
                Answer(_field(a, "text", where), _field(a, "answer_start", where)) for a in asked.get("answers", ())
            ]
            given = tuple(answer for answer in told if answer.text)
            answers = () if asked.get("is_impossible") else given or None
            texts = _field(asked, "question", where), _field(paragraph, "context", where)
            yield Question(str(asked["id"]), *texts, answers, number)


def _field(there: Mapping[str, Any], name: str, where: str) -> Any:
    kind = int if name == "answer_start" else str
    if not isinstance(there[name], kind):
        raise UserError(f"{where}: its {name} is {there[name]!r}, not {'a text' if kind is str else 'a whole number'}")
    return there[name]


def windows(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first token, tokens) of each window over a paragraph, `stride` further each time, the last one up to its end."""
    found = [(0, min(room, tokens))]
    while sum(found[-1]) < tokens:
        first = found[-1][0] + min(room, stride)
        found.append((first, min(room, tokens - first)))
    return found


def most_context(cut: Sequence[tuple[int, int]], tokens: int) -> np.ndarray:
    """Which window shows the most on both sides of each token, int [tokens]: there alone an answer may start.

    As google-research/bert's run_squad.py scores it: the shorter side, and a hundredth of the window's length.
    """
    first, count = np.array(cut).T[..., None]
    place = np.arange(tokens)
    score = np.minimum(place - first, first + count - 1 - place) + 0.01 * count
    return np.argmax(np.where((place >= first) & (place < first + count), score, -np.inf), axis=0)


def trimmed(context: str, offsets: Offsets) -> list[tuple[int, int]]:
    """Offsets without the spaces that belong to tokens of a byte-level BPE."""
    found = []
    for begin, end in offsets:
        text = context[begin:end]
        begin += len(text) - len(text.lstrip())
        found.append((begin, max(begin, end - len(text) + len(text.rstrip()))))
    return found


def token_span(offsets: Offsets, answer: Answer) -> tuple[int, int] | None:
    """The first and the last token that hold a character of the answer, or None where no token does."""
    end = answer.begin + len(answer.text)
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > answer.begin]
    return (inside[0], inside[-1]) if inside else None
