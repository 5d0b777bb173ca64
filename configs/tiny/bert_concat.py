"""The small BERT of `bert.py` with positions concatenated to words, [word ; position] -> Dense, instead of added.

Command:   python run_pretrain.py configs/tiny/bert_concat.py
"""

from dataclasses import replace

from configs.tiny.bert import config as bert
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = bert()
    return replace(cfg, directory="runs/tiny_bert_concat", model=replace(cfg.model, position_combine="concat"))
