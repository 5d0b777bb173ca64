"""What every test stands on: eight fake CPU devices, quick compilations and a cache of them, the real data, other
implementations.

JAX and TensorFlow read the environment when they are imported, and the processes that tests start inherit it.
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.flags import QUICKLY

ROOT = Path(__file__).parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first: no worker should be left alone with it."""
    longest = [f"/{name}.py" for name in ("test_resume", "test_processes", "test_step", "test_families", "test_parity")]
    items.sort(key=lambda item: next((i for i, name in enumerate(longest) if name in item.nodeid), len(longest)))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("tokenizers/gpt2-vocab.bpe")`: that file or folder of the real data. Skips the test without it."""
    folder = Path(os.environ.get("LMJAX_DATA", ROOT.parent / "shared" / "data"))

    def find(relative: str) -> Path:
        if not (folder / relative).exists():
            pytest.skip(f"no {relative} in $LMJAX_DATA or ../shared/data ({folder})")
        return folder / relative

    return find


@pytest.fixture(scope="session")
def peers() -> Path:
    """The Python of the environment that holds torch and transformers; the test is skipped without it."""
    python = ROOT / ".venv-parity" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-parity: make parity sets it up")
    return python


@pytest.fixture(scope="session")
def run_peer(peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, np.ndarray]]:
    """`run_peer(script, arrays, *arguments)`: the arrays that a script among the peers makes of the given ones.

    It is run as `script IN.npz OUT.npz *arguments`; where it fails, the test fails with its stderr.
    """

    def run(script: Path, arrays: Mapping[str, np.ndarray], *arguments: str) -> dict[str, np.ndarray]:
        folder = tmp_path_factory.mktemp("peer")
        np.savez(folder / "in.npz", allow_pickle=False, **arrays)
        command = [str(peers), str(script), str(folder / "in.npz"), str(folder / "out.npz"), *arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(folder / "out.npz", allow_pickle=False) as found:
            return dict(found)

    return run
