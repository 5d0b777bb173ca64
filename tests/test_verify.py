import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.parallel import MeshConfig, make_mesh
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.types import TrainState
from lmjax.verify import fingerprint, verify


def a_state(**changes: object) -> TrainState:
    params = {"w": jnp.arange(8.0).reshape(2, 4), "b": jnp.ones(3, jnp.bfloat16)}
    state = TrainState(jnp.int32(7), params, (jnp.zeros(2),), jax.random.key(1), {"best": {"step": jnp.int32(-1)}})
    return state.replace(**changes)


def saved(run_dir: Path, *states: TrainState) -> Path:
    with Checkpoints(run_dir, CheckpointConfig(), None) as checkpoints:
        for state in states:
            checkpoints.save(state)
    return run_dir


def test_the_digest_is_what_the_docstring_says(tmp_path):
    expected = hashlib.sha256()
    for name, dtype, shape, data in [
        ("extra/best/step", "int32", (), np.int32(-1).tobytes()),
        ("key", "uint32", (2,), np.asarray(jax.random.key_data(jax.random.key(1))).tobytes()),
        ("opt_state/0", "float32", (2,), bytes(8)),
        ("params/b", "bfloat16", (3,), b"\x80\x3f" * 3),
        ("params/w", "float32", (2, 4), np.arange(8, dtype="<f4").tobytes()),
        ("step", "int32", (), np.int32(7).tobytes()),
    ]:
        expected.update(f"{name} {dtype} {shape}\n".encode() + data)
    assert fingerprint(saved(tmp_path, a_state())) == (7, 11, expected.hexdigest())


def test_placement_does_not_enter_the_digest_and_every_part_does(tmp_path):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    first = fingerprint(saved(tmp_path / "whole", a_state())).sha256
    placed = jax.device_put(a_state(), NamedSharding(mesh, P()))
    cut = jax.device_put(placed.params["w"], NamedSharding(mesh, P("fsdp", "tensor")))
    state = placed.replace(params={**placed.params, "w": cut})
    assert fingerprint(saved(tmp_path / "cut", state)).sha256 == first
    changes = {
        "params": {"w": a_state().params["w"].at[0, 0].set(-0.0), "b": a_state().params["b"]},
        "opt_state": (jnp.ones(2),),
        "key": jax.random.key(2),
        "extra": {"best": {"step": jnp.int32(0)}},
        "step": jnp.int32(8),
    }
    others = {fingerprint(saved(tmp_path / name, a_state(**{name: value}))).sha256 for name, value in changes.items()}
    assert len(others | {first}) == 6


def test_the_text_names_step_parameters_digest_and_checkpoints(tmp_path):
    saved(tmp_path, a_state(step=jnp.int32(6)), a_state())
    digest = fingerprint(tmp_path).sha256
    assert verify(tmp_path) == f"step        7\nparameters  11\nsha256      {digest}\nsound       6, 7"
    assert f"sha256      {digest}" in verify(tmp_path / "checkpoints" / "7")


def test_damage_is_named(tmp_path):
    saved(tmp_path, a_state(step=jnp.int32(6)), a_state())
    file = next(f for f in (tmp_path / "checkpoints" / "7").glob("state/d/*"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=rf"checkpoints/7 is damaged \(1 of .*{file.name}.*sound: 6"):
        verify(tmp_path)
    assert file.exists()  # it only reads
    with pytest.raises(UserError, match="checkpoints/7 is damaged"):
        fingerprint(tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint"):
        verify(tmp_path / "nowhere")
