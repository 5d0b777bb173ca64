"""The training loop: a config in, a trained state out, and a run directory that tells the story.

RUN/config.json, checkpoints/, metrics.jsonl, tensorboard/, environment.json, tokenizer/, baselines.json. The same
command again resumes; a run killed at any moment and resumed ends in the same bits as one that nobody touched.
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lmjax.chips import peak_flops
from lmjax.errors import UserError
from lmjax.parallel import global_batch, on_first_process
from lmjax.train.assemble import Data, Program, assemble, open_data
from lmjax.train.checkpoint import Checkpoints, check_same_run
from lmjax.train.evaluate import baselines, evaluate, evaluate_examples
from lmjax.train.files import write_atomically
from lmjax.train.guard import Watchdog, reached_preemption
from lmjax.train.log import Log
from lmjax.types import TrainState

if TYPE_CHECKING:
    from lmjax.run import RunConfig

SKIPPED_IN_A_ROW = 10  # steps without a finite gradient before a run gives up
AHEAD = 2  # steps that are dispatched before the one that is waited for has finished


def train(cfg: "RunConfig", program: Program | None = None) -> TrainState:
    """Trains, or resumes, the run in `cfg.directory`; returns its last state. `program`: that of `cfg`, where it is
    there already.

    Raises:
      UserError: a bad config, data that is missing, a directory of another run, checkpoints of which none loads, or a
        run whose loss stays not finite.
    """
    check_same_run(cfg.directory, cfg)  # first: a changed config would be missed in the data next
    program = program or assemble(cfg)
    data = open_data(cfg, program)
    run_dir = epath.Path(cfg.directory)
    with jax.set_mesh(program.mesh), Checkpoints(run_dir, cfg.checkpoint, cfg) as checkpoints:
        restored = checkpoints.restore_latest_valid(program.abstract_state)
        state = program.init_state() if restored is None else restored
        end = min(cfg.stop_at or program.schedule.steps, program.schedule.steps)

        def begin() -> None:
            data.tokenizer.save(run_dir / "tokenizer")
            write_atomically(run_dir / "baselines.json", json.dumps(_baselines(program, data), indent=2))

        if restored is None:
            on_first_process(begin)
        log = Log(run_dir, cfg.log, None if restored is None else int(restored.step), end)
        with contextlib.closing(log):
            if restored is not None:
                log.say(f"resumes at step {int(restored.step)} of {end}")
            return _steps(cfg, program, data, state, end, checkpoints, log)


def _baselines(program: Program, data: Data) -> Mapping[str, Mapping[str, float]]:
    if program.task.supervised:
        return program.task.supervised.baselines(data.examples["train"], data.examples["heldout"])
    return baselines(program.task.headline, data.heldout_whole(), data.token_counts())


def _steps(
    cfg: "RunConfig", program: Program, data: Data, state: TrainState, end: int, checkpoints: Checkpoints, log: Log
) -> TrainState:
    meter, skipped, steps = Meter(cfg, program), deque(maxlen=SKIPPED_IN_A_ROW), program.schedule.steps
    step = int(state.step)
    out_of_patience = _out_of_patience(cfg, state, step)
    stream = data.train(step, step if out_of_patience else end)
    compiled = set()
    with Watchdog() as watchdog:
        while (batch := meter.wait(stream)) is not None:
            stage = program.schedule.stage(batch[0])
            new = stage not in compiled  # its first step compiles, which may rightly take long
            compiled.add(stage)
            with watchdog.paused() if new else contextlib.nullcontext():
                state, metrics = program.train_step(state, global_batch(batch[1], program.mesh))
            step = batch[0] + 1  # how many steps are done after this one
            skipped.append(metrics["skipped"])
            meter.add(batch[0])
            log.tick(step)
            if step % cfg.log.every == 0 or step == steps:
                log.train(step, metrics | {"tokens": program.schedule.tokens_before(step)}, meter.read(metrics))
                give_up_if_stuck(skipped, step, cfg.directory, ", or pass over a bad stretch of data with skips")
                checkpoints.check()
            if len(skipped) > AHEAD:  # dispatch runs ahead of the devices; the watch is over what they have done
                jax.block_until_ready(skipped[-1 - AHEAD])
                watchdog.beat()
            last = reached_preemption(step) or step == end
            evaluates, saves = step % cfg.evaluation.every == 0 or step == steps, step % cfg.checkpoint.every == 0
            if evaluates or saves or last:
                with watchdog.paused(), meter.paused():
                    better = False
                    if evaluates:
                        state, better = _evaluate(program, data, state, step, log)
                        out_of_patience = _out_of_patience(cfg, state, step)
                        last = last or out_of_patience
                    if saves or last or better:
                        log.flush()
                        checkpoints.save(state, wait=last)
            if last:
                break
    if out_of_patience:
        log.say(f"ended at step {step} of {end}: {cfg.evaluation.patience} evaluations without a better figure")
    elif step < end:
        log.say(f"stopped at step {step} of {end} on notice of preemption; the same command resumes")
    return state


def _evaluate(program: Program, data: Data, state: TrainState, step: int, log: Log) -> tuple[TrainState, bool]:
    """Logs the held-out figures; the state remembers the best step so far."""
    task = program.task
    if task.supervised:
        step_of = program.predict_step
        figures = evaluate_examples(task, step_of, state.params, data.heldout, program.mesh, data.examples)
    else:
        figures = evaluate(program.eval_step, state.params, data.heldout(), program.mesh, program.heldout_carry())
    log.heldout(step, figures)
    # The lowest is best; in the type in which the state keeps it, or an equal figure would pass for a lower one.
    loss = np.float32(figures[task.headline]) * (-1 if task.larger_is_better else 1)
    if not loss < float(state.extra["best"]["loss"]):
        return state, False
    best = {"step": jnp.asarray(step, jnp.int32), "loss": jnp.asarray(loss, jnp.float32)}
    where = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state.extra["best"])
    return state.replace(extra={**state.extra, "best": jax.device_put(best, where)}), True


def is_over(cfg: "RunConfig", state: TrainState) -> bool:
    """Whether a run has nothing left to do, rather than stopped on the way."""
    step = int(state.step)
    return step == cfg.stages[-1].until_step or _out_of_patience(cfg, state, step)


def _out_of_patience(cfg: "RunConfig", state: TrainState, step: int) -> bool:
    """By the state alone, so that a resumed run ends where an untouched one does."""
    waited = step - max(int(state.extra["best"]["step"]), 0)
    return 0 < cfg.evaluation.patience * cfg.evaluation.every <= waited


def give_up_if_stuck(skipped: deque[Any], step: int, directory: str, mend: str = "") -> None:
    """Raises UserError where the last SKIPPED_IN_A_ROW steps changed nothing. `mend`: what may help beside a lower
    rate."""
    if len(skipped) == SKIPPED_IN_A_ROW and all(jax.device_get(list(skipped))):
        raise UserError(
            f"{directory}: the last {SKIPPED_IN_A_ROW} steps up to {step} had no finite "
            f"gradient and changed nothing; lower optim.peak_lr{mend}"
        )


class Meter:
    """Wall-clock figures between two log lines: tokens a second, MFU, and the share of time spent waiting for data."""

    def __init__(self, cfg: "RunConfig", program: Program):
        self._schedule, self._flops = program.schedule, program.flops
        peak, self._peak_name = peak_flops(cfg.model.dtype)
        self._peak = peak * program.mesh.size
        self._reset()

    def wait(self, stream: Any) -> Any:
        """The next (step, batch), or None at the end."""
        start = time.perf_counter()
        batch = next(stream, None)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, step: int) -> None:
        """Step `step` (the first is 0) has been dispatched."""
        rows = int(self._schedule.rows(step))
        self._work += rows * self._flops(self._schedule.stage(step))
        self._tokens += rows * self._schedule.stages[self._schedule.stage(step)].length
        self._count += 1

    @contextlib.contextmanager
    def paused(self) -> Any:
        """Time that belongs to no step."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def read(self, metrics: Any) -> dict[str, float]:
        """Waits for the step's metrics, then gives the figures since the last call."""
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - self._start
        figures = {
            "seconds_per_step": seconds / self._count,
            "tokens_per_second": self._tokens / seconds,
            "mfu": self._work / seconds / self._peak,
            "data_wait": self._waited / seconds,
        }
        self._reset()
        return figures

    def _reset(self) -> None:
        self._start, self._waited, self._work, self._tokens, self._count = time.perf_counter(), 0.0, 0.0, 0, 0
