"""RoBERTa-base as published (Liu et al. 2019, Table 9): 500,000 steps of 8,192 rows of 512 tokens.

Command:   python run_pretrain.py configs/roberta_base.py
Data:      160 GB of books, Wikipedia, news and web pages as text files, a sentence a line, documents apart by a blank
           line, under text/; GPT-2's encoder.json and vocab.bpe and fairseq's dict.txt under vocab/.
Hardware:  1,024 V100 for about one day a 100,000 steps (RoBERTa-large), in the paper. Not run here.
Published: dev MNLI 87.6, QNLI 92.8, SST-2 94.8, RTE 78.7 after fine-tuning (fairseq's table).

Where paper and code differ this is the paper's recipe: peak 6e-4 after 24,000 steps (fairseq's base.yaml: 5e-4 after
10,000, 125,000 steps of 2,048 rows). fairseq's Adam adds eps before the bias correction, optax after it.
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


def config(name: str = "roberta-base", peak_lr: float = 6e-4, warmup: int = 24_000) -> RunConfig:
    return RunConfig(
        directory=f"runs/{name}",
        model=preset(name),
        task=MlmConfig(
            input_format="full_sentences",
            next_sentence=False,
            masking=MaskingConfig(selection="roberta", max_predictions=0, random_from=4),
        ),
        data=(
            WeightedData(
                DataConfig(
                    store="stores/roberta",
                    source=TextFiles(("text/**/*.txt",), documents="blank_line"),
                    tokenizer=TokenizerConfig("file", path="vocab"),
                    heldout=0.001,
                )
            ),
        ),
        stages=(Stage(until_step=500_000, batch_size=8192, length=512, micro_batches=8),),
        optim=OptimConfig(
            peak_lr=peak_lr, warmup=warmup, b2=0.98, eps=1e-6, weight_decay=0.01, no_decay="", clip_norm=0.0
        ),
        evaluation=EvalConfig(every=5_000, rows=4096),
        checkpoint=CheckpointConfig(every=1_000, keep=3, keep_period=100_000),
        log=LogConfig(every=100),
    )
