"""A trained model from disk, whoever wrote it: a run, one of its checkpoints or a Hugging Face directory."""

import hashlib
import json
import os
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from lmjax.config import from_stored
from lmjax.data.huggingface import VOCABULARIES
from lmjax.data.tokenizers import Tokenizer, load_tokenizer
from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import ModelConfig, abstract_params, portable
from lmjax.models.huggingface import Model, read_json, read_model, read_model_config, released_options
from lmjax.models.wrapped import init_wrapped, wrap
from lmjax.tasks import TaskConfig, make_task
from lmjax.train.checkpoint import find, last_checkpoints, read_arrays, read_config, restore_params
from lmjax.train.files import MANIFEST, sums


class Saved(NamedTuple):
    """A model and its tokenizer, where one lay beside it."""

    model: Model
    tokenizer: Tokenizer | None


def read_saved(path: epath.PathLike, average: int = 1) -> Saved:
    """The model of a run (its newest checkpoint), of RUN/best, of one checkpoint, or of a Hugging Face directory; of a
    run also the mean of its last `average` checkpoints.

    Raises:
      UserError: nothing there, or something damaged or unknown, named.
    """
    path, is_ours = _located(path)
    if average != 1 and not is_ours:
        raise UserError(f"{path}: average={average} takes checkpoints of a run; this directory holds one model")
    directories = [path] if not is_ours else [find(path)] if average == 1 else last_checkpoints(path, average)
    model = _read_run(directories) if is_ours else read_model(path)
    return Saved(model, _tokenizer(path, directories[-1], is_ours, model.config))


def describe_saved(path: epath.PathLike) -> tuple[ModelConfig, Tokenizer | None]:
    """The config and the tokenizer alone. Raises UserError as `read_saved` does."""
    path, is_ours = _located(path)
    directory = find(path) if is_ours else path
    cfg = read_part(directory, ModelConfig, "model") if is_ours else read_model_config(path)
    return cfg, _tokenizer(path, directory, is_ours, cfg)


def chosen_state(directory: epath.Path) -> epath.Path:
    """The checkpoint of a run that its results are of: the best one, or the last where none was evaluated."""
    evaluated = int(read_arrays(find(directory), lambda name: name == "extra/best/step")["extra/best/step"]) >= 0
    return find(directory / "best" if evaluated else directory)


def check_predicts(path: epath.PathLike, cfg: ModelConfig) -> None:
    """Raises UserError where the model at `path` with config `cfg` was not left as one that predicts next tokens: an
    encoder, or a run whose task had no such head, as a reward model's."""
    located, is_ours = _located(path)
    heads = architecture_of(cfg).heads  # of a GPT of Hugging Face's: the head has no weights that would tell
    if is_ours:
        heads = make_task(read_part(find(located), TaskConfig, "task")).heads_of(architecture_of(cfg))
    if "clm" not in heads:
        raise UserError(
            f"init_from {path} is no causal language model (its heads: {', '.join(heads) or 'none'}); take a GPT that "
            "predicts next tokens, such as the one that a reward model began from"
        )


def digest_of_saved(path: epath.PathLike) -> str:
    """Another one for another model: of a checkpoint's checksums, or of a Hugging Face directory's files. Raises
    UserError as `read_saved` does."""
    path, is_ours = _located(path)
    described = (find(path) / MANIFEST).read_text() if is_ours else json.dumps(sums(path))
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def _located(path: epath.PathLike) -> tuple[epath.Path, bool]:
    """Where it lies, and whether it is a run of lmjax or a part of one."""
    path = epath.Path(os.fspath(path)).expanduser()
    if not (path.parent if path.name == "best" else path).is_dir():
        mend = f"if it is an id on the Hugging Face Hub, `hf download {path} --local-dir {path.name}` fetches it"
        raise UserError(f"no directory {path}; {mend}")
    config = path / "config.json"
    return path, "schema_version" in read_json(config) if config.exists() else not released_options(path)


def _tokenizer(path: epath.Path, directory: epath.Path, is_ours: bool, cfg: ModelConfig) -> Tokenizer | None:
    folders = [directory / "tokenizer", directory.parent.parent / "tokenizer"] if is_ours else [path]
    tokenizer = next((load_tokenizer(f) for f in folders if any(any(f.glob(v)) for v in VOCABULARIES)), None)
    if tokenizer is not None and tokenizer.vocab_size > cfg.vocab_size:
        sizes = f"{tokenizer.vocab_size} entries, the model {cfg.vocab_size}"
        raise UserError(f"{path}: the tokenizer has {sizes}; they do not belong together")
    return tokenizer


def read_part(directory: epath.Path, declared: Any, name: str) -> Any:
    """A field of the config of a run or a checkpoint."""
    stored = read_config(directory)
    found = stored | {"config": stored.get("config", {}).get(name)}
    return from_stored(declared, found, f"{directory}/config.json")


def _read_run(directories: list[epath.Path]) -> Model:
    """The mean of some checkpoints. Of what a task has on top, the layer that Hugging Face's classes have too."""
    directory = directories[-1]
    cfg = portable(read_part(directory, ModelConfig, "model"))  # it was trained by whatever kernel and memory plan
    architecture = architecture_of(cfg)
    task = make_task(read_part(directory, TaskConfig, "task"))
    heads, layer = task.heads_of(architecture), task.supervised and task.supervised.layer
    abstract = abstract_params(architecture, cfg, heads)
    if task.supervised and layer:
        draw = partial(init_wrapped, wrap(architecture, cfg, heads, task.supervised.read), task.features(1, 2, None))
        abstract = {**abstract, layer.name: jax.eval_shape(draw, jax.random.key(0))[layer.name]}
    params = restore_params(directory, abstract)
    for other in directories[:-1]:
        params = jax.tree.map(jnp.add, params, restore_params(other, abstract))
    params = jax.tree.map(lambda x: x / len(directories), params) if len(directories) > 1 else params
    return Model(cfg, heads, params, layer)
