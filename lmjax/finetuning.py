"""Fine-tuning, from a config to predictions of the best state. `run_finetune.py` is its command.

A `FinetuneConfig` says what a recipe says: epochs, a share of steps to warm up, and which trained model to begin with.
`resolve` makes a run of it, which then goes through the same `train` as any other.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
from etils import epath

from lmjax.config import operational, to_json
from lmjax.data.chat_template import named_template
from lmjax.data.examples import TaskData, open_examples, store_name, write_examples
from lmjax.data.framing import Frame
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.store import Store
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig
from lmjax.data.words import WordCollector
from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import Architecture, AttentionConfig, Dtype, ModelConfig, Remat
from lmjax.models.features import FeatureConfig, check_features
from lmjax.ops.attention import Implementation
from lmjax.parallel import MeshConfig, on_first_process
from lmjax.report import report
from lmjax.run import RunConfig
from lmjax.samples import write_answers
from lmjax.tasks import make_task
from lmjax.tasks.preferences import PreferenceConfig
from lmjax.tasks.task import SupervisedConfig
from lmjax.train.assemble import Program, assemble, open_data
from lmjax.train.checkpoint import CheckpointConfig, restore_params
from lmjax.train.evaluate import EvalConfig, of_split, predict, scored_splits
from lmjax.train.files import write_atomically
from lmjax.train.log import LogConfig
from lmjax.train.loop import is_over, train
from lmjax.train.optim import OptimConfig
from lmjax.train.reference import with_reference
from lmjax.train.saved import check_predicts, chosen_state, describe_saved, digest_of_saved


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A recipe of fine-tuning.

    Attributes:
      directory: where the run lives, or with `seeds` or `grid` the directory of the runs.
      init_from: a run, RUN/best, a checkpoint or a Hugging Face directory. Model shape and tokenizer are its own.
      weights: "fresh" takes only those from it, and draws all weights from the seed.
      positions: "extend" lengthens its position table to `length`; the new rows are drawn from the seed.
      task: on which data, and what is predicted.
      length, batch_size, micro_batches: of rows in tokens; of batches in rows.
      epochs: passes over the training rows. `warmup`: the share of all steps in which the rate rises.
      evaluate_each: so many epochs. `patience`: evaluations without a better figure until the end (0 = no such end).
      dropout: of hidden layers and attention; None = as the model was pretrained.
      dtype, attention, remat: of the model; a dtype of None = as it was pretrained.
      optim: but for `warmup`, `total` and `unit`, which follow from the above.
      seeds, grid: several runs, see `study`; grid entries are like "optim.peak_lr=2e-5,3e-5".
      stores: where the encoded examples lie.
    """

    directory: str
    init_from: str = ""
    weights: Literal["pretrained", "fresh"] = "pretrained"
    positions: Literal["keep", "extend"] = "keep"
    task: SupervisedConfig
    length: int = 128
    batch_size: int = 32
    micro_batches: int = 1
    epochs: float = 3.0
    warmup: float = 0.1
    evaluate_each: float = 1.0
    patience: int = 0
    dropout: float | None = None
    dtype: Dtype | None = None
    attention: Implementation = "xla"
    remat: Remat = "none"
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    seeds: tuple[int, ...] = ()
    grid: tuple[str, ...] = ()
    stores: str = "stores"
    checkpoint: CheckpointConfig = operational(CheckpointConfig(every=1000, keep=1))
    log: LogConfig = operational(LogConfig())
    mesh: MeshConfig = operational(MeshConfig())
    stop_at: int = 0

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "epochs", "evaluate_each"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} {getattr(self, name):g} must be positive")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup {self.warmup:g} is a share of all steps, 0 to 1")
        if self.optim.warmup or self.optim.total or self.optim.unit != "steps":
            raise UserError(
                "optim.warmup, total and unit follow from the recipe's own warmup and epochs; leave them out"
            )


def finetune(cfg: FinetuneConfig) -> dict[str, float]:
    """Prepares the examples, trains or resumes, and writes what the best state predicts: RUN/predictions/SPLIT/ in the
    task's official format, RUN/result.json and the report. Returns the best state's held-out figures; none where the
    run was stopped on the way.

    Raises:
      UserError: a bad config, data or model.
    """
    run = resolve(cfg)
    program = assemble(run)
    if not is_over(run, train(run, program)):
        return {}
    figures = write_results(run, program)
    if jax.process_index() == 0:
        if program.task.supervised and program.task.supervised.chat_template:
            write_answers(run)
        page = report(run.directory)
        shown = "".join(f"\n  {name:<18} {value:.4g}" for name, value in figures.items())
        print(f"held-out, best state{shown}\n\nreport: {page}")
    return figures


