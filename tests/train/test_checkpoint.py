import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax import config, verify
from lmjax.errors import UserError
from lmjax.parallel import MeshConfig, make_mesh
from lmjax.train import checkpoint
from lmjax.train.checkpoint import (
    CheckpointConfig,
    Checkpoints,
    find,
    last_checkpoints,
    read_arrays,
    read_config,
    restore_params,
)
from lmjax.train.files import damage
from lmjax.types import TrainState

A_RUN = Path(__file__).parent / "a_run.py"


@dataclass(frozen=True)
class Run:
    seed: int = 0
    every: int = config.operational(10)


def a_state(step: int, extra: dict | None = None) -> TrainState:
    params = {"layers": {"w": jnp.arange(64.0).reshape(2, 4, 8) + step}, "b": jnp.full(8, step, jnp.bfloat16)}
    optimizer = optax.adamw(1e-3)
    key = jax.random.key(7, impl="rbg")
    return TrainState(jnp.int32(step), params, optimizer.init(params), key, extra or {})


def saved(run_dir: Path, steps: range, cfg: CheckpointConfig = CheckpointConfig()) -> Path:  # noqa: B008
    with Checkpoints(run_dir, cfg, Run()) as checkpoints:
        for step in steps:
            checkpoints.save(a_state(step))
    return run_dir


def restored(run_dir: Path, abstract: TrainState | None = None) -> TrainState | None:
    with Checkpoints(run_dir, CheckpointConfig(), Run()) as checkpoints:
        return checkpoints.restore_latest_valid(a_state(0) if abstract is None else abstract)


def plain(tree: object) -> list[np.ndarray]:
    typed = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x) for x in typed]


def array_files(directory: Path) -> list[Path]:
    return sorted(f for f in directory.glob("state/**/d/*") if f.is_file() and f.stat().st_size)


def flip(file: Path, position: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(data)


def test_a_state_moves_to_another_mesh(tmp_path):
    mesh, other = make_mesh(MeshConfig(2, 2, 2)), make_mesh(MeshConfig(1, 8, 1))
    state = jax.device_put(a_state(3, {"window": jnp.arange(4)}), NamedSharding(mesh, P()))
    cut = {"layers": {"w": NamedSharding(mesh, P(None, "fsdp", "tensor"))}, "b": NamedSharding(mesh, P("tensor"))}
    state = state.replace(params=jax.device_put(state.params, cut))
    with Checkpoints(tmp_path, CheckpointConfig(), Run()) as checkpoints:
        checkpoints.save(state)

    def place(leaf):
        spec = P(None, None, "fsdp") if leaf.shape == (2, 4, 8) else P()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(other, spec))

    found = restored(tmp_path, jax.tree.map(place, state))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert all(a.dtype == b.dtype and (a == b).all() for a, b in zip(plain(found), plain(state), strict=True))
    assert found.key.dtype == state.key.dtype
    assert found.params["layers"]["w"].sharding == NamedSharding(other, P(None, None, "fsdp"))


def test_an_empty_directory_starts_fresh(tmp_path):
    assert restored(tmp_path / "run") is None
    assert read_config(tmp_path / "run") == config.stored(Run())


def test_each_flipped_bit_is_found(tmp_path):
    directory = find(saved(tmp_path, range(1, 2)))
    draw = random.Random(0)
    files = array_files(Path(directory))
    for trial in range(18):
        file = files[trial % len(files)]
        position, bit = draw.randrange(file.stat().st_size), draw.randrange(8)
        flip(file, position, bit)
        assert file.name in damage(directory)
        flip(file, position, bit)
        assert damage(directory) == ""


def break_bit(directory: Path) -> None:
    flip(array_files(directory)[0], 5, 3)


def break_json(directory: Path) -> None:
    manifest = directory / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])


def break_length(directory: Path) -> None:
    (directory / "state" / "_METADATA").write_bytes(b"")


