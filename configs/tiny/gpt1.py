"""A small GPT-1 on the embedded `docs` text, with a BPE of GPT-1's kind trained on it.

Command:   python run_pretrain.py configs/tiny/gpt1.py
"""

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import Docs
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models.gpt1 import Gpt1Config
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def config() -> RunConfig:
    return RunConfig(
        directory="runs/tiny_gpt1",
        model=Gpt1Config(
            vocab_size=2048,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=128,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            embedding_dropout=0.0,
        ),
        task=ClmConfig(),
        data=(WeightedData(DataConfig("stores/docs_gpt1", Docs(), TokenizerConfig("bpe", 2048))),),
        stages=(Stage(until_step=500, batch_size=16, length=128),),
        optim=OptimConfig(peak_lr=5e-4, warmup=100, eps=1e-8, decay="cosine"),
        evaluation=EvalConfig(every=100, rows=128),
        checkpoint=CheckpointConfig(every=100, keep=2),
        log=LogConfig(every=10),
    )
