"""What is trained: six small pretrained models, and the fine-tuning runs that begin with them.

A `Cell` is one figure of a table: a row, a column and the recipe whose runs, one a seed, it is the mean of.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.transfer import corpus
from configs.finetune import cola, conll2003, mrpc, msra_ner, squad2, sst2, stsb
from configs.tiny import bert, elmo, ernie, gpt1
from lmjax.data.chinese import Boundaries
from lmjax.data.files import data_folder
from lmjax.data.masking import MaskingConfig, Unit
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import Annotated
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.finetuning import FinetuneConfig
from lmjax.models.features import FeatureConfig
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import MlmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.optim import OptimConfig

WORDS = 8192
SHAPE: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "initializer_range": 128**-0.5,
}
LIMIT = 1000  # examples of a task to train on
EPOCHS = {"squad2": 2.0}  # of the others 3
# Of rows, in tokens: no more than 4 in 100 texts are longer and cut. (A long sentence of words goes on in a next row.)
LENGTHS = {"sst2": 64, "mrpc": 96, "cola": 48, "stsb": 80, "conll2003": 64, "squad2": 256, "msra_ner": 104}
OPTIM = OptimConfig(peak_lr=3e-4)
UNITS: tuple[Unit, ...] = ("token", "phrase", "entity")
MASKED, CAUSAL = (0, 600, 1200, 1860), (0, 600, 1200)  # steps after which they are fine-tuned


@dataclass(frozen=True)
class Cell:
    """`part` names the table; `recipe.directory` holds its runs."""

    part: str
    row: str
    column: str
    recipe: FinetuneConfig


def english(root: Path) -> WeightedData:
    text = corpus.source(Path(data_folder()), root / "text")
    words = TokenizerConfig("wordpiece", WORDS, lowercase=False)
    return WeightedData(DataConfig(f"{root}/stores/english", text, words, sentences="split"))


def pretrained_bert(root: Path, steps: int = 4400) -> RunConfig:
    """Masked words in pairs of sentences; the last tenth of the steps on rows of 256 tokens, as many tokens a step.

    Other than BERT: no next sentences and 30% of the words masked (Wettig et al. 2023), and weights that begin at
    1/sqrt(width) instead of 0.02, which is meant for a width of 768. In trials of 800 steps the latter helped a network
    that has a few minutes to leave the plateau of single words' frequencies, and the former two, tried together, more.
    """
    cfg = bert.config()
    return replace(
        cfg,
        directory=f"{root}/bert",
        model=replace(cfg.model, **SHAPE, max_position_embeddings=256),
        task=MlmConfig(next_sentence=False, duplicates=1, masking=MaskingConfig(rate=0.3, max_predictions=0)),
        data=(english(root),),
        stages=(Stage(steps * 9 // 10, 16, 128), Stage(steps, 8, 256)),
        optim=OptimConfig(peak_lr=1.5e-3, warmup=300),
        evaluation=EvalConfig(every=steps // 8, rows=256),
        checkpoint=CheckpointConfig(every=steps // 16, keep=1),
    )


def masked(root: Path) -> RunConfig:
    """The same in short. The rate stays, so that a checkpoint is what a shorter run gives."""
    cfg = pretrained_bert(root)
    model: Any = cfg.model
    return replace(
        cfg,
        directory=f"{root}/masked",
        model=replace(model, max_position_embeddings=128),
        stages=(Stage(MASKED[-1], 16, 128),),
        optim=OptimConfig(peak_lr=1e-3, warmup=200, decay="constant"),
        evaluation=EvalConfig(every=MASKED[-1] // 2, rows=256),
        checkpoint=CheckpointConfig(every=60, keep=MASKED[-1] // 60),
    )


def causal(root: Path) -> RunConfig:
    """The same network as GPT-1 has it, and each word from those before it; else as `masked`."""
    cfg = masked(root)
    small = gpt1.config()
    return replace(
        cfg,
        directory=f"{root}/causal",
        model=replace(small.model, **SHAPE, activation="gelu"),
        task=small.task,
        stages=(Stage(CAUSAL[-1], 16, 128),),
        evaluation=EvalConfig(every=CAUSAL[-1] // 2, rows=256),
    )


def pretrained_elmo(root: Path) -> RunConfig:
    cfg = elmo.config()
    text = corpus.tokenised(root / "text")
    data = replace(cfg.data[0].data, store=f"{root}/stores/words", source=text, sentences="line", heldout=0.05)
    stages = (replace(cfg.stages[0], until_step=2000),)
    return replace(cfg, directory=f"{root}/elmo", data=(WeightedData(data),), stages=stages)


def pretrained_ernie(root: Path, units: str, steps: int = 3000) -> RunConfig:
    """Characters, then phrases, then entities are masked ("entity"), or characters all the time ("character")."""
    data, cfg = Path(data_folder()), ernie.config()
    lexicon = data / "zh_lexicon"
    names = tuple(f"{lexicon}/THUOCL_{name}.txt" for name in ("diming", "lishimingren"))
    text = replace(
        cfg.data[0].data,
        store=f"{root}/stores/literature",
        source=Annotated((f"{data}/zh_literature/train.tar.gz",), width=60),
        boundaries=Boundaries((f"{lexicon}/THUOCL_chengyu.txt",), names),
    )
    task: Any = cfg.task
    masked = {unit: replace(ernie.masking(unit), rate=0.3) for unit in UNITS}
    ends = {"token": steps * 6 // 10, "phrase": steps * 8 // 10, "entity": steps}
    stages = tuple(Stage(end, 16, 128, masking=masked[unit]) for unit, end in ends.items())
    return replace(
        cfg,
        directory=f"{root}/ernie_{units}",
        model=replace(cfg.model, initializer_range=SHAPE["initializer_range"]),
        task=replace(task, next_sentence=False),
        data=(WeightedData(text),),
        stages=stages if units == "entity" else (Stage(steps, 16, 128, masking=masked["token"]),),
        optim=OptimConfig(peak_lr=1e-3, warmup=steps // 10, eps=1e-8),
        evaluation=EvalConfig(every=steps // 2, rows=256),
        checkpoint=CheckpointConfig(every=steps // 3, keep=1),
    )


def transfer_cells(root: Path) -> list[Cell]:
    """Each English task, from the pretrained BERT and from scratch."""
    tasks = {"sst2": sst2, "mrpc": mrpc, "cola": cola, "stsb": stsb, "conll2003": conll2003, "squad2": squad2}
    weights = {"pretrained": "pretrained", "from scratch": "fresh"}
    return [
        cell(root, "transfer", name, column, module.config(), "bert", weights=kind)
        for name, module in tasks.items()
        for column, kind in weights.items()
    ]


def elmo_cells(root: Path) -> list[Cell]:
    """A biLSTM tagger on the frozen layers of ELMo, and on those of the same network as it was drawn."""
    found, weights = [], {"ELMo": "pretrained", "untrained ELMo": "fresh"}
    for column, kind in weights.items():
        more = {"weights": kind, "epochs": 5.0, "evaluate_each": 5.0, "optim": OptimConfig(peak_lr=1e-3)}
        one = cell(root, "elmo", "conll2003", column, conll2003.config(), "elmo", **more)
        task = replace(one.recipe.task, features=FeatureConfig("mix", layer_norm=True, lstm=(100,)))
        found.append(replace(one, recipe=replace(one.recipe, task=task)))
    return found


def ernie_cells(root: Path) -> list[Cell]:
    starts = {
        "entities masked": ("ernie_entity", "pretrained"),
        "characters masked": ("ernie_character", "pretrained"),
        "from scratch": ("ernie_character", "fresh"),
    }
    return [
        cell(root, "ernie", "msra_ner", column, msra_ner.config(), start, weights=kind)
        for column, (start, kind) in starts.items()
    ]


def masked_cells(root: Path) -> list[Cell]:
    """The masked and the causal model as drawn and at some of their checkpoints; the causal one without the
    language-model loss beside."""
    task: Any = sst2.config().task
    found, task = [], replace(task, language_model=0.0)
    for kind, steps in (("masked", MASKED), ("causal", CAUSAL)):
        for step in steps:
            start, weights = (f"{kind}/checkpoints/{step}", "pretrained") if step else (kind, "fresh")
            recipe = replace(sst2.config(), task=task)
            found.append(cell(root, "masked", "sst2", f"{kind} {step}", recipe, start, weights=weights))
    return found


def cell(root: Path, part: str, row: str, column: str, recipe: FinetuneConfig, start: str, **changes: Any) -> Cell:
    """A figure of `recipe` at this study's scale: no dropout (as in pretraining), no choice of a best epoch."""
    name = f"finetuned/{part}/{row}/{column.replace(' ', '_')}"
    epochs = EPOCHS.get(row, 3.0)
    more: dict[str, Any] = {"epochs": epochs, "evaluate_each": epochs, "batch_size": 16, "warmup": 0.1, "optim": OPTIM}
    task: Any = replace(recipe.task, limit=LIMIT)  # type: ignore[call-arg]
    if row == "conll2003":
        task = replace(task, context="sentence")
    more |= {"task": task, "length": LENGTHS[row], "dropout": 0.0, "stores": f"{root}/stores/examples"}
    more["checkpoint"] = CheckpointConfig(every=100, keep=1)
    return Cell(
        part, row, column, replace(recipe, directory=f"{root}/{name}", init_from=f"{root}/{start}", **more | changes)
    )


def parts(root: Path) -> dict[str, tuple[list[RunConfig], list[Cell]]]:
    """What is pretrained, and the cells that begin with it; in the order of the tables."""
    compared = {
        kind: [one for one in masked_cells(root) if one.column.startswith(kind)] for kind in ("masked", "causal")
    }
    return {
        "bert": ([pretrained_bert(root)], transfer_cells(root)),
        "elmo": ([pretrained_elmo(root)], elmo_cells(root)),
        "ernie": ([pretrained_ernie(root, units) for units in ("entity", "character")], ernie_cells(root)),
        "masked": ([masked(root)], compared["masked"]),
        "causal": ([causal(root)], compared["causal"]),
    }


def cells(root: Path) -> list[Cell]:
    return [cell for _, some in parts(root).values() for cell in some]


def pretrainings(root: Path) -> list[RunConfig]:
    return [run for runs, _ in parts(root).values() for run in runs]
