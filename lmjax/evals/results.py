"""Measured figures beside the papers': a finished run, study or evaluation compared, and the README's table of them.

`published.json` holds what the papers report, `measured.json` what was recorded here. Shares are in per cent.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from etils import epath

from lmjax.config import from_json, to_json
from lmjax.errors import UserError
from lmjax.models import MODELS, architecture_of, preset
from lmjax.models.architecture import ModelConfig, num_params
from lmjax.models.features import FeatureConfig
from lmjax.tasks import make_task
from lmjax.tasks.task import FilesConfig
from lmjax.train.environment import environment, hardware_of
from lmjax.train.files import write_atomically
from lmjax.train.saved import describe_saved, read_part

PUBLISHED, MEASURED = (Path(__file__).with_name(name) for name in ("published.json", "measured.json"))
BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"
# What is in the name of figures that are no shares.
AS_THEY_ARE = ("perplexity", "bleu", "rouge", "threshold", "loss")


@dataclass(frozen=True)
class Published:
    """One figure of a paper: of the model `preset` of a family, on a split, as it was put to the task (`setting`:
    "fine-tuned", "features mix", "zero-shot" ...)."""

    family: str
    preset: str
    task: str
    metric: str
    split: str
    setting: str
    value: float
    source: str


@dataclass(frozen=True)
class Measured:
    """One figure measured here, once for each seed; on held-out rows, or on the split that the metric's name begins
    with. `name`: what the model is, in the table; `shape`: width, layers and inner width; `setting`: as of a paper's
    figure, or "from scratch"; `detail`: what else it depends on, and papers may have otherwise."""

    name: str
    family: str
    shape: tuple[int, ...]
    parameters: int
    task: str
    metric: str
    setting: str
    values: tuple[float, ...]
    hardware: str
    rows: int = 0
    detail: str = ""


def published() -> list[Published]:
    figures = []
    for group in json.loads(PUBLISHED.read_text()):
        family, split, setting, source = (group[key] for key in ("family", "split", "setting", "source"))
        for name, values in group["rows"].items():
            for column, value in zip(group["columns"], values, strict=True):
                task, metric = column.split()
                figures.append(Published(family, name, task, metric, split, setting, value, source))
    return figures


def measure(path: epath.PathLike) -> list[Measured]:
    """The figures of a finished fine-tuning run, of a study (its combination with the best median), or of the file that
    `evaluate --out` wrote.

    Raises:
      UserError: something else, or a run that is not finished.
    """
    path = epath.Path(path).expanduser()
    if path.is_file():
        return _evaluated(path)
    study, result = path / "study.json", path / "result.json"
    if study.is_file() and result.is_file():
        raise UserError(
            f"{path} holds a study and a run of its own; delete the {study.name} or {result.name} not meant"
        )
    if study.is_file():
        combinations = json.loads(study.read_text())
        best = max(combinations.values(), key=_median)
        figures, run = {name: one["values"] for name, one in best["figures"].items()}, path / best["runs"][0]
    elif result.is_file():
        figures, run = {name: [value] for name, value in json.loads(result.read_text())["figures"].items()}, path
    else:
        raise UserError(f"{path} holds no result.json or study.json; compare takes a finished run, study or evaluation")
    model, task_cfg = read_part(run, ModelConfig, "model"), read_part(run, FilesConfig, "task")
    task = make_task(task_cfg)
    assert task.supervised
    drawn = not read_part(run, str, "init_from")
    setting = "from scratch" if drawn else "fine-tuned"
    if task_cfg.features.frozen:
        setting = f"features {task_cfg.features.layers}{', from scratch' if drawn else ''}"
    detail = detail_of(task_cfg.features)
    named, stored = _model(model, task.heads_of(architecture_of(model))), run / "environment.json"
    hardware = hardware_of(json.loads(stored.read_text()) if stored.is_file() else environment())
    return [
        Measured(
            *named, task.supervised.name, metric, setting, scaled(metric, values), hardware, task_cfg.limit, detail
        )
        for metric, values in figures.items()
    ]


def peers(one: Measured) -> list[Published]:
    """What papers report of that family on that task by that metric, of a test split's figures on test splits alone;
    the same size first."""
    metric = one.metric.removeprefix("test_")
    keys = {"family": one.family, "task": one.task, "metric": metric, "setting": one.setting}
    found = [p for p in published() if all(getattr(p, key) == value for key, value in keys.items())]
    if metric != one.metric:
        found = [p for p in found if p.split.endswith("test")]
    return sorted(found, key=lambda p: not _same_size(p, one))


def comparison(found: Sequence[Measured]) -> str:
    """A line for each figure, and below it what the papers have."""
    lines = []
    for one in found:
        seeds = f"{len(one.values)} seed{'s' * (len(one.values) > 1)}"
        lines.append(f"{one.task} {one.metric}: {spread(one)} ({seeds})  {_put(one)}, {one.name}, {one.hardware}")
        lines += [
            f"    {p.value:g}  {p.preset}, {p.split} ({p.source}){'' if _same_size(p, one) else '; another size'}"
            for p in peers(one)
        ]
    if not any(peers(one) for one in found):
        lines.append("no paper's figure of this family is on record for that")
    return "\n".join(lines)


def record(found: Sequence[Measured], name: str, file: epath.PathLike = MEASURED) -> None:
    """Puts figures that a paper has too into the table under a model's name, in place of those that stood there."""
    new = {_key(m): m for m in (dataclasses.replace(one, name=name) for one in found if peers(one))}
    if not new:
        raise UserError("nothing to record: no paper's figure of this family is on record for that")
    _write({_key(m): m for m in measured(file)} | new, file)


