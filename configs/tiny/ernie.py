"""A small ERNIE on Chinese prose with annotated entities: characters, then phrases, then entities are masked.

Command:   python run_pretrain.py configs/tiny/ernie.py --data.0.data.source.paths DATA/zh_literature/train.tar.gz \\
               --data.0.data.boundaries.phrases DATA/zh_lexicon/THUOCL_chengyu.txt
Data:      texts NAME.txt with spans in NAME.ann, as files or archives; needs lmjax[zh]
Measured:  on one core of a shared 2-core machine, jax 0.10.2, about 5 minutes with the data: held-out loss under entity
           masking 6.107 (unigram 6.511), accuracy 0.127 (unigram 0.064), true pairs told 0.629 (majority 0.629: not
           learned in so few steps)
"""

from lmjax.data.chinese import Boundaries
from lmjax.data.masking import MaskingConfig, Unit
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import Annotated
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models.ernie import ErnieConfig
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import MlmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def masking(unit: Unit) -> MaskingConfig:
    return MaskingConfig(unit, selection="ernie", fate="unit", max_predictions=0, random_from=1)


def config() -> RunConfig:
    return RunConfig(
        directory="runs/tiny_ernie",
        model=ErnieConfig(
            vocab_size=4864,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=128,
            hidden_dropout=0.0,  # a few minutes see hardly any text twice
            attention_dropout=0.0,
        ),
        task=MlmConfig(duplicates=2, true_label=1, masking=masking("token")),
        data=(
            WeightedData(
                DataConfig(
                    store="stores/literature",
                    source=Annotated(("zh_literature/train.tar.gz",), width=60),
                    tokenizer=TokenizerConfig("wordpiece", 4864),
                    sentences="split",
                    boundaries=Boundaries(),
                )
            ),
        ),
        stages=(
            Stage(until_step=300, batch_size=32, length=128, masking=masking("token")),
            Stage(until_step=400, batch_size=32, length=128, masking=masking("phrase")),
            Stage(until_step=500, batch_size=32, length=128, masking=masking("entity")),
        ),
        optim=OptimConfig(peak_lr=2e-3, warmup=50, eps=1e-8),
        evaluation=EvalConfig(every=250, rows=256),
        checkpoint=CheckpointConfig(every=250, keep=2),
        log=LogConfig(every=10),
    )
