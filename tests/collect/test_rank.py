"""A person's choices: what the ranker asks, takes and saves, and the page that asks in a browser."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lmjax.collect.rank import parse_order, rank, write_page
from lmjax.errors import UserError

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        {"turns": [{"role": "user", "text": f"question {i}"}], "answers": [EVIL, "b", "c"][: 2 + i % 2], "ranks": None}
        for i in range(4)
    ]
    rows[0] |= {"ranks": [1, 2], "by": "somebody"}
    rows[1]["turns"][0]["input"] = "its input"
    path = tmp_path / "r.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def ranks(file: Path) -> list[list[int] | None]:
    return [json.loads(line)["ranks"] for line in file.read_text().splitlines()]


def typed(*keys: str) -> Callable[[str], str]:
    left = iter(keys)

    def ask(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return ask


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("2 1 3", [2, 1, 3]),
        ("2 1=3", [2, 1, 2]),
        ("3=1 > 2", [1, 3, 1]),
        ("1 = 2 = 3", [1, 1, 1]),
        ("3 2=1", [2, 2, 1]),
    ],
)
def test_an_order_becomes_ranks(said: str, found: list[int]) -> None:
    assert parse_order(said, 3) == found


@pytest.mark.parametrize("said", ["", "1 2", "1 2 2", "1 2 4", "1 2 3 1", "x", "1,2,3"])
def test_what_is_no_order_is_said(said: str) -> None:
    assert parse_order(said, 3) == "each of the numbers 1 to 3 once, the best first"


def test_each_choice_is_saved_and_one_may_stop_and_go_on(file: Path) -> None:
    shown: list[str] = []
    rank(file, typed("2 3", "s", "?", "2=1", "q"), shown.append)  # the first is no order of three answers
    assert ranks(file) == [[1, 2], None, [1, 1], None]
    assert "2 of 4 ranked" in shown[-1]
    assert "question 0" not in "".join(shown)
    assert "user: question 1\n\nits input\n\n[1] " in shown[1]
    rank(file, typed("3 2 1"), shown.append)  # and the input ends
    assert ranks(file) == [[1, 2], [3, 2, 1], [1, 1], None]
    rank(file, typed("s", "2 1 3"), shown.append)  # skipped to the end: nothing is asked any more
    assert ranks(file)[3] is None
    rank(file, typed("1 2 3"), shown.append)
    assert ranks(file)[3] == [1, 2, 3]
    assert json.loads(file.read_text().splitlines()[0])["by"] == "somebody"


def test_one_may_step_back(file: Path) -> None:
    rank(file, typed("1 2 3", "b", "3 2 1", "2 1"), lambda line: None)
    assert ranks(file)[1:3] == [[3, 2, 1], [2, 1]]


def test_the_last_choice_too_may_be_taken_back(file: Path) -> None:
    asked: list[str] = []
    keys = typed("1 2 3", "1 2", "1 2 3", "b", "3 2 1", "")
    rank(file, lambda prompt: asked.append(prompt) or keys(prompt), lambda line: None)
    assert ranks(file)[1:] == [[1, 2, 3], [1, 2], [3, 2, 1]]
    assert [prompt.startswith("that was the last one") for prompt in asked] == [False] * 3 + [True, False, True]


def test_a_page_holds_the_texts_as_texts(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "rank.html"
    write_page(file, page)
    text = page.read_text()
    assert text.count("</script>") == 2
    assert EVIL not in text
    data = text.split('<script type="application/json" id=data>')[1].split("</script>")[0]
    assert json.loads(data)["rows"][0]["answers"][0] == EVIL
    assert "http" not in text.replace("http-equiv", "")
    with pytest.raises(UserError, match="html exists already"):
        write_page(file, page)


STUB = """
const made = [], stored = {};
const node = () => { const n = {children: [], setAttribute() {}, appendChild(c) { n.children.push(c); return c },
  replaceChildren() { n.children = [] }, textContent: ""}; made.push(n); return n };
const ids = {data: {textContent: DATA}, tools: node(), shown: node()};
globalThis.document = {getElementById: id => ids[id], createElement: node};
globalThis.localStorage = {getItem: k => stored[k] ?? null, setItem: (k, v) => { stored[k] = v }};
"""


def test_the_page_gives_back_what_was_chosen(file: Path, tmp_path: Path) -> None:
    """Its script, run by node on a stub of a browser: chosen numbers become ranks, half-ranked prompts stay null."""
    if not (node := shutil.which("node")):
        pytest.skip("no node")
    write_page(file, tmp_path / "rank.html")
    text = (tmp_path / "rank.html").read_text()
    data = text.split("id=data>")[1].split("</script>")[0]
    script = text.split("<script>")[1].split("</script>")[0].replace('"use strict";', "")
    choices = "choose(0, 3); choose(1, 1); choose(2, 3); go(1); choose(0, 1); console.log(filled().join('\\n'));"
    choices = f"console.error(JSON.stringify(made.map(node => node.textContent))); {choices}"
    program = STUB.replace("DATA", json.dumps(data)) + script + choices
    done = subprocess.run([node, "-e", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "question 1\n\nits input" in json.loads(done.stderr)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["ranks"] for row in rows] == [[1, 2], [2, 1, 2], None, None]
    assert rows[0]["by"] == "somebody"
    assert rows[1]["answers"][0] == EVIL


def test_bad_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty.jsonl holds no ranking; `python -m lmjax sample` makes them"):
        rank(tmp_path / "empty.jsonl")
    with pytest.raises(UserError, match="unpack it first"):
        rank(tmp_path / "r.jsonl.gz")
