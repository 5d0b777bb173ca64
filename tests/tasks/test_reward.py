"""The reward model: rows, where rewards are read, both losses beside plain loops, figures; and that it learns what
there is to learn."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import commands
from lmjax.data.chat_template import Turn, named_template
from lmjax.data.examples import Encoded
from lmjax.data.preferences import Ranking
from lmjax.data.tokenizers import TokenizerConfig, make_tokenizer
from lmjax.errors import UserError
from lmjax.interop import LanguageModel
from lmjax.models.architecture import init_params
from lmjax.models.gpt import ARCHITECTURE, GptConfig
from lmjax.models.wrapped import init_wrapped, wrap
from lmjax.rlhf.scores import load_reward_model
from lmjax.tasks import make_task
from lmjax.tasks.preferences import pair_figures
from lmjax.tasks.reward import RewardConfig, encode, terms
from tests.models.tiny import VOCAB
from tests.tasks.tiny_task import batch_of, model_of
from tests.tiny_runs import SENTENCES, tiny_tokenizer

ROOT = Path(__file__).parents[2]
ASKED = (Turn("user", SENTENCES[0]),)
FOUND = [Ranking(ASKED, ("The dog", "A river bank", "Nobody"), (2, 1, 2)), Ranking(ASKED, ("a", "b"), (1, 2), 0)]


def test_a_row_is_a_prompt_with_all_its_answers(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer("byte_bpe").with_chat_template(named_template("plain"))
    cfg = RewardConfig(data="rankings", candidates=3)
    split = encode(FOUND, tokenizer, 64, cfg, "train")
    assert split.features["ranks"].tolist() == [[2, 1, 2], [1, 2, 0]]
    assert split.notes == [{"lengths": [7, 12, 6], "reference": None}, {"lengths": [1, 1], "reference": 0}]
    tokens, segments = split.features["tokens"], split.features["segment_ids"]
    texts = [tokenizer.decode(row[real == 1][:-1].tolist()) for row, real in zip(tokens[0], segments[0], strict=True)]
    assert texts == [f"User:\n{SENTENCES[0]}\n\nAssistant:\n{answer}" for answer in FOUND[0].answers]
    assert not tokens[1, 2].any()
    assert not segments[1, 2].any()
    assert capsys.readouterr().out == ""
    prompt = int(segments[0, 2].sum()) - 4  # "Nobody" and its end
    cut = encode(FOUND, tokenizer, prompt + 2, cfg, "train")
    assert cut.features["segment_ids"].sum(-1).max() == prompt + 2
    assert "0 of 2 prompts left out" in (said := capsys.readouterr().out)
    assert "answers of the others cut off there" in said
    with pytest.raises(UserError, match="every prompt is longer than the 9 tokens of a row; raise length"):
        encode(FOUND, tokenizer, 9, cfg, "train")
    with pytest.raises(UserError, match=r"a prompt has 3 answers; set task\.candidates to 3"):
        encode(FOUND, tokenizer, 64, replace(cfg, candidates=2), "train")


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_a_reward_is_read_at_the_last_real_token_of_its_own_text(family: str) -> None:
    task = make_task(RewardConfig(data="rankings", candidates=3))
    batch = batch_of(task)
    batch["segment_ids"][1, 2] = 0  # no answer
    model, params = model_of(family, task)
    assert params["reward"]["kernel"].shape == (32, 1)
    rewards = model(batch)["rewards"]
    assert rewards.shape == (3, 3)
    assert rewards.dtype == jnp.float32
    assert np.isfinite(rewards).all()

    def moved_by(place: tuple[int, ...]) -> list[list[int]]:
        changed = {**batch, "tokens": batch["tokens"].copy()}
        changed["tokens"][place] = (changed["tokens"][place] + 1) % VOCAB
        return np.argwhere(jnp.abs(model(changed)["rewards"] - rewards) > 1e-5).tolist()

    assert moved_by((1, 1, 8)) == [[1, 1]]  # the last real token
    assert moved_by((1, 1, 0)) == [[1, 1]]
    assert moved_by((1, 1, 9)) == []  # padding


def test_an_encoder_is_refused() -> None:
    with pytest.raises(UserError, match="Bert is no causal model"):
        model_of("bert", make_task(RewardConfig(data="rankings")))


def test_the_head_begins_as_in_the_papers_code() -> None:
    cfg = GptConfig(vocab_size=8, hidden_size=1024, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    task = make_task(RewardConfig(data="rankings"))
    module = wrap(ARCHITECTURE, cfg, (), task.supervised.read)  # type: ignore[union-attr]
    draw = jax.jit(partial(init_wrapped, module, task.features(1, 2, None)))
    head = draw(jax.random.key(0))["reward"]
    assert float(jnp.std(head["kernel"])) == pytest.approx(1025**-0.5, rel=0.1)
    assert not head["bias"].any()


def made_up(rows: int = 5, answers: int = 4) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    ranks = np.array([[1, 2, 3, 4], [2, 1, 2, 4], [1, 1, 3, 0], [2, 1, 0, 0], [1, 2, 2, 2]], np.int32)
    weights = np.array([1, 1, 0, 1, 1], np.float32)
    return {"rewards": rng.normal(size=(rows, answers)).astype(np.float32)}, {
        "ranks": ranks,
        "example_weights": weights,
    }


def test_the_pairwise_loss_is_a_mean_over_all_pairs_of_a_prompt() -> None:
    """Beside a plain loop over InstructGPT's equation: 1/C(K, 2) whatever K, ties contribute nothing."""
    outputs, batch = made_up()
    total = right = pairs = 0.0
    for rewards, ranks, weight in zip(outputs["rewards"], batch["ranks"], batch["example_weights"], strict=True):
        answers = [k for k in range(4) if ranks[k]]
        for i, j in combinations(answers, 2):
            if ranks[i] != ranks[j]:
                better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
                margin = float(rewards[better]) - float(rewards[worse])
                total += weight * math.log1p(math.exp(-margin)) / math.comb(len(answers), 2)
                right, pairs = right + weight * (margin > 0), pairs + weight
    found = terms(outputs, batch, "pairwise")
    assert float(found["pairwise"].total) == pytest.approx(total, rel=1e-5)
    assert float(found["pairwise"].weight) == 4
    assert (float(found["accuracy"].total), float(found["accuracy"].weight)) == (right, pairs)
    moved = {"rewards": outputs["rewards"] + 3}  # the zero does not matter
    assert float(terms(moved, batch, "pairwise")["pairwise"].total) == pytest.approx(total, rel=1e-5)


