"""GPT-2 small (Radford et al. 2019): 124M parameters, rows of 1,024 tokens, 512 a batch.

Steps, learning rate, optimizer and hardware were never published: those here are ours, after GPT-3's small model
(Brown et al. 2020, Table 2.1) and are not a reproduction.

Command:   python run_pretrain.py configs/gpt2_small.py
Data:      web text as JSON lines with the field "text" under text/; GPT-2's encoder.json and vocab.bpe under vocab/.
Hardware:  not run here.
Published: WikiText-103 zero-shot perplexity 37.50, LAMBADA 35.13 (paper, Table 3).
"""

from dataclasses import replace

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import Jsonl
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models import preset
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def config(name: str = "gpt2", peak_lr: float = 6e-4, micro_batches: int = 1) -> RunConfig:
    return RunConfig(
        directory=f"runs/{name}",
        model=replace(preset(name), dtype="bfloat16", remat="dots"),
        task=ClmConfig(),
        data=(
            WeightedData(
                DataConfig(
                    store="stores/webtext",
                    source=Jsonl(("text/**/*.jsonl*",)),
                    tokenizer=TokenizerConfig("file", path="vocab"),
                    heldout=0.001,
                )
            ),
        ),
        stages=(Stage(until_step=200_000, batch_size=512, length=1024, micro_batches=micro_batches),),
        optim=OptimConfig(
            peak_lr=peak_lr, b2=0.95, eps=1e-8, weight_decay=0.1, warmup=2_000, decay="cosine", end_factor=0.1
        ),
        evaluation=EvalConfig(every=2_000, rows=1024),
        checkpoint=CheckpointConfig(every=1_000, keep=3, keep_period=20_000),
        log=LogConfig(every=20),
    )
