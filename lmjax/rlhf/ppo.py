"""Proximal policy optimisation of a language model against a reward, from a config to a trained policy.

Each iteration rolls out, scores and updates (`rlhf.program`). What it does depends on the state and on (seed,
iteration) alone: rollouts are drawn anew after a restart, bit for bit the same, and nothing but the state is
checkpointed. A step of the run, in its checkpoints, its log and its learning rate, is an iteration.

RUN/ is that of any run (`train.loop`); what it holds is a causal model, which `load` reads.
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from lmjax.errors import UserError
from lmjax.parallel import batch_share, global_batch, on_first_process
from lmjax.report import report
from lmjax.rlhf.config import PpoConfig, Resolved, check_text, resolve, text_run
from lmjax.rlhf.networks import NETWORK, frozen_copy
from lmjax.rlhf.program import Program, assemble_ppo
from lmjax.rlhf.reward_model import Reward, reward_model, reward_params
from lmjax.rlhf.rollout import as_text, drawn_prompts
from lmjax.run import prepare_data
from lmjax.train.assemble import assemble, open_data
from lmjax.train.checkpoint import Checkpoints, check_same_run
from lmjax.train.files import write_atomically
from lmjax.train.guard import Watchdog, reached_preemption
from lmjax.train.log import Log
from lmjax.train.loop import SKIPPED_IN_A_ROW, give_up_if_stuck
from lmjax.train.saved import read_saved
from lmjax.train.warm_start import warm_started
from lmjax.types import Array, Params, TrainState

SHOWN = 5  # samples in the report


def train_ppo(cfg: PpoConfig, reward: Reward | None = None) -> TrainState:
    """Trains, or resumes, the run in `cfg.directory`; returns its last state.

    Args:
      reward: scores answers, where no `cfg.reward_model` does.

    Raises:
      UserError: a bad config, models or prompts that do not fit together, a directory of another run, or a run whose
        gradient stays not finite.
    """
    run = resolve(cfg, reward is not None)
    cfg = run.cfg
    check_same_run(cfg.directory, cfg)
    program = assemble_ppo(cfg, run.model, run.critic, run.eos_id, run.pad_id)
    scores = reward or reward_model(cfg.reward_model, cfg.frozen_dtype, program.mesh)
    run_dir, end = epath.Path(cfg.directory), min(cfg.stop_at or cfg.iterations, cfg.iterations)
    with jax.set_mesh(program.mesh), Checkpoints(run_dir, cfg.checkpoint, cfg) as checkpoints:
        restored = checkpoints.restore_latest_valid(program.abstract_state)
        if restored is None:
            on_first_process(lambda: run.tokenizer.save(run_dir / "tokenizer"))
        state = begun(program, run) if restored is None else restored
        reference = reference_of(program, run)
        if cfg.shaping.normalise_scores:
            scores = _normalised(run, program, reference, scores)
        log = Log(run_dir, cfg.log, None if restored is None else int(restored.step), end)
        with contextlib.closing(log):
            if restored is not None:
                log.say(f"resumes at step {int(restored.step)} of {end}")
            state = _iterations(run, program, state, reference, scores, end, checkpoints, log)
        if int(state.step) == cfg.iterations:
            _write_samples(run, program, state, reference, scores)
    return state


def align(cfg: PpoConfig, reward: Reward | None = None) -> None:
    """The main job: prepares pretraining text, trains or resumes, and writes the report."""
    if cfg.pretraining.coefficient:
        text = text_run(resolve(cfg, reward is not None).cfg)
        on_first_process(lambda: prepare_data(text))
    train_ppo(cfg, reward)
    if jax.process_index() == 0:
        print(f"report: {report(cfg.directory)}")


def begun(program: Program, run: Resolved) -> TrainState:
    """The state before the first iteration."""
    state = program.init_state()
    policy = {name: part for name, part in state.params.items() if name != NETWORK}
    state = warm_started(state.replace(params=policy), run.cfg.init_from, run.model)
    if run.critic is None:
        return state
    _, params = reward_params(run.cfg.reward_model, program.mesh)
    return state.replace(params={**state.params, NETWORK: params})


def reference_of(program: Program, run: Resolved) -> Params:
    """The supervised model's parameters, frozen."""
    saved = read_saved(run.cfg.init_from).model.params
    return jax.device_put(jax.device_get(frozen_copy(saved, run.cfg.frozen_dtype)), program.reference)


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
    texts, skipped = _texts(run, iteration, end), deque(maxlen=SKIPPED_IN_A_ROW)
    with Watchdog() as watchdog:
        while iteration < end:
            clock = [time.perf_counter()]
            rows = program.roll_out(state.params, state.key, state.step, _prompts(run, program, iteration))
            tokens, is_response = as_text(rows, run.pad_id)
            clock.append(_now(tokens))
            experience, figures = program.score(state, reference, rows, scored(reward, tokens, is_response))
            clock.append(_now(figures))
            state, metrics = program.update(state, experience, global_batch(next(texts), program.mesh), figures["kl"])
            clock.append(_now(metrics))
            iteration += 1
            skipped.append(metrics["skipped"] == 1)  # of its updates, all
            log.tick(iteration)
            if iteration % cfg.log.every == 0 or iteration == cfg.iterations:
                drawn = cfg.batch_size * float(figures["response_length"])
                log.train(iteration, figures | metrics, _timing(clock, drawn))
                broken = not np.isfinite(float(figures["score"]))
                mend = ", or mend the reward: its last scores were not finite" if broken else ""
                give_up_if_stuck(skipped, iteration, cfg.directory, mend)
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
    chosen = drawn_prompts(len(run.prompts["tokens"]), run.cfg.batch_size, run.cfg.seed, iteration)
    return _shared(run.prompts, chosen, program)


