"""RTE: does a text entail a sentence? Accuracy.

Command:   python run_finetune.py configs/finetune/rte.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: BERT-base 66.4, BERT-large 70.1, GPT-1 56.0 (test); RoBERTa-base 78.7, RoBERTa-large 86.6 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("rte", "glue", "RTE")
