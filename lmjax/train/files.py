"""Files of a run that survive a kill or a power cut: whole or absent, sealed by checksums, never shared unawares."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from lmjax.errors import UserError

MANIFEST = "manifest.json"
UNSEALED = (MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax writes the latter two after the seal


def is_local(path: epath.PathLike) -> bool:
    """Whether `path` lies on a file system of this machine; object stores know neither locks nor syncs."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root, which Orbax asks for; one on object storage as it is."""
    return epath.Path(path).resolve() if is_local(path) else epath.Path(path)


def sync(path: epath.PathLike) -> None:
    """Makes a file's bytes, or a directory's names, survive a power cut."""
    if is_local(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: epath.PathLike, text: str) -> None:
    """Writes a small file under another name, syncs it and renames it into place."""
    path = epath.Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text)
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)


@contextlib.contextmanager
def locked(directory: epath.PathLike) -> Iterator[None]:
    """Holds a local directory for this process; the lock ends with the process, however that ends.

    Raises:
      UserError: another run holds it.
    """
    if not is_local(directory):
        yield
        return
    with open(os.path.join(directory, ".lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{directory} is in use by process {file.read().strip() or 'unknown'}; "
                "stop that run, or choose another run directory"
            ) from None
        except OSError:
            pass  # a file system without locks
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def seal(directory: epath.Path) -> None:
    """Writes the manifest of a directory, the size and sha256 of each file, and syncs all of it."""
    (directory / MANIFEST).write_text(json.dumps(sums(directory), indent=1))
    for path in [*_below(directory), directory]:
        sync(path)


def damage(directory: epath.Path) -> str:
    """What is wrong with a sealed directory, or "" when each file has the size and sha256 of the manifest."""
    if not (directory / MANIFEST).exists():
        return f"no {MANIFEST}"
    try:
        expected, found = json.loads((directory / MANIFEST).read_text()), sums(directory)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"{len(wrong)} of {len(expected)} files differ from {MANIFEST}, first {wrong[0]}" if wrong else ""


def _below(directory: epath.Path) -> list[epath.Path]:
    return [p for child in directory.iterdir() for p in ([*_below(child), child] if child.is_dir() else [child])]


def sums(directory: epath.Path) -> dict[str, dict[str, Any]]:
    """The size and sha256 of each file of a directory and of those below it."""

    def digest(file: epath.Path) -> dict[str, Any]:
        sha256, size = hashlib.sha256(), 0
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha256.update(chunk)
                size += len(chunk)
        return {"size": size, "sha256": sha256.hexdigest()}

    files = {str(f.relative_to(directory)): f for f in sorted(_below(directory)) if f.is_file()}
    files = {name: f for name, f in files.items() if name not in UNSEALED}
    with ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter's lock
        return dict(zip(files, pool.map(digest, files.values()), strict=True))
