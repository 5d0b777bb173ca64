"""Proximal policy optimisation of a language model against a reward, from a config to a trained policy.

Each iteration rolls out, scores and updates (`rlhf.program`). What it does depends on the state and on (seed, iteration)
alone: rollouts are drawn anew after a restart, bit for bit the same, and nothing but the state is checkpointed. A step
of the run, in its checkpoints, its log and its learning rate, is an iteration.

RUN/ is that of any run (`train.loop`); what it holds is a causal model, which `load` reads.
"""

import contextlib
import dataclasses
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lmjax.config import operational
from lmjax.data.files import json_rows
from lmjax.data.prepare import WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import AttentionConfig, Dtype, ModelConfig, check, check_use
from lmjax.parallel import MeshConfig, global_batch, on_first_process
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.networks import NETWORK, frozen_copy
from lmjax.rlhf.program import Program, assemble_ppo
from lmjax.rlhf.reward_model import Reward, reward_model, reward_params
from lmjax.rlhf.rollout import RolloutConfig, as_text, drawn_prompts, prompt_rows
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.train.assemble import assemble, open_data
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints, check_same_meaning
from lmjax.train.files import write_atomically
from lmjax.train.guard import Watchdog, reached_preemption
from lmjax.train.log import Log, LogConfig
from lmjax.train.loop import SKIPPED_IN_A_ROW, give_up_if_stuck
from lmjax.train.optim import OptimConfig
from lmjax.train.saved import describe_saved, read_saved
from lmjax.train.warm_start import warm_started
from lmjax.types import Array, Params, TrainState

SHOWN = 5  # samples in the report


