"""Several seeds and a grid of settings: one run each, then one table. The same command again goes on where it stopped.

A grid's entry is a field and its values, `optim.peak_lr=2e-5,3e-5`; all combinations are run, each with every seed.
"""

import itertools
import json
import statistics
from functools import partial
from typing import Any

import jax
from etils import epath

from lmjax.config import override
from lmjax.errors import UserError
from lmjax.finetuning import FinetuneConfig, finetune, resolve
from lmjax.parallel import on_first_process
from lmjax.train.checkpoint import check_same_meaning
from lmjax.train.files import write_atomically


def study(cfg: FinetuneConfig) -> None:
    """The run of a config without `seeds` and `grid`; else their runs, those with a result passed over, and the table:
    DIRECTORY/study.json and the screen.

    Raises:
      UserError: an entry of the grid that is not FIELD=VALUE,VALUE,... , or has a value that its field does not take; a
        result of another recipe; and what a run raises.
    """
    if not cfg.seeds and not cfg.grid:
        finetune(cfg)
        return
    directory, found = epath.Path(cfg.directory), {}
    combinations = {  # all of them first: a value that is none ends the command before anything is trained
        settings: [one_run(cfg, settings, seed) for seed in cfg.seeds or (cfg.seed,)]
        for settings in _combinations(cfg.grid)
    }
    for settings, planned in combinations.items():
        runs = {}
        for run in planned:
            path = epath.Path(run.directory)
            result = on_first_process(partial(_result, path))
            if result:
                check_same_meaning(path, resolve(run))
            else:
                _say(f"\n{path}")
                if not finetune(run):
                    return  # stopped on the way; the same command goes on
                result = on_first_process(partial(_result, path))
            runs[path.name] = json.loads(result)
        found[" ".join(settings) or "as configured"] = {"runs": list(runs), **summary([*runs.values()])}
        on_first_process(partial(write_atomically, directory / "study.json", json.dumps(found, indent=1)))
    _say(table(found))


def one_run(cfg: FinetuneConfig, settings: tuple[str, ...], seed: int) -> FinetuneConfig:
    """The config of one run, in a directory named after its settings."""
    arguments = [part for setting in settings for part in _argument(setting)]
    name = "_".join([*settings, f"seed={seed}"]).replace("/", "-")
    own = ["--seeds", "--grid", "--seed", str(seed), "--directory", str(epath.Path(cfg.directory) / name)]
    return override(cfg, [*arguments, *own], "run_finetune.py --grid")


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, mean, standard deviation (of a sample; none for one run) and all values of each figure; and "best", its
    value in the run whose headline is best on dev."""
    pick, headline = max if runs[0]["larger_is_better"] else min, runs[0]["headline"]
    best, figures = pick(runs, key=lambda run: run["figures"][headline]), {}
    for name in runs[0]["figures"]:
        values = [run["figures"][name] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else None
        middle = {"median": statistics.median(values), "mean": statistics.fmean(values), "sd": spread}
        figures[name] = {**middle, "best": best["figures"][name], "values": values}
    return {"headline": headline, "larger_is_better": runs[0]["larger_is_better"], "figures": figures}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The headline of each combination, the best median first."""
    first = next(iter(found.values()))
    name, sign = first["headline"], -1 if first["larger_is_better"] else 1
    ranked = sorted(found.items(), key=lambda item: sign * item[1]["figures"][name]["median"])
    columns = ("median", "mean", "sd", "best")
    width = max(len(settings) for settings in found)
    lines = [f"{name:<{width}}  {'  '.join(f'{c:>7}' for c in columns)}  runs"]
    for settings, one in ranked:
        values = one["figures"][name]
        shown = (f"{values[c]:7.4f}" if values[c] is not None else f"{'-':>7}" for c in columns)
        lines.append(f"{settings:<{width}}  {'  '.join(shown)}  {len(values['values'])}")
    return "\n".join(lines)


def _result(run: epath.Path) -> str:
    file = run / "result.json"
    return file.read_text() if file.exists() else ""


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)


def _combinations(grid: tuple[str, ...]) -> list[tuple[str, ...]]:
    ways = []
    for entry in grid:
        name, equals, values = entry.partition("=")
        if not (name and equals and all(values.split(","))):
            raise UserError(f"grid entry '{entry}' is not FIELD=VALUE,VALUE,...")
        ways.append([f"{name}={value}" for value in values.split(",")])
    return list(itertools.product(*ways))


def _argument(setting: str) -> list[str]:
    name, _, value = setting.partition("=")
    path, dot, field = name.replace("_", "-").rpartition(".")
    if value in ("True", "False"):  # a switch, --path.field or --path.no-field
        return [f"--{path}{dot}{'' if value == 'True' else 'no-'}{field}"]
    return [f"--{path}{dot}{field}", value]
