"""Translation on Multi30k, English to German: a run to the end, and an epoch beside a Marian trained by torch.

    .venv/bin/python benchmarks/translation.py run [--steps N]
    .venv/bin/python benchmarks/translation.py epoch [--steps N]

`run` trains configs/multi30k.py, averages its last five checkpoints and scores the test set of 2016 by sacreBLEU.
`epoch` trains configs/tiny/transformer.py for one epoch without dropout, here and by
`peers/translation_torch.py`: the same first parameters, the same pairs in each batch (there one a row, since
transformers packs none), the same rates; it prints both losses and times.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs.multi30k import config as longer  # noqa: E402  (configs lie beside the package, not in it)
from configs.tiny.transformer import config as tiny  # noqa: E402
from configs.tiny.transformer import pairs  # noqa: E402
from lmjax import commands  # noqa: E402
from lmjax.interop import LanguageModel  # noqa: E402
from lmjax.parallel import global_batch  # noqa: E402
from lmjax.pretraining import pretrain  # noqa: E402
from lmjax.run import RunConfig, prepare_data  # noqa: E402
from lmjax.train.assemble import assemble, open_data  # noqa: E402
from lmjax.train.optim import make_schedule  # noqa: E402


def stopped(cfg: RunConfig, steps: int) -> RunConfig:
    """The run with another end, where one is wanted."""
    return dataclasses.replace(cfg, stages=(dataclasses.replace(cfg.stages[0], until_step=steps),)) if steps else cfg


def run(cfg: RunConfig) -> None:
    start = time.perf_counter()
    pretrain(cfg)
    minutes = (time.perf_counter() - start) / 60
    test = pairs("test_2016_flickr")
    out = Path(cfg.directory) / "test_2016_flickr.de"
    commands.translate(cfg.directory, test.source, test.target, str(out), average=min(5, cfg.checkpoint.keep))
    print(f"{minutes:.1f} minutes, preparation, training, evaluation and samples together; translations in {out}")


def epoch(cfg: RunConfig) -> None:
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, hidden_dropout=0.0))
    prepare_data(cfg)
    program = assemble(cfg)
    data, steps = open_data(cfg, program), cfg.stages[-1].until_step
    with jax.set_mesh(program.mesh), tempfile.TemporaryDirectory() as folder:
        state, batches, losses = program.init_state(), [], []
        LanguageModel(cfg.model, program.task.heads, jax.device_get(state.params), None).save_hf(Path(folder) / "hf")
        begin = 0.0
        for step, batch in data.train(0, steps):
            state, metrics = program.train_step(state, global_batch(batch, program.mesh))
            losses.append(float(metrics["loss"]))
            batches.append({name: batch[name][0] for name in FEATURES})
            begin = time.perf_counter() if step == 0 else begin  # the first step compiles
        seconds = time.perf_counter() - begin
        rates = jax.vmap(make_schedule(cfg.optim, steps))(jnp.arange(steps, dtype=jnp.float32))
        theirs = torch_epoch(Path(folder), batches, np.asarray(rates), cfg)
    report(np.array(losses), seconds / (steps - 1), np.array(theirs["losses"]), theirs["seconds_per_step"])


FEATURES = ("tokens", "targets", "segment_ids", "encoder_tokens", "encoder_segment_ids")


def torch_epoch(folder: Path, batches: list[Any], rates: np.ndarray, cfg: RunConfig) -> dict[str, Any]:
    arrays = {name: np.stack([batch[name] for batch in batches]) for name in FEATURES}
    np.savez(folder / "batches.npz", **arrays, rates=rates, betas=np.array([cfg.optim.b1, cfg.optim.b2]))
    python, script = ROOT / ".venv-parity" / "bin" / "python", Path(__file__).parent / "peers" / "translation_torch.py"
    smoothing = str(cfg.task.label_smoothing)  # type: ignore[attr-defined]
    command = [str(python), str(script), str(folder), smoothing, str(cfg.optim.eps)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def report(ours: np.ndarray, our_seconds: float, theirs: np.ndarray, their_seconds: float) -> None:
    print(f"{'steps':>12} {'lmjax':>9} {'torch':>9}   (mean smoothed loss)")
    for part in np.array_split(np.arange(len(ours)), 5):
        print(f"{part[0]:>5}-{part[-1]:<6} {ours[part].mean():>9.4f} {theirs[part].mean():>9.4f}")
    print(f"{'epoch':>12} {ours.mean():>9.4f} {theirs.mean():>9.4f}")
    print(f"largest difference of a step: {np.abs(ours - theirs).max():.2g}; first step {abs(ours[0] - theirs[0]):.2g}")
    print(f"seconds a step: lmjax {our_seconds:.3f}, torch {their_seconds:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "epoch"))
    parser.add_argument("--steps", type=int, default=0, help="steps to train, if not the config's (run) or an epoch's")
    given = parser.parse_args()
    if given.what == "run":
        run(stopped(longer(), given.steps))
    else:
        epoch(stopped(tiny(), given.steps or 4134 // 16))  # rows that hold the 29,000 pairs


if __name__ == "__main__":
    main()