@dataclass(frozen=True)
class PretrainingConfig:
    """Pretraining text mixed into the updates (PPO-ptx, Ouyang et al. 2022; theirs: 27.8 and 8).

    Attributes:
      coefficient: of the language model's loss; 0 = no text is read.
      data: the corpora and their weights. `task`: how they are read.
      rows: of text for each answer of an iteration. `length`: of a row, in tokens.
    """

    coefficient: float = 0.0
    data: tuple[WeightedData, ...] = ()
    task: ClmConfig = ClmConfig()
    rows: int = 8
    length: int = 128


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """A run of PPO.

    Attributes:
      directory: where the run lives.
      init_from: the supervised model (a run, RUN/best, a checkpoint or a Hugging Face directory), which the policy
        begins as and the reference stays.
      model: its shape, filled in when the run begins.
      task: what the trained policy is.
      reward_model: the run of a reward model, "" where `train_ppo` is given another reward.
      prompts: a file of JSON lines with "prompt". An empty prompt is the beginning of a document.
      rollout, shaping, kl: see there.
      pretraining: text mixed in.
      iterations: of rollout and update. `batch_size`: answers of an iteration. `epochs`: passes over them, each in
        `minibatches` updates, whose gradient is added over `micro_batches`.
      clip, value_clip: how far ratios and values may move. `value_coefficient`: of the values' loss.
      value: "head", on the policy's trunk and at first zero, or "network", at first a copy of the reward model.
      stop_at_kl: an iteration's further updates are left out once an update's approximate KL exceeds it (0 = never).
      optim: warm-up and decay count iterations.
      frozen_dtype: of the reference's parameters, and of a reward model's.
      dtype: of activations; None = as the supervised model was trained.
    """

    directory: str = operational("runs/ppo")
    init_from: str = ""
    model: ModelConfig | None = None
    task: ClmConfig = ClmConfig()
    reward_model: str = ""
    prompts: str
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    kl: KlConfig = field(default_factory=KlConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    iterations: int = 1000
    batch_size: int = 64
    epochs: int = 4
    minibatches: int = 1
    micro_batches: int = 1
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    value: Literal["head", "network"] = "head"
    stop_at_kl: float = 0.0
    optim: OptimConfig = OptimConfig(peak_lr=1e-5, eps=1e-5, weight_decay=0.0, clip_norm=0.0)
    frozen_dtype: Dtype = "bfloat16"
    dtype: Dtype | None = None
    seed: int = 0
    checkpoint: CheckpointConfig = operational(CheckpointConfig(every=100))
    log: LogConfig = operational(LogConfig(every=1))
    mesh: MeshConfig = operational(MeshConfig())
    stop_at: int = operational(0)

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch_size, self.epochs, self.minibatches, self.micro_batches) < 1:
            raise UserError("iterations, batch_size, epochs, minibatches and micro_batches are positive")
        if self.batch_size % (self.minibatches * self.micro_batches):
            cut = f"minibatches {self.minibatches} x micro_batches {self.micro_batches}"
            raise UserError(f"batch_size {self.batch_size} is not divisible by {cut}; change one of them")

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch."""
        return self.batch_size // (self.minibatches * self.micro_batches)


@dataclass(frozen=True)
class Resolved:
    """A run with what its paths hold."""

    cfg: PpoConfig
    model: AttentionConfig
    critic: ModelConfig | None
    tokenizer: Tokenizer
    eos_id: int
    pad_id: int
    prompts: dict[str, np.ndarray]  # flush right


def train_ppo(cfg: PpoConfig, reward: Reward | None = None) -> TrainState:
    """Trains, or resumes, the run in `cfg.directory`; returns its last state.

    Args:
      reward: scores answers, where no `cfg.reward_model` does.

    Raises:
      UserError: a bad config, models or prompts that do not fit together, a directory of another run, or a run whose
        gradient stays not finite.
    """
    run = resolve(cfg, reward)
    cfg = run.cfg
    check_same_meaning(cfg.directory, cfg)
    program = assemble_ppo(cfg, run.model, run.critic, run.eos_id, run.pad_id)
    scores = reward or reward_model(cfg.reward_model, cfg.frozen_dtype, program.mesh)
    run_dir, end = epath.Path(cfg.directory), min(cfg.stop_at or cfg.iterations, cfg.iterations)
    with jax.set_mesh(program.mesh), Checkpoints(run_dir, cfg.checkpoint, cfg) as checkpoints:
        restored = checkpoints.restore_latest_valid(program.abstract_state)
        if restored is None:
            on_first_process(lambda: run.tokenizer.save(run_dir / "tokenizer"))
        state = begun(program, run) if restored is None else restored
        reference = reference_of(program, run)
        log = Log(run_dir, cfg.log, None if restored is None else int(restored.step), end)
        with contextlib.closing(log):
            if restored is not None:
                log.say(f"resumes at step {int(restored.step)} of {end}")
            state = _iterations(run, program, state, reference, scores, end, checkpoints, log)
        if int(state.step) == cfg.iterations:
            _write_samples(run, program, state, reference, scores)
    return state


def resolve(cfg: PpoConfig, reward: Reward | None) -> Resolved:
    """Reads what the config names, without weights.

    Raises:
      UserError: a model that is not causal or has no tokenizer with an end token; padding that is the end token; a
        reward model with another tokenizer; no reward, or two; a prompt that does not fit.
    """
    if bool(cfg.reward_model) == (reward is not None):
        raise UserError("one reward is needed: reward_model, the run of a reward model, or a function for train_ppo")
    if cfg.value == "network" and not cfg.reward_model:
        raise UserError("value 'network' begins as the reward model, and there is none; set value to 'head'")
    if not cfg.init_from:
        raise UserError("no model to begin with: init_from takes a run or a Hugging Face directory")
    model, tokenizer = describe_saved(cfg.init_from)
    check_use(model, architecture_of(model).heads, "generate")
    assert isinstance(model, AttentionConfig)
    check(model, cfg.rollout.prompt_length + cfg.rollout.response_length)
    if tokenizer is None or tokenizer.eos_id is None:
        raise UserError(f"{cfg.init_from} has no tokenizer with an end token, by which answers end")
    given = (cfg.rollout.pad_id, tokenizer.pad_id, int(tokenizer.eos_id == 0))
    pad_id = next(id for id in given if id is not None)
    if pad_id == tokenizer.eos_id:
        raise UserError(f"padding and end token are both {pad_id}; a real end would look like padding: set rollout.pad_id")
    if not 0 <= pad_id < model.vocab_size:
        raise UserError(f"rollout.pad_id {pad_id} is not in the vocabulary of {model.vocab_size} entries")
    critic = None
    if cfg.reward_model:
        judge, theirs = describe_saved(cfg.reward_model)
        if theirs is None or theirs.fingerprint != tokenizer.fingerprint:
            raise UserError(f"{cfg.init_from} and {cfg.reward_model} have different tokenizers; train one from the other")
        critic = judge if cfg.value == "network" else None
    if cfg.dtype is not None:
        model = dataclasses.replace(model, dtype=cfg.dtype)
    prompts = [_prompt_tokens(tokenizer, text) for text in read_prompts(cfg.prompts)]
    cfg = dataclasses.replace(cfg, model=model)
    rows = prompt_rows(prompts, cfg.rollout.prompt_length)
    return Resolved(cfg, model, critic, tokenizer, tokenizer.eos_id, pad_id, rows)


def read_prompts(path: str) -> list[str]:
    """The prompts of a file of JSON lines. Raises UserError, by the line, for what is none."""
    file, found = epath.Path(path).expanduser(), []
    if not file.is_file():
        raise UserError(f"no file of prompts {path}; it holds JSON lines with a \"prompt\"")
    for number, row in json_rows(file):
        if not isinstance(row.get("prompt"), str):
            raise UserError(f'{path}, line {number}: no text "prompt"')
        found.append(row["prompt"])
    if not found:
        raise UserError(f"{path} holds no prompt")
    return found


def _prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    assert tokenizer.eos_id is not None
    return tokenizer.encode(prompt) or [tokenizer.eos_id]


def begun(program: Program, run: Resolved) -> TrainState:
    """The state before the first iteration."""
    state = warm_started(program.init_state(), run.cfg.init_from, run.model)
    if run.critic is None:
        return state
    return state.replace(params={**state.params, NETWORK: reward_params(run.cfg.reward_model, program.mesh)})


def reference_of(program: Program, run: Resolved) -> Params:
    """The supervised model's parameters, frozen."""
    saved = read_saved(run.cfg.init_from).model.params
    return jax.device_put(frozen_copy(saved, run.cfg.frozen_dtype), program.reference)


