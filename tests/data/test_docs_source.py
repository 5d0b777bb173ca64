"""The embedded corpus: read without importing, the same every time, and no line of it twice."""

import ast
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from lmjax.data import docs_source
from lmjax.data.prepare import side

SOURCE = b'''
"""Module.

Args:
  x: a number
"""
if True:
    class Shape:
        """A shape."""

        def area(self):
            """Its area."""
            def inner():
                "Not triple-quoted."
try:
    pass
except ValueError:
    async def late():
        """Late, \\d."""
else:
    def other():
        return """no docstring"""
'''


def test_docstrings():
    found = docs_source.docstrings(SOURCE)
    assert found == ["Module.\n\nArgs:\n  x: a number", "A shape.", "Its area.", "Not triple-quoted.", "Late, \\d."]
    # handlers come after the body, and ast.walk finds the same ones
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse(SOURCE)
    walked = [ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, kinds)]
    assert {*filter(None, walked)} == {*found}
    assert docs_source.docstrings(b"def f(:") == docs_source.docstrings(b"\xff") == []


def test_lines_are_kept_once():
    modules = [
        ("a/x.py", "a", ["First.\n\nArgs:\n  n: size", "First.\n\nArgs:\n  n: size"]),  # an exact repetition
        ("a/y.py", "a", ["Args:"]),
        ("b/z.py", "b", ["Second.\n\n\n\nArgs :\n  n:   size\n  m: other"]),
    ]
    assert list(docs_source.deduplicated(modules)) == [
        ("a/x.py", "a", "First.\n\nArgs:\n  n: size"),
        ("b/z.py", "b", "Second.\n\n  m: other"),
    ]


@pytest.fixture(scope="module")
def corpus() -> Iterator[tuple[tuple[str, str, str], ...]]:
    """Of some of the packages: all of them take half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docs_source, "PACKAGES", ("optax", "etils", "numpy", "no-such-package"))
        docs_source.packages.cache_clear()
        docs_source.documents.cache_clear()
        yield docs_source.documents()
    docs_source.packages.cache_clear()
    docs_source.documents.cache_clear()


def test_no_line_stands_twice(corpus):
    lines = ["".join(line.split()) for _, _, text in corpus for line in text.split("\n") if line.strip()]
    assert len(lines) > 30_000
    assert len({*lines}) == len(lines)


@pytest.mark.parametrize("heldout", [0.05, 0.1, 0.3])
def test_held_out_packages_share_no_line_with_training(corpus, heldout):
    sides: dict[str, set[str]] = {"train": set(), "heldout": set()}
    groups: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for _, group, text in corpus:
        sides[side(group, heldout)] |= {"".join(line.split()) for line in text.split("\n")} - {""}
        groups[side(group, heldout)].add(group)
    assert sides["heldout"]
    assert not sides["heldout"] & sides["train"]
    assert not groups["heldout"] & groups["train"]


def test_documents(corpus):
    ids = [id_ for id_, _, _ in corpus]
    assert len({*ids}) == len(ids)
    groups = {id_: group for id_, group, _ in corpus}
    assert groups["numpy/linalg/_linalg.py"] == "numpy/linalg"
    assert any(id_.startswith("python/") for id_ in ids)
    assert not any("/tests/" in id_ for id_ in ids)
    text = {id_: text for id_, _, text in corpus}
    assert "singular value decomposition" in text["numpy/linalg/_linalg.py"].lower()
    assert text["python/lambda"].startswith("Lambdas")


def test_packages(corpus):
    assert [*docs_source.packages()] == ["python", "optax", "etils", "numpy"]
    assert docs_source.packages()["optax"] == metadata.version("optax")


SHA256 = """
import hashlib, sys
from lmjax.data import docs_source
docs_source.PACKAGES = ("etils", "optax", "no-such-package")
print(hashlib.sha256(repr(docs_source.documents()).encode()).hexdigest(), docs_source.fingerprint())
assert "optax" not in sys.modules and "etils" not in sys.modules, "read, not imported"
"""


def test_the_same_in_every_process_and_nothing_imported():
    root = Path(__file__).parents[2]
    runs = [subprocess.run([sys.executable, "-c", SHA256], cwd=root, capture_output=True, text=True) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert runs[0].stdout == runs[1].stdout != ""


def test_no_development_tool_is_listed():
    """They differ from machine to machine, and would make another corpus of each."""
    assert not {"pytest", "hypothesis", "ruff", "pip", "setuptools"} & {*docs_source.PACKAGES}
