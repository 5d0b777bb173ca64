"""Rankings: a conversation that waits for an answer, several answers to it, and which of them people preferred.

Forms, by name:
  hh_rlhf: "chosen" and "rejected", whole dialogues of "\\n\\nHuman: " and "\\n\\nAssistant: " (Bai et al. 2022); the
    last answers are compared;
  pairs: "chosen" and "rejected" answers behind "conversations" (LLaMA-Factory) or a "prompt" (TRL), or whole
    conversations, lists of messages (TRL); JSON or JSON lines;
  tldr: summaries of Reddit posts, the model's and the reference, and which one a judge preferred; csv;
  rankings: lmjax's own JSON lines, which `python -m lmjax sample` writes and `rank` fills:
    {"turns": [{"role": "user", "text": ...}], "answers": [...], "ranks": [2, 1, 2]}; 1 is best, equals are ties; and
    perhaps "reference": 0, the place of an answer that a person wrote.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from etils import epath

from lmjax.data.chat_template import Turn, encode, prompt_tokens
from lmjax.data.conversations import KEYS, OPENAI, conversations_of, rows_of
from lmjax.data.files import json_rows, read_lines
from lmjax.data.tokenizer_kinds import Tokenizer
from lmjax.errors import UserError, did_you_mean

SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class Ranking(NamedTuple):
    """`ranks`: of each answer, 1 the best, equal numbers ties; None: nobody has ranked them yet. `reference`: the place
    of the answer that is a demonstration or a reference summary, if one is."""

    turns: tuple[Turn, ...]
    answers: tuple[str, ...]
    ranks: tuple[int, ...] | None
    reference: int | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) answer of each pair that is no tie."""
        ranks = self.ranks or ()
        return [(i, j) for i, a in enumerate(ranks) for j, b in enumerate(ranks) if a < b]


@dataclass(frozen=True)
class Form:
    """`read`: a file's rankings, or instead of one why it is left out. `files`: split -> its usual name; `kinds`: their
    endings."""

    read: Callable[[epath.Path], Iterator[Ranking | str]]
    files: Mapping[str, str]
    kinds: tuple[str, ...]


def form(name: str) -> Form:
    """Raises UserError on an unknown name."""
    if name not in FORMS:
        raise UserError(f"unknown form of rankings '{name}'{did_you_mean(name, FORMS)}")
    return FORMS[name]


def read_ranked(file: epath.Path, name: str) -> list[Ranking]:
    """The rankings of a file that prefer one answer to another; how many do not is printed.

    Raises:
      UserError: a line that is none of the form, with file and line; nothing that prefers.
    """
    found: list[Ranking] = []
    left_out: dict[str, int] = {}
    for one in form(name).read(file):
        why = one if isinstance(one, str) else "not ranked" if one.ranks is None else "" if one.pairs else "all ties"
        if isinstance(one, Ranking) and not why:
            found.append(one)
        else:
            left_out[why] = left_out.get(why, 0) + 1
    said = ", ".join(f"{count} {why}" for why, count in left_out.items())
    if not found:
        mend = f"; `python -m lmjax rank {file}` asks for it" if "not ranked" in left_out else ""
        raise UserError(f"{file} says of no two answers which one is better ({said or 'it is empty'}){mend}")
    if left_out:
        print(f"{file}: {len(found)} rankings; left out: {said}", flush=True)
    return found


def answer_tokens(tokenizer: Tokenizer, turns: Sequence[Turn], answers: Sequence[str]) -> tuple[list[list[int]], int]:
    """The conversation with each of the answers, by the tokenizer's chat template, and how many tokens stand before
    them all.

    Raises:
      UserError: a tokenizer without a template.
    """
    template = tokenizer.chat_template
    if template is None:
        raise UserError("the model has no chat template: begin with a tuned one, or name one by task.template")
    texts = [encode(template, tokenizer, [*turns, Turn("assistant", answer)])[0].tolist() for answer in answers]
    return texts, len(prompt_tokens(template, tokenizer, turns))


