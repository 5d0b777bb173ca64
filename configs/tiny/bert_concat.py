"""The small BERT of `bert.py` with positions concatenated to words, [word ; position] -> Dense, instead of added.

Command:   python run_pretrain.py configs/tiny/bert_concat.py
Hardware:  2 cores of an AMD EPYC (family 25), jax 0.10.2
Time:      not taken alone; about that of `bert.py`
Result:    held-out MLM accuracy 0.137 (unigram 0.064), NSP accuracy 0.734 (majority 0.572)
"""

from dataclasses import replace

from configs.tiny.bert import config as bert
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = bert()
    return replace(cfg, directory="runs/tiny_bert_concat", model=replace(cfg.model, position_combine="concat"))
