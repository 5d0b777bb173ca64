"""Hugging Face directories, `config.json` beside `model.safetensors`: read in the forms that are about, written in one.

ELMo's release, `options.json` beside an HDF5 file, is read and written in the same way, GPT-1's by OpenAI,
`params_shapes.json` beside `params_N.npy`, is read. They are data: nothing is executed or unpickled.
"""

import io
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lmjax.config import from_json, to_json
from lmjax.errors import UserError, did_you_mean
from lmjax.models import MODELS, architecture_of, gpt1, task_layers
from lmjax.models.architecture import Architecture, ModelConfig, abstract_params, check
from lmjax.models.task_layers import TaskLayer
from lmjax.models.weights import from_hf, to_hf
from lmjax.types import Params

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHAPES = "params_shapes.json"
OPTIONS, HDF5 = "options.json", "weights.hdf5"  # published ones have a name before that: elmo_2x4096_..._options.json


class Model(NamedTuple):
    """A model without its tokenizer; with the layer of a fine-tuned task, its parameters have that too."""

    config: ModelConfig
    heads: tuple[str, ...]
    params: Params
    layer: TaskLayer | None = None


def read_model(directory: epath.Path) -> Model:
    """Reads a directory as `save_pretrained` writes it: a backbone, or a model with known heads or a task's layer.

    Raises:
      UserError: an unknown architecture or option, pickled or damaged weights, a missing, unknown or misshapen tensor.
    """
    cfg = read_model_config(directory)
    architecture = architecture_of(cfg)
    if released := released_options(directory):
        found, layer = _read_npy(directory)[1] if released.name == SHAPES else _read_hdf5(directory), None
    else:
        found, layer = _tensors(directory), _layer(architecture, directory)
    try:
        if layer:
            found = task_layers.renamed(found, architecture.hf_tasks[layer.hf_class])
        tensors, rows = _renamed(architecture, found), architecture.weights(cfg)
        heads = _heads(architecture, cfg, tensors)
        abstract = abstract_params(architecture, cfg, heads)
        if layer:
            rows, abstract = [*rows, *layer.weights()], abstract | layer.abstract(cfg.hidden_size, tensors)
        params = from_hf(rows, tensors, abstract, cfg.vocab_size)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    return Model(cfg, heads, jax.device_put(params), layer)


def read_model_config(directory: epath.Path) -> ModelConfig:
    """The config alone. Raises UserError for an unknown architecture or option."""
    released = released_options(directory)
    if released and released.name == SHAPES:
        (data, _), architecture = _read_npy(directory), MODELS["openai-gpt"]
    elif released:
        data, architecture = read_json(released), MODELS["elmo"]
    else:
        data = read_json(directory / "config.json")
        architecture = _architecture(data, directory)
    cfg = architecture.from_hf(data)
    cfg = from_json(type(cfg), to_json(cfg), f"{directory}/config.json")  # checks the types
    check(cfg, length=0)
    return cfg


