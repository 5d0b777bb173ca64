"""A small RoBERTa on the embedded `docs` text: full sentences, dynamic masks, byte-level BPE, RoBERTa's optimizer.

Command:   python run_pretrain.py configs/tiny/roberta.py
Result:    not measured on this text; `roberta_files.py` has figures on novels
"""

from lmjax.data.masking import MaskingConfig
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import Docs
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models.roberta import RobertaConfig
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import MlmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def config() -> RunConfig:
    return RunConfig(
        directory="runs/tiny_roberta",
        model=RobertaConfig(
            vocab_size=4096,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=128,
            hidden_dropout=0.0,  # a few minutes see hardly any text twice
            attention_dropout=0.0,
        ),
        task=MlmConfig(
            input_format="full_sentences",
            next_sentence=False,
            masking=MaskingConfig(selection="roberta", max_predictions=0, random_from=4),
        ),
        data=(WeightedData(DataConfig("stores/docs_roberta", Docs(), TokenizerConfig("roberta_bpe", 4096))),),
        stages=(Stage(until_step=800, batch_size=32, length=128),),
        optim=OptimConfig(peak_lr=2e-3, warmup=80, b2=0.98, no_decay="", clip_norm=0.0),
        evaluation=EvalConfig(every=200, rows=512),
        checkpoint=CheckpointConfig(every=200, keep=2),
        log=LogConfig(every=10),
    )
