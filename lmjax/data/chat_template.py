"""How a conversation becomes tokens: a chat template is data, a few texts around each role's turns.

Each piece of text is encoded apart, so that no token straddles the border of a turn, and a prompt is a prefix of the
conversation that it begins. What people write is encoded as text even where it spells a special token: no turn can
be ended from inside. The template is saved beside the tokenizer, and goes with it from run to run.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from etils import epath

from lmjax.config import from_stored, stored
from lmjax.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lmjax.data.tokenizer_kinds import Tokenizer

FILENAME = "lmjax_chat_template.json"
Role = Literal["system", "user", "assistant"]


class Turn(NamedTuple):
    """What one side says. `input`: the material that an instruction of the user is about, where it is told apart."""

    role: Role
    text: str
    input: str = ""


Turns = Sequence[Turn]


@dataclass(frozen=True)
class ChatTemplate:
    """Texts around turns. Every answer is closed by the tokenizer's end token.

    Attributes:
      system, user, assistant: what stands before and after a turn. An answer's "after" stands behind the end token, and
        only where another turn follows.
      input: what stands between an instruction and its input.
      preamble, preamble_with_input: the system turn of conversations that have none; the latter (if it is not empty)
        where their first turn has an input.
      closed: whether the end token closes the other turns too, so that no text of a user can imitate the next turn.
    """

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    input: str = "\n\n"
    preamble: str = ""
    preamble_with_input: str = ""
    closed: bool = False


TEMPLATES = {
    # Taori et al. 2023, https://github.com/tatsu-lab/stanford_alpaca, train.py
    "alpaca": ChatTemplate(
        system=("", "\n\n"),
        user=("### Instruction:\n", "\n\n"),
        assistant=("### Response:", "\n\n"),
        input="\n\n### Input:\n",
        preamble="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.",
        preamble_with_input="Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.",
    ),
    "lines": ChatTemplate(system=("", "\n"), user=("", "\n"), assistant=("", "\n")),
    "plain": ChatTemplate(system=("", "\n\n"), user=("User:\n", "\n\n"), assistant=("Assistant:\n", "\n\n")),
    # Tunstall et al. 2023, https://github.com/huggingface/alignment-handbook; its marks are plain text
    "zephyr": ChatTemplate(
        system=("<|system|>\n", "\n"), user=("<|user|>\n", "\n"), assistant=("<|assistant|>\n", "\n"), closed=True
    ),
}


def named_template(name: str) -> ChatTemplate:
    """Raises UserError for a name that is not in `TEMPLATES`."""
    if name not in TEMPLATES:
        raise UserError(f"unknown chat template '{name}'{did_you_mean(name, TEMPLATES)}")
    return TEMPLATES[name]


def encode(template: ChatTemplate, tokenizer: "Tokenizer", turns: Turns) -> tuple[np.ndarray, np.ndarray]:
    """A conversation's tokens, int32 [L], and which are response tokens, bool [L]: the answers' and their end tokens.

    Raises:
      UserError: no turns, or a tokenizer without an end token.
    """
    return _encode(tokenizer, list(_pieces(template, turns)))


def prompt_tokens(template: ChatTemplate, tokenizer: "Tokenizer", turns: Turns) -> np.ndarray:
    """The tokens up to where the assistant begins to answer, int32 [L].

    Raises:
      UserError: as `encode`.
    """
    following = [*turns, Turn("assistant", "")]
    return _encode(tokenizer, list(_pieces(template, following))[:-2])[0]


class _Piece(NamedTuple):
    text: str | None  # None: the end token
    is_response: bool = False


def _pieces(template: ChatTemplate, turns: Turns) -> Iterator[_Piece]:
    if not turns:
        raise UserError("a conversation without turns")
    if turns[0].role != "system" and template.preamble:
        with_input = template.preamble_with_input if turns[0].input else ""
        turns = [Turn("system", with_input or template.preamble), *turns]
    for number, turn in enumerate(turns, 1):
        before, after = getattr(template, turn.role)
        answer = turn.role == "assistant"
        yield _Piece(before)
        yield _Piece(turn.text + (template.input + turn.input if turn.input else ""), answer)
        if answer or template.closed:
            yield _Piece(None, answer)
        if not answer or number < len(turns):
            yield _Piece(after)


def _encode(tokenizer: "Tokenizer", pieces: Sequence[_Piece]) -> tuple[np.ndarray, np.ndarray]:
    if tokenizer.eos_id is None:
        raise UserError(
            "a chat template needs a tokenizer with an end token (<|endoftext|> or </s>), which closes answers"
        )
    ids = iter(tokenizer.encode_as_text([piece.text for piece in pieces if piece.text is not None]))
    parts = [[tokenizer.eos_id] if piece.text is None else next(ids) for piece in pieces]
    is_response = np.repeat([piece.is_response for piece in pieces], [len(part) for part in parts])
    return np.array([token for part in parts for token in part], np.int32), is_response


def save_template(template: ChatTemplate, directory: epath.Path) -> None:
    """Writes the template's file, whole or not at all."""
    part = directory / f"{FILENAME}.part"
    part.write_text(json.dumps(stored(template), indent=1, ensure_ascii=False))
    part.replace(directory / FILENAME)


def read_template(directory: epath.Path) -> ChatTemplate | None:
    """The template of a directory, if it has one. Raises UserError for a damaged file."""
    file = directory / FILENAME
    if not file.exists():
        return None
    try:
        return from_stored(ChatTemplate, json.loads(file.read_text()), f"{file}")
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
