"""Direct preference optimisation: rows, the closed form, gradients, and a run from its reference on."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import load_config
from lmjax.data.chat_template import Turn, named_template
from lmjax.data.examples import open_examples
from lmjax.data.preferences import Ranking
from lmjax.data.store import Store
from lmjax.errors import UserError
from lmjax.finetuning import FinetuneConfig, resolve
from lmjax.interop import load
from lmjax.models.gpt import Gpt
from lmjax.predictions import predict_file
from lmjax.tasks import make_task
from lmjax.tasks.dpo import DpoConfig, encode, terms
from tests.models.tiny import tiny
from tests.tasks.tiny_task import batch_of, model_of
from tests.tiny_runs import SENTENCES, tiny_tokenizer, write_run

ROOT = Path(__file__).parents[2]
ASKED = (Turn("user", SENTENCES[0]),)


def test_a_row_is_a_pair_and_the_answers_alone_are_weighed() -> None:
    tokenizer = tiny_tokenizer("byte_bpe").with_chat_template(named_template("plain"))
    found = [Ranking(ASKED, ("The dog", "A river", "Nobody"), (2, 1, 2)), Ranking(ASKED, ("a", "b"), (1, 2))]
    split = encode(found, tokenizer, 64, DpoConfig(data="rankings"), "train")
    assert len(split) == 3
    assert split.notes == [0, 0, 1]  # the prompts, which errors are counted over
    tokens, targets, weights = (split.features[name] for name in ("tokens", "targets", "answer_weights"))
    said = [[tokenizer.decode(targets[r, s][weights[r, s] == 1].tolist()[:-1]) for s in (0, 1)] for r in range(3)]
    assert said == [["A river", "The dog"], ["A river", "Nobody"], ["a", "b"]]
    ends = [targets[r, s][weights[r, s] == 1][-1] for r in range(3) for s in (0, 1)]
    assert set(ends) == {tokenizer.eos_id}  # to stop is part of an answer
    real = split.features["segment_ids"][:, :, 1:] == 1
    np.testing.assert_array_equal(targets[:, :, :-1][real], tokens[:, :, 1:][real])


def test_log_probabilities_are_sums_over_the_answer() -> None:
    """Beside dense logits; padding and prompt do not enter."""
    task = make_task(DpoConfig(data="rankings"))
    batch, rng = batch_of(task), np.random.default_rng(1)
    batch["targets"] = np.roll(batch["tokens"], -1, -1)
    batch["answer_weights"] = ((np.arange(12) >= 4) & (np.arange(12) < 8)).astype(np.float32) + np.zeros((3, 2, 12))
    batch["answer_weights"] = batch["answer_weights"].astype(np.float32)
    model, params = model_of("gpt2", task)
    found = model(batch)["log_probabilities"]
    flat = {name: batch[name].reshape(6, 12) for name in ("tokens", "segment_ids")}
    logits = Gpt(tiny("gpt2"), ("clm",)).apply({"params": params}, **flat)["logits"].dense()  # type: ignore[index]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    expected = [sum(log_p[r, t, batch["tokens"].reshape(6, 12)[r, t + 1]] for t in range(4, 8)) for r in range(6)]
    np.testing.assert_allclose(found, np.array(expected).reshape(3, 2), rtol=1e-5)
    changed = batch["tokens"].copy()
    changed[:, :, 9:] = rng.integers(0, 120, (3, 2, 3))
    np.testing.assert_array_equal(model({**batch, "tokens": changed})["log_probabilities"], found)


def closed_form(policy: np.ndarray, reference: np.ndarray, beta: float) -> np.ndarray:
    """Rafailov et al. 2023, equation 7, in float64: the loss of each pair."""
    ratios = policy.astype(np.float64) - reference.astype(np.float64)
    return np.array([-math.log(1 / (1 + math.exp(-beta * (better - worse)))) for better, worse in ratios])


def test_the_loss_is_the_closed_form_and_its_gradient_that_of_differences() -> None:
    rng = np.random.default_rng(0)
    policy, reference = (rng.normal(-40, 8, (6, 2)).astype(np.float32) for _ in range(2))
    weights = np.array([1, 1, 0, 1, 2, 1], np.float32)
    batch = {"reference_log_probabilities": reference, "example_weights": weights}

    def loss(policy: np.ndarray) -> jax.Array:
        return terms({"log_probabilities": jnp.asarray(policy)}, batch, 0.1)["dpo"].total

    assert float(loss(policy)) == pytest.approx(closed_form(policy, reference, 0.1) @ weights, rel=1e-5)
    gradient, step = jax.grad(loss)(policy), 1e-4
    for place in np.ndindex(policy.shape):
        moved = np.zeros(policy.shape)
        moved[place] = step
        sides = [closed_form(policy + sign * moved, reference, 0.1) @ weights for sign in (1, -1)]
        assert gradient[place] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-3, abs=1e-7)

    found = terms({"log_probabilities": jnp.asarray(policy)}, batch, 0.1)
    rewards = 0.1 * (policy - reference)
    assert float(found["accuracy"].value()) == pytest.approx(np.average(rewards[:, 0] > rewards[:, 1], weights=weights))
    assert float(found["reward_worse"].value()) == pytest.approx(np.average(rewards[:, 1], weights=weights), rel=1e-5)


CONFIG = """
from lmjax.finetuning import FinetuneConfig
from lmjax.tasks.dpo import DpoConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig

