"""Whole runs: resuming, what is refused, networks for values, the run's files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.schedule import Stage
from lmjax.errors import UserError
from lmjax.interop import LanguageModel, load
from lmjax.parallel import MeshConfig, make_mesh
from lmjax.report import report
from lmjax.rlhf.config import resolve
from lmjax.rlhf.ppo import train_ppo
from lmjax.rlhf.reward_model import reward_model
from lmjax.rlhf.rollout import RolloutConfig, roll_out
from lmjax.run import RunConfig
from lmjax.tasks.reward import RewardConfig
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.log import LogConfig
from lmjax.types import TrainState
from lmjax.verify import fingerprint
from tests.models.tiny import noisy, tiny
from tests.rlhf import mdp


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    mdp.write_world(root)
    return root


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """What the count of devices changes is tested elsewhere."""
    with mdp.on_devices(1):
        yield


def short(world: Path, name: str, **changes: Any) -> Any:
    cfg = mdp.config(world, directory=str(world / name), iterations=6, batch_size=16, epochs=2, minibatches=2)
    return replace(
        cfg, checkpoint=CheckpointConfig(every=2, keep=2), log=LogConfig(every=1, tensorboard=False), **changes
    )


def lines(directory: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in found]


def test_a_resumed_run_draws_the_same_answers_again(world):
    """Bit for bit, though no answer is stored."""
    adaptive = {"kl": replace(mdp.config(world).kl, target=0.01, horizon=100.0)}
    train_ppo(short(world, "untouched", **adaptive), mdp.reward)
    train_ppo(short(world, "resumed", **adaptive, stop_at=3), mdp.reward)
    assert not (world / "resumed" / "samples.json").exists()
    train_ppo(short(world, "resumed", **adaptive), mdp.reward)
    assert fingerprint(world / "untouched") == fingerprint(world / "resumed")
    assert lines(world / "untouched") == lines(world / "resumed")
    assert len({line["kl_coefficient"] for line in lines(world / "resumed")}) == 6
    with pytest.raises(UserError, match="clip"):
        train_ppo(short(world, "resumed", clip=0.1), mdp.reward)


def test_what_a_run_leaves(world):
    directory = world / "left"
    train_ppo(short(world, "left"), mdp.reward)
    last = lines(directory)[-1]
    names = (
        "score",
        "reward",
        "kl",
        "entropy",
        "clip_fraction",
        "approximate_kl",
        "value",
        "response_length",
        "eos_share",
    )
    assert all(isinstance(last[name], float) for name in names)
    (samples,) = json.loads((directory / "samples.json").read_text())
    assert len(samples["rows"][0]) == 3
    page = report(directory).read_text()
    assert "score against kl" in page.lower()
    lm = load(directory)
    assert isinstance(lm, LanguageModel)
    assert lm.tokenizer.eos_id == mdp.EOS


def test_what_is_drawn_follows_the_log_probabilities(world):
    """Frequencies of whole answers against exp of what the loss takes for their log-probability, at the temperature."""
    draws, params = 20_000, noisy(mdp.MODEL, ("clm",))
    prompt = {"tokens": jnp.zeros((draws, 1), jnp.int32), "segment_ids": jnp.ones((draws, 1), jnp.int32)}
    cfg = RolloutConfig(1, mdp.STEPS, mdp.TEMPERATURE)
    rows = roll_out(mdp.MODEL, cfg, mdp.EOS, mdp.EOS, params, prompt, jax.random.key(1))
    number = {tuple(answer): i for i, answer in enumerate(mdp.every_answer().tolist())}
    counts = np.bincount([number[tuple(row)] for row in np.asarray(rows["targets"]).tolist()], minlength=len(number))
    expected = draws * np.exp(mdp.log_probs(params))
    often = expected >= 5
    chi2 = ((counts - expected)[often] ** 2 / expected[often]).sum()
    chi2 += (counts[~often].sum() - expected[~often].sum()) ** 2 / expected[~often].sum()
    freedom = often.sum()
    assert freedom > 50
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom) + 8


def write_reward_model(world: Path, directory: Path) -> None:
    """A run as the task of reward models leaves it."""
    params = {
        **noisy(mdp.MODEL, ()),
        "reward": {"kernel": np.full((32, 1), 0.1, np.float32), "bias": np.ones(1, np.float32)},
    }
    best = {"best": {"step": jnp.int32(1), "loss": jnp.float32(0)}}
    state = TrainState(jnp.int32(1), jax.tree.map(jnp.asarray, params), {}, jax.random.key(0), best)
    stage = Stage(until_step=1, batch_size=8, length=8)
    cfg = RunConfig(model=mdp.MODEL, task=RewardConfig(data="rankings"), data=(), stages=(stage,))
    with Checkpoints(directory, CheckpointConfig(), cfg) as checkpoints:
        checkpoints.save(state, wait=True)
    load(world / "reference").tokenizer.save(directory / "tokenizer")
    (directory / "result.json").write_text(json.dumps({"step": 1, "figures": {"shift": 0.25}}))


def test_a_reward_model_scores_and_lends_its_weights_to_the_values(world):
    write_reward_model(world, world / "judge")
    cfg = short(world, "judged", reward_model=str(world / "judge"), value="network", iterations=2)
    state = train_ppo(replace(cfg, iterations=2))
    assert "value_network" in state.params
    score = reward_model(str(world / "judge"), "float32", make_mesh(MeshConfig()))
    tokens = jnp.array([[0, 2, 3, 0, 1, 1], [0, 2, 4, 5, 3, 2]])
    is_response = jnp.array([[False, True, True, True, False, False], [False] + [True] * 5])
    found = score(tokens, is_response)
    np.testing.assert_allclose(
        found, score(jnp.where(is_response | (jnp.arange(6) == 0)[None], tokens, 4), is_response)
    )
    hidden = load(world / "reference")(tokens=np.asarray(tokens), segment_ids=np.array([[1, 1, 1, 1, 0, 0], [1] * 6]))
    expected = [hidden["hidden"][0, 3].sum() * 0.1 + 0.75, hidden["hidden"][1, 5].sum() * 0.1 + 0.75]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def refused(cfg: Any, complaint: str, with_function: bool = True) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        resolve(cfg, with_function)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_refused_in_one_line(world):
    cfg = mdp.config(world)
    long, bad, empty = (world / f"{name}.jsonl" for name in ("long", "bad", "empty"))
    long.write_text('{"prompt": "ba"}\n{"prompt": "ba be bi"}\n')
    bad.write_text('{"prompt": "ba"}\n{"text": "ba"}\n')
    empty.write_text("")
    refused(replace(cfg, prompts=str(long)), "prompt 2 has 3 tokens; rollout.prompt_length is 1")
    refused(replace(cfg, prompts=str(bad)), 'line 2: no text "prompt"')
    refused(replace(cfg, prompts=str(empty)), "holds no prompt")
    refused(replace(cfg, prompts="nowhere"), "no file of prompts")
    refused(replace(cfg, rollout=RolloutConfig(4, 5)), "length 9 exceeds the position table")
    refused(replace(cfg, rollout=RolloutConfig(1, 5, pad_id=mdp.EOS)), "padding and end token are both 0")
    refused(replace(cfg, rollout=RolloutConfig(1, 5, pad_id=6)), "pad_id 6 is not in the vocabulary")
    refused(replace(cfg, init_from=""), "no model to begin with")
    refused(cfg, "one reward is needed", False)
    refused(replace(cfg, reward_model="somewhere"), "one reward is needed")
    refused(replace(cfg, value="network"), "value 'network'")
    bert = tiny("bert", vocab_size=6)
    LanguageModel(bert, ("mlm",), noisy(bert, ("mlm",)), load(world / "reference").tokenizer).save_hf(world / "bert")
    refused(replace(cfg, init_from=str(world / "bert")), "generate needs a model with head clm")


def test_a_reward_of_another_tokenizer_is_refused(world):
    from tests.tiny_runs import tiny_tokenizer

    tokenizer = tiny_tokenizer("byte_bpe")
    other = tiny("gpt2", vocab_size=tokenizer.vocab_size)
    LanguageModel(other, ("clm",), noisy(other, ("clm",)), tokenizer).save_hf(world / "other")
    refused(replace(mdp.config(world), reward_model=str(world / "other")), "have different tokenizers", False)


@pytest.mark.parametrize("changes", [{"batch_size": 10, "minibatches": 4}, {"epochs": 0}])
def test_impossible_batches(world, changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        replace(mdp.config(world), **changes)


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"response_length": 0}, {"truncate_after": -1}])
def test_impossible_rollouts(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        RolloutConfig(**bad)
