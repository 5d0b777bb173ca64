"""The base Transformer, English to German, as published (Vaswani et al. 2017): 100,000 steps of about 25,000 source and
25,000 target tokens.

Command:   python run_pretrain.py configs/transformer_base.py
           python -m lmjax translate runs/transformer-base --average 5 \\
               --input newstest2014.en --reference newstest2014.de
Data:      WMT 2014 English-German, 4.5M pairs, as wmt14/train.{en,de}; newstest2013.{en,de} is held out.
Hardware:  8 NVIDIA P100, 12 hours, in the paper. Not run here.
Published: BLEU 27.3 on newstest2014 with the last 5 checkpoints averaged, 10 minutes apart, beam 4 and alpha 0.6;
           25.8 and a perplexity of 4.92 a word piece on newstest2013 (Tables 2 and 3). Tokenised BLEU, with compounds
           split at hyphens: sacreBLEU's figures are lower.
"""

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import ParallelText
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models import preset
from lmjax.run import RunConfig
from lmjax.tasks.translation import TranslationConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def config(name: str = "transformer-base") -> RunConfig:
    model, warmup = preset(name), 4000
    return RunConfig(
        directory=f"runs/{name}",
        model=model,
        task=TranslationConfig(label_smoothing=0.1),
        data=(
            WeightedData(
                DataConfig(
                    store=f"stores/{name}",
                    source=ParallelText("wmt14/train.en", "wmt14/train.de"),
                    tokenizer=TokenizerConfig("sentencepiece", model.vocab_size),
                    heldout_source=ParallelText("wmt14/newstest2013.en", "wmt14/newstest2013.de"),
                )
            ),
        ),
        stages=(Stage(until_step=100_000, batch_size=96, length=256),),
        optim=OptimConfig(
            peak_lr=(model.hidden_size * warmup) ** -0.5,
            b2=0.98,
            eps=1e-9,
            weight_decay=0.0,
            clip_norm=0.0,
            decay="inverse_sqrt",
            warmup=warmup,
        ),
        evaluation=EvalConfig(every=1500, rows=0),
        checkpoint=CheckpointConfig(every=1500, keep=5),
        log=LogConfig(every=100),
    )
