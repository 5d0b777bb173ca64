"""STS-B: how alike are two sentences, 0 to 5? A regression; Spearman's and Pearson's correlations.

Command:   python run_finetune.py configs/finetune/stsb.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5,
           by mean squared error, as RoBERTa (BERT's paper does not say)
Published: Spearman BERT-base 85.8, BERT-large 86.5, GPT-1 80.0 (test); Pearson GPT-1 82.0 (test), RoBERTa-base 91.2,
           RoBERTa-large 92.4 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("stsb", "glue", "STS-B")
