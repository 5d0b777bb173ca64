"""What a fine-tuned model says of a file that it never saw: its task's own prediction files."""

import json
import os
from dataclasses import replace

import jax
import numpy as np
from etils import epath

from lmjax.config import from_stored
from lmjax.data.examples import Encoded, table_of
from lmjax.data.pipeline import heldout_batches
from lmjax.data.tokenizers import Tokenizer
from lmjax.data.words import WordCollector
from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.parallel import MeshConfig
from lmjax.run import RunConfig
from lmjax.tasks.task import FilesConfig, Predictions
from lmjax.train.assemble import Program, assemble
from lmjax.train.checkpoint import read_config, restore_params
from lmjax.train.evaluate import predict
from lmjax.train.saved import chosen_state, describe_saved, digest_of_saved
from lmjax.types import Params


def predict_file(run: epath.PathLike, file: epath.PathLike) -> dict[str, str]:
    """The prediction files, by name, that RUN would write of `file` as its test file.

    Args:
      run: a finished fine-tuning run; its best state answers.
      file: in the form of the task's test file; labels, where that form has them, change no prediction.

    Raises:
      UserError: another run; a bad file; a task without prediction files.
    """
    directory = epath.Path(os.fspath(run)).expanduser()
    directory = directory.parent if directory.name == "best" else directory
    if not (directory / "result.json").exists():
        raise UserError(f"{directory} has no result.json; predict takes a finished fine-tuning run")
    cfg = from_stored(RunConfig, read_config(directory), f"{directory}/config.json")
    assert isinstance(cfg.task, FilesConfig)
    task_cfg = replace(cfg.task, alone=os.path.abspath(os.path.expanduser(os.fspath(file))))
    stage, devices = cfg.stages[-1], len(jax.devices())  # whichever the run had
    stage = replace(stage, batch_size=-(-stage.micro_batch // devices) * devices, micro_batches=1)
    cfg = replace(cfg, task=task_cfg, stages=(stage,), mesh=MeshConfig())
    program = assemble(cfg)
    task, (_, tokenizer) = program.task.supervised, describe_saved(directory)
    assert task
    assert tokenizer
    if architecture_of(cfg.model).reads == "words":
        tokenizer = WordCollector()
    split = task.encode(tokenizer, stage.length)["test"]
    tokenizer = tokenizer.collected() if isinstance(tokenizer, WordCollector) else tokenizer
    split = _with_reference(cfg, program, split, tokenizer)
    params = restore_params(chosen_state(directory), program.abstract_state.params)
    found = predictions_of(cfg, program, params, split, tokenizer)
    figures = json.loads((directory / "result.json").read_text())["figures"]
    files = task.files("test", split, found, figures)
    if not files:
        raise UserError(f"{directory}: {task.name} has no prediction files; `python -m lmjax sample` answers prompts")
    return dict(files)


def _with_reference(cfg: RunConfig, program: Program, split: Encoded, tokenizer: Tokenizer) -> Encoded:
    """The split with what the model that the run began with gives its rows, where the task asks for that."""
    task = program.task.supervised
    assert task
    if not task.reference:
        return split
    if cfg.init_from and digest_of_saved(cfg.init_from) != cfg.init_digest:
        raise UserError(f"{cfg.init_from} is another model by now than the run began with, which its figures refer to")
    with jax.set_mesh(program.mesh):
        params = program.init_state().params
    found = predictions_of(cfg, program, params, split, tokenizer)
    return replace(split, features={**split.features, **{f"reference_{name}": found[name] for name in task.reference}})


def predictions_of(
    cfg: RunConfig, program: Program, params: Params, split: Encoded, tokenizer: Tokenizer
) -> Predictions:
    """What the task keeps of each row of a split, [rows, ...]."""
    stage = cfg.stages[-1]
    rows = heldout_batches(
        table_of(split, stage.length, tokenizer), program.task.transform(None, tokenizer), stage.micro_batch, cfg.seed
    )
    with jax.set_mesh(program.mesh):
        _, found = predict(program.predict_step, params, rows, program.mesh, len(split))
    return {name: np.asarray(values) for name, values in found.items()}
