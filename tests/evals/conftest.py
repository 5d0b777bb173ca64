"""Programs are compiled quickly here: what they compute is the point, not how fast."""

from collections.abc import Iterator

import jax
import pytest

from lmjax import beam, generate, interop
from lmjax.evals import scoring
from tests.models.tiny import QUICKLY

PROGRAMS = [  # with how many static arguments
    (interop, "_forward", 3),
    (generate, "_generate", 2),
    (beam, "search", 3),
    (beam, "continuations", 3),
    (scoring, "_statistics", 2),
]


@pytest.fixture(scope="package", autouse=True)
def compiled_quickly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, static in PROGRAMS:
            function = getattr(module, name).__wrapped__
            quick = jax.jit(function, static_argnums=tuple(range(static)), compiler_options=QUICKLY)
            patch.setattr(module, name, quick)
        yield