def _iterations(
    run: Resolved,
    program: Program,
    state: TrainState,
    reference: Params,
    reward: Reward,
    end: int,
    checkpoints: Checkpoints,
    log: Log,
) -> TrainState:
    cfg, iteration = run.cfg, int(state.step)
    texts, skipped = _texts(cfg, iteration, end), deque(maxlen=SKIPPED_IN_A_ROW)
    with Watchdog() as watchdog:
        while iteration < end:
            clock = [time.perf_counter()]
            rows = program.roll_out(state.params, state.key, state.step, _prompts(run, program, iteration))
            tokens, is_response = as_text(rows, run.pad_id)
            clock.append(_now(tokens))
            experience, figures = program.score(state, reference, rows, jnp.asarray(reward(tokens, is_response)))
            clock.append(_now(figures))
            state, metrics = program.update(state, experience, global_batch(next(texts), program.mesh), figures["kl"])
            clock.append(_now(metrics))
            iteration += 1
            skipped.append(metrics["skipped"])
            log.tick(iteration)
            if iteration % cfg.log.every == 0 or iteration == cfg.iterations:
                log.train(iteration, figures | metrics, _timing(clock, cfg))
                give_up_if_stuck(skipped, iteration, cfg.directory)
                checkpoints.check()
            watchdog.beat()
            last = reached_preemption(iteration) or iteration == end
            if last or iteration % cfg.checkpoint.every == 0:
                with watchdog.paused():
                    log.flush()
                    checkpoints.save(state, wait=last)
            if last:
                break
    if iteration < end:
        log.say(f"stopped at step {iteration} of {end} on notice of preemption; the same command resumes")
    return state


