"""The big Transformer, English to German, as published (Vaswani et al. 2017): the recipe of the base model, for 300,000
steps with dropout 0.3.

Command:   python run_pretrain.py configs/transformer_big.py
           python -m lmjax translate runs/transformer-big --average 20 \\
               --input newstest2014.en --reference newstest2014.de
Hardware:  8 NVIDIA P100, 3.5 days, in the paper. Not run here.
Published: BLEU 28.4 on newstest2014 with the last 20 checkpoints averaged; 26.4 and a perplexity of 4.33 on
           newstest2013 (Tables 2 and 3). For English to French 41.8, with dropout 0.1.
"""

from dataclasses import replace

from configs.transformer_base import config as base
from lmjax.data.schedule import Stage
from lmjax.run import RunConfig
from lmjax.train.checkpoint import CheckpointConfig


def config() -> RunConfig:
    cfg = base("transformer-big")
    stages = (Stage(until_step=300_000, batch_size=96, length=256),)
    return replace(cfg, stages=stages, checkpoint=CheckpointConfig(every=600, keep=20))
