"""CODAH: which of four endings goes on? Written to mislead. Accuracy.

Command:   python run_finetune.py configs/finetune/codah.py --init-from MODEL
Recipe:    BERT's for SWAG
Published: none for this fold
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import choices


def config() -> FinetuneConfig:
    return choices("codah", "codah")
