"""The papers' runs at their full size, abstractly: state, train step of each stage and evaluation are traced on a mesh,
with shapes in place of arrays, so that none takes memory; the parameters are as many as published."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from lmjax.config import load_config, override
from lmjax.models.architecture import num_params
from lmjax.parallel import MeshConfig, check_rows, shardings
from lmjax.run import RunConfig
from lmjax.train.assemble import Program, assemble
from tests.models.test_sizes import COUNTS

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {  # config: its preset, or its parameters; elements of optimizer state for each stored parameter
    "bert_base": ("bert-base-uncased", 2),
    "bert_large": ("bert-large-uncased", 2),
    "elmo": ("elmo-original", 1),
    "ernie_base": ("ernie-1.0", 2),
    "gpt1": ("openai-gpt", 2),
    "gpt2_small": ("gpt2", 2),
    "gpt2_medium": ("gpt2-medium", 2),
    "gpt2_large": ("gpt2-large", 2),
    "gpt2_xl": ("gpt2-xl", 2),
    "gpt3_small": ("gpt3-small", 2),
    "gpt3_13b": ("gpt3-13b", 2),
    "gpt3_175b": ("gpt3-175b", 2),
    "multi30k": (4_710_400, 2),
    "roberta_base": ("roberta-base", 2),
    "roberta_large": ("roberta-large", 2),
    "transformer_base": ("transformer-base", 2),
    "transformer_big": ("transformer-big", 2),
}


def elements(tree: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def evaluate(program: Program, cfg: RunConfig) -> None:
    """Traces the evaluation step on a batch of the last stage."""
    last, state = cfg.stages[-1], program.abstract_state
    carried = jax.eval_shape(program.heldout_carry)
    features = program.task.features(last.micro_batch, last.length, last.masking)
    with jax.set_mesh(program.mesh):
        means, _ = jax.eval_shape(program.eval_step, state.params, {**features, **carried})
    assert program.task.headline in means


def test_no_config_is_missing() -> None:
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_run_of_full_size_is_assembled(name: str) -> None:
    cfg = load_config(str(CONFIGS / f"{name}.py"), RunConfig)
    # Over eight devices, and the largest cut by layers' rows too; XL's 25 heads do not go over two.
    cfg = replace(cfg, mesh=MeshConfig(1, 4, 2) if name.startswith("gpt3") else MeshConfig(-1, 4, 1))
    program = assemble(cfg)
    evaluate(program, cfg)
    params, (size, moments) = program.abstract_state.params, SIZES[name]
    found = num_params(program.architecture, cfg.model, program.task.heads)
    assert found == (size if isinstance(size, int) else COUNTS[size][program.task.heads])
    stored = elements(params)
    assert 0 <= stored - found < 0.02 * found  # rows that pad the vocabulary
    assert elements(program.abstract_state.opt_state) == pytest.approx(moments * stored, rel=1e-6, abs=10)


PRETRAINING = sorted(path for path in CONFIGS.glob("**/*.py") if path.parent.name not in ("finetune", "chatgpt"))


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_the_docstring_names_the_config_and_a_mesh_that_fits(path: Path) -> None:
    """Its command is one that parses; its `--mesh` cuts every parameter and the rows of every stage."""
    said = path.read_text().split('"""')[1].replace("\\\\\n", " ")
    commands = re.findall(r"python (run_pretrain\.py|-m benchmarks\.\S+) ?(.*)", said)
    assert commands
    name = str(path.relative_to(CONFIGS.parent))
    for script, arguments in commands:
        if script != "run_pretrain.py":
            assert (CONFIGS.parent / f"{script.removeprefix('-m ').replace('.', '/')}.py").exists()
            continue
        config, *overrides = arguments.split("(or:")[0].replace("'", "").split()
        assert config == name
        cfg = override(load_config(str(path), RunConfig), overrides, "")
        sizes = [max(1, n) for n in (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)]
        if max(sizes) > 1:
            mesh, program = (
                AbstractMesh(tuple(sizes), ("data", "fsdp", "tensor")),
                assemble(replace(cfg, mesh=MeshConfig())),
            )
            shardings(program.architecture.sharding, program.abstract_state.params, mesh)
            for stage in cfg.stages:
                check_rows(stage.micro_batch, mesh)
