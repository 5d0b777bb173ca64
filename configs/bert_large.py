"""BERT-large, uncased: the recipe of `bert_base.py` on 24 layers.

Command:   python run_pretrain.py configs/bert_large.py
Hardware:  64 TPU chips, 4 days, in the paper. Not run here.
Published: GLUE test average 82.1, SQuAD 1.1 dev F1 90.9 after fine-tuning (paper, Tables 1 and 2).
"""

from dataclasses import replace

from configs.bert_base import config as bert
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = bert("bert-large-uncased")
    return replace(cfg, model=replace(cfg.model, dtype="bfloat16", remat="dots"))
