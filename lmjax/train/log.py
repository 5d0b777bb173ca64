"""What a run says about itself: a progress bar, `metrics.jsonl`, TensorBoard events, a profile and its environment.

`metrics.jsonl` has one JSON object a line: `{"step": 10, "split": "train", "loss": 9.1, ..., "time": {...}}`. Whatever
depends on the clock stands under "time"; the rest is a function of the config alone. On resume the file is cut back to
the restored step, so the log of a killed run equals that of an untouched one.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from lmjax.errors import UserError
from lmjax.train.environment import environment
from lmjax.train.files import is_local, sync, write_atomically

SECONDS_BETWEEN_LINES = 10  # where stderr is a file
REWARDED = ("score", "kl", "eos_share")  # what a run against a reward is judged by; any other by its loss


@dataclass(frozen=True)
class LogConfig:
    """Metrics each `every` steps; `profile_steps` (first, end) traces the steps [first, end), counted from 1, to
    RUN/profile. The first step compiles and is not traced."""

    every: int = 10
    tensorboard: bool = True
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"log.every {self.every} must be at least 1")
        if self.profile_steps and not 2 <= self.profile_steps[0] < self.profile_steps[1]:
            raise UserError(f"log.profile_steps {self.profile_steps}: (first, end) with 2 <= first < end")


class Log:
    """The log of one run; on processes other than the first it does nothing."""

    def __init__(self, run_dir: epath.PathLike, cfg: LogConfig, restored: int | None, last_step: int):
        """Opens the log and cuts it back to the `restored` step (None: a fresh run), of `last_step` in all."""
        self._cfg, self._dir, self._last_step = cfg, epath.Path(run_dir), last_step
        self._active = jax.process_index() == 0
        self._printed, self._profiling = -math.inf, False
        if not self._active:
            return
        self._note_environment(restored)
        path = self._dir / "metrics.jsonl"
        cut_back(path, -1 if restored is None else restored)
        self._file = path.open("a")
        self._board = None
        if cfg.tensorboard and is_local(self._dir):
            from tensorboardX import SummaryWriter  # slow to import, and not always wanted

            self._board = SummaryWriter(str(self._dir / "tensorboard"), purge_step=(restored or 0) + 1)
        self._tty = sys.stderr.isatty()
        first = restored or 0
        self._bar = tqdm(total=last_step, initial=first, unit="step", dynamic_ncols=True, disable=not self._tty)
        self._began, self._first = time.monotonic(), first

    def tick(self, step: int) -> None:
        """Step number `step` (the first is 1) has been dispatched: moves the bar, begins and ends the profile."""
        if not self._active:
            return
        self._bar.update(step - self._bar.n)
        if self._cfg.profile_steps and step + 1 == self._cfg.profile_steps[0]:
            jax.profiler.start_trace(os.fspath(self._dir / "profile"))
            self._profiling = True
        elif self._profiling and self._cfg.profile_steps and step + 1 >= self._cfg.profile_steps[1]:
            self._end_profile()

    def train(self, step: int, metrics: Mapping[str, Any], timing: Mapping[str, float]) -> None:
        """One line of training metrics (scalars, or mappings of scalars such as norms by group)."""
        if not self._active:
            return
        line = self._write(step, "train", metrics, timing)
        figures = {name: f"{_or_nan(value):.3f}" for name, value in judged_by(line).items()}
        self._bar.set_postfix(figures, refresh=False)
        due = time.monotonic() - self._printed > SECONDS_BETWEEN_LINES or step == self._last_step
        if not self._tty and due:
            self._printed = time.monotonic()
            rate = (step - self._first) / max(self._printed - self._began, 1e-9)
            left = tqdm.format_interval((self._last_step - step) / rate) if rate else "?"
            said = "  ".join(f"{name} {value}" for name, value in figures.items())
            self.say(f"step {step}/{self._last_step}  {said}  {rate:.2f} step/s  {left} left")

    def heldout(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line of metrics on held-out data, shown on the screen too."""
        if self._active:
            line = self._write(step, "heldout", metrics, {})
            figures = "  ".join(f"{k} {_or_nan(v):.4g}" for k, v in _flat(line) if k not in ("step", "split"))
            self.say(f"step {step}  held-out  {figures}")

    def say(self, text: str) -> None:
        """A line on stderr, above the bar."""
        if self._active:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def flush(self) -> None:
        """Puts all lines on disk; to be called before a checkpoint is saved, so that it never outlives its log."""
        if self._active:
            self._file.flush()
            sync(self._dir / "metrics.jsonl")

    def close(self) -> None:
        """Flushes and closes everything."""
        if not self._active:
            return
        self.flush()
        self._end_profile()
        self._file.close()
        self._bar.close()
        if self._board:
            self._board.close()

    def _write(self, step: int, split: str, metrics: Mapping[str, Any], timing: Mapping[str, float]) -> dict[str, Any]:
        line = {"step": step, "split": split, **_plain(jax.device_get(dict(metrics)))}
        self._file.write(json.dumps({**line, "time": _plain(timing)} if timing else line) + "\n")
        self._file.flush()  # to the kernel: a killed process loses no line
        if self._board:
            for name, value in [*_flat(line), *_flat(_plain({"time": timing}))]:
                if name not in ("step", "split") and value is not None:
                    self._board.add_scalar(f"{split}/{name}", value, step)
        return line

    def _end_profile(self) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
            self._profiling = False
            self.say(f"profile written to {self._dir / 'profile'}")

    def _note_environment(self, restored: int | None) -> None:
        path, now = self._dir / "environment.json", environment()
        if restored is not None and path.exists():
            before = json.loads(path.read_text())
            changed = [f"{k} {before.get(k)} -> {now.get(k)}" for k in {**before, **now} if before.get(k) != now.get(k)]
            if changed:
                print(f"continues, not bitwise: {', '.join(changed)}", file=sys.stderr)
        write_atomically(path, json.dumps(now, indent=2))


def judged_by(line: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a line of training metrics that say how well the run does."""
    return {name: line[name] for name in REWARDED if name in line} or {"loss": line["loss"]}


def cut_back(path: epath.PathLike, step: int) -> None:
    """Drops the lines of `metrics.jsonl` after `step`, and torn ones."""
    path = epath.Path(path)

    def stays(line: bytes) -> bool:
        try:
            return json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            return False  # torn by a power cut

    if path.exists():
        kept = [line for line in path.read_bytes().split(b"\n") if stays(line)]
        write_atomically(path, "".join(line.decode() + "\n" for line in kept))


def _plain(value: Any) -> Any:
    """Plain JSON values; not a number and infinities become null."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    number = np.asarray(value).item()
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
