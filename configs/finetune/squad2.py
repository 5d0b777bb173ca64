"""SQuAD 2.0: where in a paragraph is the answer, if it is there? F1 over words and exact match.

Command:   python run_finetune.py configs/finetune/squad2.py --init-from MODEL
           (the official files: --task.train train-v2.0.json --task.heldout dev-v2.0.json --task.folder THEIRS)
Recipe:    BERT's: 384 tokens, windows 128 apart, batches of 48, 2 epochs, rate 5e-5; the threshold of no answer is the
           best for F1 on dev
Published: exact/F1 BERT-large 78.7/81.9, RoBERTa-large 86.5/89.4 (dev)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import spans
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    files = {"train": "train-part.json", "heldout": "dev-part.json"}
    return spans("squad2", "squad_v2", files=files, batch_size=48, optim=OptimConfig(peak_lr=5e-5))
