"""ELMo (Peters et al. 2018): 93.6M parameters and an output layer of 407M, on the 1 Billion Word Benchmark.

Ten epochs of 768,648,884 words, 100,084 steps each: 3 GPUs x 128 rows of 20 words, states carried on; 8,192 negatives;
Adagrad at a constant 0.2.

Command:   python run_pretrain.py configs/elmo.py
Data:      the benchmark's training text, a sentence a line, under text/; its vocabulary of 793,471 words (<S>, </S> and
           <UNK> first) as vocab/words.txt.
Hardware:  not run here; the paper's took about two weeks on 3 GTX 1080 (README of bilm-tf).
Published: perplexity 39.7 on the test set, forward and backward averaged (paper, section 3.4).
"""

from dataclasses import replace

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models import preset
from lmjax.run import RunConfig
from lmjax.tasks.bilm import BilmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig

WORDS = 20  # that a step reads on in each row
SCALE = 20  # bilm-tf's factor on the loss


def config() -> RunConfig:
    source = TextFiles(("text/news.en-*",), documents="line")
    tokenizer = TokenizerConfig("file", path="vocab/words.txt")
    return RunConfig(
        directory="runs/elmo",
        model=replace(preset("elmo-original"), remat="full"),
        task=BilmConfig(carry=True, negatives=8192),
        data=(WeightedData(DataConfig("stores/one_billion_words", source, tokenizer, heldout=0.001)),),
        stages=(Stage(until_step=1_000_840, batch_size=384, length=WORDS),),
        # bilm-tf multiplies the loss by 20, clips at norm 10 and adds squares to 1. Here the loss is a mean, and the
        # rest is divided: 20 g / sqrt(1 + sum of (20 g)^2) = g / sqrt(1 / 20^2 + sum of g^2).
        optim=OptimConfig(
            "adagrad",
            peak_lr=0.2,
            weight_decay=0.0,
            clip_norm=10 / SCALE,
            decay="constant",
            initial_accumulator=1 / SCALE**2,
        ),
        evaluation=EvalConfig(every=10_000, rows=38_400),
        checkpoint=CheckpointConfig(every=5_000, keep=3, keep_period=100_084),
        log=LogConfig(every=100),
    )