def test_the_softmax_loss_is_the_cross_entropy_of_the_best() -> None:
    outputs, batch = made_up()
    total = 0.0
    for rewards, ranks, weight in zip(outputs["rewards"], batch["ranks"], batch["example_weights"], strict=True):
        normaliser = math.log(sum(math.exp(r) for r, rank in zip(rewards, ranks, strict=True) if rank))
        best = [float(r) - normaliser for r, rank in zip(rewards, ranks, strict=True) if rank == 1]
        total -= weight * sum(best) / len(best)
    found = terms(outputs, batch, "softmax")
    assert float(found["softmax"].total) == pytest.approx(total, rel=1e-5)


def test_figures_of_margins() -> None:
    """A predictor that knows its own odds is calibrated; one that doubles them is not, and orders as well."""
    margins = np.abs(np.random.default_rng(0).normal(0, 1.5, 20_000))
    came_true = np.random.default_rng(1).random(len(margins)) < 1 / (1 + np.exp(-margins))
    margins = np.where(came_true, margins, -margins)
    knows, boasts = (pair_figures(scale * margins, np.arange(len(margins))) for scale in (1, 2))
    assert knows["calibration_error"] < 0.01
    assert boasts["calibration_error"] > 0.05
    assert knows["accuracy"] == boasts["accuracy"] == pytest.approx(came_true.mean())
    assert knows["accuracy_error"] == pytest.approx(np.sqrt(knows["accuracy"] * (1 - knows["accuracy"]) / 20_000))
    quarters = [knows[f"accuracy_quarter_{i}"] for i in (1, 2, 3, 4)]
    assert quarters == sorted(quarters)
    assert quarters[0] < 0.6
    assert quarters[3] > 0.9
    twice = pair_figures(np.repeat(margins, 2), np.repeat(np.arange(len(margins)), 2))  # pairs of one prompt
    assert twice["accuracy_error"] == pytest.approx(knows["accuracy_error"])
    assert pair_figures(np.zeros(4), np.arange(4))["accuracy"] == 0.5


def test_figures_and_files_of_a_split() -> None:
    task = make_task(RewardConfig(data="rankings", candidates=3)).supervised
    assert task
    notes = [{"lengths": [5, 9, 1], "reference": None}, {"lengths": [3, 4], "reference": None}]
    split = Encoded({"ranks": np.array([[2, 1, 3], [1, 2, 0]], np.uint8)}, notes)
    found = {"rewards": np.array([[1.0, 2.0, 0.5], [-1.0, 1.0, 7.0]], np.float32)}
    figures = task.score(split, found, {})
    assert figures["accuracy"] == pytest.approx(3 / 4)
    assert figures["shift"] == pytest.approx((2.0 - 1.0) / 2)  # of the best
    marked = Encoded(split.features, [notes[0], {**notes[1], "reference": 1}])
    assert task.score(marked, found, {}) == {**figures, "shift": 1.0}  # of the reference, best or not
    assert task.baselines(split, split)["accuracy"] == {"chance": 0.5, "longer": 0.75}
    files = task.files("heldout", split, found, {})
    lines = [json.loads(line) for line in files["rewards.jsonl"].splitlines()]
    assert lines == [{"rewards": [1.0, 2.0, 0.5], "ranks": [2, 1, 3]}, {"rewards": [-1.0, 1.0], "ranks": [1, 2]}]
    assert sum(row["pairs"] for row in json.loads(files["calibration.json"])) == 4


WORDS = [a + b for a in "bdklmnrst" for b in "ao"]