def config():
    return FinetuneConfig(
        directory="{root}/run",
        init_from="{root}/initial",
        task=DpoConfig(data="pairs", folder="{root}", heldout="heldout.jsonl", template="plain"),
        length=40,
        batch_size=8,
        epochs=6.0,
        evaluate_each=3.0,
        dropout=0.0,
        optim=OptimConfig(peak_lr=1e-3),
        stores="{root}/stores",
        checkpoint=CheckpointConfig(every=1000, keep=1),
        log=LogConfig(every=1, tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """What the command has run, on one device: the steps of eight fake ones take long."""
    root = tmp_path_factory.mktemp("dpo")
    write_run("gpt2", root / "initial")
    rng, words = np.random.default_rng(0), " ".join(SENTENCES).split()
    for split, count in (("train", 32), ("heldout", 12)):
        drawn = rng.choice(words, (count, 3)).tolist()
        rows = [{"prompt": a, "chosen": f"{b} river", "rejected": f"{c} dog"} for a, b, c in drawn]
        (root / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (root / "config.py").write_text(CONFIG.format(root=root))
    command = [sys.executable, str(ROOT / "run_finetune.py"), str(root / "config.py")]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_config(str(root / "config.py"), FinetuneConfig)


def test_a_run_begins_at_log_2_and_learns(recipe: FinetuneConfig) -> None:
    """The rows' reference is what the policy gives before its first step."""
    run = Path(recipe.directory)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert train[0]["dpo"] == pytest.approx(math.log(2), abs=1e-6)
    assert train[0]["reward_better"] == pytest.approx(0, abs=1e-5)
    assert train[-1]["dpo"] < 0.5
    assert json.loads((run / "result.json").read_text())["figures"]["accuracy"] > 0.9
    assert len((run / "predictions/heldout/margins.jsonl").read_text().splitlines()) == 12
    assert load(run).heads == ("clm",)  # a language model, as the one that it began with


def test_pairs_of_ones_own_are_judged_beside_the_reference(recipe: FinetuneConfig) -> None:
    """As the run itself judged its held-out ones; and not beside another model that lies there by now."""
    run, rows = Path(recipe.directory), Path(recipe.directory).with_name("heldout.jsonl")
    margins = [
        np.array(text.split(), float)
        for text in (
            predict_file(run, rows)["margins.jsonl"],
            (run / "predictions/heldout/margins.jsonl").read_text(),
        )
    ]
    np.testing.assert_allclose(*margins, atol=1e-4)
    initial, kept = Path(recipe.init_from), run.with_name("kept")
    initial.rename(kept)
    write_run("gpt2", initial, hidden_size=16)
    with pytest.raises(UserError, match="initial is another model by now than the run began with"):
        predict_file(run, rows)
    shutil.rmtree(initial)
    kept.rename(initial)


def test_the_reference_is_stored_under_all_that_it_depends_on(
    recipe: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve(recipe).data[0].data.store  # as the run has left it
    reference = open_examples(Store.open(first))["train"].features["reference_log_probabilities"]
    assert reference.shape == (32, 2)
    assert (reference < 0).all()
    written: list[str] = []
    monkeypatch.setattr("lmjax.train.reference._write", lambda cfg, directory: written.append(str(directory)))
    assert resolve(recipe).data[0].data.store == first
    other = write_run("gpt2", Path(recipe.init_from).with_name("other"), hidden_size=16)
    for change in ({"init_from": other.directory}, {"dtype": "bfloat16"}, {"length": 48}):
        resolve(replace(recipe, **change))  # type: ignore[arg-type]
    assert len({first, *written}) == 4
    with pytest.raises(UserError, match="beta is 0"):
        resolve(replace(recipe, task=replace(recipe.task, beta=0)))  # type: ignore[call-arg]