def forget(names: Collection[str], file: epath.PathLike = MEASURED) -> None:
    """Takes what was recorded under these names out of the table."""
    _write({_key(m): m for m in measured(file) if m.name not in names}, file)


def _write(found: Mapping[Any, Measured], file: epath.PathLike) -> None:
    write_atomically(file, json.dumps([to_json(found[key]) for key in sorted(found)], indent=1) + "\n")


def measured(file: epath.PathLike = MEASURED) -> list[Measured]:
    path = epath.Path(file)
    return [from_json(Measured, one, str(path)) for one in json.loads(path.read_text())] if path.exists() else []


def readme_table(found: Sequence[Measured]) -> str:
    """Markdown: what was measured, beside the papers' figures."""
    if not found:
        return "No run is recorded yet; `python -m lmjax compare RUN --record NAME` adds one."
    columns = ("model", "task", "measured, held-out", "seeds", "papers", "hardware")
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
    for one in found:
        papers = "; ".join(f"{p.value:g} ({p.preset}, {p.split}, {p.source})" for p in peers(one))
        size = f"{one.name}, {one.parameters / 1e6:.1f}M, {_put(one)}"
        task = f"{one.task}, {one.metric}"
        lines.append(f"| {size} | {task} | {spread(one)} | {len(one.values)} | {papers} | {one.hardware} |")
    return "\n".join(lines)


def in_readme(page: str, found: Sequence[Measured]) -> str:
    """The page with the table between its two markers. Raises UserError where it lacks them."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise UserError(f"README: the table stands between the lines '{BEGIN}' and '{END}', once each")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{readme_table(found)}\n\n{END}", page, flags=re.DOTALL)


def write_readme(file: epath.PathLike) -> None:
    """Brings the table of a page up to date."""
    write_atomically(file, in_readme(epath.Path(file).read_text(), measured()))


def spread(one: Measured) -> str:
    """The mean, with the standard deviation of a sample where there are several seeds."""
    mean = f"{fmean(one.values):.2f}"
    return mean if len(one.values) < 2 else f"{mean} ± {stdev(one.values):.2f}"


def _put(one: Measured) -> str:
    put = ", ".join(filter(None, (one.setting, one.detail)))
    return f"{put} on {one.rows} rows" if one.rows else put


def detail_of(features: FeatureConfig) -> str:
    """What learns from frozen features, where it is more than the task's own layer."""
    parts = ["layer norm"] * features.layer_norm + [f"biLSTM {'-'.join(map(str, features.lstm))}"] * bool(features.lstm)
    return ", ".join(parts)


def _evaluated(path: epath.Path) -> list[Measured]:
    try:
        data = json.loads(path.read_text())
        tasks, protocol = data["tasks"], data["protocol"]
        changed = [f"{name} {protocol[name]}" for name in ("limit", "rule") if protocol[name]]
        setting = {0: "zero-shot", 1: "one-shot"}.get(protocol["shots"], "few-shot")
        hardware, source = hardware_of(data["environment"]), data["model"]
        K, beams, stride = (protocol[name] for name in ("shots", "beams", "stride"))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not what evaluate --out writes") from None
    model, _ = describe_saved(source)
    setting = ", ".join([setting, *changed])  # a part of the rows, or another rule, has no paper beside it
    detail = ", ".join([f"K={K}"] * (K > 1) + [f"{beams} beams"] * bool(beams) + [f"stride {stride}"] * bool(stride))
    return [
        Measured(*_model(model, ()), task, metric, setting, scaled(metric, [value]), hardware, detail=detail)
        for task, one in tasks.items()
        for metric, value in one["metrics"].items()
        if isinstance(value, float)
    ]


def _model(cfg: ModelConfig, heads: tuple[str, ...]) -> tuple[str, str, tuple[int, ...], int]:
    """name, family, shape and parameters."""
    architecture = architecture_of(cfg)
    family = next(name for name, one in MODELS.items() if one is architecture)
    parameters = num_params(architecture, cfg, heads)
    return f"{family} of {parameters:,} parameters", family, shape_of(cfg), parameters


def shape_of(cfg: ModelConfig) -> tuple[int, ...]:
    """Width, layers and inner width."""
    return cfg.hidden_size, cfg.num_hidden_layers, cfg.intermediate_size


def _same_size(paper: Published, one: Measured) -> bool:
    return shape_of(preset(paper.preset)) == one.shape


def _median(combination: Mapping[str, Any]) -> float:
    sign = 1 if combination["larger_is_better"] else -1
    return sign * combination["figures"][combination["headline"]]["median"]


def scaled(metric: str, values: Sequence[float]) -> tuple[float, ...]:
    """Shares in per cent; other figures as they are."""
    factor = 1.0 if any(name in metric for name in AS_THEY_ARE) else 100.0
    return tuple(factor * value for value in values)


def _key(one: Measured) -> tuple[str, ...]:
    return one.task, one.metric, one.name, one.setting, one.detail
