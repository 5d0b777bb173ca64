"""What the study has given so far: one JSON file, tables in Markdown, pictures.

The file is the study's memory: runs are not committed, so what it holds of a recipe that is still the same stays in it,
and is not run again on another machine.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.transfer import recipes
from benchmarks.transfer.recipes import Cell
from lmjax.data.files import data_folder
from lmjax.errors import UserError
from lmjax.finetuning import FinetuneConfig
from lmjax.models import architecture_of
from lmjax.models.architecture import num_params
from lmjax.run import RunConfig
from lmjax.tasks import make_task
from lmjax.train.checkpoint import steps_of
from lmjax.train.environment import hardware_of
from lmjax.train.files import write_atomically

BEGIN, END = "<!-- transfer: written by python -m benchmarks.transfer -->", "<!-- end of transfer -->"
MARK = "recipe.txt"  # in a directory: the digest of the recipe that is run there
Recipe = RunConfig | FinetuneConfig
LOOKS = {  # pictures of pretrained models, and the names under which they are kept
    "bert/looks/layers/layers.png": "layers.png",
    "bert/looks/layers/results.json": "layers.json",
    "bert/looks/attention/encoder.png": "encoder.png",
    "bert/looks/attention/attention.html": "attention.html",
    "ernie_entity/looks/attention/attention.html": "attention_zh.html",
}
COLOURS = ("tab:blue", "tab:orange", "tab:green")
TITLES = {
    "transfer": "the same network, pretrained and not",
    "elmo": "a tagger on frozen ELMos",
    "ernie": "what ERNIE had to guess",
}


def write(root: Path, folder: Path, page: Path) -> None:
    """FOLDER/results.json and the pictures, and the tables between two markers of a page."""
    found = known(root, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.json", json.dumps(found, indent=1) + "\n")
    write_atomically(page, in_page(page.read_text(), tables(found["cells"], found["pretraining"])))
    if found["cells"]:
        gains(found["cells"]).savefig(folder / "transfer.png", dpi=120)
    if {"masked", "causal"} <= found["pretraining"].keys():
        masked_or_causal(found["cells"], found["pretraining"]).savefig(folder / "masked_or_causal.png", dpi=120)
    for file, name in LOOKS.items():
        if (root / file).exists():
            shutil.copyfile(root / file, folder / name)


def known(root: Path, folder: Path) -> dict[str, Any]:
    """What the runs under `root` gave, or FOLDER/results.json holds of the same recipe, whichever came further:
    `pretraining`, facts by name, and `cells`, a list of facts."""
    file = folder / "results.json"
    past = json.loads(file.read_text()) if file.exists() else {"pretraining": {}, "cells": []}
    there = {one["recipe"]: one for one in (*past["pretraining"].values(), *past["cells"])}

    def further(facts: Callable[[], dict[str, Any]], recipe: Recipe) -> dict[str, Any]:
        here, name = facts() if is_of(root, recipe) else {}, digest(root, recipe)
        found = max(there.get(name, {}), here, key=_extent)
        return {**found, "recipe": name} if found else {}

    runs = {
        Path(cfg.directory).name: further(partial(pretraining_facts, cfg), cfg) for cfg in recipes.pretrainings(root)
    }
    cells = [further(partial(cell_facts, cell), cell.recipe) for cell in recipes.cells(root)]
    return {"pretraining": {name: one for name, one in runs.items() if one}, "cells": [*filter(None, cells)]}


def runs_known(cells: Sequence[Cell], root: Path, folder: Path) -> list[int]:
    """How many seeds of each cell have a result."""
    extents = {one["recipe"]: _extent(one) for one in known(root, folder)["cells"]}
    return [extents.get(digest(root, cell.recipe), 0) for cell in cells]


def digest(root: Path, recipe: Recipe) -> str:
    """Tells recipes apart, wherever they and the data lie; a fine-tuning run's has in it what it begins with."""
    whole = [recipe]
    if isinstance(recipe, FinetuneConfig):
        whole += [cfg for cfg in recipes.pretrainings(root) if Path(recipe.init_from).is_relative_to(cfg.directory)]
    folders = tuple(os.path.join(folder, "") for folder in (root, data_folder(), Path(data_folder())))
    text = json.dumps([_meaning(cfg, folders) for cfg in whole])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _meaning(value: Any, folders: tuple[str, ...]) -> Any:
    """As JSON: what is neither operational nor as its config has it by itself, so that a new field with a default
    changes nothing; paths without the folders that they lie in."""
    if is_dataclass(value):
        meant = {f.name: getattr(value, f.name) for f in fields(value) if not f.metadata.get("operational")}
        given = {f.name: meant[f.name] for f in fields(value) if f.name in meant and meant[f.name] != _default(f)}
        return {"type": type(value).__name__, **{name: _meaning(one, folders) for name, one in given.items()}}
    if isinstance(value, tuple):
        return [_meaning(one, folders) for one in value]
    if isinstance(value, str):
        return next((value.removeprefix(folder) for folder in folders if value.startswith(folder)), value)
    return value


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def claim(root: Path, recipe: Recipe) -> None:
    """Takes its directory for this recipe. Raises UserError where that holds runs of another one."""
    mark = Path(recipe.directory) / MARK
    if mark.parent.exists() and not is_of(root, recipe):
        raise UserError(f"{mark.parent} holds what another recipe gave; remove it, or choose another --directory")
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, digest(root, recipe))


