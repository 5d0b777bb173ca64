"""ChnSentiCorp: is a Chinese hotel review positive? Accuracy.

Command:   python run_finetune.py configs/finetune/chnsenticorp.py --init-from MODEL
Recipe:    ERNIE 1.0's: rate 5e-5, batches of 24, 10 epochs, 256 tokens, no warm-up, weight decay 0.01
Published: ERNIE 1.0 95.2 dev, 95.4 test; BERT 94.6 dev, 94.3 test (the official split)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    return sentences(
        "chnsenticorp",
        "chnsenticorp_htl",
        length=256,
        batch_size=24,
        epochs=10.0,
        warmup=0.0,
        optim=OptimConfig(peak_lr=5e-5),
    )
