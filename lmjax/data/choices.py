"""Questions with several answers to choose from: SWAG's comma-separated files, CODAH and OpenBookQA as they come."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from etils import epath

from lmjax.data.labelled import PLAIN, LabelledSet, read_examples
from lmjax.errors import UserError, did_you_mean

OPTION = re.compile(r"\(([A-Z])\)\s*")


class Choice(NamedTuple):
    """`label`: the number of the right ending, or None where it is not told."""

    context: str
    endings: tuple[str, ...]
    label: int | None


@dataclass(frozen=True)
class ChoiceSet:
    """`file`: its columns; `parts`: from their texts to the context and the endings, of which there are `choices`."""

    file: LabelledSet
    parts: Callable[[Sequence[str]], tuple[str, list[str]]]
    choices: int = 4


def _lettered(texts: Sequence[str]) -> tuple[str, list[str]]:
    """(A) one (B) another"""
    return texts[0], [option.strip() for option in OPTION.split(texts[1])[2::2]]


def _file(columns: tuple[str, ...], texts: tuple[str, ...], label: str, labels: str, **files: str) -> LabelledSet:
    files = {**PLAIN, **files}
    return LabelledSet(columns, texts, label, tuple(labels), ("accuracy",), submission={}, files=files)


ENDINGS = ("ending0", "ending1", "ending2", "ending3")
SWAG = ("sent1", "sent2", *ENDINGS)
SETS = {
    "swag": ChoiceSet(
        _file((*SWAG, "label"), SWAG, "label", "0123", heldout="val"),
        lambda texts: (texts[0], [f"{texts[1]} {ending}" for ending in texts[2:]]),  # the second sentence has begun
    ),
    "codah": ChoiceSet(
        _file(("category", "prompt", *ENDINGS, "label"), ("prompt", *ENDINGS), "label", "0123"),
        lambda texts: (texts[0], list(texts[1:])),
    ),
    "openbookqa": ChoiceSet(
        _file(
            ("ID", "Question Stem", "Choices", "Complete Question", "Answer Key"), ("Question Stem", "Choices"),
            "Answer Key", "ABCD",
        ),
        _lettered,
    ),
}  # fmt: skip


def choice_set(name: str) -> ChoiceSet:
    """Raises UserError on an unknown name."""
    if name not in SETS:
        raise UserError(f"unknown set of choices '{name}'{did_you_mean(name, SETS)}")
    return SETS[name]


def read_choices(file: epath.Path, name: str, needs_labels: bool) -> list[Choice]:
    """The questions of a file. Those with another number of choices are left out and counted (OpenBookQA's own training
    file has one) where they are labelled, and else refused: each is to be answered.

    Raises:
      UserError: as `read_examples` does; and where no question is left.
    """
    record, found, left_out = choice_set(name), [], 0
    for number, example in enumerate(read_examples(file, record.file, needs_labels), 1):
        context, endings = record.parts(example.texts)
        if len(endings) != record.choices or not all(endings):
            if example.label is None:
                raise UserError(f"{file}, question {number}: {len(endings)} choices, not {record.choices}")
            left_out += 1
            continue
        found.append(Choice(context, tuple(endings), None if example.label is None else int(example.label)))
    if left_out:
        print(f"{file}: {left_out} of {left_out + len(found)} rows left out: not {record.choices} choices", flush=True)
    if not found:
        raise UserError(f"{file} has no question with {record.choices} choices")
    return found
