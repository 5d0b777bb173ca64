"""GPT-3 Small (Brown et al. 2020): 125M parameters, 300 billion tokens in rows of 2,048.

As in the paper's appendix B: Adam with b2 0.95, clipping at 1, weight decay 0.1, warm-up over 375M tokens, cosine to a
tenth at 260B tokens and constant after that, the batch growing linearly from 32k tokens, documents packed without
walls. The paper gives 4 to 12 billion tokens for the growth, and does not say which model took which, nor the width of
the bands: those here are ours.

Command:   python run_pretrain.py configs/gpt3_small.py
Data:      text as JSON lines with the field "text" under text/commoncrawl, webtext, books and wikipedia, drawn in the
           paper's proportions (its two book corpora together); GPT-2's encoder.json and vocab.bpe under vocab/.
Hardware:  2.6 PF-days on V100s in the paper (Table D.1). Not run here.
Published: LAMBADA zero-shot accuracy 42.7, perplexity 18.6 (paper, Table H.1).
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

LENGTH, FIRST_ROWS = 2048, 16  # 32k tokens, the micro-batch too
TOKENS = 300_000_000_000
MIXTURE = {"commoncrawl": 60, "webtext": 22, "books": 16, "wikipedia": 3}


def config(
    name: str = "gpt3-small", peak_lr: float = 6e-4, rows: int = 256, ramp_tokens: int = 4_000_000_000
) -> RunConfig:
    """`rows` of a full batch, which is reached after about `ramp_tokens`."""
    ramp_steps = ramp_tokens // (
        rows // 2 * LENGTH
    )  # it grows by whole micro-batches, and is half of `rows` on average
    steps = ramp_steps + (TOKENS - ramp_tokens) // (rows * LENGTH)
    batch = {"batch_size": rows, "length": LENGTH, "micro_batches": rows // FIRST_ROWS}
    return RunConfig(
        directory=f"runs/{name}",
        model=replace(preset(name), dtype="bfloat16", remat="dots"),
        task=ClmConfig(),
        data=tuple(WeightedData(_data(source), weight) for source, weight in MIXTURE.items()),
        stages=(Stage(until_step=ramp_steps, ramp_from=FIRST_ROWS, **batch), Stage(until_step=steps, **batch)),
        optim=OptimConfig(
            peak_lr=peak_lr,
            b2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            decay="cosine",
            warmup=375_000_000,
            total=260_000_000_000,
            end_factor=0.1,
            unit="tokens",
        ),
        evaluation=EvalConfig(every=2_000, rows=1024),
        checkpoint=CheckpointConfig(every=1_000, keep=3, keep_period=20_000),
        log=LogConfig(every=20),
    )


def _data(source: str) -> DataConfig:
    return DataConfig(
        store=f"stores/{source}",
        source=Jsonl((f"text/{source}/**/*.jsonl*",)),
        tokenizer=TokenizerConfig("file", path="vocab"),
        heldout=0.001,
    )
