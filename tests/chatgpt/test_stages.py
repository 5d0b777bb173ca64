"""The whole recipe, at a size that teaches nothing: each step stands on the one before, and is done once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import lmjax
from lmjax.chatgpt import stages, world
from lmjax.chatgpt.measure import figure, measured
from lmjax.chatgpt.recipe import ANSWER, CANDIDATES, Recipe
from lmjax.chatgpt.results import table
from lmjax.data.chat_template import Turn
from lmjax.data.preferences import read_rankings
from lmjax.errors import UserError
from lmjax.generate import Sampling, generate
from lmjax.rlhf.scores import load_reward_model
from tests.rlhf.mdp import on_devices

TINY = Recipe(
    pages=200, steps=4, demonstrations=64, choices=20, iterations=2, batch_size=16, tests=24, seed=1, coefficient=0.5
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
    assert 0.5 <= found["judge"]["best_possible"] <= 1
    assert imread(root / "results.png").shape[1] > 1000
    shown = table(found)
    assert shown.splitlines()[1].startswith("pretrained, merely prompted")
    assert "{:.2f} ± {:.2f}".format(*found["stages"]["PPO"]["true_reward"]) in shown
    for run in ("pretrained", "tuned", "judge", "policy"):
        assert (root / run / "report.html").exists()


def test_choices_are_of_the_tuned_models_answers(root: Path) -> None:
    for name, count in (("choices", TINY.choices), ("choices_heldout", TINY.choices // 5)):
        ranked = list(read_rankings(root / f"world/{name}.jsonl"))
        answers = list(read_rankings(root / f"world/{name.replace('choices', 'answers')}.jsonl"))
        assert [one._replace(ranks=None) for one in ranked] == answers
        assert len(ranked) == count
        assert all(sorted(one.ranks or ()) == [1, 2, 3, 4][:CANDIDATES] for one in ranked)


def test_the_figures_are_of_the_texts_that_the_policy_says(root: Path) -> None:
    """Worked out anew, without `evals.scoring`: texts drawn, log-probabilities from the logits of whole rows."""
    lm, tuned = lmjax.load(root / "policy"), lmjax.load(root / "tuned/best")
    judge = load_reward_model(root / "judge")
    asked = ["count: owl fox", "first: cat dog"]
    found = measured(lm, tuned, judge, asked, seed=3)
    turns = [[Turn("user", one)] for one in asked]
    texts = lm.answer(turns, Sampling(ANSWER), seed=3)
    scores = [judge.score(turn, [text])[0] for turn, text in zip(turns, texts, strict=True)]
    assert found["score"] == pytest.approx(figure(scores), abs=1e-4)
    assert found["true_reward"] == pytest.approx(figure([*map(world.true_reward, asked, texts)]))
    ids = [[*lm.tokenizer.encode(f"User:\n{one}\n\n"), *lm.tokenizer.encode("Assistant:\n")] for one in asked]
    new = generate(lm.config, lm.params, ids, Sampling(ANSWER), eos_id=lm.tokenizer.eos_id, seed=3)
    divergences = []
    for prompt, answer in zip(ids, new, strict=True):
        answer = answer + [lm.tokenizer.eos_id] * (len(answer) < ANSWER)
        row = np.array([[*prompt, *answer]], np.int32)
        both = [log_softmax(model(tokens=row)["logits"][0]) for model in (lm, tuned)]
        at = np.arange(len(prompt) - 1, row.shape[1] - 1)
        divergences.append(sum((both[0] - both[1])[i, row[0, i + 1]] for i in at))
    assert found["kl"] == pytest.approx(figure(divergences), abs=1e-4)


def test_the_same_command_again_trains_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for step in ("pretrain", "finetune", "collect", "align", "write_results"):
        monkeypatch.setattr(stages, step, lambda *_: pytest.fail("it was done"))
    stages.chatgpt(replace(TINY, directory=str(root)))
    said = capsys.readouterr().out
    assert said.count(": done") == 6
    assert "supervised tuning" in said


def test_another_recipe_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"was begun with coefficient 0.5, not 0.1; choose another"):
        stages.chatgpt(replace(TINY, directory=str(root), coefficient=0.1))


def test_an_interval_is_of_the_mean() -> None:
    """19 of 20 such intervals hold the true mean."""
    rng = np.random.default_rng(0)
    means, halves = np.array([figure(rng.exponential(2, 400)) for _ in range(2000)]).T
    assert np.mean(np.abs(means - 2) < halves) == pytest.approx(0.95, abs=0.015)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
