"""RoBERTa-large: the recipe of `roberta_base.py` on 24 layers, peak 4e-4 after 30,000 steps (paper, Table 9).

Command:   python run_pretrain.py configs/roberta_large.py
Hardware:  1,024 V100, about one day a 100,000 steps, in the paper. Not run here.
Published: dev MNLI 90.2, SQuAD 1.1 F1 94.6, RACE test 83.2 after fine-tuning (paper, Tables 5, 6 and 7).
"""

from dataclasses import replace

from configs.roberta_base import config as roberta
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = roberta("roberta-large", peak_lr=4e-4, warmup=30_000)
    return replace(cfg, model=replace(cfg.model, dtype="bfloat16", remat="dots"))
