"""The mesh, the placement of parameters, optimizer state and batches on eight fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.parallel import (
    MeshConfig,
    check_rows,
    constrain,
    current_mesh,
    global_batch,
    like_params,
    make_mesh,
    shardings,
    spec_for,
)

pytestmark = pytest.mark.core

RULES = [
    (r"embedding/table", P(("tensor", "fsdp"), None)),
    (r"layers/dense/kernel", P("fsdp", "tensor")),
    (r"(layers/dense|head)/bias", P()),
]


def _params():
    shapes = {"embedding": {"table": (128, 16)}, "layers": {"dense": {"kernel": (3, 16, 8), "bias": (3, 8)}}}
    return jax.tree.map(jnp.zeros, shapes | {"head": {"bias": (128,)}}, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize(
    ("cfg", "sizes"),
    [(MeshConfig(), (8, 1, 1)), (MeshConfig(2, 2, 2), (2, 2, 2)), (MeshConfig(1, -1, 2), (1, 4, 2))],
)
def test_mesh_sizes_multiply_to_the_devices(cfg, sizes):
    mesh = make_mesh(cfg)
    assert (mesh.axis_names, mesh.devices.shape) == (("data", "fsdp", "tensor"), sizes)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (MeshConfig(-1, -1, 1), "at most one is -1"),
        (MeshConfig(0, 1, 1), "sizes are positive"),
        (MeshConfig(-2, 1, 1), "sizes are positive"),
        (MeshConfig(3, 1, 1), "data=3 fsdp=1 tensor=1 does not fit 8 devices"),
        (MeshConfig(-1, 3, 1), "data=-1 fsdp=3 tensor=1 does not fit 8 devices"),
        (MeshConfig(-1, 16, 1), "does not fit 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(cfg, message):
    with pytest.raises(UserError, match=message):
        make_mesh(cfg)


def test_a_parameter_matches_exactly_one_rule_as_a_whole():
    assert spec_for(RULES, "embedding/table") == P(("tensor", "fsdp"), None)
    assert spec_for(RULES, "layers/dense/kernel") == P(None, "fsdp", "tensor"), "the layer axis is never cut"
    with pytest.raises(UserError, match="layers/dense/kernel/scale matches 0 sharding rules"):
        spec_for(RULES, "layers/dense/kernel/scale")
    with pytest.raises(UserError, match="head/bias matches 2 sharding rules"):
        spec_for([*RULES, (r"head/.*", P())], "head/bias")


def test_parameters_lie_as_their_rules_say():
    placed = jax.device_put(_params(), shardings(RULES, _params(), make_mesh(MeshConfig(2, 2, 2))))
    local = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, placed)
    assert local == {
        "embedding": {"table": (32, 16)},
        "layers": {"dense": {"kernel": (3, 8, 4), "bias": (3, 8)}},
        "head": {"bias": (128,)},
    }


def test_an_axis_that_the_mesh_does_not_divide_is_one_line():
    params = {"layers": {"dense": {"kernel": jax.ShapeDtypeStruct((3, 16, 9), jnp.float32)}}}
    message = r"layers/dense/kernel: axis 2 of shape \(3, 16, 9\) is not divisible by mesh axes tensor = 2"
    with pytest.raises(UserError, match=message):
        shardings(RULES, params, make_mesh(MeshConfig(2, 2, 2)))


@pytest.mark.parametrize(
    "optimizer", [optax.adamw(1e-3), optax.lamb(1e-3), optax.adafactor(1e-3, min_dim_size_to_factor=8)]
)
def test_optimizer_state_lies_as_its_parameters(optimizer):
    mesh, params = make_mesh(MeshConfig(2, 2, 2)), _params()
    placed = shardings(RULES, params, mesh)
    state = jax.eval_shape(optimizer.init, params)
    of_shape = {p.shape: s for p, s in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True)}
    replicated = NamedSharding(mesh, P())

    def check(leaf, sharding):
        assert sharding.is_equivalent_to(of_shape.get(leaf.shape, replicated), leaf.ndim), leaf.shape

    jax.tree.map(check, state, like_params(state, params, placed, mesh))


def test_optimizer_state_of_another_shape_is_replicated():
    """A factored moment that bears its parameter's path, and a path that merely ends alike."""
    mesh, params = make_mesh(MeshConfig(1, 8, 1)), _params()
    kernel = params["layers"]["dense"]["kernel"]
    state = {"v_row": {"layers": {"dense": {"kernel": kernel[..., 0]}}}, "mu": {"dense": {"kernel": kernel}}}
    found = like_params(state, params, shardings(RULES, params, mesh), mesh)
    assert {s.spec for s in jax.tree.leaves(found)} == {P()}


def test_batches_are_cut_over_data_and_fsdp_behind_the_micro_batches():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    tokens = np.arange(2 * 4 * 3, dtype=np.int32).reshape(2, 4, 3)
    batch = global_batch({"tokens": tokens, "tokens_seen": np.float32(7)}, mesh)
    assert batch["tokens"].addressable_shards[0].data.shape == (2, 1, 3)
    assert batch["tokens_seen"].sharding.spec == P()
    np.testing.assert_array_equal(batch["tokens"], tokens)
    flat = global_batch({"tokens": tokens[0]}, mesh, micro_batched=False)
    assert flat["tokens"].addressable_shards[0].data.shape == (1, 3)


def test_rows_that_the_mesh_does_not_divide_are_one_line():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_rows(8, mesh)
    with pytest.raises(UserError, match="micro-batch of 6 rows is not divisible by data x fsdp = 4"):
        check_rows(6, mesh)


def test_constrain_places_under_a_mesh_and_does_nothing_without_one():
    x = jnp.zeros((8, 4))
    assert current_mesh() is None
    assert constrain(x, "data") is x
    with jax.set_mesh(make_mesh(MeshConfig(2, 2, 2))):
        assert current_mesh() is not None
        assert jax.jit(lambda x: constrain(x, "data", "tensor"))(x).sharding.spec == P("data", "tensor")