def read_hh_rlhf(file: epath.Path) -> Iterator[Ranking | str]:
    for number, row in json_rows(file):
        sides = [_dialogue(row, key, f"{file}, line {number}") for key in ("chosen", "rejected")]
        (*turns, chosen), (*others, rejected) = sides
        if not turns:
            yield "that begin with the answer"
        elif turns != others:
            yield "whose two dialogues differ before the last answer"
        else:
            yield Ranking(tuple(turns), (chosen.text, rejected.text), (1, 2))


def _dialogue(row: Mapping[str, Any], key: str, where: str) -> tuple[Turn, ...]:
    """The turns of a dialogue of hh-rlhf, the last one an answer."""
    text = row.get(key)
    before, *parts = SPEAKER.split(text) if isinstance(text, str) else [""]
    if before or not parts or parts[-2] != "Assistant":
        raise UserError(f'{where}: "{key}" is no dialogue that ends with an "Assistant:" turn')
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Turn(SPEAKERS[speaker], said.strip()) for speaker, said in turns)  # type: ignore[arg-type]


def read_pairs(file: epath.Path) -> Iterator[Ranking | str]:
    for where, row in rows_of(file):
        sides = [_conversation(row, key, where) for key in ("chosen", "rejected")]
        (*turns, chosen), (*others, rejected) = sides
        if turns != others:
            raise UserError(f'{where}: "chosen" and "rejected" answer different prompts')
        yield Ranking(tuple(turns), (chosen.text, rejected.text), (1, 2))


def _conversation(row: Mapping[str, Any], key: str, where: str) -> tuple[Turn, ...]:
    """The whole conversation that ends with the answer under `key`. A text is a turn of the side that it stands for; a
    list under `key` may hold the prompt again, or alone."""
    before = row.get("conversations", row.get("prompt", [] if isinstance(row.get(key), list) else None))
    if before is None or key not in row:
        raise UserError(f'{where}: no "{key}" behind "conversations" or a "prompt"')
    kind, role, text, user, assistant = ("messages", "role", "content", "user", "assistant")
    if "conversations" in row:
        kind, role, text, user, assistant = ("conversations", "from", "value", "human", "gpt")

    def turns(value: Any, speaker: str) -> list[Any]:
        value = {role: speaker, text: value} if isinstance(value, str) else value
        return value if isinstance(value, list) else [value]

    answer = turns(row[key], assistant)
    (found,) = conversations_of({kind: answer if len(answer) > 1 else [*turns(before, user), *answer]}, where)
    return found


def read_tldr(file: epath.Path) -> Iterator[Ranking | str]:
    columns = ("query", "postprocessed_response", "reference_responses", "preferred")
    for where, row in rows_of(file):
        if lacking := [column for column in columns if column not in row]:
            raise UserError(f"{where}: no column {lacking[0]}")
        query, ours, reference, preferred = (row[column] for column in columns)
        if preferred not in ("ours", "reference") or not query or ours is None or reference is None:
            raise UserError(f'{where}: "preferred" is neither ours nor reference, or a text lacks')
        ranks = (1, 2) if preferred == "ours" else (2, 1)
        yield Ranking((Turn("user", query.strip()),), (ours.strip(), reference.strip()), ranks, reference=1)


def read_rankings(file: epath.Path) -> Iterator[Ranking]:
    for number, row in json_rows(file):
        yield ranking_of(row, f"{file}, line {number}")


