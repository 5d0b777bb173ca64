"""OpenBookQA: which of four answers to a question of science, without its book of facts? Accuracy.

Command:   python run_finetune.py configs/finetune/openbookqa.py --init-from MODEL
Recipe:    BERT's for SWAG
Published: none by the papers here
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import choices


def config() -> FinetuneConfig:
    return choices("openbookqa", "openbookqa")
