"""What the model that a run begins with gives the run's rows: computed once, and from then on a feature of the rows."""

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

import jax
import numpy as np
from etils import epath

from lmjax.config import to_json
from lmjax.data.examples import store_name, write_examples
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.models.weights import flatten
from lmjax.parallel import on_first_process
from lmjax.train.assemble import assemble, open_data
from lmjax.train.evaluate import predict
from lmjax.train.saved import read_saved

if TYPE_CHECKING:
    from lmjax.run import RunConfig


def with_reference(cfg: "RunConfig") -> "RunConfig":
    """The run on rows that carry `reference_NAME` for each NAME of its task's `Supervised.reference`: what the model at
    its step 0 predicts, by the program of its evaluations.

    Their store lies beside the run's own and is named after that, the initial weights' digest, the seed (of what
    is drawn beside them) and the model's config; it is written unless it is there.
    """
    (entry,) = cfg.data
    plain = epath.Path(entry.data.store)
    described = (_digest(cfg.init_from), str(cfg.seed), json.dumps(to_json(cfg.model)))
    directory = plain.parent / store_name(f"{plain.name}-reference", *described)
    if not directory.exists():
        _write(cfg, directory)
    data = dataclasses.replace(
        entry.data, store=str(directory), tokenizer=TokenizerConfig("file", path=str(directory / "tokenizer"))
    )
    return dataclasses.replace(cfg, data=(dataclasses.replace(entry, data=data),))


def _write(cfg: "RunConfig", directory: epath.Path) -> None:
    program = assemble(cfg)
    data, task = open_data(cfg, program), program.task.supervised
    assert task
    splits = {}
    with jax.set_mesh(program.mesh):
        params = program.init_state().params
        for name, split in data.examples.items():
            _, found = predict(program.predict_step, params, data.heldout(name), program.mesh, len(split))
            given = {f"reference_{kept}": found[kept] for kept in task.reference}
            splits[name] = dataclasses.replace(split, features={**split.features, **given})
    on_first_process(lambda: write_examples(directory, data.tokenizer, splits))


def _digest(source: str) -> str:
    """sha256 over a saved model's parameters: paths, dtypes, shapes and values; of none, ""."""
    if not source:
        return ""
    sha256 = hashlib.sha256()
    for path, leaf in sorted(flatten(read_saved(source).model.params).items()):
        value = np.ascontiguousarray(leaf)
        sha256.update(f"{path} {value.dtype.name} {leaf.shape}\n".encode())
        sha256.update(value.view(np.uint8).data)
    return sha256.hexdigest()