def break_all(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def break_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def break_file(directory: Path) -> None:
    array_files(directory)[-1].unlink()


BREAKS = (break_bit, break_json, break_length, break_all, break_manifest, break_file)


@pytest.mark.parametrize("damaging", BREAKS)
def test_a_damaged_checkpoint_is_set_aside_loudly(tmp_path, capfd, damaging):
    saved(tmp_path, range(1, 4))
    damaging(tmp_path / "checkpoints" / "3")
    found = restored(tmp_path)
    assert int(found.step) == 2
    assert float(found.params["b"][0]) == 2
    assert "checkpoint 3 is damaged" in capfd.readouterr().err
    assert (tmp_path / "checkpoints" / "3.bad").is_dir()
    saved(tmp_path, range(3, 4))  # the run comes by again
    assert int(restored(tmp_path).step) == 3
    damaging(tmp_path / "checkpoints" / "3")
    assert int(restored(tmp_path).step) == 2
    assert (tmp_path / "checkpoints" / "3.bad1").is_dir()


def test_a_run_never_starts_over_on_top_of_damaged_checkpoints(tmp_path):
    saved(tmp_path, range(1, 3))
    for step in (1, 2):
        break_bit(tmp_path / "checkpoints" / str(step))
    for _ in range(2):  # nor when it is asked again
        with pytest.raises(UserError, match="none is sound"):
            restored(tmp_path)
    (tmp_path / "checkpoints" / "1.bad").rename(tmp_path / "checkpoints" / "1")
    break_bit(tmp_path / "checkpoints" / "1")  # flipped back: mended
    assert int(restored(tmp_path).step) == 1


@pytest.mark.parametrize("b", [jnp.zeros(8, jnp.float32), jnp.zeros(9, jnp.bfloat16)])
def test_another_dtype_or_shape_is_refused_and_nothing_is_set_aside(tmp_path, b):
    saved(tmp_path, range(1, 2))
    state = a_state(0)
    with pytest.raises(UserError, match=r"params/b is bfloat16\(8,\), expected"):
        restored(tmp_path, state.replace(params={**state.params, "b": b}))
    with pytest.raises(UserError, match="extra/ema is nothing, expected"):
        restored(tmp_path, state.replace(extra={"ema": b}))
    with pytest.raises(UserError, match="key is uint32"):
        restored(tmp_path, state.replace(key=jax.random.key(0, impl="threefry2x32")))
    assert int(restored(tmp_path).step) == 1


def test_the_last_the_periodic_and_the_best_stay(tmp_path):
    with Checkpoints(tmp_path, CheckpointConfig(keep=2, keep_period=4), Run()) as checkpoints:
        for step in range(1, 11):
            best = {"step": jnp.int32(min(step, 3)), "value": jnp.float32(0.5)}
            checkpoints.save(a_state(step, {"best": best}))
            checkpoints.save(a_state(step, {"best": best}))  # a second time is nothing
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [3, 4, 8, 9, 10]
    assert find(tmp_path).name == "10"
    assert find(tmp_path / "best").name == "3"
    best = restore_params(tmp_path / "best", a_state(0).params)
    assert float(best["b"][0]) == 3
    with pytest.raises(UserError, match="no checkpoint"):
        find(tmp_path / "elsewhere")


def test_an_average_takes_the_newest_checkpoints(tmp_path):
    run = saved(tmp_path, range(1, 4))
    assert [int(path.name) for path in last_checkpoints(run, 2)] == [2, 3]


def test_a_run_without_evaluation_has_no_best(tmp_path):
    with pytest.raises(UserError, match="never evaluated"):
        find(saved(tmp_path, range(1, 2)) / "best")


def test_parameters_alone(tmp_path):
    saved(tmp_path, range(1, 3))
    for path in (tmp_path, tmp_path / "checkpoints" / "2"):
        params = restore_params(path, jax.eval_shape(lambda: a_state(0).params))
        assert all((a == b).all() for a, b in zip(plain(params), plain(a_state(2).params), strict=True))
    break_bit(tmp_path / "checkpoints" / "2")
    with pytest.raises(UserError, match="damaged"):
        restore_params(tmp_path, a_state(0).params)


def test_the_seal_comes_before_the_commit(tmp_path, monkeypatch):
    seen = []

    def seal(directory):
        assert (directory / "config.json").exists()
        seen.append([p.name for p in (tmp_path / "checkpoints").iterdir()])

    monkeypatch.setattr(checkpoint, "seal", seal)
    saved(tmp_path, range(1, 2))
    assert seen == [["1.orbax-checkpoint-tmp"]]
    assert damage(find(tmp_path)) == "no manifest.json"


def test_what_a_kill_left_half_written_is_cleaned_away(tmp_path):
    saved(tmp_path, range(1, 2))
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp")
    assert int(restored(tmp_path).step) == 1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]


