"""Rankings from each form of file; what is refused, and what is left out and counted."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from etils import epath

from lmjax.data.chat_template import Turn, named_template
from lmjax.data.preferences import Ranking, answer_tokens, as_row, ranking_of, read_prompts, read_ranked
from lmjax.errors import UserError
from tests.tiny_runs import SENTENCES, tiny_tokenizer

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "
SAID = (Turn("user", "Hi"), Turn("assistant", "Hello"), Turn("user", "Why?"))
RANKING = {"turns": [{"role": "user", "text": "Hi"}], "answers": ["a", "b", "c"], "ranks": [2, 1, 2]}


def lines(path: Path, *rows: object) -> epath.Path:
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return epath.Path(path)


def test_hh_rlhf_is_cut_before_the_last_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = f"{HUMAN}Hi{ASSISTANT}Hello{HUMAN}Why?"
    rows = [
        {"chosen": f"{before}{ASSISTANT}So:\n\nit is", "rejected": f"{before}\n\nAssistant:"},
        {"chosen": f"{HUMAN}a{ASSISTANT}x", "rejected": f"{HUMAN}b{ASSISTANT}y"},
        {"chosen": f"{ASSISTANT}x", "rejected": f"{ASSISTANT}y"},
    ]
    found = read_ranked(lines(tmp_path / "train.jsonl.gz", *rows), "hh_rlhf")
    assert found == [Ranking(SAID, ("So:\n\nit is", ""), (1, 2))]
    left_out = "1 whose two dialogues differ before the last answer, 1 that begin with the answer"
    assert f"1 rankings; left out: {left_out}" in capsys.readouterr().out
    with pytest.raises(UserError, match="line 3: nothing stands before the answer"):
        read_prompts(tmp_path / "train.jsonl.gz")


def test_pairs_of_llama_factory_and_of_trl(tmp_path: Path) -> None:
    def turn(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    messages = [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "Why?")]
    shared = [{"from": {"user": "human", "assistant": "gpt"}[t.role], "value": t.text} for t in SAID]
    sides = {"chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}}
    answers = {key: [turn("assistant", text)] for key, text in (("chosen", "yes"), ("rejected", "no"))}
    whole = {key: [*messages, *answer] for key, answer in answers.items()}
    rows = [{"conversations": shared, **sides}, {"prompt": messages, **answers}, {"prompt": "Why?", **whole}, whole]
    expected = [Ranking(SAID, ("yes", "no"), (1, 2))] * 4
    assert read_ranked(lines(tmp_path / "a.jsonl", *rows), "pairs") == expected
    assert read_ranked(lines(tmp_path / "a.json", rows), "pairs") == expected
    plain = {"prompt": "Why?", "chosen": "yes", "rejected": "no"}
    assert read_ranked(lines(tmp_path / "b.jsonl", plain), "pairs") == [Ranking(SAID[2:], ("yes", "no"), (1, 2))]


def test_judged_summaries(tmp_path: Path) -> None:
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "postprocessed_response", "reference_responses", "explanation", "preferred"])
        writer.writerow(["POST: a,\n\nb\n\nTL;DR:", " ours", " theirs", "since", "reference"])
    found = read_ranked(epath.Path(tmp_path / "train.csv"), "tldr")
    assert found == [Ranking((Turn("user", "POST: a,\n\nb\n\nTL;DR:"),), ("ours", "theirs"), (2, 1), reference=1)]


def test_rankings_and_their_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [RANKING, {**RANKING, "ranks": None}, {**RANKING, "ranks": [5, 5, 9]}, {**RANKING, "ranks": [1, 1, 1]}]
    found = read_ranked(lines(tmp_path / "r.jsonl", *rows), "rankings")
    assert [one.ranks for one in found] == [(2, 1, 2), (1, 1, 3)]
    assert [one.pairs for one in found] == [[(1, 0), (1, 2)], [(0, 2), (1, 2)]]
    assert "2 rankings; left out: 1 not ranked, 1 all ties" in capsys.readouterr().out
    assert as_row(found[0]) == RANKING
    asked = Ranking((Turn("user", "Say", "this"),), ("a", "b"), None)
    assert ranking_of(json.loads(json.dumps(as_row(asked))), "") == asked
    marked = asked._replace(reference=1)
    assert ranking_of(json.loads(json.dumps(as_row(marked))), "") == marked


REFUSED: list[tuple[str, object, str]] = [
    ("rankings", "{bad", "x.jsonl, line 2: not JSON"),
    ("rankings", {**RANKING, "answers": ["a"]}, "line 2: fewer than two answers"),
    ("rankings", {**RANKING, "ranks": [1, 2]}, "line 2: \"ranks\" is neither null .* for each of 3 answers"),
    ("rankings", {**RANKING, "ranks": [0, 1, 2]}, "line 2: \"ranks\" is neither null"),
    ("rankings", {**RANKING, "reference": 3}, "line 2: \"reference\" is not the place of an answer, 0 to 2"),
    ("rankings", {**RANKING, "turns": "Hi"}, "line 2: no \"turns\""),
    ("rankings", {**RANKING, "turns": [{"role": "bot", "text": "Hi"}]}, "line 2: a turn has a \"role\""),
    ("rankings", {**RANKING, "turns": [{"role": "assistant", "text": "a"}]}, "line 2: its turns end with the user's"),
    ("rankings", {**RANKING, "turns": [{"role": "user", "text": "\ud800"}]}, "line 2: '.ud800' is half of a character"),
    ("rankings", {**RANKING, "turns": [{"role": "user", "text": "a", "input": 5}]}, "line 2: the \"input\" of a turn"),
    ("hh_rlhf", {"chosen": "Hi", "rejected": "Hi"}, "line 2: \"chosen\" is no dialogue"),
    ("hh_rlhf", {"chosen": f"{HUMAN}a{ASSISTANT}b"}, "line 2: \"rejected\" is no dialogue"),
    ("hh_rlhf", {"chosen": f"{HUMAN}a", "rejected": ""}, "line 2: \"chosen\" is no dialogue"),
    ("pairs", {"chosen": "a", "rejected": "b"}, "line 2: no \"chosen\" behind \"conversations\" or a \"prompt\""),
    ("pairs", {"prompt": "a", "chosen": "b"}, "line 2: no \"rejected\" behind"),
    ("pairs", {"prompt": "a", "chosen": 3, "rejected": "b"}, "line 2: its turns are not a list of objects"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "message"), REFUSED)
def test_bad_lines_are_refused_with_file_and_line(name: str, row: object, message: str, tmp_path: Path) -> None:
    good = {
        "rankings": RANKING,
        "hh_rlhf": {"chosen": f"{HUMAN}a{ASSISTANT}b", "rejected": f"{HUMAN}a{ASSISTANT}c"},
        "pairs": {"prompt": "a", "chosen": "b", "rejected": "c"},
    }
    with pytest.raises(UserError, match=message) as error:
        read_ranked(lines(tmp_path / "x.jsonl", good[name], row), name)
    assert "\n" not in str(error.value)


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    file = lines(tmp_path / "r.jsonl", {**RANKING, "ranks": None})
    with pytest.raises(UserError, match=r"of no two answers .* \(1 not ranked\); `python -m lmjax rank .*r.jsonl`"):
        read_ranked(file, "rankings")
    with pytest.raises(UserError, match="1 all ties"):
        read_ranked(lines(tmp_path / "t.jsonl", {**RANKING, "ranks": [1, 1, 1]}), "rankings")
    (tmp_path / "x.csv").write_text("query,preferred\na,ours\n")
    with pytest.raises(UserError, match="no column postprocessed_response"):
        read_ranked(epath.Path(tmp_path / "x.csv"), "tldr")
    with pytest.raises(UserError, match="unknown form of rankings 'ranking'; did you mean 'rankings'"):
        read_ranked(file, "ranking")


def test_prompts_from_each_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Hi\n\n  Why? \n")
    rows = [{"prompt": "Hi"}, RANKING, {"instruction": "Say", "input": "this", "output": "that"}]
    asked = [(Turn("user", "Hi"),), (Turn("user", "Hi"),), (Turn("user", "Say", "this"),)]
    before = f"{HUMAN}Hi{ASSISTANT}Hello{HUMAN}Why?"
    rows += [{"chosen": f"{before}{ASSISTANT}x", "rejected": "-"}, {"prompt": "Why?", "chosen": "x", "rejected": "y"}]
    messages = [{"role": one.role, "content": one.text} for one in SAID]
    rows += [{"prompt": messages}, {"chosen": [*messages, {"role": "assistant", "content": "x"}], "rejected": []}]
    asked += [SAID, SAID[2:], SAID, SAID]
    assert [turns for _, turns in read_prompts(lines(tmp_path / "p.jsonl", *rows))] == asked
    (tmp_path / "p.csv").write_text('query,reference_responses\n"POST: a,\n\nTL;DR:", b\n')
    assert read_prompts(tmp_path / "p.csv") == [(f"{tmp_path}/p.csv, line 4", (Turn("user", "POST: a,\n\nTL;DR:"),))]
    found = read_prompts(tmp_path / "p.txt")
    assert [turns for _, turns in found] == [(Turn("user", "Hi"),), (Turn("user", "Why?"),)]
    assert found[1][0].endswith("p.txt, line 3")
    for row in ({"text": "Hi"}, {"prompt": 3}):
        with pytest.raises(UserError, match=r'p\.jsonl, line 2: no text "prompt", and neither "turns", "chosen" nor'):
            read_prompts(lines(tmp_path / "p.jsonl", {"prompt": "Hi"}, row))
    with pytest.raises(UserError, match=r"p\.jsonl holds no prompt"):
        read_prompts(lines(tmp_path / "p.jsonl"))


def test_every_answer_follows_the_same_prompt() -> None:
    tokenizer = tiny_tokenizer("byte_bpe")
    with pytest.raises(UserError, match=r"no chat template: begin with a tuned one, or name one by task\.template"):
        answer_tokens(tokenizer, SAID, ["x"])
    tokenizer = tokenizer.with_chat_template(named_template("plain"))
    texts, prompt = answer_tokens(tokenizer, SAID, [SENTENCES[0], "", SENTENCES[1]])
    assert len({tuple(text[:prompt]) for text in texts}) == 1
    assert [tokenizer.decode(text[prompt:-1]) for text in texts] == [SENTENCES[0], "", SENTENCES[1]]
    assert {text[-1] for text in texts} == {tokenizer.eos_id}


@pytest.mark.parametrize(
    ("file", "name", "count"),
    [
        ("hh_rlhf_harmless/dev.jsonl.gz", "hh_rlhf", 182),
        ("dpo_demo/dpo_en.json", "pairs", 240),
        ("tldr_judged/train.csv", "tldr", 800),
    ],
)
def test_real_files(file: str, name: str, count: int, shared_data: Callable[[str], Path]) -> None:
    found = read_ranked(epath.Path(shared_data(file)), name)
    assert len(found) == count
    assert all(len(one.answers) == 2 and one.turns[-1].role == "user" for one in found)
    assert [turns for _, turns in read_prompts(shared_data(file))] == [one.turns for one in found]
