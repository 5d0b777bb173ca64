"""A Transformer of 4,710,400 parameters that translates captions from English into German: the longer run of
`benchmarks/translation.py`.

Command:   python -m benchmarks.translation run
Data:      as `configs/tiny/transformer.py`.
Hardware:  one core of an AMD EPYC (family 25) that did other work too: 21 minutes of training
Result:    BLEU 26.3 on the test set of 2016, the mean of five checkpoints
           (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0); measured at step 600 of a run twice as long,
           whose rates are the same up to there
"""

from dataclasses import replace

from configs.tiny.transformer import config as tiny
from lmjax.data.schedule import Stage
from lmjax.run import RunConfig
from lmjax.train.checkpoint import CheckpointConfig


def config() -> RunConfig:
    cfg = tiny()
    return replace(
        cfg,
        directory="runs/multi30k",
        model=replace(cfg.model, hidden_size=256, intermediate_size=1024),
        stages=(Stage(until_step=600, batch_size=16, length=128),),
        optim=replace(cfg.optim, peak_lr=3e-3, warmup=400),
        checkpoint=CheckpointConfig(every=100, keep=5),
    )
