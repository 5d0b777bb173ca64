"""MRPC: do two sentences say the same? F1 and accuracy.

Command:   python run_finetune.py configs/finetune/mrpc.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: F1 BERT-base 88.9, BERT-large 89.3, GPT-1 82.3 (test); accuracy RoBERTa-base 90.2, RoBERTa-large 90.9 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("mrpc", "glue", "MRPC")
