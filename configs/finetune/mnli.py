"""MNLI: does a premise entail a hypothesis? Accuracy on the matched and on the mismatched side.

Command:   python run_finetune.py configs/finetune/mnli.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: matched/mismatched BERT-base 84.6/83.4, BERT-large 86.7/85.9, GPT-1 82.1/81.4 (test); RoBERTa-large 90.2/90.2
           (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("mnli", "glue", "MNLI")