def _shared(prompts: Mapping[str, np.ndarray], chosen: np.ndarray, program: Program) -> dict[str, Array]:
    """The chosen ones, this process's share joined with the others'."""
    index, count = batch_share(program.mesh)
    mine = np.array_split(chosen, count)[index]
    return global_batch({k: v[mine] for k, v in prompts.items()}, program.mesh, micro_batched=False)


def scored(reward: Reward, tokens: Array, is_response: Array) -> Array:
    """Raises UserError for a reward that does not give each answer one number."""
    scores = jnp.asarray(reward(tokens, is_response))
    if scores.shape != tokens.shape[:1]:
        raise UserError(f"the reward gave scores of shape {scores.shape} to {len(tokens)} answers, not one number each")
    return scores


def _normalised(run: Resolved, program: Program, reference: Params, reward: Reward) -> Reward:
    """The reward by a gain and a bias with which the reference's answers score 0 in the mean, give or take 1 (Ziegler
    et al. 2019). They follow from the seed, so that a resumed run has the same."""
    iteration, key = run.cfg.iterations, jax.random.key(run.cfg.seed)  # which no iteration has
    rows = program.roll_out(reference, key, jnp.int32(iteration), _prompts(run, program, iteration))
    scores = _whole(scored(reward, *as_text(rows, run.pad_id)))
    mean, spread = float(scores.mean()), float(scores.std())
    return lambda tokens, is_response: (scored(reward, tokens, is_response) - mean) / (spread or 1.0)


def _texts(run: Resolved, first: int, end: int) -> Iterator[Mapping[str, np.ndarray]]:
    """For each iteration the pretraining text of its minibatches, features text_* [M * A, rows, length]."""
    if not run.cfg.pretraining.coefficient:
        return iter([{}] * (end - first))
    text = text_run(run.cfg)
    check_text(run.cfg, text, run.tokenizer)
    batches = open_data(text, assemble(text)).train(first, end)
    return ({f"text_{name}": value for name, value in batch.items() if np.ndim(value)} for _, batch in batches)


def _now(arrays: Any) -> float:
    jax.block_until_ready(arrays)
    return time.perf_counter()


def _timing(clock: list[float], drawn: float) -> dict[str, float]:
    """Seconds of the phases; `drawn`: tokens of the answers."""
    phases = dict(zip(("rollout", "score", "update"), np.diff(clock).tolist(), strict=True))
    seconds = {f"{name}_seconds": value for name, value in phases.items()}
    return {"seconds_per_step": clock[-1] - clock[0], "tokens_per_second": drawn / phases["rollout"], **seconds}


def _write_samples(run: Resolved, program: Program, state: TrainState, reference: Params, reward: Reward) -> None:
    """RUN/samples.json: answers to the first prompts, of the supervised model and of the policy, and their scores."""
    count, size = len(run.prompts["tokens"]), run.cfg.batch_size
    prompts = {k: v[np.arange(size) % count] for k, v in run.prompts.items()}
    starts = [row[real == 1].tolist() for row, real in zip(prompts["tokens"], prompts["segment_ids"], strict=True)]
    table = [[run.tokenizer.decode(start)] for start in starts[: min(SHOWN, count)]]
    rows = _shared(prompts, np.arange(size), program)
    for params in (reference, state.params):
        tokens, is_response = as_text(program.roll_out(params, state.key, state.step, rows), run.pad_id)
        shown = _whole((tokens, is_response, scored(reward, tokens, is_response)))
        for cells, text, answer, score in zip(table, *shown, strict=False):
            cells.append(f"{run.tokenizer.decode(text[answer].tolist())}\n[{score:.3g}]")
    title = "Answers (the prompt; the supervised model; the policy; each with its score)"
    if jax.process_index() == 0:
        write_atomically(
            epath.Path(run.cfg.directory) / "samples.json", json.dumps([{"title": title, "rows": table}], indent=1)
        )


def _whole(arrays: Any) -> Any:
    """The rows of all processes, on each."""
    return jax.device_get(multihost_utils.process_allgather(arrays, tiled=True) if jax.process_count() > 1 else arrays)
