"""Integrity and fingerprint of a run: are its checkpoints sound, and is its state that of another run, bit by bit?"""

import hashlib
from typing import NamedTuple

import numpy as np
from etils import epath

from lmjax.errors import UserError
from lmjax.train.checkpoint import find, read_arrays, sound, steps_of
from lmjax.train.files import damage


class Fingerprint(NamedTuple):
    """`parameters` counts the stored values (padded vocabulary rows too); `sha256` is over the whole state."""

    step: int
    parameters: int
    sha256: str


def fingerprint(path: epath.PathLike) -> Fingerprint:
    """The fingerprint of a run's newest checkpoint, or of one checkpoint.

    The sha256 covers step, params, opt_state, key and extra: for each leaf, in the order of the sorted paths, its path,
    dtype, shape and little-endian values in C order. How the arrays lay on a mesh or in files does not enter.

    Raises:
      UserError: no checkpoint, or a damaged one.
    """
    arrays = read_arrays(sound(find(path)))
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        sha256.update(f"{name} {value.dtype.name} {arrays[name].shape}\n".encode())
        sha256.update(value.view(np.uint8).data if value.size else b"")
    parameters = sum(value.size for name, value in arrays.items() if name.startswith("params/"))
    return Fingerprint(int(arrays["step"]), parameters, sha256.hexdigest())


def verify(path: epath.PathLike) -> str:
    """Checks every checkpoint of a run (or the one given) and returns a short text with the newest one's fingerprint.

    Raises:
      UserError: no checkpoint, or a damaged one, named.
    """
    path = epath.Path(path)
    found = [path / "checkpoints" / str(step) for step in steps_of(path)] or [find(path)]
    damaged = {directory: problem for directory in found if (problem := damage(directory))}
    if damaged:
        whole = [directory.name for directory in found if directory not in damaged]
        raise UserError(
            "; ".join(f"{directory} is damaged ({problem})" for directory, problem in damaged.items())
            + f"; sound: {', '.join(whole) or 'none'}. A resumed run steps back to the newest sound one by itself"
        )
    step, parameters, sha256 = fingerprint(found[-1])
    sound_ones = ", ".join(directory.name for directory in found)
    return f"step        {step}\nparameters  {parameters:,}\nsha256      {sha256}\nsound       {sound_ones}"