def write_model(model: Model, directory: epath.Path) -> None:
    """Writes config.json and model.safetensors. Raises UserError for a shape that Hugging Face does not have."""
    cfg, heads, params, layer = model
    architecture = architecture_of(cfg)
    content, rows = architecture.to_hf(cfg, heads), architecture.weights(cfg)
    if layer and layer.hf_class not in architecture.hf_tasks:
        left_out = f"{content['model_type']}'s {layer.name} has no class of Hugging Face's and is not written"
        warnings.warn(left_out, stacklevel=3)
        params, layer = {name: part for name, part in params.items() if name != layer.name}, None
    if layer:
        content, rows = task_layers.to_hf(layer, content), [*rows, *layer.weights()]
    tensors = to_hf(rows, params, cfg.vocab_size)
    if layer:
        theirs = {ours: theirs for theirs, ours in architecture.hf_tasks[layer.hf_class].items()}
        tensors = task_layers.renamed(tensors, theirs)
    if architecture.files == "hdf5":
        (directory / OPTIONS).write_text(json.dumps(content, indent=2) + "\n")
        with h5py.File(directory / HDF5, "w") as file:
            for name, tensor in tensors.items():
                file[name] = tensor
        return
    (directory / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    (directory / WEIGHTS).write_bytes(save(whole, metadata={"format": "pt"}))


def released_options(directory: epath.Path) -> epath.Path | None:
    """The options.json of an ELMo as it was released, or the params_shapes.json of a GPT-1, where there is one."""
    return next(iter(sorted([*directory.glob(f"*{OPTIONS}"), *directory.glob(SHAPES)])), None)


def read_json(file: epath.Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where there is none."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{file} holds no JSON object")
    return data


def _architecture(data: Mapping[str, Any], directory: epath.Path) -> Architecture:
    family = data.get("model_type")
    if family not in MODELS:
        raise UserError(f"{directory}/config.json: unknown model_type '{family}'{did_you_mean(str(family), MODELS)}")
    architecture = MODELS[family]
    for key, value in architecture.hf_fixed.items():
        if data.get(key, value) != value:
            raise UserError(f"{directory}/config.json: {key} is {data[key]!r}; lmjax's {family} knows {value!r} only")
    return architecture


def _layer(architecture: Architecture, directory: epath.Path) -> TaskLayer | None:
    content = read_json(directory / "config.json")
    layer = task_layers.from_hf(content)
    if layer and layer.hf_class not in architecture.hf_tasks:
        raise UserError(
            f"{directory}/config.json: lmjax has no place for the layer of {content['architectures'][0]}; write the "
            "backbone alone by transformers: AutoModel.from_pretrained(DIR).save_pretrained(NEW)"
        )
    return layer


def _tensors(directory: epath.Path) -> dict[str, np.ndarray]:
    if (directory / WEIGHTS).exists():
        return _read_safetensors(directory / WEIGHTS)
    if (directory / INDEX).exists():
        files = {epath.Path(file).name for file in read_json(directory / INDEX).get("weight_map", {}).values()}
        return {k: v for file in sorted(files) for k, v in _read_safetensors(directory / file).items()}
    if list(directory.glob("*.bin")):
        raise UserError(
            f"{directory} has its weights in a pickle (.bin), which lmjax never opens; rewrite them as safetensors by "
            "transformers: AutoModelForPreTraining.from_pretrained(DIR).save_pretrained(NEW)"
        )
    raise UserError(f"{directory} holds no {WEIGHTS}")


def _read_hdf5(directory: epath.Path) -> dict[str, np.ndarray]:
    files = sorted(directory.glob(f"*{HDF5}"))
    if len(files) != 1:
        raise UserError(f"{directory} holds {len(files)} files *{HDF5} beside its options; one is wanted")
    tensors: dict[str, np.ndarray] = {}
    try:
        with h5py.File(files[0], "r") as file:
            file.visititems(lambda name, x: tensors.update({name: x[:]}) if isinstance(x, h5py.Dataset) else None)
    except OSError as error:
        raise UserError(f"{files[0]} is damaged: {error}") from None
    return tensors


def _read_npy(directory: epath.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    files = sorted(directory.glob("params_*.npy"), key=lambda file: (len(file.name), file.name))  # 2 before 10
    try:
        shapes = json.loads((directory / SHAPES).read_text())
        values = np.concatenate([np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) for file in files])
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: params_*.npy or {SHAPES} are missing or damaged: {error}") from None
    return gpt1.from_released(shapes, values)


def _read_safetensors(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is missing or damaged: {error}") from None


def _renamed(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of the family's table, whichever class saved the file and however long ago."""
    whole = any(name.startswith(architecture.hf_prefix) for name in tensors)
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))  # converted from TensorFlow
        name = name if whole else architecture.hf_prefix + name
        if not any(re.fullmatch(regex, name) for regex in architecture.hf_ignored):
            renamed[name] = tensor
    for copy, original in architecture.hf_tied.items():
        if copy in renamed:
            tensor = renamed.pop(copy)
            if not np.array_equal(renamed.setdefault(original, tensor), tensor):
                raise UserError(f"weights: {copy} differs from {original}; lmjax knows this model with both tied only")
    return renamed


def _heads(architecture: Architecture, cfg: ModelConfig, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The heads whose tensors are there, and those without tensors of their own."""

    def present(head: str) -> bool:
        names = [row.name for row in architecture.weights(cfg) if row.paths[0].split("/")[0] == head]
        return not names or any(name in tensors for name in names)

    return tuple(filter(present, architecture.heads))
