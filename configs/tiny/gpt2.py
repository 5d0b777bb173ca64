"""A small GPT-2 on the embedded `docs` text.

Command:   python run_pretrain.py configs/tiny/gpt2.py
Hardware:  2 cores of an AMD EPYC (family 25), jax 0.10.2
Time:      8 minutes, of which 6 train
Result:    held-out perplexity 61.7 (unigram 728), accuracy 0.256 (unigram 0.056)
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
    return RunConfig(
        directory="runs/tiny_gpt2",
        model=GptConfig(
            vocab_size=4096,
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
        data=(WeightedData(DataConfig("stores/docs_bpe", Docs(), TokenizerConfig("byte_bpe", 4096))),),
        stages=(Stage(until_step=1000, batch_size=32, length=128),),
        optim=OptimConfig(peak_lr=2e-3, warmup=100, b2=0.95, weight_decay=0.1, decay="cosine", end_factor=0.1),
        evaluation=EvalConfig(every=250, rows=256),
        checkpoint=CheckpointConfig(every=250, keep=2),
        log=LogConfig(every=10),
    )