def resolve(cfg: FinetuneConfig) -> RunConfig:
    """The run that a recipe means; its examples are encoded on the way, unless they lie ready."""
    if not cfg.init_from:
        raise UserError("no model to fine-tune: --init-from takes a run or a Hugging Face directory")
    if getattr(cfg.task, "alone", ""):
        raise UserError("task.alone is a file to predict, with nothing to train on; `python -m lmjax predict` takes it")
    model, tokenizer = describe_saved(cfg.init_from)
    architecture = architecture_of(model)
    _check_model(cfg, model, architecture)
    frame = frame_of(architecture)
    if frame == "words":
        tokenizer = WordCollector()
    if tokenizer is None:
        raise UserError(f"{cfg.init_from} has no tokenizer; put its files (tokenizer.json, vocab.txt, ...) there")
    task_cfg = dataclasses.replace(cfg.task, frame=frame)
    if isinstance(cfg.task, PreferenceConfig) and cfg.task.template:
        tokenizer = tokenizer.with_chat_template(named_template(cfg.task.template))
    directory = prepare_examples(cfg, task_cfg, tokenizer)
    store = Store.open(directory)
    rows = len(open_examples(store)["train"])
    steps = max(1, int(rows * cfg.epochs / cfg.batch_size))
    every = max(1, min(steps, round(rows * cfg.evaluate_each / cfg.batch_size)))
    task = make_task(task_cfg).supervised
    assert task
    words = store.tokenizer.vocab_size + task.new_tokens
    if frame != "words":  # a table of words may have rows that its tokenizer does not use
        words = max(words, model.vocab_size)
    data = DataConfig(str(directory), TaskData(), TokenizerConfig("file", path=str(directory / "tokenizer")))
    run = RunConfig(
        directory=cfg.directory,
        model=_model(cfg, model, words),
        task=task_cfg,
        data=(WeightedData(data),),
        stages=(Stage(steps, cfg.batch_size, cfg.length, cfg.micro_batches),),
        optim=dataclasses.replace(cfg.optim, warmup=round(cfg.warmup * steps), unit="steps"),
        init_from=cfg.init_from if cfg.weights == "pretrained" else "",
        init_digest=digest_of_saved(cfg.init_from) if cfg.weights == "pretrained" else "",
        seed=cfg.seed,
        evaluation=EvalConfig(every=every, rows=0, patience=cfg.patience),
        checkpoint=cfg.checkpoint,
        log=cfg.log,
        mesh=cfg.mesh,
        stop_at=cfg.stop_at,
    )
    return with_reference(run) if task.reference else run


def frame_of(architecture: Architecture) -> Frame:
    """How texts become a row for models of this family, see `data.framing`."""
    return "words" if architecture.reads == "words" else "ordered" if "cache" in architecture.inputs else "separated"


def prepare_examples(cfg: FinetuneConfig, task_cfg: SupervisedConfig, tokenizer: Tokenizer) -> epath.Path:
    """The store of the task's examples, written unless it is there."""
    task = make_task(task_cfg).supervised
    if task is None:
        raise UserError(f"{type(task_cfg).__name__} has no labelled examples to fine-tune on")
    rows_of = dataclasses.replace(task_cfg, features=FeatureConfig())  # which the rows do not depend on
    described = [json.dumps(to_json(rows_of)), str(cfg.length), tokenizer.fingerprint, task.fingerprint()]
    described += [repr(tokenizer.chat_template)] if tokenizer.chat_template else []
    store = epath.Path(cfg.stores) / store_name(f"{task.name}-{cfg.length}", *described)

    def write() -> None:
        if not store.exists():
            splits = task.encode(tokenizer, cfg.length)
            known = tokenizer.collected() if isinstance(tokenizer, WordCollector) else tokenizer
            known = known.with_chat_template(task.chat_template) if task.chat_template else known
            write_examples(store, known, splits)

    on_first_process(write)
    return store


def _check_model(cfg: FinetuneConfig, model: ModelConfig, architecture: Architecture) -> None:
    kind = type(model).__name__.removesuffix("Config")
    if "encoder_tokens" in architecture.inputs:
        raise UserError(f"{cfg.init_from} is a {kind}; this task takes an encoder or a decoder of tokens")
    if architecture.reads == "words" and not cfg.task.features.frozen:
        raise UserError(f"{cfg.init_from} is a {kind}; this task takes it as features: --task.features.layers mix")
    if cfg.weights == "pretrained" and make_task(cfg.task).heads == ("clm",):  # it goes on with the language model
        check_predicts(cfg.init_from, model)
    check_features(cfg.task.features, architecture, model)


def _model(cfg: FinetuneConfig, model: ModelConfig, vocab_size: int) -> ModelConfig:
    """The pretrained shape, with the recipe's dropout and kernels, and as many positions and words as are needed."""
    changes: dict[str, Any] = {"remat": cfg.remat, "vocab_size": vocab_size}
    changes |= {} if cfg.dtype is None else {"dtype": cfg.dtype}
    if cfg.dropout is not None:
        names = (f.name for f in dataclasses.fields(model))
        changes |= {name: cfg.dropout for name in names if name.endswith("_dropout")}
    if not isinstance(model, AttentionConfig):
        return dataclasses.replace(model, **changes)
    changes["attention"] = cfg.attention
    if model.position_embedding == "learned" and cfg.length > model.max_position_embeddings:
        if cfg.positions == "keep":
            raise UserError(
                f"length {cfg.length} exceeds the {model.max_position_embeddings} positions of {cfg.init_from}; "
                "lower length, or lengthen its table by --positions extend"
            )
        changes["max_position_embeddings"] = cfg.length
    return dataclasses.replace(model, **changes)


def write_results(run: RunConfig, program: Program) -> dict[str, float]:
    """Predictions of the best state (the last one, where none was evaluated) and its figures."""
    data, task = open_data(run, program), program.task.supervised
    assert task
    directory = epath.Path(run.directory)
    chosen = chosen_state(directory)
    params = restore_params(chosen, program.abstract_state.params)
    figures: dict[str, float] = {}
    with jax.set_mesh(program.mesh):
        for name in scored_splits(data.examples):
            split = data.examples[name]
            _, predictions = predict(program.predict_step, params, data.heldout(name), program.mesh, len(split))
            if split.labelled:
                figures |= of_split(name, task.score(split, predictions, figures))
            if jax.process_index() == 0:
                folder = directory / "predictions" / name
                folder.mkdir(parents=True, exist_ok=True)
                for file, text in task.files(name, split, predictions, figures).items():
                    write_atomically(folder / file, text)
    if jax.process_index() == 0:
        result = {"step": int(chosen.name), "headline": program.task.headline, "figures": figures}
        result["larger_is_better"] = program.task.larger_is_better
        write_atomically(directory / "result.json", json.dumps(result, indent=1))
    return figures
