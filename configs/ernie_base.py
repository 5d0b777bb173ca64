"""ERNIE 1.0 with the three masking stages of its paper (Sun et al. 2019): characters, then phrases, then entities.

Command:   python run_pretrain.py configs/ernie_base.py
Data:      Chinese text as files, a sentence a line, documents apart by a blank line, under text/; lists in THUOCL's
           format under lists/ (phrases.txt, entities.txt); ERNIE's vocab.txt under vocab/. Needs lmjax[zh]. The paper
           had 173M sentences of Wikipedia, Baike, news and Tieba.
Hardware:  not published. Not run here.
Published: dev/test XNLI 79.9/78.4, LCQMC 89.7/87.4, MSRA-NER 95.0/93.8, ChnSentiCorp 95.2/95.4 after fine-tuning
           (the repository's table).

The paper prints no schedule; rates, decay and steps are those of the open code's script, which counts a batch of 8,192
tokens. How the steps are split over the stages is not published: a third each. `fate="unit"` is the paper's draw; the
open code's is `fate="token"`. The open code has no stages: it chooses characters or segments for each file.
The dialogue objective is data of its own: another entry with `Dialogues` and `type_vocab_size` 4 (docs/data.md).
"""

from lmjax.data.chinese import Boundaries
from lmjax.data.masking import MaskingConfig, Unit
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models import preset
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import MlmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig


def masking(unit: Unit) -> MaskingConfig:
    """ERNIE's draw; random words are any id from 1 on, of all 18,000."""
    return MaskingConfig(unit, selection="ernie", fate="unit", max_predictions=0, random_from=1)


def config() -> RunConfig:
    return RunConfig(
        directory="runs/ernie",
        model=preset("ernie-1.0"),
        task=MlmConfig(duplicates=1, true_label=1, masking=masking("token")),
        data=(
            WeightedData(
                DataConfig(
                    store="stores/ernie",
                    source=TextFiles(("text/**/*.txt",), documents="blank_line"),
                    tokenizer=TokenizerConfig("file", path="vocab/vocab.txt", fill_to=18000),
                    heldout=0.001,
                    boundaries=Boundaries(("lists/phrases.txt",), ("lists/entities.txt",)),
                )
            ),
        ),
        stages=(
            Stage(until_step=333_000, batch_size=64, length=128, masking=masking("token")),
            Stage(until_step=667_000, batch_size=64, length=128, masking=masking("phrase")),
            Stage(until_step=1_000_000, batch_size=64, length=128, masking=masking("entity")),
        ),
        optim=OptimConfig(peak_lr=1e-4, warmup=5_000, eps=1e-8, weight_decay=0.01, clip_norm=1.0, decay="linear"),
        evaluation=EvalConfig(every=10_000, rows=4096),
        checkpoint=CheckpointConfig(every=5_000, keep=3, keep_period=100_000),
        log=LogConfig(every=100),
    )
