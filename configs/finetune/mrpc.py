"""MRPC: do two sentences say the same? F1 and accuracy.

Command:   python run_finetune.py configs/finetune/mrpc.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of 5e-5, 4e-5, 3e-5, 2e-5: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: BERT-base 88.9 F1, BERT-large 89.3 F1 (test); RoBERTa-large 90.9 accuracy (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("mrpc", "glue", "MRPC")
