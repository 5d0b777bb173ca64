"""What pretraining gives on real data: small models pretrained here and fine-tuned, beside the same without.

    LMJAX_DATA=../shared/data .venv/bin/python -m benchmarks.transfer [--directory runs/transfer] [--seeds 3]

Resumable: what has a result is passed over, so the same command goes on where it was stopped, also on another machine:
results.json tells what is done, and a model is pretrained again only if a run lacks it. Every part is run with one seed
before any gets another. After each step benchmarks/results/transfer/ holds all that is known by then: results.json, the
pictures, and the tables, which also stand in docs/evaluation.md.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax

from benchmarks.transfer import corpus, recipes, results
from benchmarks.transfer.recipes import Cell
from lmjax import commands
from lmjax.evals import results as registry
from lmjax.evals.probe_tasks import PROBES
from lmjax.memory import keep_freed_memory
from lmjax.pretraining import pretrain
from lmjax.run import RunConfig
from lmjax.study import study
from lmjax.train.checkpoint import steps_of

ROOT = Path(__file__).parents[2]
SENTENCE = "If A is caught taking B's money, he will be beaten"
NAME = "BERT of benchmarks.transfer"
STOPPED = "stopped on the way; the same command goes on"
Job = Callable[[], None]


def run(root: Path, folder: Path, seeds: int, write: Job) -> None:
    """All that is not done yet, in order; `write` after each job."""
    for job in jobs(root, folder, seeds):
        job()
        write()


def jobs(root: Path, folder: Path, seeds: int) -> Iterator[Job]:
    for number in range(1, seeds + 1):
        for runs, cells in recipes.parts(root):
            counts = results.runs_known(cells, root, folder)
            wanting = [cell for cell, count in zip(cells, counts, strict=True) if count < number]
            if wanting:
                yield from (partial(pretraining, root, cfg) for cfg in runs if not results.done(root, cfg))
                yield from looks(root)
                yield from (partial(finetuning, root, cell, number) for cell in wanting)


def pretraining(root: Path, cfg: RunConfig) -> None:
    pretrain(cfg)
    if steps_of(cfg.directory)[-1:] != [cfg.stages[-1].until_step]:
        sys.exit(STOPPED)
    results.mark_done(root, cfg)


def finetuning(root: Path, cell: Cell, seeds: int) -> None:
    study(replace(cell.recipe, seeds=tuple(range(seeds))))
    if results.runs_of(cell) < seeds:
        sys.exit(STOPPED)
    results.mark_done(root, cell.recipe)


def looks(root: Path) -> Iterator[Job]:
    """What each layer of the pretrained BERT knows, and where it looks in a sentence; nothing where it is not here."""
    model = f"{root}/bert"
    if not steps_of(model):
        return
    probed = root / "layers/results.json"
    if not probed.exists() or len(json.loads(probed.read_text())["tasks"]) < len(PROBES):
        yield lambda: commands.probe(model, limit=2000, data=str(recipes.data_folder()), out=f"{root}/layers")
    if not (root / "attention").exists():
        yield lambda: commands.attention(model, text=SENTENCE, out=f"{root}/attention")


def record(root: Path) -> None:
    """Puts the pretrained BERT's figures among those that README's table shows beside the papers'."""
    for cell in recipes.transfer_cells(root):
        if cell.column == "pretrained" and results.cell_facts(cell):
            registry.record(registry.measure(cell.recipe.directory), NAME)
    registry.write_readme(ROOT / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default="runs/transfer", type=Path, help="where the runs live")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument("--record", action="store_true", help="only put what is there into README's table of results")
    given = parser.parse_args()
    if given.record:
        record(given.directory)
        return
    keep_freed_memory()
    jax.config.update("jax_compilation_cache_dir", str(given.directory.absolute() / "compiled"))
    corpus.write_english(recipes.data_folder(), given.directory / "text")
    folder = ROOT / "benchmarks/results/transfer"
    write = partial(results.write, given.directory, folder, ROOT / "docs/evaluation.md")
    run(given.directory, folder, given.seeds, write)
    write()


if __name__ == "__main__":
    main()
