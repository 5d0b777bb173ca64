"""A world of six tokens and five steps, small enough to list: every answer, its probability, and the exact optimum.

The objective J(policy) = E[reward - beta * KL] has its maximum at policy ~ reference * exp(reward / beta), where it is
beta log sum reference exp(reward / beta) (Ziegler et al. 2019, section 2.2; Korbak et al. 2022).
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from lmjax.data.chat_template import named_template
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig, load_tokenizer
from lmjax.interop import LanguageModel
from lmjax.models.weights import flatten
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PpoConfig
from lmjax.rlhf.networks import make_networks
from lmjax.rlhf.rollout import RolloutConfig, answered
from lmjax.run import RunConfig
from lmjax.tasks.reward import RewardConfig
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig
from lmjax.types import TrainState
from tests.models.tiny import noisy, tiny

WORDS = ("</s>", "[UNK]", "ba", "be", "bi", "bo")
EOS, PAD, TOKENS, STEPS, BETA, TEMPERATURE = 0, 1, len(WORDS), 5, 0.2, 0.7
MODEL = tiny("gpt2", vocab_size=TOKENS, num_hidden_layers=1, max_position_embeddings=8)
TABLE = np.random.default_rng(5).uniform(-0.18, 0.18, (STEPS, TOKENS)).astype(np.float32)


def reward(tokens: Any, is_response: Any) -> Any:
    """A fraction for each token and place, and one for a pair of neighbours."""
    rows = jnp.asarray(TABLE)[jnp.arange(STEPS)[None], tokens[:, 1:]]
    pairs = (tokens[:, 1:-1] == 2) & (tokens[:, 2:] == 4) & is_response[:, 2:]
    return jnp.sum(jnp.where(is_response[:, 1:], rows, 0), 1) + 0.23 * jnp.any(pairs, 1)


@contextlib.contextmanager
def on_devices(count: int) -> Iterator[None]:
    """Meshes are made of so many devices only."""
    found = jax.devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: found)
        yield


def write_world(root: Path) -> None:
    """The reference, with its tokenizer, and the one prompt: nothing."""
    (root / "vocabulary").mkdir(parents=True)
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(root / "vocabulary" / "tokenizer.json"))
    tokenizer = load_tokenizer(root / "vocabulary")
    LanguageModel(MODEL, ("clm",), noisy(MODEL, ("clm",)), tokenizer).save_hf(root / "reference")
    (root / "prompts.jsonl").write_text(json.dumps({"prompt": ""}))


def write_reward_model(root: Path, directory: Path, template: str = "", **changes: Any) -> None:
    """A run as the task of reward models leaves it; `changes` to its model."""
    model = replace(MODEL, **changes)
    head = {"kernel": np.full((32, 1), 0.1, np.float32), "bias": np.ones(1, np.float32)}
    best = {"best": {"step": jnp.int32(1), "loss": jnp.float32(0)}}
    params = jax.tree.map(jnp.asarray, {**noisy(model, ()), "reward": head})
    state = TrainState(jnp.int32(1), params, {}, jax.random.key(0), best)
    stage = Stage(until_step=1, batch_size=8, length=8)
    cfg = RunConfig(model=model, task=RewardConfig(data="rankings"), data=(), stages=(stage,))
    with Checkpoints(directory, CheckpointConfig(), cfg) as checkpoints:
        checkpoints.save(state, wait=True)
    tokenizer = load_tokenizer(root / "vocabulary")
    (tokenizer.with_chat_template(named_template(template)) if template else tokenizer).save(directory / "tokenizer")
    (directory / "result.json").write_text(json.dumps({"step": 1, "figures": {"shift": 0.123}}))


def text(root: Path, tokenizer: TokenizerConfig | None = None) -> WeightedData:
    """Pretraining text, by the reference's tokenizer or another."""
    lines = [" ".join(words) for words in itertools.product(WORDS[2:], repeat=3)]
    (root / "text.txt").write_text("".join(f"{line}\n" for line in lines))
    tokenizer = tokenizer or TokenizerConfig("file", path=str(root / "vocabulary"))
    source = TextFiles((str(root / "text.txt"),), documents="line")
    return WeightedData(DataConfig(str(root / f"store_{tokenizer.kind}"), source, tokenizer, heldout=0.2))


