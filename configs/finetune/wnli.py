"""WNLI: does a sentence follow when a pronoun is replaced? Accuracy.

Command:   python run_finetune.py configs/finetune/wnli.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: left out of BERT's table, as the majority class does better; RoBERTa-large 91.3 (dev), by another method
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("wnli", "glue", "WNLI")
