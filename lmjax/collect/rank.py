"""A person fills a file of rankings: in the terminal, saved after each, or on a page of its own (`collect.page`)."""

import html
import json
from collections.abc import Callable
from typing import Any

from etils import epath

from lmjax.collect.page import PAGE
from lmjax.data.examples import digest_of
from lmjax.data.files import json_rows
from lmjax.data.preferences import ranking_of
from lmjax.errors import UserError
from lmjax.train.files import write_atomically

HELP = """  2 1=3   the second answer is best, the first and third are equally good
  s       skip this prompt, for another time     b   back to the one before
  q       quit; what was ranked is saved         ?   this help"""


def read_rows(file: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a file of rankings, whatever else they hold. Raises UserError for others, and for none."""
    path = epath.Path(file)
    if path.suffix == ".gz":
        raise UserError(f"{path}: unpack it first; ranks are written into the file")
    rows = []
    for number, row in json_rows(path):
        ranking_of(row, f"{path}, line {number}")
        rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no ranking; `python -m lmjax sample` makes them")
    return rows


def rank(file: epath.PathLike, ask: Callable[[str], str] = input, show: Callable[[str], None] = print) -> None:
    """Asks for the ranks of all that have none, and writes the file after each. The same command goes on later."""
    rows = read_rows(file)
    todo = [number for number, row in enumerate(rows) if row.get("ranks") is None]
    show(f"{len(rows) - len(todo)} of {len(rows)} are ranked. The numbers of the answers, the best first:\n{HELP}")
    place = 0
    while todo:
        left = todo[place:]
        if left:
            show(_shown(rows[left[0]], left[0] + 1, len(rows)))
        try:
            said = ask("order> " if left else "that was the last one; b goes back, Enter ends> ").strip().lower()
        except EOFError:
            said = "q"
        if said == "q" or (not left and said != "b"):
            break
        if said in ("s", "b"):
            place = max(0, place + (1 if said == "s" else -1))
            continue
        row = rows[left[0]]
        ranks = parse_order(said, len(row["answers"]))
        if isinstance(ranks, str):
            show(HELP if said == "?" else f"  {ranks}\n{HELP}")
            continue
        row["ranks"] = ranks
        write_atomically(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        place += 1
    left = sum(row.get("ranks") is None for row in rows)
    show(f"{file}: {len(rows) - left} of {len(rows)} ranked")


def parse_order(said: str, answers: int) -> list[int] | str:
    """`2 1=3` as ranks [2, 1, 2], or what is wrong with it. Equally good ones share the better rank."""
    groups = [group.split("=") for group in said.replace(" =", "=").replace("= ", "=").replace(">", " ").split()]
    names = [name for group in groups for name in group]
    if sorted(names) != sorted(map(str, range(1, answers + 1))):
        return f"each of the numbers 1 to {answers} once, the best first"
    ranks, rank = [0] * answers, 1
    for group in groups:
        for name in group:
            ranks[int(name) - 1] = rank
        rank += len(group)
    return ranks


def _shown(row: dict[str, Any], number: int, total: int) -> str:
    inputs = [f"\n\n{turn['input']}" if turn.get("input") else "" for turn in row["turns"]]
    turns = [f"{turn['role']}: {turn['text']}{given}" for turn, given in zip(row["turns"], inputs, strict=True)]
    answers = [f"[{i}] {answer or '(empty)'}" for i, answer in enumerate(row["answers"], 1)]
    return "\n\n".join([f"--- {number} of {total} ---", *turns, *answers, ""])


def write_page(file: epath.PathLike, out: epath.PathLike) -> None:
    """Writes the page on which a file of rankings is filled; it gives the filled file back as a download.

    Raises:
      UserError: `out` is there already.
    """
    rows, file, out = read_rows(file), epath.Path(file), epath.Path(out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another --html, or delete it")
    content = {"name": file.name, "digest": digest_of([file]), "rows": rows}
    data = json.dumps(content).replace("<", "\\u003c")  # no text ends the script
    write_atomically(out, PAGE.replace("@title@", html.escape(file.name)).replace("@data@", data))
