"""CoLA: is a sentence acceptable English? Matthews' correlation.

Command:   python run_finetune.py configs/finetune/cola.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: BERT-base 52.1, BERT-large 60.5 (test); RoBERTa-base 63.6, RoBERTa-large 68.0 (dev); GPT-1 45.4 (test)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("cola", "glue", "CoLA")