def ranking_of(row: Mapping[str, Any], where: str) -> Ranking:
    """A line of lmjax's own form. Raises UserError for others, and for fewer than two answers."""
    turns, answers, ranks = (row.get(key) for key in ("turns", "answers", "ranks"))
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(f'{where}: no "turns", a list of {{"role": ..., "text": ...}}')
    if not all(turn.get("role") in OPENAI and isinstance(turn.get("text"), str) for turn in turns):
        raise UserError(f'{where}: a turn has a "role" (one of {", ".join(OPENAI)}) and a "text"')
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise UserError(f'{where}: no "answers", a list of texts')
    if len(answers) < 2:
        raise UserError(f"{where}: fewer than two answers; there is nothing to compare")
    roles = [turn["role"] for turn in turns]
    if roles[-1] != "user" or "system" in roles[1:]:
        found = ", ".join(roles)
        raise UserError(f"{where}: its turns end with the user's, and only the first may be a system's; found {found}")
    counted = isinstance(ranks, list) and all(type(rank) is int and rank > 0 for rank in ranks)
    if ranks is not None and not (counted and len(ranks) == len(answers)):
        raise UserError(
            f'{where}: "ranks" is neither null nor a whole number from 1 for each of {len(answers)} answers'
        )
    reference = row.get("reference")
    if reference is not None and not (type(reference) is int and 0 <= reference < len(answers)):
        raise UserError(f'{where}: "reference" is not the place of an answer, 0 to {len(answers) - 1}')
    if not all(isinstance(turn.get("input", ""), str) for turn in turns):
        raise UserError(f'{where}: the "input" of a turn is no text')
    said = tuple(Turn(turn["role"], turn["text"], turn.get("input", "")) for turn in turns)
    places = None if ranks is None else tuple(sum(other < rank for other in ranks) + 1 for rank in ranks)
    return Ranking(said, tuple(answers), places, reference)


def read_prompts(path: epath.PathLike) -> list[tuple[str, tuple[Turn, ...]]]:
    """(where it stands, turns) of each prompt of a file: of .txt a line each, blank ones passed over; of JSON (a list
    or lines) or .csv see `prompts_of`.

    Raises:
      UserError: anything else; no prompt.
    """
    file = epath.Path(path).expanduser()
    if ".txt" in file.suffixes:
        lines = ((f"{file}, line {number}", line.strip()) for number, line in enumerate(read_lines(file, "utf-8"), 1))
        found = [(where, (Turn("user", line),)) for where, line in lines if line]
    else:
        found = [(where, turns) for where, row in rows_of(file) for turns in prompts_of(row, where)]
    if not found:
        raise UserError(f"{file} holds no prompt")
    return found


def prompts_of(row: dict[str, Any], where: str) -> list[tuple[Turn, ...]]:
    """The prompts of a row: a "prompt" (a text, or TRL's messages), a ranking's "turns", what stands before
    hh-rlhf's or a pair's "chosen" answer, or conversations without their last answer. Raises UserError for others."""
    if "turns" in row:
        return [ranking_of(row, where).turns]
    if "chosen" in row:
        is_dialogue = "prompt" not in row and isinstance(row["chosen"], str)
        read = _dialogue if is_dialogue and "conversations" not in row else _conversation
        if not (turns := read(row, "chosen", where)[:-1]):
            raise UserError(f"{where}: nothing stands before the answer")
        return [turns]
    if isinstance(row.get("prompt"), str):
        return [(Turn("user", row["prompt"].strip()),)]
    if isinstance(row.get("prompt"), list):
        return [_conversation({**row, "answer": "-"}, "answer", where)[:-1]]
    if not row.keys() & KEYS:
        raise UserError(f'{where}: no text "prompt", and neither "turns", "chosen" nor a conversation')
    return [conversation[:-1] for conversation in conversations_of(row, where)]


def as_row(ranking: Ranking) -> dict[str, Any]:
    """The inverse of `ranking_of`."""
    turns = [{key: value for key, value in turn._asdict().items() if value or key == "text"} for turn in ranking.turns]
    row = {"turns": turns, "answers": list(ranking.answers), "ranks": ranking.ranks and list(ranking.ranks)}
    return row if ranking.reference is None else {**row, "reference": ranking.reference}


FORMS = {
    "hh_rlhf": Form(read_hh_rlhf, {"train": "train", "heldout": "test"}, ("jsonl",)),
    "pairs": Form(read_pairs, {"train": "train", "heldout": "test"}, ("json", "jsonl")),
    "tldr": Form(read_tldr, {"train": "train", "heldout": "validation"}, ("csv",)),
    "rankings": Form(read_rankings, {"train": "train", "heldout": "heldout"}, ("jsonl",)),
}
