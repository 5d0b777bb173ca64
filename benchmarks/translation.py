"""Translation on Multi30k, English to German: a run to the end, and an epoch beside a Marian trained by torch.

    .venv/bin/python -m benchmarks.translation run [--steps N]
    .venv/bin/python -m benchmarks.translation epoch [--steps N]

`run` trains configs/multi30k.py, averages its last five checkpoints and scores the test set of 2016 by sacreBLEU.
`epoch` trains configs/tiny/transformer.py for one epoch without dropout, here and by `peers/translation_torch.py`: the
same first parameters, the same pairs in each batch (there one a row, since transformers packs none), the same rates; it
prints both losses and times.

Recorded, one core of an AMD EPYC (family 25) that did other work too, jax 0.10.2, torch 2.13, transformers 5.23:

    run               600 of 1200 steps   21 minutes   BLEU 26.29   4,710,400 parameters
    the tiny config   1000 steps          11 minutes   BLEU 30.2    1,437,696 parameters
    epoch             258 steps: mean loss 5.2171, torch 5.2191; the first step differs by 3.8e-6, the furthest
                      apart by 0.057; 0.78 s a step, torch 1.42 s

BLEU is sacreBLEU's, nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0.
"""

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import multi30k
from configs.tiny import transformer
from lmjax import commands
from lmjax.data.instances import open_table
from lmjax.data.store import Store
from lmjax.interop import LanguageModel
from lmjax.parallel import global_batch
from lmjax.pretraining import pretrain
from lmjax.run import RunConfig, prepare_data
from lmjax.tasks import make_task
from lmjax.tasks.translation import TranslationConfig
from lmjax.train.assemble import assemble, open_data
from lmjax.train.checkpoint import steps_of
from lmjax.train.optim import make_schedule

ROOT = Path(__file__).parents[1]
FEATURES = ("tokens", "targets", "segment_ids", "encoder_tokens", "encoder_segment_ids")


def stopped(cfg: RunConfig, steps: int) -> RunConfig:
    """The run with another end."""
    return replace(cfg, stages=(replace(cfg.stages[0], until_step=steps),))


def run(cfg: RunConfig) -> None:
    start = time.perf_counter()
    pretrain(cfg)
    minutes = (time.perf_counter() - start) / 60
    print(f"{minutes:.1f} minutes: preparation, training, evaluation and samples")
    test, out = transformer.pairs("test_2016_flickr"), Path(cfg.directory) / "test_2016_flickr.de"
    average = min(len(steps_of(cfg.directory)), cfg.checkpoint.keep)
    commands.translate(cfg.directory, test.source, test.target, str(out), average)
    print(f"translations by the mean of {average} checkpoints: {out}")


def epoch(cfg: RunConfig, steps: int) -> None:
    """`steps` 0 is the whole epoch."""
    cfg = replace(cfg, model=replace(cfg.model, hidden_dropout=0.0))
    prepare_data(cfg)
    steps = steps or rows_of_an_epoch(cfg) // cfg.stages[0].batch_size
    cfg = stopped(cfg, steps)
    program = assemble(cfg)
    losses, batches, begin = [], [], 0.0
    with jax.set_mesh(program.mesh), tempfile.TemporaryDirectory() as folder:
        state = program.init_state()
        LanguageModel(cfg.model, program.task.heads, jax.device_get(state.params), None).save_hf(Path(folder) / "hf")
        for step, batch in open_data(cfg, program).train(0, steps):
            state, metrics = program.train_step(state, global_batch(batch, program.mesh))
            losses.append(float(metrics["loss"]))
            batches.append({name: batch[name][0] for name in FEATURES})
            begin = time.perf_counter() if step == 0 else begin  # the first step compiles
        seconds = (time.perf_counter() - begin) / (steps - 1)
        rates = jax.vmap(make_schedule(cfg.optim, steps))(jnp.arange(steps, dtype=jnp.float32))
        theirs = torch_epoch(Path(folder), batches, np.asarray(rates), cfg)
    report(np.array(losses), seconds, np.array(theirs["losses"]), theirs["seconds_per_step"])


def rows_of_an_epoch(cfg: RunConfig) -> int:
    instances = make_task(cfg.task).instances(cfg.stages[0].length)
    return int(open_table(instances, Store.open(cfg.data[0].data.store), "train", cfg.seed).pass_ends[-1])


def torch_epoch(folder: Path, batches: list[Any], rates: np.ndarray, cfg: RunConfig) -> dict[str, Any]:
    assert isinstance(cfg.task, TranslationConfig)
    arrays = {name: np.stack([batch[name] for batch in batches]) for name in FEATURES}
    optim = {"rates": rates, "betas": [cfg.optim.b1, cfg.optim.b2], "eps": cfg.optim.eps}
    np.savez(folder / "batches.npz", allow_pickle=False, **arrays, **optim, smoothing=cfg.task.label_smoothing)
    peer = [ROOT / ".venv-parity/bin/python", ROOT / "benchmarks/peers/translation_torch.py", folder]
    return json.loads(subprocess.run(peer, check=True, stdout=subprocess.PIPE, text=True).stdout)


def report(ours: np.ndarray, our_seconds: float, theirs: np.ndarray, their_seconds: float) -> None:
    print(f"{'steps':>12} {'lmjax':>9} {'torch':>9}   (mean smoothed loss)")
    for part in np.array_split(np.arange(len(ours)), 5):
        print(f"{part[0]:>5}-{part[-1]:<6} {ours[part].mean():>9.4f} {theirs[part].mean():>9.4f}")
    print(f"{'all':>12} {ours.mean():>9.4f} {theirs.mean():>9.4f}")
    print(f"largest difference of a step: {np.abs(ours - theirs).max():.2g}; first step {abs(ours[0] - theirs[0]):.2g}")
    print(f"seconds a step: lmjax {our_seconds:.3f}, torch {their_seconds:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "epoch"))
    parser.add_argument("--steps", type=int, default=0, help="steps to train, if not the config's (run) or an epoch's")
    given = parser.parse_args()
    if given.what == "epoch":
        epoch(transformer.config(), given.steps)
    else:
        run(stopped(multi30k.config(), given.steps) if given.steps else multi30k.config())


if __name__ == "__main__":
    main()
