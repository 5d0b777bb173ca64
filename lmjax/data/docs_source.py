"""The embedded corpus: API docstrings of installed packages and Python's manual topics; real English, offline.

Files are found by package metadata and read by `ast`; nothing is imported. A line that was seen anywhere before is
dropped (compared without its whitespace), so no two documents share a line, whichever are held out. Tests are left out:
their docstrings describe no API. 19 MB in 5,500 documents with the packages that lmjax installs.
"""

import ast
import functools
import hashlib
import platform
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

# What a plain installation of lmjax brings along, development tools excepted. Those that are absent are passed over.
PACKAGES = (
    *("absl-py", "attrs", "etils", "filelock", "flax", "fonttools", "fsspec", "grpcio", "h5py", "huggingface_hub"),
    *("jax", "jaxlib", "keras", "markdown-it-py", "matplotlib", "numpy", "opt_einsum", "optax", "optree"),
    *("orbax-checkpoint", "packaging", "pillow", "prometheus_client", "protobuf", "psutil", "pyarrow", "pyparsing"),
    *("python-dateutil", "requests", "rich", "scipy", "simple-parsing", "tensorboardX", "tensorflow", "tensorflow-cpu"),
    *("tensorflow-datasets", "tqdm", "treescope", "typing_extensions", "tyro", "urllib3", "wrapt"),
)
_REVISION = 1  # raised when the same packages would give another text


@functools.cache
def packages() -> dict[str, str]:
    """Versions of the packages that the text is taken from, Python's own among them."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def fingerprint() -> str:
    """sha256 over the extraction's revision and the hashes that each package's RECORD gives of its files: what decides
    the text, without the half minute that reading it takes."""
    digest = hashlib.sha256(f"{_REVISION}\n".encode())
    for file in _files():
        digest.update(f"{file} {file.hash and file.hash.value}\n".encode())
    if _topics_file().is_file():
        digest.update(_topics_file().read_bytes())
    return digest.hexdigest()


@functools.cache
def documents() -> tuple[tuple[str, str, str], ...]:
    """(id, group, text) for each manual topic and module, in a fixed order: id `numpy/linalg/_linalg.py`, group the
    Python package, `numpy/linalg`. The first call takes half a minute; the result is kept for the process."""
    return tuple(deduplicated(_modules()))


def deduplicated(modules: Iterable[tuple[str, str, list[str]]]) -> Iterator[tuple[str, str, str]]:
    """(id, group, docstrings) as (id, group, text), each line only where it stands first; empty texts are dropped."""
    seen: set[str] = set()
    for id_, group, docs in modules:
        if text := "\n\n".join(filter(None, (unseen(doc, seen) for doc in docs))):
            yield id_, group, text


def unseen(docstring: str, seen: set[str]) -> str:
    """The lines of `docstring` that are not in `seen`, which grows by them; runs of blank lines become one."""
    kept = [""]
    for line in docstring.split("\n"):
        key = "".join(line.split())
        if key and key not in seen:
            seen.add(key)
            kept.append(line.rstrip())
        elif not key and kept[-1]:
            kept.append("")
    return "\n".join(kept).strip("\n")


def docstrings(source: bytes) -> list[str]:
    """Docstrings of a module, its classes and its functions, in their order. Source that does not parse has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return [doc for node in [tree, *_definitions(tree)] if (doc := ast.get_docstring(node))]


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for block in ("body", "handlers", "orelse", "finalbody"):  # statements only: ten times as fast as ast.walk
        statements = getattr(node, block, ())
        for statement in statements if isinstance(statements, list) else ():
            if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield statement
            yield from _definitions(statement)


def _modules() -> Iterator[tuple[str, str, list[str]]]:
    for name, text in sorted(_topics().items()):
        yield f"python/{name}", f"python/{name}", [text]
    for file in _files():
        path = Path(str(file.locate()))
        source = path.read_bytes() if path.is_file() else b""
        if b'"""' in source or b"'''" in source:
            yield file.as_posix(), file.parent.as_posix(), docstrings(source)


def _files() -> list[metadata.PackagePath]:
    files = {str(f): f for name in packages() if name != "python" for f in metadata.files(name) or () if _is_api(f)}
    return [files[path] for path in sorted(files)]


def _is_api(file: metadata.PackagePath) -> bool:
    tests = file.name.startswith("test_") or file.name.endswith("_test.py") or {"test", "tests"} & {*file.parts}
    return file.suffix == ".py" and not tests and ".." not in file.parts


def _topics_file() -> Path:
    return Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")


def _topics() -> dict[str, str]:
    if not _topics_file().is_file():
        return {}
    module = ast.parse(_topics_file().read_bytes())
    return next(ast.literal_eval(s.value) for s in module.body if isinstance(s, ast.Assign))
