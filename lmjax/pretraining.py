"""The main job, from a config to a page about the trained model. `run_pretrain.py` is its command."""

import json
from typing import Any

import jax
from etils import epath

from lmjax.parallel import on_first_process
from lmjax.report import report
from lmjax.run import RunConfig, prepare_data
from lmjax.samples import write_samples
from lmjax.train.assemble import assemble
from lmjax.train.checkpoint import check_same_run
from lmjax.train.loop import train


def pretrain(cfg: RunConfig) -> None:
    """The main job: prepares the data, trains or resumes, and shows what came out: held-out figures beside their
    baselines, samples, and where the report is."""
    check_same_run(cfg.directory, cfg)
    assemble(cfg)  # a bad config is refused before minutes go into data
    on_first_process(lambda: prepare_data(cfg))
    train(cfg)
    if jax.process_index() == 0:
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
