"""A small GPT-3 on the embedded `docs` text: two dense layers and two banded ones, a batch that grows, rates by tokens.

Command:   python run_pretrain.py configs/tiny/gpt3.py
"""

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import Docs
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models.gpt import GptConfig
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def config() -> RunConfig:
    batch = {"batch_size": 16, "length": 128, "micro_batches": 4}
    return RunConfig(
        directory="runs/tiny_gpt3",
        model=GptConfig(
            vocab_size=2048,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=128,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            embedding_dropout=0.0,
            window=32,
        ),
        task=ClmConfig(),
        data=(WeightedData(DataConfig("stores/docs_bpe2048", Docs(), TokenizerConfig("byte_bpe", 2048))),),
        stages=(Stage(until_step=150, ramp_from=4, **batch), Stage(until_step=500, **batch)),
        optim=OptimConfig(
            peak_lr=2e-3,
            b2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            decay="cosine",
            warmup=100_000,
            total=800_000,  # of 0.9M tokens, as GPT-3's rate was constant at its end
            end_factor=0.1,
            unit="tokens",
        ),
        evaluation=EvalConfig(every=100, rows=128),
        checkpoint=CheckpointConfig(every=100, keep=2),
        log=LogConfig(every=10),
    )
