"""GPT-1 as published (Radford et al. 2018): 100 epochs of BooksCorpus in rows of 512 tokens, 64 a batch.

Command:   python run_pretrain.py configs/gpt1.py
Data:      books as text files under text/; OpenAI's encoder_bpe_40000.json and vocab_40000.bpe under vocab/. Needs
           lmjax[gpt1]: text is cleaned by ftfy and spaCy, as in the paper (cleaning="basic" does without). With
           N tokens of text the paper's 100 epochs are N / 327.68 steps: set `--stages.0.until_step` to that. The number
           here is for 1 billion tokens; the size of BooksCorpus in tokens is not in the paper.
Hardware:  8 GPUs for a month in the paper. Not run here.
Published: token perplexity 18.4 on held-out text (paper, section 4.1).
"""

from dataclasses import replace

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models import preset
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def config() -> RunConfig:
    return RunConfig(
        directory="runs/openai-gpt",
        model=replace(preset("openai-gpt"), dtype="bfloat16", remat="dots"),
        task=ClmConfig(),
        data=(
            WeightedData(
                DataConfig(
                    store="stores/books_gpt1",
                    source=TextFiles(("text/**/*.txt",)),
                    tokenizer=TokenizerConfig("file", path="vocab", cleaning="spacy"),
                    heldout=0.001,
                )
            ),
        ),
        stages=(Stage(until_step=3_051_758, batch_size=64, length=512),),
        optim=OptimConfig(peak_lr=2.5e-4, eps=1e-8, weight_decay=0.01, clip_norm=0.0, warmup=2_000, decay="cosine"),
        evaluation=EvalConfig(every=10_000, rows=1024),
        checkpoint=CheckpointConfig(every=5_000, keep=3, keep_period=100_000),
        log=LogConfig(every=100),
    )
