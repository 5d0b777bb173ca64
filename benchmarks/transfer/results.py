"""What the study has given so far: one JSON file, tables in Markdown, pictures.

The file is the study's memory: runs are not committed, so what it holds of a recipe that is still the same stays in it,
and is not run again on another machine.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.transfer import recipes
from benchmarks.transfer.recipes import Cell
from lmjax.config import stored
from lmjax.finetuning import FinetuneConfig
from lmjax.models import architecture_of
from lmjax.models.architecture import num_params
from lmjax.run import RunConfig
from lmjax.tasks import make_task
from lmjax.train.environment import hardware_of
from lmjax.train.files import write_atomically

BEGIN, END = "<!-- transfer: written by python -m benchmarks.transfer -->", "<!-- end of transfer -->"
MARK = "recipe.txt"  # in a directory: the digest of the recipe that was run there
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
    for name in ("layers/layers.png", "attention/encoder.png", "attention/attention.html"):
        if (root / name).exists():
            shutil.copyfile(root / name, folder / Path(name).name)


def known(root: Path, folder: Path) -> dict[str, Any]:
    """What the runs under `root` gave, or FOLDER/results.json holds of the same recipe, whichever came further:
    `pretraining`, facts by name, and `cells`, a list of facts."""
    file = folder / "results.json"
    past = json.loads(file.read_text()) if file.exists() else {"pretraining": {}, "cells": []}
    there = {one["recipe"]: one for one in (*past["pretraining"].values(), *past["cells"])}

    def further(facts: dict[str, Any], recipe: RunConfig | FinetuneConfig) -> dict[str, Any]:
        here, name = facts if done(root, recipe) else {}, digest(root, recipe)
        found = max(here, there.get(name, {}), key=_extent)
        return {**found, "recipe": name} if found else {}

    runs = {Path(cfg.directory).name: further(pretraining_facts(cfg), cfg) for cfg in recipes.pretrainings(root)}
    cells = [further(cell_facts(cell), cell.recipe) for cell in recipes.cells(root)]
    return {"pretraining": {name: one for name, one in runs.items() if one}, "cells": [*filter(None, cells)]}


def runs_known(cells: Sequence[Cell], root: Path, folder: Path) -> list[int]:
    """How many seeds of each cell have a result."""
    extents = {one["recipe"]: _extent(one) for one in known(root, folder)["cells"]}
    return [extents.get(digest(root, cell.recipe), 0) for cell in cells]


def digest(root: Path, recipe: RunConfig | FinetuneConfig) -> str:
    """Tells recipes apart, wherever they and the data lie; a fine-tuning run's has in it what it begins with."""
    whole: list[RunConfig | FinetuneConfig] = [recipe]
    if isinstance(recipe, FinetuneConfig):
        start = Path(recipe.init_from)
        whole += [cfg for cfg in recipes.pretrainings(root) if start.is_relative_to(cfg.directory)]
    text = (
        json.dumps([stored(cfg) for cfg in whole]).replace(f'"{root}/', '"').replace(f'"{recipes.data_folder()}/', '"')
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mark_done(root: Path, recipe: RunConfig | FinetuneConfig) -> None:
    write_atomically(Path(recipe.directory) / MARK, digest(root, recipe))


def done(root: Path, recipe: RunConfig | FinetuneConfig) -> bool:
    """Whether what lies in its directory is of this recipe, and not of one before."""
    mark = Path(recipe.directory) / MARK
    return mark.exists() and mark.read_text() == digest(root, recipe)


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
    """Where a run ran."""
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
        lines.append([row, first["metric"], naive, *shown, " to ".join(map(str, counts[:1] + counts[1:][-1:]))])
    return _markdown(["task", "%", "no model", *columns, "seeds"], lines)


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
    rows = _in_order(one["row"] for one in some) or list(recipes.COMPARED)
    figure = Figure(figsize=(8, 2.6 * len(rows)), layout="constrained")
    panels: Any = figure.subplots(len(rows), 2, squeeze=False, sharey="row", sharex="col")
    for row, (left, right) in zip(rows, panels, strict=True):
        for kind, colour in zip(("masked", "causal"), COLOURS, strict=False):
            here = [one for one in some if one["row"] == row and one["column"].startswith(kind)]
            steps = [int(one["column"].split()[1]) for one in here]
            means = [100 * fmean(_values(one)) for one in here]
            work = pretraining[kind]["flops_per_step"] / 1e12
            for ax, at in ((left, steps), (right, [work * step for step in steps])):
                ax.plot(at, means, "o-", color=colour, label=kind)
                for x, one in zip(at, here, strict=True):
                    ax.plot([x] * len(_values(one)), [100 * v for v in _values(one)], ".", color=colour, alpha=0.5)
                ax.grid(alpha=0.3)
        left.set_ylabel(f"{row}, {_metric(some, row)}, %")
    panels[0, 0].legend(fontsize=8)
    panels[-1, 0].set_xlabel("steps of pretraining")
    panels[-1, 1].set_xlabel("its operations, 10\u00b9\u00b2")
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
