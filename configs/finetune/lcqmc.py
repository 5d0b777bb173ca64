"""LCQMC: do two Chinese questions ask the same? Accuracy and F1.

Command:   python run_finetune.py configs/finetune/lcqmc.py --init-from MODEL
           (the official files: --task.train train.tsv --task.heldout-share 0 --task.folder THEIRS)
Data:      of the dev file nine tenths to train on and a tenth held out, as the training file is not in ../shared/data
Recipe:    ERNIE 1.0's: rate 2e-5, batches of 32, 3 epochs, 128 tokens, no warm-up, no weight decay
Published: ERNIE 1.0 89.7 dev, 87.4 test; BERT 88.8 dev, 87.0 test (the official split)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    files = {"train": "dev.txt", "heldout_share": 0.1}
    optim = OptimConfig(peak_lr=2e-5, weight_decay=0.0)
    return sentences("lcqmc", "lcqmc", files=files, warmup=0.0, optim=optim)
