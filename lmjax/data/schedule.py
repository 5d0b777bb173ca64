"""Which rows a step reads: stages, batch ramps and skipped stretches, as integers known before the run starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmjax.data.masking import MaskingConfig
from lmjax.errors import UserError


@dataclass(frozen=True)
class Stage:
    """The steps up to `until_step` (exclusive), all of one batch size and sequence length.

    `ramp_from`: rows at the stage's first step, growing linearly to `batch_size` at its last, in whole micro-batches
    (0 = no ramp). `masking` takes the place of the task's. `data`: which of the run's data it draws from (none = all).
    """

    until_step: int
    batch_size: int
    length: int
    micro_batches: int = 1
    ramp_from: int = 0
    masking: MaskingConfig | None = None
    data: tuple[int, ...] = ()

    @property
    def micro_batch(self) -> int:
        """Rows in a micro-batch."""
        return self.batch_size // self.micro_batches


class Schedule:
    """Tables over the steps of a run.

    Stages of the same length and data draw from one stream and continue each other's count of its rows; another stream
    starts at 0. A skip `(step, batches)` jumps over that many batches, of that step's size, just before the step.

    Raises:
      UserError: no stage, steps that do not grow, sizes that do not divide, a skip outside the run.
    """

    def __init__(self, stages: Sequence[Stage], skips: Sequence[tuple[int, int]] = ()):
        self.stages = tuple(stages)
        self.begins = (0, *(s.until_step for s in stages[:-1]))
        _check(self.stages, self.begins)
        self.steps = self.stages[-1].until_step
        rows = [_stage_rows(s, s.until_step - begin) for s, begin in zip(self.stages, self.begins, strict=True)]
        self._rows = np.concatenate(rows)
        self._start = self._rows_before(skips)
        lengths = np.concatenate([np.full(len(r), s.length, np.int64) for r, s in zip(rows, self.stages, strict=True)])
        self._tokens = np.concatenate([[0], np.cumsum(self._rows * lengths)])

    def stage(self, step: int) -> int:
        """Index of the stage that a step belongs to."""
        return int(np.searchsorted([s.until_step for s in self.stages], step, side="right"))

    def rows(self, step: int | slice) -> np.ndarray:
        """Real rows of a step's batch, int64 (of several steps when given a slice)."""
        return self._rows[step]

    def start(self, step: int | slice) -> np.ndarray:
        """Number of the step's first row in its stream, int64."""
        return self._start[step]

    def tokens_before(self, step: int) -> int:
        """Tokens (real rows x length) of all earlier batches; skipped rows do not count."""
        return int(self._tokens[step])

    def _rows_before(self, skips: Sequence[tuple[int, int]]) -> np.ndarray:
        skipped = np.zeros_like(self._rows)
        for step, batches in skips:
            if not 0 <= step < self.steps or batches < 1:
                raise UserError(
                    f"skip ({step}, {batches}): the step lies in 0..{self.steps - 1}, and batches are at least 1"
                )
            skipped[step] += batches * self._rows[step]
        start, counts = np.empty_like(self._rows), {}
        for stage, begin in zip(self.stages, self.begins, strict=True):
            steps, stream = slice(begin, stage.until_step), (stage.length, stage.data)
            ends = counts.get(stream, 0) + np.cumsum(self._rows[steps] + skipped[steps])
            start[steps] = ends - self._rows[steps]
            counts[stream] = ends[-1]
        return start


def _stage_rows(stage: Stage, steps: int) -> np.ndarray:
    first = stage.ramp_from or stage.batch_size
    grown = first + (stage.batch_size - first) * np.arange(steps, dtype=np.int64) // max(1, steps - 1)
    return grown // stage.micro_batch * stage.micro_batch


def _check(stages: Sequence[Stage], begins: Sequence[int]) -> None:
    if not stages:
        raise UserError("stages: at least one is needed")
    for i, (stage, begin) in enumerate(zip(stages, begins, strict=True)):
        if stage.until_step <= begin:
            raise UserError(
                f"stages.{i}: until_step {stage.until_step} does not lie after the stage's first step {begin}"
            )
        if min(stage.batch_size, stage.micro_batches, stage.length) < 1 or stage.batch_size % stage.micro_batches:
            raise UserError(
                f"stages.{i}: batch_size {stage.batch_size} is not a multiple of micro_batches {stage.micro_batches}, "
                "or one of them or length is not positive"
            )
        if not 0 <= stage.ramp_from <= stage.batch_size or stage.ramp_from % stage.micro_batch:
            raise UserError(
                f"stages.{i}: ramp_from {stage.ramp_from} is not a multiple of the micro-batch ({stage.micro_batch}) "
                f"or exceeds batch_size {stage.batch_size}"
            )