def config(root: Path, **changes: Any) -> PpoConfig:
    cfg = PpoConfig(
        directory=str(root / "run"),
        init_from=str(root / "reference"),
        prompts=str(root / "prompts.jsonl"),
        rollout=RolloutConfig(1, STEPS, TEMPERATURE, pad_id=PAD),
        shaping=ShapingConfig(missing_eos="none"),
        kl=KlConfig(BETA),
        iterations=150,
        batch_size=256,
        optim=OptimConfig(peak_lr=2e-3, eps=1e-5, weight_decay=0.0, clip_norm=0.0),
        frozen_dtype="float32",
        checkpoint=CheckpointConfig(every=1000, keep=1),
        log=LogConfig(every=50, tensorboard=False),
    )
    return replace(cfg, **changes)


def assert_same(ours: Any, theirs: Any, atol: float) -> None:
    """Two trees of parameters after updates. Biases of keys are left out: the softmax does not see them, so that their
    gradient is rounding, of which Adam makes whole steps."""
    mine, others = (flatten(jax.device_get(tree)) for tree in (ours, theirs))
    assert set(mine) == set(others)
    for name, value in mine.items():
        if not name.endswith("attention/key/bias"):
            np.testing.assert_allclose(value, others[name], atol=atol, err_msg=name)


@cache
def every_answer() -> np.ndarray:
    """All 3,906 answers, int32 [answers, STEPS], EOS behind their end."""
    inner = range(1, TOKENS)
    ended = [(*a, *[EOS] * (STEPS - n)) for n in range(STEPS) for a in itertools.product(inner, repeat=n)]
    return np.array([*ended, *itertools.product(inner, repeat=STEPS)], np.int32)


@cache
def _listed() -> tuple[np.ndarray, Callable[..., jax.Array]]:
    """The rewards of every answer, and a function from a policy's parameters to their log-probabilities."""
    new = jnp.asarray(every_answer())
    start = {"tokens": jnp.full((len(new), 1), EOS), "segment_ids": jnp.ones((len(new), 1), jnp.int32)}
    rows = answered(start, new, EOS, PAD)
    networks = make_networks(
        MODEL, None, {k: jax.ShapeDtypeStruct((1, *v.shape[1:]), v.dtype) for k, v in rows.items()}
    )

    @jax.jit
    def run(params: Any) -> jax.Array:
        own = {name: part for name, part in params.items() if name != "value"}
        return jnp.sum(networks.log_probs(own, rows, TEMPERATURE) * rows["loss_weights"], axis=1)

    rewards = reward(rows["tokens"], jnp.pad(rows["loss_weights"] > 0, ((0, 0), (1, 0))))
    return np.asarray(rewards, np.float64), run


def log_probs(params: Any) -> np.ndarray:
    """Of every answer, under a policy."""
    return np.asarray(_listed()[1](params), np.float64)


def objective(params: Any) -> float:
    """J of a policy, by the list."""
    reference, own = log_probs(noisy(MODEL, ("clm",))), log_probs(params)
    return float(np.sum(np.exp(own) * (_listed()[0] - BETA * (own - reference))))


def optimum() -> float:
    reference = log_probs(noisy(MODEL, ("clm",)))
    assert abs(np.exp(reference).sum() - 1) < 1e-4  # the list is whole
    return BETA * float(np.log(np.sum(np.exp(reference + _listed()[0] / BETA))))


def gap(params: Any) -> float:
    """How much of the way from the reference to the optimum is left."""
    start, best = objective(noisy(MODEL, ("clm",))), optimum()
    return (best - objective(params)) / (best - start)