def until(check) -> None:
    """Calls `check` for ten seconds; it is to raise."""
    for _ in range(100):
        check()
        time.sleep(0.1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TensorStore's futures, left behind
def test_a_save_that_fails_in_the_background_is_told_at_the_next_check(tmp_path, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), Run())
    first, second = a_state(1), a_state(2)
    checkpoints.save(first, wait=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as a full disk would
    try:
        checkpoints.save(second)
        with pytest.raises(UserError, match="checkpoints/2 was not written"):
            until(checkpoints.check)
        assert damage(find(tmp_path)) == ""  # keep=1, and still nothing was deleted
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with contextlib.suppress(UserError):
        checkpoints.close()
    assert int(restored(tmp_path).step) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_one_run_holds_a_directory(tmp_path):
    with Checkpoints(tmp_path, CheckpointConfig(), Run()):
        command = [sys.executable, "-c", f"from lmjax.train.files import locked\nwith locked({str(tmp_path)!r}): pass"]
        other = subprocess.run(command, capture_output=True, text=True, cwd=A_RUN.parents[2])
        assert "UserError" in other.stderr
        with pytest.raises(UserError, match=r"in use by process \d+"):
            Checkpoints(tmp_path, CheckpointConfig(), Run())
    Checkpoints(tmp_path, CheckpointConfig(), Run()).close()


def test_a_config_of_another_meaning_is_refused_by_name(tmp_path):
    saved(tmp_path, range(1, 2))
    with pytest.raises(UserError, match=r"seed \(0 -> 3\)"):
        Checkpoints(tmp_path, CheckpointConfig(), Run(seed=3))
    assert read_config(tmp_path)["config"]["seed"] == 0
    Checkpoints(tmp_path, CheckpointConfig(), Run(every=20)).close()
    assert read_config(tmp_path)["config"]["every"] == 20
    assert read_config(tmp_path / "checkpoints" / "1")["config"]["every"] == 10
    (tmp_path / "config.json").write_text(json.dumps(config.stored(Run()) | {"schema_version": 0}))
    with pytest.raises(UserError, match="config schema 0"):
        Checkpoints(tmp_path, CheckpointConfig(), Run())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="no readable config"):
        Checkpoints(tmp_path, CheckpointConfig(), Run())


def test_impossible_cadences_are_refused():
    with pytest.raises(UserError, match="at least 1"):
        replace(CheckpointConfig(), keep=0)


def log_of(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def test_killed_at_random_moments_the_run_ends_as_if_untouched(tmp_path):
    draw = random.Random(1)

    def start(run_dir: Path, seconds: float) -> subprocess.Popen:
        command = [sys.executable, str(A_RUN), str(run_dir), str(seconds)]
        environment = os.environ | {"PYTHONPATH": str(A_RUN.parents[2])}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)

    untouched = start(tmp_path / "untouched", 0)
    for _ in range(4):
        run = start(tmp_path / "killed", 0.02)
        assert run.stdout
        begun = [run.stdout.readline() for _ in range(draw.randrange(4, 20))]
        time.sleep(draw.uniform(0, 0.1))
        run.kill()
        assert begun[-1].strip().isdigit(), run.communicate()
        run.communicate()
    last = start(tmp_path / "killed", 0)
    out, err = last.communicate()
    assert out.endswith("done\n"), err
    assert not out.startswith("1\n")  # it went on
    assert "Traceback" not in err
    untouched.communicate()
    assert verify.fingerprint(tmp_path / "killed") == verify.fingerprint(tmp_path / "untouched")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "untouched")
    assert len(log_of(tmp_path / "killed")) == 30 + 10
    names = [sorted(p.name for p in (tmp_path / run / "checkpoints").iterdir()) for run in ("killed", "untouched")]
    assert names[0] == names[1]


def test_arrays_are_read_without_a_model(tmp_path):
    arrays = read_arrays(find(saved(tmp_path, range(5, 6))))
    assert arrays["step"] == 5
    assert arrays["params/b"].dtype == jnp.bfloat16
    assert (arrays["key"] == jax.random.key_data(a_state(5).key)).all()