def is_of(root: Path, recipe: Recipe) -> bool:
    """Whether its directory was claimed for it."""
    mark = Path(recipe.directory) / MARK
    return mark.exists() and mark.read_text() == digest(root, recipe)


def is_pretrained(root: Path, cfg: RunConfig) -> bool:
    return is_of(root, cfg) and steps_of(cfg.directory)[-1:] == [cfg.stages[-1].until_step]


def runs_of(cell: Cell) -> int:
    return _extent(cell_facts(cell))


def cell_facts(cell: Cell) -> dict[str, Any]:
    """Its place in the tables, and each figure's values by seed; nothing without a finished run."""
    study = Path(cell.recipe.directory) / "study.json"
    if not study.exists():
        return {}
    (found,) = json.loads(study.read_text()).values()
    run = study.parent / f"seed={cell.recipe.seed}"
    baselines = json.loads((run / "baselines.json").read_text())
    return {
        "part": cell.part,
        "row": cell.row,
        "column": cell.column,
        "metric": found["headline"],
        "baseline": next(iter(baselines.get(found["headline"], {}).values()), None),
        "figures": {name: one["values"] for name, one in found["figures"].items()},
        "hardware": hardware(run),
    }


def pretraining_facts(cfg: RunConfig) -> dict[str, Any]:
    """What a pretraining run cost and came to; nothing before its first evaluation."""
    log = Path(cfg.directory) / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    heldout = [line for line in lines if line["split"] == "heldout"]
    if not heldout:
        return {}
    steps = [0, *(line["step"] for line in lines if line["split"] == "train")]
    paces = [line["time"]["seconds_per_step"] for line in lines if line["split"] == "train"]
    task, architecture, stage = make_task(cfg.task), architecture_of(cfg.model), cfg.stages[0]
    predictions = task.predictions(stage.length, stage.masking)
    forward = architecture.flops(cfg.model, stage.length, task.heads, predictions)
    return {
        "parameters": num_params(architecture, cfg.model, task.heads),
        "steps": heldout[-1]["step"],
        "training_minutes": sum((b - a) * pace for a, b, pace in zip(steps, steps[1:], paces, strict=False)) / 60,
        "flops_per_step": 3 * stage.batch_size * forward,
        "heldout": {name: value for name, value in heldout[-1].items() if name not in ("step", "split")},
        "baselines": json.loads((log.parent / "baselines.json").read_text()),
        "hardware": hardware(log.parent),
    }


def hardware(run: Path) -> str:
    """Where a run was last started."""
    found = json.loads((run / "environment.json").read_text())
    return f"{hardware_of(found)}, jax {found['jax']}"


def in_page(page: str, text: str) -> str:
    """The page with `text` between its two markers."""
    assert page.count(BEGIN) == page.count(END) == 1, f"the page lacks the lines {BEGIN} and {END}"
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page, flags=re.DOTALL)


