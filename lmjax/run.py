"""A run is a value: one frozen config that says everything, stored as JSON in the run and in each of its
checkpoints."""

from dataclasses import dataclass, field
from typing import Literal

from lmjax.config import operational
from lmjax.data.prepare import WeightedData, prepare
from lmjax.data.schedule import Stage
from lmjax.errors import UserError
from lmjax.models import ModelConfig
from lmjax.parallel import MeshConfig
from lmjax.tasks import TaskConfig, make_task
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that defines a run, and, as operational fields, how it is carried out.

    Attributes:
      directory: where the run lives.
      model, task, optim: what is trained, on what, how.
      data: the corpora and their weights.
      stages: batch size and length over the steps; the last one's end is the run's end.
      skips: (step, batches) pairs: before that step, so many batches of data are passed over.
      seed: of parameters, dropout, shuffling and masking.
      prng: JAX's generator; "rbg" is cheaper, but nothing promises that its dropout is the same on every mesh.
      init_from: the run or Hugging Face directory whose weights the parameters begin with; what it lacks is drawn.
      init_digest: of that model, set where a recipe becomes a run, so that no other one takes its place.
      stop_at: stop, with a checkpoint, at this step (0 = at the end).
    """

    directory: str = operational("runs/run")
    model: ModelConfig
    task: TaskConfig
    data: tuple[WeightedData, ...]
    stages: tuple[Stage, ...]
    optim: OptimConfig = field(default_factory=OptimConfig)
    init_from: str = ""
    init_digest: str = ""
    seed: int = 0
    prng: Literal["threefry2x32", "rbg"] = "threefry2x32"
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    skips: tuple[tuple[int, int], ...] = operational(())
    checkpoint: CheckpointConfig = operational(CheckpointConfig())
    log: LogConfig = operational(LogConfig())
    mesh: MeshConfig = operational(MeshConfig())
    stop_at: int = operational(0)

    def __post_init__(self) -> None:
        if min(self.seed, self.stop_at) < 0:
            raise UserError(f"seed {self.seed} and stop_at {self.stop_at} are not negative")


def prepare_data(cfg: RunConfig) -> None:
    """Builds the stores and instance tables that the run reads, where they are not there yet; labelled examples were
    encoded when the run was made of its recipe (`finetuning.resolve`)."""
    task = make_task(cfg.task)
    if task.supervised:
        return
    for index, entry in enumerate(cfg.data):
        lengths = {s.length for s in cfg.stages if not s.data or index in s.data} | {cfg.stages[-1].length}
        prepare(entry.data, [task.instances(length) for length in sorted(lengths)], cfg.seed)
