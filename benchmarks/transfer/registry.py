"""The study's figures among those that README's table shows beside the papers'."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.transfer import recipes
from benchmarks.transfer.recipes import Cell
from benchmarks.transfer.results import digest, known
from lmjax.evals.results import Measured, detail_of, peers, scaled, shape_of
from lmjax.finetuning import frame_of
from lmjax.models import MODELS, architecture_of
from lmjax.models.architecture import num_params
from lmjax.tasks import make_task

RECORDED = {  # part of the study -> the columns that are recorded, and what the models are called
    "transfer": {"pretrained": "BERT of benchmarks.transfer"},
    "elmo": {"ELMo": "ELMo of benchmarks.transfer"},
    "ernie": {"entities masked": "ERNIE of benchmarks.transfer"},
    "masked": {f"causal {recipes.CAUSAL[-1]}": "GPT of benchmarks.transfer"},
}


def measured(root: Path, folder: Path) -> Iterator[tuple[str, list[Measured]]]:
    """The name of a model, and its figures of a task, those that a paper has too."""
    facts = {one["recipe"]: one for one in known(root, folder)["cells"]}
    for cell in recipes.cells(root):
        name, found = RECORDED[cell.part].get(cell.column, ""), facts.get(digest(root, cell.recipe))
        figures = figures_of(root, cell, found) if name and found else []
        if figures := [one for one in figures if peers(one)]:
            yield name, figures


def figures_of(root: Path, cell: Cell, found: dict[str, Any]) -> list[Measured]:
    """`found`: what results.json says of the cell."""
    begun = Path(cell.recipe.init_from)
    (model,) = [cfg.model for cfg in recipes.pretrainings(root) if begun.is_relative_to(cfg.directory)]
    architecture, task_cfg = architecture_of(model), cell.recipe.task
    task = make_task(replace(task_cfg, frame=frame_of(architecture)))
    assert task.supervised
    one = Measured(
        name="",
        family=next(name for name, known in MODELS.items() if known is architecture),
        shape=shape_of(model),
        parameters=num_params(architecture, model, task.heads_of(architecture)),
        task=task.supervised.name,
        metric="",
        setting=f"features {task_cfg.features.layers}" if task_cfg.features.frozen else "fine-tuned",
        values=(),
        hardware=found["hardware"].partition(", jax")[0],
        rows=task_cfg.limit,  # type: ignore[attr-defined]
        detail=detail_of(task_cfg.features),
    )
    return [replace(one, metric=name, values=scaled(name, values)) for name, values in found["figures"].items()]