def tables(cells: Sequence[Mapping[str, Any]], pretraining: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each part, then that of the pretrained models."""
    parts = {part: [one for one in cells if one["part"] == part] for part in (*TITLES, "masked")}
    return "\n\n".join([*(table(some) for some in parts.values() if some), pretraining_table(pretraining)])


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line for each row; mean and standard deviation in per cent."""
    columns = _in_order(one["column"] for one in cells)
    lines = []
    for row in _in_order(one["row"] for one in cells):
        here = {one["column"]: one for one in cells if one["row"] == row}
        first = next(iter(here.values()))
        counts = sorted({len(_values(one)) for one in here.values()})
        shown = [_spread(_values(here[column])) if column in here else "" for column in columns]
        naive = "" if first["baseline"] is None else f"{100 * first['baseline']:.1f}"
        seeds = " to ".join(map(str, counts[:1] + counts[1:][-1:]))
        places = _in_order(one["hardware"] for one in here.values())
        lines.append([row, first["metric"], naive, *shown, seeds, "; ".join(places)])
    return _markdown(["task", "%", "no model", *columns, "seeds", "on"], lines)


def pretraining_table(pretraining: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, one in pretraining.items():
        figures = {key: value for key, value in one["heldout"].items() if key.endswith(("accuracy", "perplexity"))}
        shown = []
        for key, value in figures.items():
            beside = "".join(f" ({kind} {_brief(v)})" for kind, v in one["baselines"].get(key, {}).items())
            shown.append(f"{key} {_brief(value)}{beside}")
        cost = [f"{one['parameters']:,}", f"{one['steps']}", f"{one['training_minutes']:.0f}"]
        lines.append([name, *cost, one["hardware"], f"{one['flops_per_step'] / 1e9:.1f}", "; ".join(shown)])
    return _markdown(["model", "parameters", "steps", "minutes", "on", "GFLOP a step", "held-out"], lines)


def gains(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """A line for each task: small dots are runs, large ones their means, a bar is what no model gives."""
    parts = {part: some for part in TITLES if (some := [one for one in cells if one["part"] == part])}
    rows = {part: _in_order(one["row"] for one in some) for part, some in parts.items()}
    heights = [len(rows[part]) + 1.2 for part in parts]
    figure = Figure(figsize=(8, 0.8 + 0.42 * sum(heights)), layout="constrained")
    panels: Any = figure.subplots(len(parts), 1, squeeze=False, sharex=True, height_ratios=heights)
    for ax, (part, some) in zip(panels[:, 0], parts.items(), strict=True):
        colours = dict(zip(_in_order(one["column"] for one in some), COLOURS, strict=False))
        for one in some:
            values, place = [100 * value for value in _values(one)], rows[part].index(one["row"])
            ax.plot(values, [place] * len(values), "o", color=colours[one["column"]], markersize=3, alpha=0.6)
            ax.plot(fmean(values), place, "o", color=colours[one["column"]], markersize=9)
            if one["baseline"] is not None:
                ax.plot(100 * one["baseline"], place, "|", color="black", markersize=14)
        for column, colour in colours.items():
            ax.plot([], [], "o", color=colour, label=column)
        ax.set_yticks(range(len(rows[part])), [f"{row}, {_metric(some, row)}" for row in rows[part]])
        ax.set_ylim(len(rows[part]) - 0.4, -0.6)
        ax.grid(axis="both", alpha=0.3)
        ax.set_title(TITLES[part], fontsize=9, loc="left")
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    panels[-1, 0].set_xlabel("held-out, %; | is what the task gives without a model")
    return figure


def masked_or_causal(cells: Sequence[Mapping[str, Any]], pretraining: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Fine-tuned figures by pretraining steps and by its operations."""
    some = [one for one in cells if one["part"] == "masked"]
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for kind, colour in zip(("masked", "causal"), COLOURS, strict=False):
        here = [one for one in some if one["column"].startswith(kind)]
        steps = [int(one["column"].split()[1]) for one in here]
        means = [100 * fmean(_values(one)) for one in here]
        work = pretraining[kind]["flops_per_step"] / 1e12
        for ax, at in ((left, steps), (right, [work * step for step in steps])):
            ax.plot(at, means, "o-", color=colour, label=kind)
            for x, one in zip(at, here, strict=True):
                ax.plot([x] * len(_values(one)), [100 * v for v in _values(one)], ".", color=colour, alpha=0.5)
            ax.grid(alpha=0.3)
    left.set_ylabel("".join(f"{row}, {_metric(some, row)}, %" for row in _in_order(one["row"] for one in some)))
    left.set_xlabel("steps of pretraining")
    left.legend(fontsize=8)
    right.set_xlabel("its operations, 10\u00b9\u00b2")
    return figure


def _values(one: Mapping[str, Any]) -> list[float]:
    return one["figures"][one["metric"]]


def _extent(one: Mapping[str, Any]) -> int:
    """How far it came: steps of a pretraining, runs of a cell; 0 where nothing is known."""
    return one["steps"] if "steps" in one else len(_values(one)) if one else 0


def _metric(cells: Iterable[Mapping[str, Any]], row: str) -> str:
    return next((one["metric"] for one in cells if one["row"] == row), "")


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} \u00b1 {100 * stdev(values):.1f}"


def _brief(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])
