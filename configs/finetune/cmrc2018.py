"""CMRC 2018: where in a Chinese paragraph is the answer? F1 over the longest common run and exact match.

Command:   python run_finetune.py configs/finetune/cmrc2018.py --init-from MODEL
           (the official files: --task.train cmrc2018_train.json --task.heldout-share 0 --task.folder THEIRS)
Data:      of the dev file nine tenths to train on and a tenth held out, by paragraphs, as the training file is not in
           ../shared/data. Needs lmjax[zh]
Recipe:    BERT's for SQuAD at 512 tokens
Published: none for this split
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import spans


def config() -> FinetuneConfig:
    files = {"train": "cmrc2018_dev.json", "heldout_share": 0.1}
    return spans("cmrc2018", "cmrc2018", files=files, length=512)