def write_choices(folder: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Bradley-Terry choices between made-up answers, whose reward is the sum of their words' worths; of each split the
    true differences, first answer less second."""
    rng = np.random.default_rng(0)
    worth, differences = rng.normal(0, 0.6, len(WORDS)), {}
    for split, count in counts.items():
        words = rng.integers(0, len(WORDS), (count, 2, 5))
        delta = worth[words].sum(-1) @ np.array([1.0, -1.0])
        first_wins = rng.random(count) < 1 / (1 + np.exp(-delta))
        rows = [
            {
                "turns": [{"role": "user", "text": " ".join(rng.choice(WORDS, 2))}],
                "answers": [" ".join(WORDS[i] for i in answer) for answer in pair],
                "ranks": [1, 2] if wins else [2, 1],
            }
            for pair, wins in zip(words, first_wins, strict=True)
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        differences[split] = delta
    return differences


CONFIG = """
from lmjax.finetuning import FinetuneConfig
from lmjax.tasks.reward import RewardConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig

def config():
    return FinetuneConfig(
        directory="{root}/run",
        init_from="{root}/initial",
        task=RewardConfig(data="rankings", folder="{root}", template="plain"),
        length=48,
        batch_size=64,
        epochs=3.0,
        evaluate_each=3.0,
        dropout=0.0,
        optim=OptimConfig(peak_lr=3e-3),
        stores="{root}/stores",
        checkpoint=CheckpointConfig(every=1000, keep=1),
        log=LogConfig(every=20, tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, dict[str, float]]:
    """A run, the true differences of its held-out pairs, its figures. By the command, on one device: the
    steps of eight fake ones take long."""
    root = tmp_path_factory.mktemp("reward")
    differences = write_choices(root, {"train": 3000, "heldout": 1000})
    tokenizer = make_tokenizer(TokenizerConfig("byte_bpe", 320), [" ".join(WORDS)] * 3)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = GptConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=48, **shape)
    draw = jax.jit(partial(init_params, ARCHITECTURE, model, ("clm",)))
    LanguageModel(model, ("clm",), draw(jax.random.key(0)), tokenizer).save_hf(root / "initial")
    (root / "config.py").write_text(CONFIG.format(root=root))
    command = [sys.executable, str(ROOT / "run_finetune.py"), str(root / "config.py")]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root, differences["heldout"], json.loads((root / "run/result.json").read_text())["figures"]


def test_the_synthetic_reward_is_learned_to_its_ceiling(learned: tuple[Path, np.ndarray, dict[str, float]]) -> None:
    """Nobody orders these choices better than E[sigmoid(|difference of the true rewards|)] of them. Taken in
    expectation over the choices, so that their luck does not enter."""
    root, delta, figures = learned
    lines = (root / "run/predictions/heldout/rewards.jsonl").read_text().splitlines()
    margins = -np.diff([json.loads(line)["rewards"] for line in lines])[:, 0]
    expected = np.mean(1 / (1 + np.exp(-delta * np.sign(margins))))
    ceiling = np.mean(1 / (1 + np.exp(-np.abs(delta))))
    assert ceiling - 0.02 < expected <= ceiling
    assert abs(figures["accuracy"] - expected) < 4 * figures["accuracy_error"]
    assert figures["calibration_error"] < 0.06


def test_a_loaded_reward_model_scores_the_best_answers_0_in_the_mean(
    learned: tuple[Path, np.ndarray, dict[str, float]],
) -> None:
    """And the others as the run's own predictions say, whatever stands in the batch beside them."""
    root, _, figures = learned
    model = load_reward_model(root / "run")
    assert model.shift == figures["shift"] != 0
    predicted = [json.loads(line) for line in (root / "run/predictions/heldout/rewards.jsonl").read_text().splitlines()]
    best = [reward for row in predicted for reward, rank in zip(row["rewards"], row["ranks"], strict=True) if rank == 1]
    assert np.mean(best) == pytest.approx(model.shift, abs=1e-4)
    asked = [json.loads(line) for line in (root / "heldout.jsonl").read_text().splitlines()][:5]
    for row, own in zip(asked, predicted, strict=False):
        scores = model.score([Turn(**turn) for turn in row["turns"]], row["answers"])
        np.testing.assert_allclose(scores, np.array(own["rewards"]) - model.shift, atol=1e-4)
    longer = model.score([Turn("user", "ba")], ["ba do", "ba do " + "la " * 30, ""])
    np.testing.assert_allclose(model.score([Turn("user", "ba")], ["ba do"]), longer[:1], atol=1e-5)
    with pytest.raises(UserError, match="leaves no room in the reward model's 48 positions"):
        model.score([Turn("user", "ba " * 60)], ["do"])


def test_a_checkpoint_without_its_run_is_not_converted(learned: tuple[Path, np.ndarray, dict[str, float]]) -> None:
    """It would lose its head, or its scores their zero."""
    root, *_ = learned
    (checkpoint, *_) = (root / "run/checkpoints").iterdir()
    with pytest.raises(UserError, match=f"{checkpoint.name} lacks the shift of its scores, .*; give the run"):
        commands.convert(str(checkpoint), str(root / "converted"))
    assert not (root / "converted").exists()
