"""BERT-base, uncased, as published (Devlin et al. 2019): 1M steps of 256 rows, nine tenths at length 128, the rest at
512.

Command:   python run_pretrain.py configs/bert_base.py
Data:      BooksCorpus and English Wikipedia as text files, a sentence a line, documents apart by a blank line, under
text/;
           BERT's vocab.txt under vocab/.
Hardware:  16 TPU chips, 4 days, in the paper. Not run here.
Published: MLM perplexity 3.99 on held-out text (paper, Table 6); NSP accuracy 97-98% (section 5.1);
           GLUE test average 79.6, SQuAD 1.1 dev F1 88.5 after fine-tuning.
"""

from lmjax.data.masking import MaskingConfig
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models import preset
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import MlmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def config(name: str = "bert-base-uncased") -> RunConfig:
    return RunConfig(
        directory=f"runs/{name}",
        model=preset(name),
        task=MlmConfig(masking=MaskingConfig(dynamic=False)),  # drawn anew for each of the ten duplicates
        data=(
            WeightedData(
                DataConfig(
                    store=f"stores/{name}",
                    source=TextFiles(("text/**/*.txt",), documents="blank_line"),
                    tokenizer=TokenizerConfig("file", path="vocab/vocab.txt"),
                    heldout=0.001,
                )
            ),
        ),
        stages=(
            Stage(
                until_step=900_000, batch_size=256, length=128, masking=MaskingConfig(max_predictions=20, dynamic=False)
            ),
            Stage(
                until_step=1_000_000,
                batch_size=256,
                length=512,
                masking=MaskingConfig(max_predictions=77, dynamic=False),
            ),
        ),
        optim=OptimConfig(
            optimizer="bert_adam", peak_lr=1e-4, eps=1e-6, weight_decay=0.01, warmup=10_000, decay="linear_from_zero"
        ),
        evaluation=EvalConfig(every=10_000, rows=4096),
        checkpoint=CheckpointConfig(every=5_000, keep=3, keep_period=100_000),
        log=LogConfig(every=100),
    )
