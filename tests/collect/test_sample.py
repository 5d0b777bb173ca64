"""Answers that are drawn for people to rank: what is written, what decides them, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lmjax import commands
from lmjax.collect.sample import sample
from lmjax.data.chat_template import Turn, named_template
from lmjax.data.preferences import ranking_of
from lmjax.errors import UserError
from lmjax.generate import Sampling
from lmjax.interop import LanguageModel, load
from tests.tiny_runs import SENTENCES, write_run

SAMPLING = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a chat template, as a Hugging Face directory."""
    root = tmp_path_factory.mktemp("tuned")
    write_run("gpt2", root / "run")
    lm = load(root / "run")
    template = named_template("plain")
    LanguageModel(lm.config, lm.heads, lm.params, lm.tokenizer.with_chat_template(template)).save_hf(root / "tuned")
    return root / "tuned"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("\n".join(sentence[:10] for sentence in SENTENCES[:3]) + "\n")
    return tmp_path / "prompts.txt"


def test_sample_writes_rankings_for_people_to_fill(
    tuned: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    arguments = [
        "sample",
        str(tuned),
        "--prompts",
        str(prompts),
        "--n",
        "3",
        "--max-new-tokens",
        "6",
        "--out",
        str(out),
    ]
    commands.run(arguments)
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = [ranking_of(row, "") for row in rows]
    assert [one.turns for one in found] == [(Turn("user", sentence[:10].strip()),) for sentence in SENTENCES[:3]]
    assert all(len(one.answers) == 3 and one.ranks is None for one in found)
    assert len({answer for one in found for answer in one.answers}) > 3
    assert f"{out}: 9 answers to 3 prompts, " in said
    assert "cut off at 6 tokens" in said
    with pytest.raises(UserError, match="exists already; choose another --out, or delete it"):
        commands.run(arguments)


def test_answers_depend_on_the_seed_alone_and_no_batch_repeats_another(tuned: Path) -> None:
    lm = load(tuned)
    asked = ("line 1", (Turn("user", SENTENCES[0][:10]),))

    def answers(seed: int) -> list[tuple[str, ...]]:
        return [ranking.answers for ranking, _ in sample(lm, [asked] * 3, 2, SAMPLING, seed, 2)]

    first = answers(0)
    assert answers(0) == first
    assert len(set(first)) == 3
    assert set(answers(1)).isdisjoint(first)


def test_what_cannot_be_sampled_is_refused(tuned: Path, prompts: Path, tmp_path: Path) -> None:
    lm, short = load(tuned), [("p.txt, line 1", (Turn("user", "Hi"),))]
    with pytest.raises(UserError, match=r"p.txt, line 1: a prompt of \d+ tokens and 6 new ones exceed the model's 64"):
        list(sample(lm, [("p.txt, line 1", (Turn("user", "the dog " * 40),))], 2, SAMPLING, 0, 2))
    with pytest.raises(UserError, match="at least two answers make a choice"):
        list(sample(lm, short, 1, SAMPLING, 0, 2))
    for alike in ({"temperature": 0.0}, {"top_k": 1}):
        with pytest.raises(UserError, match="all answers to a prompt are the same"):
            list(sample(lm, short, 2, replace(SAMPLING, **alike), 0, 2))
    with pytest.raises(UserError, match="--seed -1 is negative"):
        list(sample(lm, short, 2, SAMPLING, -1, 2))
    with pytest.raises(UserError, match="there is no prompt"):
        list(sample(lm, [], 2, SAMPLING, 0, 2))
    untuned = load(tuned.with_name("run"))
    with pytest.raises(UserError, match="no chat template"):
        list(sample(untuned, short, 2, SAMPLING, 0, 2))
    with pytest.raises(UserError, match="no directory"):
        commands.run(["sample", str(tuned), "--prompts", str(prompts), "--out", str(tmp_path / "none/r.jsonl")])
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.txt"}
