"""CoNLL-2003: persons, organisations, locations and other names in English news. F1 of entities.

Command:   python run_finetune.py configs/finetune/conll2003.py --init-from MODEL
Recipe:    BERT's: a cased model, rows filled with what follows in the document, the best on dev of a grid:
           --grid optim.peak_lr=5e-5,3e-5,2e-5 batch_size=16,32 epochs=2.0,3.0,4.0
Published: BERT-base 96.4 dev, 92.4 test; BERT-large 96.6 dev, 92.8 test
Result:    not measured with published weights
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import tags


def config() -> FinetuneConfig:
    return tags("conll2003", "conll2003", context="document")
