"""Instruction files in their four forms, and what is wrong with one, in one line that names the place."""

import json

import pytest

from lmjax.data.chat_template import Turn
from lmjax.data.conversations import read_conversations
from lmjax.errors import UserError

ALPACA = {"instruction": " Add.\n", "input": "1, 2", "output": "3"}
WANTED = (Turn("user", "Add.", "1, 2"), Turn("assistant", "3"))
CHAT = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Bye.")]


def read(tmp_path, content, name="data.json"):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
    return read_conversations(tmp_path / name)


def test_all_forms_are_read(tmp_path):
    plain = {"instruction": "Add.", "output": "3"}
    assert read(tmp_path, [ALPACA, plain]) == [WANTED, (Turn("user", "Add."), Turn("assistant", "3"))]
    two = {"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}, {"input": "", "output": "0"}]}
    lines = "\n".join(map(json.dumps, [two, ALPACA]))
    assert read(tmp_path, lines) == [WANTED, (Turn("user", "Add."), Turn("assistant", "0")), WANTED]
    turns = tuple(Turn(role, text) for role, text in CHAT)  # type: ignore[arg-type]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    messages = {"messages": [{"role": role, "content": text} for role, text in CHAT]}
    sharegpt = {"conversations": [{"from": names[role], "value": text} for role, text in CHAT]}
    assert read(tmp_path, f"\n{json.dumps(messages)}\n\n{json.dumps(sharegpt)}\n") == [turns, turns]


def test_judged_summaries_are_posts_and_references(tmp_path):
    wanted = [(Turn("user", "POST: a,\n\nTL;DR:"), Turn("assistant", "b"))]
    assert read(tmp_path, 'query,reference_responses,preferred\n"POST: a,\n\nTL;DR:", b,ours\n', "train.csv") == wanted
    with pytest.raises(UserError, match=r"train.csv, line 2: 1 columns, not 2"):
        read(tmp_path, "query,reference_responses\na\n", "train.csv")


def test_empty_answers_are_left_out_and_counted(tmp_path, capsys):
    assert read(tmp_path, [ALPACA, ALPACA | {"output": " "}]) == [WANTED]
    assert "data.json: 1 of 2 conversations left out, for an empty answer" in capsys.readouterr().err


def said(*roles):
    return {"messages": [{"role": role, "content": "a"} for role in roles]}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "a"}, "no conversation: it has text"),
        ({"instruction": "a"}, "no field 'output'"),
        ({"instruction": "a", "output": 3}, "'output' is int, not text"),
        ({"instruction": "", "output": "a"}, "'instruction' is empty"),
        ({"instruction": "a", "instances": {}}, "'instances' is not a list"),
        ({"instruction": "a", "instances": []}, "'instances' is not a list of objects, or an empty one"),
        ({"messages": [{"role": "user"}]}, "no field 'content'"),
        ({"messages": ["a"]}, "turns are not a list of objects"),
        (said("user", "asistant"), "unknown role 'asistant'; did you mean 'assistant'"),
        (said("user"), "found user"),
        (said(), "found no turn"),
        (said("user", "assistant", "system"), "found user, assistant, system"),
        (said("user", "user", "assistant", "assistant"), "found user, user"),
        ("a", "not a JSON object"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, complaint):
    with pytest.raises(UserError, match=rf"data\.json, row 2: .*{complaint}"):
        read(tmp_path, [ALPACA, row])
    with pytest.raises(UserError, match=rf"data\.jsonl, line 3: .*{complaint}"):
        read(tmp_path, f"{json.dumps(ALPACA)}\n\n{json.dumps(row)}", "data.jsonl")


def test_bad_json_is_named_by_its_line(tmp_path):
    with pytest.raises(UserError, match=r"data\.json, line 3: not JSON"):
        read(tmp_path, '[\n{"instruction": "a", "output": "b"},\n{"instruction" "a"}]')
    with pytest.raises(UserError, match=r"data\.json, line 2: not JSON"):
        read(tmp_path, f"{json.dumps(ALPACA)}\n{{")


def test_real_files(shared_data):
    """Alpaca, its translation, Self-Instruct's seed tasks and judged summaries, by the numbers of their README."""
    names = ("alpaca/alpaca_train.json", "alpaca_gpt4_demo/alpaca_zh_demo.json", "self_instruct/seed_tasks.jsonl")
    names += ("tldr_judged/train.csv",)
    found = [read_conversations(shared_data(name)) for name in names]
    assert [len(conversations) for conversations in found] == [4499, 800, 175, 800]  # one of 4500 answers is empty
    assert sum(bool(question.input) for question, _ in found[0]) == 1751