def _prompts(run: Resolved, program: Program, iteration: int) -> dict[str, Array]:
    """This iteration's, this process's share joined with the others'."""
    chosen = drawn_prompts(len(run.prompts["tokens"]), run.cfg.batch_size, run.cfg.seed, iteration)
    mine = np.array_split(chosen, jax.process_count())[jax.process_index()]
    return global_batch({k: v[mine] for k, v in run.prompts.items()}, program.mesh, micro_batched=False)


def _texts(cfg: PpoConfig, first: int, end: int) -> Iterator[Mapping[str, np.ndarray]]:
    """For each iteration the pretraining text of its minibatches, features text_* [M * A, rows, length]."""
    if not cfg.pretraining.coefficient:
        yield from ({} for _ in range(first, end))
        return
    text = text_run(cfg)
    for _, batch in open_data(text, assemble(text)).train(first, end):
        yield {f"text_{name}": value for name, value in batch.items() if np.ndim(value)}


def text_run(cfg: PpoConfig) -> RunConfig:
    """The pretraining text's batches as those of a run with a step for each iteration; `run.prepare_data` of it builds
    the stores."""
    mixed = cfg.pretraining
    if not mixed.data or cfg.model is None:
        raise UserError("pretraining.coefficient is set, but pretraining.data names no text")
    stage = Stage(cfg.iterations, mixed.rows * cfg.batch_size, mixed.length, cfg.minibatches * cfg.micro_batches)
    return RunConfig(model=cfg.model, task=mixed.task, data=mixed.data, stages=(stage,), seed=cfg.seed, mesh=cfg.mesh)


def _now(arrays: Any) -> float:
    jax.block_until_ready(arrays)
    return time.perf_counter()


def _timing(clock: list[float], cfg: PpoConfig) -> dict[str, float]:
    phases = dict(zip(("rollout", "score", "update"), np.diff(clock).tolist(), strict=True))
    seconds = {f"{name}_seconds": value for name, value in phases.items()}
    drawn = cfg.batch_size * cfg.rollout.response_length
    return {"seconds_per_step": clock[-1] - clock[0], "tokens_per_second": drawn / phases["rollout"], **seconds}


def _write_samples(run: Resolved, program: Program, state: TrainState, reference: Params, reward: Reward) -> None:
    """RUN/samples.json: answers to the first prompts, of the supervised model and of the policy, and their scores."""
    count, size = len(run.prompts["tokens"]), run.cfg.batch_size
    prompts = {k: v[np.arange(size) % count] for k, v in run.prompts.items()}
    starts = [row[real == 1].tolist() for row, real in zip(prompts["tokens"], prompts["segment_ids"], strict=True)]
    table = [[run.tokenizer.decode(start)] for start in starts[: min(SHOWN, count)]]
    mine = np.array_split(np.arange(size), jax.process_count())[jax.process_index()]
    rows = global_batch({k: v[mine] for k, v in prompts.items()}, program.mesh, micro_batched=False)
    for params in (reference, state.params):
        text = as_text(program.roll_out(params, state.key, state.step, rows), run.pad_id)
        scores = np.asarray(reward(*text), np.float32)
        for cells, tokens, answer, score in zip(table, *map(np.asarray, text), scores, strict=False):
            cells.append(f"{run.tokenizer.decode(tokens[answer].tolist())}\n[{score:.3g}]")
    title = "Answers (the prompt; the supervised model; the policy; each with its score)"
    if jax.process_index() == 0:
        write_atomically(
            epath.Path(run.cfg.directory) / "samples.json", json.dumps([{"title": title, "rows": table}], indent=1)
        )
