"""A small ELMo on WikiText-2's validation text, 60 articles: 165,000 words to train on, 52,000 held out.

Command:   LMJAX_DATA=../shared/data python run_pretrain.py configs/tiny/elmo.py
Hardware:  one core of a shared two-core machine, 0.37 s a step: 6 minutes
Result:    held-out perplexity 188.7 forward, 184.8 backward (all words); unigram 410.1

`$LMJAX_DATA/wikitext-2/wiki.valid.tokens` is read, or ../shared/data without the variable. An article is a document, a
line a sentence. `--task.no-carry` begins each row without a state; `--task.negatives 0` scores the whole vocabulary.
"""

import os

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models.elmo import ElmoConfig
from lmjax.run import RunConfig
from lmjax.tasks.bilm import BilmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig

WORDS = 8192


def config() -> RunConfig:
    text = os.path.join(os.environ.get("LMJAX_DATA", "../shared/data"), "wikitext-2", "wiki.valid.tokens")
    source = TextFiles((text,), documents="regex", pattern=r"(?=^ = [^=])")
    return RunConfig(
        directory="runs/tiny_elmo",
        model=ElmoConfig(
            vocab_size=WORDS,
            hidden_size=64,
            intermediate_size=256,
            filters=((1, 16), (2, 16), (3, 32), (4, 32), (5, 32)),
            num_highways=1,
        ),
        task=BilmConfig(negatives=1024),
        data=(WeightedData(DataConfig("stores/wikitext_words", source, TokenizerConfig("words", WORDS), heldout=0.1)),),
        stages=(Stage(until_step=1000, batch_size=32, length=20),),
        # A gradient 20 times as large, clipped at 10, over a sum that begins with 1; see configs/elmo.py.
        optim=OptimConfig(
            "adagrad",
            peak_lr=0.2,
            weight_decay=0.0,
            clip_norm=10 / 20,
            decay="constant",
            initial_accumulator=1 / 20**2,
        ),
        evaluation=EvalConfig(every=250, rows=0),
        checkpoint=CheckpointConfig(every=500, keep=1),
        log=LogConfig(every=10),
    )
