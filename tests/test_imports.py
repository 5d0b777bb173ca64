"""Who may import whom: modules look down the ranks only, and each large library stays behind its wall."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
FILES = [*sorted(ROOT.glob("lmjax/**/*.py")), *sorted(ROOT.glob("run_*.py")), *sorted(ROOT.glob("configs/**/*.py"))]
LONGEST = 350  # lines of a file that is still read top to bottom

RANKS = {
    **dict.fromkeys(["types", "errors", "memory"], 1),
    **dict.fromkeys(["config", "chips", "parallel"], 2),
    **dict.fromkeys(["ops"], 3),
    **dict.fromkeys(["data", "models", "objectives", "metrics"], 4),
    "tasks": 5,
    **dict.fromkeys(["train", "generate", "beam"], 6),
    "interop": 7,
    **dict.fromkeys(["evals", "collect", "report", "samples", "chat", "verify", "run"], 8),
    **dict.fromkeys(["pretraining", "finetuning", "predictions", "rlhf"], 9),
    **dict.fromkeys(["recipes", "study", "chatgpt"], 10),
    "commands": 11,
    "__main__": 12,
    "": 12,  # lmjax/__init__.py, the entry scripts and the configs
}
WALLS = {  # library: where alone it may be imported ("" = nowhere)
    "flax.linen": "lmjax/models/",
    "tensorflow": "lmjax/data/",
    "tensorflow_datasets": "lmjax/data/",
    "orbax": "lmjax/train/checkpoint.py",
    "torch": "",
    "transformers": "",
    "pickle": "",
}
LAZY = {"tensorflow", "tensorflow_datasets"}  # imported inside functions: seconds, and not on every machine
BARRED = {"lmjax/data/": {"jax", "flax", "optax"}}  # the input pipeline runs without a device


def _room(path: str) -> str:
    """The package or module right under lmjax that a file belongs to; "" for what stands above them all."""
    parts = Path(path).with_suffix("").parts
    return parts[1] if parts[0] == "lmjax" and parts[1] != "__init__" else ""


def _imports(tree: ast.AST, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Dotted names that are imported, and whether inside a function; without what only the type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((f"{module}.{alias.name}", in_function) for alias in node.names)
        yield from _imports(node, in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def complaints(path: str, source: str) -> list[str]:
    """What the file at `path` (relative to the repository) imports against the rules."""
    found, room = [], _room(path)
    for name, in_function in _imports(ast.parse(source)):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"{path}: {name} is a relative import")
        elif parts[0] == "lmjax":
            # `from lmjax import x` names a module where there is one, else something of lmjax/__init__.py.
            other = parts[1] if len(parts) > 1 and parts[1] in RANKS else ""
            if other != room and RANKS[other] >= RANKS[room]:
                found.append(f"{path}: {name} has rank {RANKS[other]}, and {room} has {RANKS[room]}")
        for library, home in WALLS.items():
            inside = f"{name}.".startswith(f"{library}.")
            if inside and not (home and path.startswith(home)):
                found.append(f"{path}: {library} belongs {'in ' + home if home else 'nowhere here'}")
            elif inside and library in LAZY and not in_function:
                found.append(f"{path}: {library} must be imported inside a function")
        for home, barred in BARRED.items():
            if path.startswith(home) and parts[0] in barred:
                found.append(f"{path}: no {parts[0]} in {home}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_keeps_the_rules(path):
    name, source = str(path.relative_to(ROOT)), path.read_text()
    assert _room(name) in RANKS, f"{name} has no rank"
    assert complaints(name, source) == []
    assert source.count("\n") <= LONGEST


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("lmjax/ops/dense.py", "from lmjax.models import bert", "rank 4"),
        ("lmjax/parallel.py", "from lmjax import chips", "rank 2"),
        ("lmjax/models/bert.py", "import lmjax", "rank 12"),
        ("lmjax/train/loop.py", "def f():\n    from lmjax.run import RunConfig", "rank 8"),
        ("lmjax/ops/dense.py", "from . import dropout", "relative"),
        ("lmjax/ops/dense.py", "from flax import linen as nn", "flax.linen"),
        ("lmjax/train/loop.py", "import orbax.checkpoint as ocp", "orbax"),
        ("lmjax/interop.py", "def f():\n    import torch", "torch"),
        ("lmjax/data/store.py", "import tensorflow as tf", "inside a function"),
        ("lmjax/data/store.py", "import jax.numpy as jnp", "no jax"),
        ("lmjax/data/store.py", "import pickle", "pickle"),
    ],
)
def test_each_rule_is_noticed(path, source, complaint):
    (found,) = complaints(path, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("lmjax/train/loop.py", "if TYPE_CHECKING:\n    from lmjax.run import RunConfig"),
        ("lmjax/models/bert.py", "from lmjax.models.layers import stack"),
        ("lmjax/models/bert.py", "from lmjax import parallel\nimport flax.linen as nn"),
        ("lmjax/data/pipeline.py", "def f():\n    import tensorflow as tf"),
        ("lmjax/__main__.py", "from lmjax.interop import load"),
        ("run_pretrain.py", "from lmjax.run import RunConfig"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert complaints(path, source) == []
