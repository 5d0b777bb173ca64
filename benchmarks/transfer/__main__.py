"""What pretraining gives on real data: small models pretrained here and fine-tuned, beside the same without.

    LMJAX_DATA=../shared/data .venv/bin/python -m benchmarks.transfer [--directory runs/transfer] [--seeds 3]

Resumable: what has a result is passed over, so the same command goes on where it was stopped, also on another machine:
results.json tells what is done, and a model is pretrained again only if a run lacks it. Every part is run with one seed
before any gets another, in a process on a core of its own and with a log of its own; as many run at once as there are
cores. As they go, benchmarks/results/transfer/ holds all that is known by then: results.json, the pictures, and the
tables, which also stand in docs/evaluation.md.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax

from benchmarks.transfer import corpus, recipes, results
from benchmarks.transfer.recipes import Cell
from benchmarks.transfer.registry import RECORDED, measured
from benchmarks.transfer.side_by_side import side_by_side
from lmjax import commands
from lmjax.data.files import data_folder
from lmjax.evals import results as registry
from lmjax.evals.probe_tasks import PROBES
from lmjax.memory import keep_freed_memory
from lmjax.pretraining import pretrain
from lmjax.run import RunConfig
from lmjax.study import study

ROOT = Path(__file__).parents[2]
SENTENCES = {
    "bert": "If A is caught taking B's money, he will be beaten",
    "ernie_entity": "如果A拿B的钱被发现，他就会被打",
}
STOPPED = "stopped on the way; the same command goes on"
Job = Callable[[], None]


def run(root: Path, folder: Path, seeds: int, write: Job, only: str = "") -> None:
    """All that is not done yet, or of the part `only`, in order; `write` after each job."""
    for job in jobs(root, folder, seeds, only):
        job()
        write()


def jobs(root: Path, folder: Path, seeds: int, only: str = "") -> Iterator[Job]:
    for number in range(1, seeds + 1):
        for part, (runs, cells) in recipes.parts(root).items():
            if only not in ("", part):
                continue
            counts = results.runs_known(cells, root, folder)
            wanting = [cell for cell, count in zip(cells, counts, strict=True) if count < number]
            for cfg in runs:
                begun = any(Path(cell.recipe.init_from).is_relative_to(cfg.directory) for cell in wanting)
                if begun and not results.is_pretrained(root, cfg):
                    yield partial(pretraining, root, cfg)
                if Path(cfg.directory).name in SENTENCES:
                    yield from looks(root, cfg)
            yield from (partial(finetuning, root, cell, number) for cell in wanting)


def run_side_by_side(root: Path, folder: Path, seeds: int, write: Job) -> None:
    """The same with a process for each part that has something to do, as many at once as there are cores."""
    for number in range(1, seeds + 1):
        wanting = [part for part in recipes.parts(root) if next(jobs(root, folder, number, part), None)]
        commands = {
            root / f"{part}.log": [sys.executable, "-m", "benchmarks.transfer", "--part", part, "--seeds", str(number),
                                   "--directory", str(root)]
            for part in wanting
        }  # fmt: skip
        if not commands and number == seeds:
            print(f"all is known: {folder / 'results.json'}; move it away to run the study anew", flush=True)
        if commands:
            print(f"seeds 0 to {number - 1}: {', '.join(map(str, commands))}", flush=True)
        if any(side_by_side(commands, write)):
            sys.exit(f"{STOPPED}; their logs say more")


def pretraining(root: Path, cfg: RunConfig) -> None:
    results.claim(root, cfg)
    pretrain(cfg)
    if not results.is_pretrained(root, cfg):
        sys.exit(STOPPED)


def finetuning(root: Path, cell: Cell, seeds: int) -> None:
    results.claim(root, cell.recipe)
    study(replace(cell.recipe, seeds=tuple(range(seeds))))
    if results.runs_of(cell) < seeds:
        sys.exit(STOPPED)


def looks(root: Path, cfg: RunConfig) -> Iterator[Job]:
    """Where a pretrained model looks in its sentence, and what each layer of the BERT knows; nothing where it is not
    here."""
    if not results.is_pretrained(root, cfg):
        return
    name = Path(cfg.directory).name
    layers, attention = (f"{cfg.directory}/looks/{what}" for what in ("layers", "attention"))
    probed = Path(layers) / "results.json"
    if name == "bert" and (not probed.exists() or len(json.loads(probed.read_text())["tasks"]) < len(PROBES)):
        yield lambda: commands.probe(cfg.directory, limit=2000, data=data_folder(), out=layers)
    if not Path(attention).exists():
        yield lambda: commands.attention(cfg.directory, text=SENTENCES[name], out=attention)


def record(root: Path, folder: Path) -> None:
    """Puts what is known by now into README's table of results, in place of what stood there of the study."""
    registry.forget({name for columns in RECORDED.values() for name in columns.values()})
    for name, figures in measured(root, folder):
        registry.record(figures, name)
    registry.write_readme(ROOT / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default="runs/transfer", type=Path, help="where the runs live")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument("--part", choices=list(recipes.parts(Path())), help="only this one, in this process")
    parser.add_argument("--core", type=int, help="keep to this one")
    parser.add_argument("--record", action="store_true", help="only put what is known into README's table of results")
    given = parser.parse_args()
    folder = ROOT / "benchmarks/results/transfer"
    if given.record:
        record(given.directory, folder)
        return
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    keep_freed_memory()
    jax.config.update("jax_compilation_cache_dir", str(given.directory.absolute() / "compiled"))
    corpus.write_english(Path(data_folder()), given.directory / "text")
    write = partial(results.write, given.directory, folder, ROOT / "docs/evaluation.md")
    if given.part:
        run(given.directory, folder, given.seeds, lambda: None, given.part)
    else:
        run_side_by_side(given.directory, folder, given.seeds, write)


if __name__ == "__main__":
    main()
