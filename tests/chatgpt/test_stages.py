"""The whole recipe, at a size that teaches nothing: each step stands on the one before, and is done once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from matplotlib.image import imread

import lmjax
from lmjax.chatgpt import stages, world
from lmjax.chatgpt.measure import estimate, measured
from lmjax.chatgpt.recipe import ANSWER, CANDIDATES, Recipe
from lmjax.chatgpt.results import table
from lmjax.collect.sample import sample
from lmjax.data.chat_template import Turn
from lmjax.data.preferences import read_prompts, read_rankings
from lmjax.errors import UserError
from lmjax.generate import Sampling, generate
from lmjax.rlhf.reward_model import scorer
from lmjax.rlhf.scores import load_reward_model, reward_function
from tests.rlhf.mdp import on_devices

TINY = Recipe(
    pages=200, steps=4, demonstrations=160, choices=40, iterations=2, batch_size=16, tests=24, seed=1, coefficient=0.5
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chatgpt")
    with on_devices(1):
        stages.chatgpt(replace(TINY, directory=str(root)))
    return root


def test_what_it_leaves_behind(root: Path) -> None:
    found = json.loads((root / "results.json").read_text())
    assert list(found["stages"]) == ["pretrained", "tuned", "PPO"]
    assert list(found["course"]) == ["1", "2"]  # a checkpoint each
    assert found["stages"]["tuned"]["kl"] == [0, 0]  # from itself
    assert found["stages"]["pretrained"]["kl"][0] > 0
    assert found["course"]["2"] == found["stages"]["PPO"]
    truths = [found["stages"][name]["true_reward"][0] for name in ("PPO", "tuned")]
    assert found["gain"][0] == pytest.approx(truths[0] - truths[1])
    heldout = [stages.rewards_of(one) for one in read_rankings(root / "world/choices_heldout.jsonl")]
    assert found["judge"]["ceiling"] == world.best_accuracy(heldout)
    assert imread(root / "results.png").shape[1] > 1000
    shown = table(found)
    assert shown.splitlines()[1].startswith("pretrained, merely prompted")
    assert "{:.2f} ± {:.2f}".format(*found["stages"]["PPO"]["true_reward"]) in shown
    for run in ("pretrained", "tuned", "judge", "policy"):
        assert (root / run / "report.html").exists()


def test_the_last_report_shows_what_each_stage_said(root: Path) -> None:
    """Of the same questions; drawn anew from each stage."""
    found = json.loads((root / "results.json").read_text())["samples"]
    asked = [turns for _, turns in read_prompts(root / "world/tests.jsonl")]
    *_, shown = json.loads((root / "policy/samples.json").read_text())
    assert len(found) == len(shown["rows"]) - 1 == stages.SAMPLES
    for name, run in {"pretrained": "pretrained", "tuned": "tuned/best", "PPO": "policy"}.items():
        lm = lmjax.load(root / run)
        prompts = [[*lm.tokenizer.encode(turns[-1].text), *lm.tokenizer.encode("\n")] for turns in asked]
        new = generate(lm.config, lm.params, prompts, Sampling(ANSWER), eos_id=lm.tokenizer.eos_id, seed=TINY.seed)
        for one, turns, tokens in zip(found, asked, new, strict=False):
            answer = lm.tokenizer.decode(tokens).strip()
            assert one["asked"] == turns[-1].text
            assert one["right"] == world.right_answer(one["asked"])
            assert one[name] == [answer, world.true_reward(one["asked"], answer)]
    page = (root / "policy/report.html").read_text()
    assert all(f"<td>{one['asked']}</td><td>{one['right']}</td>" in page for one in found)


def test_what_is_held_out_stands_nowhere_else(root: Path) -> None:
    def asked(name: str) -> list[str]:
        return [turns[-1].text for _, turns in read_prompts(root / f"world/{name}.jsonl")]

    heldout = [*asked("asked_heldout"), *asked("tests")]
    assert len(set(heldout)) == TINY.choices // 5 + TINY.tests
    read = {*(root / "world/pages.txt").read_text().split("\n"), *asked("demonstrations"), *asked("asked")}
    assert not (read | {*asked("prompts")}) & {*heldout}


def test_choices_are_of_the_tuned_models_answers_by_their_true_rewards(root: Path) -> None:
    """Drawn anew, and ranked anew by the same rule."""
    lm = lmjax.load(root / "tuned/best")
    for number, (name, count) in enumerate({"": TINY.choices, "_heldout": TINY.choices // 5}.items()):
        ranked = list(read_rankings(root / f"world/choices{name}.jsonl"))
        prompts = read_prompts(root / f"world/asked{name}.jsonl")
        drawn = [one for one, _ in sample(lm, prompts, CANDIDATES, Sampling(ANSWER), 2 * TINY.seed + number, 32)]
        assert [one._replace(ranks=None) for one in ranked] == drawn
        assert len(ranked) == count
        rng = np.random.default_rng((TINY.seed, 6, number))
        wanted = [
            world.chosen_ranks([world.true_reward(one.turns[-1].text, answer) for answer in one.answers], rng)
            for one in drawn
        ]
        assert [list(one.ranks or ()) for one in ranked] == wanted


@pytest.mark.parametrize("lost", [("choices_heldout",), ("choices_heldout", "answers_heldout", "choices")])
def test_collecting_goes_on_where_it_was_killed(root: Path, tmp_path: Path, lost: tuple[str, ...]) -> None:
    folder = tmp_path / "world"
    shutil.copytree(root / "world", folder)
    for name in lost:
        (folder / f"{name}.jsonl").unlink()
    stages.collect(replace(TINY, directory=str(root)), epath.Path(folder))
    for file in folder.iterdir():
        assert file.read_bytes() == (root / "world" / file.name).read_bytes()


def test_the_figures_are_of_what_the_policy_says(root: Path) -> None:
    """Worked out anew: texts by `answer`, scores by `RewardModel`, log-probabilities from the logits of whole rows."""
    lm, tuned = lmjax.load(root / "policy"), lmjax.load(root / "tuned/best")
    judge, end = load_reward_model(root / "judge"), lm.tokenizer.eos_id
    asked = ["count: owl fox", "first: cat dog"]
    prompts = [[*lm.tokenizer.encode(one), *lm.tokenizer.encode("\n")] for one in asked]
    with on_devices(1):
        answers, found = measured(
            lm, tuned, scorer(judge.config, judge.params), dict(zip(asked, prompts, strict=True)), seed=3
        )
    new = generate(lm.config, lm.params, prompts, Sampling(ANSWER), eos_id=end, seed=3)
    texts = lm.answer([[Turn("user", one)] for one in asked], Sampling(ANSWER), seed=3)
    assert answers == texts
    assert found["true_reward"].tolist() == [*map(world.true_reward, asked, texts)]
    assert found["polite"].tolist() == [text.startswith(world.COURTESY) for text in texts]
    assert found["ended"].tolist() == [len(answer) < ANSWER for answer in new]
    score = jax.jit(reward_function(judge.config))
    for row, (prompt, answer) in enumerate(zip(prompts, new, strict=True)):
        tokens = np.array([[*prompt, *answer, *[end] * (len(answer) < ANSWER)]], np.int32)
        last = np.array([tokens.shape[1] - 1])
        assert found["score"][row] == pytest.approx(float(score(judge.params, tokens, last)[0]), abs=1e-4)
        own, theirs = (log_softmax(model(tokens=tokens)["logits"][0]) for model in (lm, tuned))
        places = np.arange(len(prompt) - 1, tokens.shape[1] - 1)
        divergence = float(sum((own - theirs)[i, tokens[0, i + 1]] for i in places))
        assert found["kl"][row] == pytest.approx(divergence, abs=1e-4)


def test_the_same_command_again_trains_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for step in ("pretrain", "finetune", "collect", "align", "write_results"):
        monkeypatch.setattr(stages, step, lambda *_: pytest.fail("it was done"))
    stages.chatgpt(replace(TINY, directory=str(root)))
    said = capsys.readouterr().out
    assert said.count(": done") == 6
    assert "supervised tuning" in said


def test_another_recipe_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"config: coefficient \(0.5 -> 0.1\); choose another run directory"):
        stages.chatgpt(replace(TINY, directory=str(root), coefficient=0.1))


@pytest.mark.parametrize("change", [{"seed": -1}, {"iterations": 0}, {"coefficient": -0.1}])
def test_a_bad_recipe_leaves_nothing_behind(tmp_path: Path, change: dict) -> None:
    with pytest.raises(UserError):
        stages.chatgpt(replace(TINY, directory=str(tmp_path / "new"), **change))
    assert not (tmp_path / "new").exists()


def test_an_interval_is_of_the_mean() -> None:
    """19 of 20 such intervals hold the true mean."""
    rng = np.random.default_rng(0)
    means, halves = np.array([estimate(rng.exponential(2, 400)) for _ in range(2000)]).T
    assert np.mean(np.abs(means - 2) < halves) == pytest.approx(0.95, abs=0.015)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
