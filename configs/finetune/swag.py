"""SWAG: which of four endings goes on? Accuracy.

Command:   python run_finetune.py configs/finetune/swag.py --init-from MODEL
Files:     train.csv and val.csv in ../shared/data/swag (--task.folder elsewhere); the reader was tried on made-up rows
           alone
Recipe:    BERT's: batches of 16, 3 epochs, rate 2e-5
Published: BERT-base 81.6, BERT-large 86.6 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import choices


def config() -> FinetuneConfig:
    return choices("swag", "swag")
