"""LCQMC: do two Chinese questions ask the same? Accuracy and F1.

Command:   python run_finetune.py configs/finetune/lcqmc.py --init-from MODEL
Recipe:    ERNIE 1.0's: rate 2e-5, batches of 32, 3 epochs, 128 tokens, no warm-up, no weight decay
Published: ERNIE 1.0 89.7 dev, 87.4 test; BERT 88.8 dev, 87.0 test
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    return sentences("lcqmc", "lcqmc", warmup=0.0, optim=OptimConfig(peak_lr=2e-5, weight_decay=0.0))
