"""QQP: do two questions ask the same? F1 and accuracy.

Command:   python run_finetune.py configs/finetune/qqp.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: F1 BERT-base 71.2, BERT-large 72.1, GPT-1 70.3 (test); accuracy RoBERTa-base 91.9, RoBERTa-large 92.2 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("qqp", "glue", "QQP")
