"""QNLI: does a sentence answer a question? Accuracy.

Command:   python run_finetune.py configs/finetune/qnli.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: BERT-base 90.5, BERT-large 92.7 (test); RoBERTa-base 92.8, RoBERTa-large 94.7 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("qnli", "glue", "QNLI")
