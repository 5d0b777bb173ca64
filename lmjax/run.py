"""A run is a value: one frozen config that says everything, stored as JSON in the run and in each of its checkpoints."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
from etils import epath
from jax.experimental import multihost_utils

from lmjax.config import operational
from lmjax.data.prepare import WeightedData, prepare
from lmjax.data.schedule import Stage
from lmjax.models import ModelConfig
from lmjax.parallel import MeshConfig
from lmjax.tasks import TaskConfig, make_task
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.loop import train
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
      prng: JAX's generator; "rbg" is faster, but its dropout depends on the mesh.
      stop_at: stop, with a checkpoint, at this step (0 = at the end).
    """

    directory: str = operational("runs/run")
    model: ModelConfig
    task: TaskConfig
    data: tuple[WeightedData, ...]
    stages: tuple[Stage, ...]
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    prng: Literal["threefry2x32", "rbg"] = "threefry2x32"
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    skips: tuple[tuple[int, int], ...] = operational(())
    checkpoint: CheckpointConfig = operational(CheckpointConfig())
    log: LogConfig = operational(LogConfig())
    mesh: MeshConfig = operational(MeshConfig())
    stop_at: int = operational(0)


def prepare_data(cfg: RunConfig) -> None:
    """Builds the stores and instance tables that the run reads, where they are not there yet."""
    task = make_task(cfg.task)
    for index, entry in enumerate(cfg.data):
        lengths = {s.length for s in cfg.stages if not s.data or index in s.data} | {cfg.stages[-1].length}
        prepare(entry.data, [task.instances(length) for length in sorted(lengths)], cfg.seed)


def pretrain(cfg: RunConfig) -> None:
    """The main job: prepares the data, trains or resumes, and shows what came out: held-out figures beside their baselines,
    samples, and where the report is."""
    if jax.process_index() == 0:
        prepare_data(cfg)
    multihost_utils.sync_global_devices("data prepared")
    train(cfg)
    if jax.process_index() == 0:
        from lmjax.report import report  # matplotlib takes its time, and most processes never draw
        from lmjax.samples import write_samples

        samples = write_samples(cfg)
        page = report(cfg.directory)
        print(summary(cfg.directory, samples, page))


def summary(directory: str, samples: list[dict[str, Any]], page: epath.Path) -> str:
    """The end of a run as text for the screen."""
    lines = [json.loads(line) for line in (epath.Path(directory) / "metrics.jsonl").read_text().splitlines()]
    heldout = [line for line in lines if line["split"] == "heldout"][-1:]
    baselines = json.loads((epath.Path(directory) / "baselines.json").read_text())
    shown = []
    for name, value in heldout[0].items() if heldout else ():
        if name not in ("step", "split") and value is not None:
            beside = "".join(f"   ({kind}: {figure:.4g})" for kind, figure in baselines.get(name, {}).items())
            shown.append(f"  {name:<18} {value:.4g}{beside}")
    for sample in samples:
        shown += ["", f"  {sample['title']}", *("    " + "  |  ".join(row) for row in sample["rows"])]
    step = heldout[0]["step"] if heldout else 0
    return "\n".join([f"held-out, step {step}", *shown, "", f"report: {page}"])
