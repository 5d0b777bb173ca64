"""MSRA: persons, organisations and locations in Chinese news, by characters. F1 of entities.

Command:   python run_finetune.py configs/finetune/msra_ner.py --init-from MODEL
Recipe:    ERNIE 1.0's: rate 5e-5, batches of 16, 3 epochs, 256 tokens, no warm-up, weight decay 0.01
Published: ERNIE 1.0 95.0 dev, 93.8 test; BERT 94.0 dev, 92.6 test (the official split)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import tags


def config() -> FinetuneConfig:
    return tags("msra_ner", "msra_ner", context="sentence", length=256, batch_size=16, warmup=0.0)
