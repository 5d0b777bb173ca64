"""A small Transformer, of 1,437,696 parameters, that translates captions from English into German (Multi30k, 29,000
pairs).

Command:   python run_pretrain.py configs/tiny/transformer.py
           python -m lmjax translate runs/tiny_transformer \\
               --input test_2016_flickr.en.gz --reference test_2016_flickr.de.gz
Data:      multi30k/{train,val}.{en,de}.gz under $LMJAX_DATA (../shared/data where that is not set);
           https://github.com/multi30k/dataset, task1/raw.
Hardware:  one core of an AMD EPYC (family 25), jax 0.10.2
Time:      5 minutes of training
Result:    held-out loss 2.755 (unigram 5.800), accuracy 0.486 (unigram 0.054); BLEU 23.3 on the test set of 2016
           (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0). With `--stages.0.until-step 1000`, 11 minutes:
           2.236, 0.557 and 30.2 (greedy 29.6).
"""

import os
from pathlib import Path

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import ParallelText
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models.transformer import TransformerConfig
from lmjax.run import RunConfig
from lmjax.tasks.translation import TranslationConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig

FOLDER = Path(os.environ.get("LMJAX_DATA", "../shared/data")) / "multi30k"


def pairs(split: str) -> ParallelText:
    return ParallelText(str(FOLDER / f"{split}.en.gz"), str(FOLDER / f"{split}.de.gz"))


def config() -> RunConfig:
    return RunConfig(
        directory="runs/tiny_transformer",
        model=TransformerConfig(
            vocab_size=4000,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            position_embedding="sinusoidal_marian",  # with this eps, so that transformers can load it
            layer_norm_eps=1e-5,
        ),
        task=TranslationConfig(),
        data=(
            WeightedData(
                DataConfig(
                    "stores/multi30k_en_de",
                    pairs("train"),
                    TokenizerConfig("sentencepiece", 4000),
                    heldout_source=pairs("val"),
                )
            ),
        ),
        stages=(Stage(until_step=500, batch_size=16, length=128),),
        optim=OptimConfig(
            peak_lr=3e-3, b2=0.98, eps=1e-9, weight_decay=0.0, clip_norm=0.0, decay="inverse_sqrt", warmup=200
        ),
        evaluation=EvalConfig(every=125, rows=0),
        checkpoint=CheckpointConfig(every=125, keep=4),
        log=LogConfig(every=10),
    )
