"""SQuAD 1.1: where in a paragraph is the answer? F1 over words and exact match.

Command:   python run_finetune.py configs/finetune/squad1.py --init-from MODEL
Files:     train-v1.1.json and dev-v1.1.json in ../shared/data/squad_v1.1 (--task.folder elsewhere); the reader was
           tried on XQuAD alone
Recipe:    BERT's README: 384 tokens, windows 128 apart, batches of 12, 2 epochs, rate 3e-5 (BERT-large 24)
Published: exact/F1 BERT-base 80.8/88.5, BERT-large 84.1/90.9; RoBERTa-large 88.9/94.6 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import spans


def config() -> FinetuneConfig:
    return spans("squad1", "squad_v1.1")
