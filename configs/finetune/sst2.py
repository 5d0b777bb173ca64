"""SST-2: is a film review positive? Accuracy.

Command:   python run_finetune.py configs/finetune/sst2.py --init-from MODEL
Recipe:    BERT's; its rate is the best on dev of four: --grid optim.peak_lr=5e-5,4e-5,3e-5,2e-5
Published: BERT-base 93.5, BERT-large 94.9 (test); RoBERTa-base 94.8, RoBERTa-large 96.4 (dev); GPT-1 91.3 (test)
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import sentences


def config() -> FinetuneConfig:
    return sentences("sst2", "glue", "SST-2")
