"""Files of instructions and conversations: Alpaca's JSON, Self-Instruct's JSON lines, two forms of conversations, and
judged summaries.

What a row is, its own keys say:
  instruction, output, perhaps input: Alpaca (Taori et al. 2023);
  instruction, instances with input and output: Self-Instruct's seed tasks (Wang et al. 2023), an example an instance;
  messages of role and content: system, user, assistant;
  conversations of from and value: system, human, gpt;
  query and reference_responses: a post and its reference summary (the judged TL;DR's csv).
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from lmjax.data.chat_template import Role, Turn
from lmjax.data.files import check_encodable, csv_rows, json_rows, read_lines
from lmjax.errors import UserError, did_you_mean

Conversation = tuple[Turn, ...]
KEYS = {"instruction", "messages", "conversations", "reference_responses"}  # one of them is in each form
OPENAI: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
SHAREGPT: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}


def read_conversations(path: epath.PathLike) -> list[Conversation]:
    """The conversations of a file, one JSON list, JSON lines or .csv, plain or .gz. Those with an empty answer are left
    out, and their number is printed.

    Raises:
      UserError: a file that cannot be read, bad JSON, or a row that is no conversation, by its line or number.
    """
    path = epath.Path(path).expanduser()
    found = [conversation for where, row in rows_of(path) for conversation in conversations_of(row, where)]
    answered = [c for c in found if all(turn.text for turn in c if turn.role == "assistant")]
    if left_out := len(found) - len(answered):
        said = f"{left_out} of {len(found)} conversations left out, for an empty answer"
        print(f"lmjax: {path}: {said}", file=sys.stderr)
    return answered


def rows_of(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, row) of a JSON list of objects, of JSON lines or of a .csv. Raises UserError for others."""
    if ".csv" in path.suffixes:
        _, header = next(rows := csv_rows(path), (0, []))
        for number, row in rows:
            if len(row) != len(header):
                raise UserError(f"{path}, line {number}: {len(row)} columns, not {len(header)} ({', '.join(header)})")
            yield f"{path}, line {number}", dict(zip(header, row, strict=True))
        return
    lines = read_lines(path, "utf-8")
    if not next((line for line in lines if not line.isspace()), "").lstrip().startswith("["):
        yield from ((f"{path}, line {number}", row) for number, row in json_rows(path))
        return
    try:
        rows = json.loads("".join(read_lines(path, "utf-8")))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: not a JSON object")
        check_encodable(row, f"{path}, row {number}")
        yield f"{path}, row {number}", row


def conversations_of(row: dict[str, Any], where: str) -> list[Conversation]:
    """The conversations of a row; texts come without the whitespace around them.

    Raises:
      UserError: none of the five forms, a missing field or one that is no text, an unknown role, or turns that do not
        go from the user (behind a system turn, if there is one) to the assistant and back, the assistant's last.
    """
    if "messages" in row:
        return [_turns(row["messages"], "role", "content", OPENAI, where)]
    if "conversations" in row:
        return [_turns(row["conversations"], "from", "value", SHAREGPT, where)]
    if "reference_responses" in row:
        summary = Turn("assistant", _text(row, "reference_responses", where))
        return [(Turn("user", _text(row, "query", where)), summary)]
    if "instruction" not in row:
        known = "instruction (with output or instances), messages, conversations or reference_responses"
        raise UserError(f"{where}: no conversation: it has {', '.join(row) or 'no fields'}, and not {known}")
    instruction, instances = _text(row, "instruction", where), row.get("instances", [row])
    if not isinstance(instances, list) or not instances or not all(isinstance(one, dict) for one in instances):
        raise UserError(f"{where}: field 'instances' is not a list of objects, or an empty one")
    if not instruction:
        raise UserError(f"{where}: field 'instruction' is empty")
    return [
        (
            Turn("user", instruction, _text({"input": ""} | instance, "input", where)),
            Turn("assistant", _text(instance, "output", where)),
        )
        for instance in instances
    ]


def _turns(rows: Any, role: str, text: str, names: Mapping[str, Role], where: str) -> Conversation:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{where}: its turns are not a list of objects with {role} and {text}")
    for row in rows:
        if (named := _text(row, role, where)) not in names:
            raise UserError(f"{where}: unknown role '{named}'{did_you_mean(named, names)}")
    turns = tuple(Turn(names[_text(row, role, where)], _text(row, text, where)) for row in rows)
    spoken = [turn.role for turn in turns if turn.role != "system"]
    order = ["user", "assistant"] * max(1, len(spoken) // 2)
    if spoken != order or any(turn.role == "system" for turn in turns[1:]):
        found = ", ".join(turn.role for turn in turns) or "no turn"
        raise UserError(
            f"{where}: turns go user, assistant, ..., assistant, after system if that speaks; found {found}"
        )
    return turns


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise UserError(f"{where}: no field '{field}'{did_you_mean(field, row)}")
    if not isinstance(row[field], str):
        raise UserError(f"{where}: field '{field}' is {type(row[field]).__name__}, not text")
    return row[field].strip()
