"""Blocked logits against dense ones, in values and gradients, bare and on meshes; and what the compiled program
contains.

Letters as in `lmjax.ops.vocabulary`. The last 56 rows of the table are padding, so that of eight tensor shards one
holds nothing else.
"""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.ops import vocabulary
from lmjax.ops.vocabulary import TokenStatistics, VocabLogits
from lmjax.parallel import BATCH_AXES, MeshConfig, make_mesh

pytestmark = pytest.mark.core

B, L, D, V, VOCAB = 16, 8, 8, 256, 200
PLACES = (P(BATCH_AXES), P(("tensor", "fsdp"), None), P("tensor"), P(BATCH_AXES))  # hidden, table, bias, targets


def _inputs():
    """Hidden states, a table whose padding rows hold rubbish, a bias, targets."""
    rng = np.random.default_rng(0)
    hidden, table, bias = (rng.normal(size=s).astype(np.float32) for s in [(B, L, D), (V, D), (V,)])
    return hidden, table, bias, rng.integers(0, VOCAB, (B, L)).astype(np.int32)


def _by_dense(hidden, table, bias, targets, temperature, entropy):
    logits = (jnp.einsum("bld,vd->blv", hidden, table) + bias[None, None])[..., :VOCAB] / temperature
    log_p = jax.nn.log_softmax(logits)
    at_target = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    spread = -jnp.sum(jnp.exp(log_p) * log_p, -1) if entropy else jnp.zeros(targets.shape)
    largest = (at_target >= log_p.max(-1)).astype(jnp.float32)
    return TokenStatistics(at_target, jax.nn.logsumexp(logits, -1), logits.sum(-1), spread, largest)


def _blocked(hidden, table, bias, targets, temperature, entropy):
    return VocabLogits(hidden, table, bias, VOCAB).statistics(targets, temperature=temperature, entropy=entropy)


def _with_gradients(statistics, hidden, table, bias, targets, temperature=1.0, entropy=True):
    """All fields, and the gradients of a sum that weighs every field of every position differently."""

    def weighed(hidden, table, bias):
        fields = statistics(hidden, table, bias, targets, temperature, entropy)
        weights = jnp.cos(jnp.arange(4 * B * L, dtype=jnp.float32)).reshape(4, B, L)
        return sum(jnp.sum(w * f) for w, f in zip(weights, fields[:4], strict=True)), fields

    (_, fields), gradients = jax.value_and_grad(weighed, (0, 1, 2), has_aux=True)(hidden, table, bias)
    return *fields, *gradients


def _assert_close(found, wanted):
    for name, ours, theirs in zip([*TokenStatistics._fields, "dhidden", "dtable", "dbias"], found, wanted, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6 * max(scale, 1), err_msg=name)


def _blocks_of(positions, monkeypatch, rows=B, columns=V):
    """Lets a block hold `positions` of each row."""
    monkeypatch.setattr(vocabulary, "BLOCK_BYTES", 4 * rows * positions * columns)


@pytest.mark.parametrize(
    ("positions", "temperature", "entropy"), [(L, 1.0, True), (2, 1.0, True), (1, 0.7, True), (2, 2.5, False)]
)
def test_equals_dense(positions, temperature, entropy, monkeypatch):
    _blocks_of(positions, monkeypatch)
    inputs = _inputs()
    found = jax.jit(partial(_with_gradients, _blocked, temperature=temperature, entropy=entropy))(*inputs)
    wanted = jax.jit(partial(_with_gradients, _by_dense, temperature=temperature, entropy=entropy))(*inputs)
    _assert_close(found, wanted)
    np.testing.assert_array_equal(found[6][VOCAB:], 0)  # rows that pad the vocabulary learn nothing
    np.testing.assert_array_equal(found[7][VOCAB:], 0)


def test_dense_shows_the_true_vocabulary():
    hidden, table, bias, _ = _inputs()
    logits = VocabLogits(hidden, table, bias, VOCAB).dense()
    np.testing.assert_allclose(logits, hidden @ table[:VOCAB].T + bias[:VOCAB], atol=1e-5)
    unbiased = VocabLogits(jnp.bfloat16(hidden), table, None, VOCAB).dense()
    assert unbiased.dtype == jnp.float32
    np.testing.assert_allclose(unbiased, hidden @ table[:VOCAB].T, atol=0.2)


def test_without_a_bias(monkeypatch):
    _blocks_of(2, monkeypatch)
    hidden, table, bias, targets = _inputs()
    found = jax.jit(lambda *a: VocabLogits(*a, None, VOCAB).statistics(targets))(hidden, table)
    wanted = jax.jit(partial(_by_dense, temperature=1.0, entropy=False))(hidden, table, 0 * bias, targets)
    for name, ours, theirs in zip(TokenStatistics._fields, found, wanted, strict=True):
        # 200 logits that add up to 0.002 have absolute values up to 807 in all: float32 keeps 5e-5 (measured: 3e-5).
        atol = 5e-5 if name == "sum_logits" else 1e-5
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=atol, err_msg=name)


def test_bfloat16_stays_close(monkeypatch):
    _blocks_of(2, monkeypatch)
    hidden, table, bias, targets = _inputs()
    found = jax.jit(partial(_with_gradients, _blocked))(jnp.bfloat16(hidden), table, bias, targets)
    wanted = jax.jit(partial(_with_gradients, _by_dense))(hidden, table, bias, targets)
    assert (found[5].dtype, found[6].dtype) == (jnp.bfloat16, jnp.float32)
    for i in (0, 1, 2, 3, 5, 6, 7):  # a near tie may fall the other way in `target_is_largest`
        assert np.linalg.norm(np.float32(found[i]) - wanted[i]) < 2e-2 * np.linalg.norm(wanted[i])


@pytest.mark.parametrize(
    ("length", "rows", "wanted"), [(128, 1, 1), (128, 9, 16), (127, 9, 127), (20, 1000, 20), (12, 5, 6)]
)
def test_blocks_are_equal_and_fit(length, rows, wanted, monkeypatch):
    """`rows` counts how many BLOCK_BYTES the logits take, less a little."""
    monkeypatch.setattr(vocabulary, "BLOCK_BYTES", 4 * length)
    assert vocabulary._blocks(1, length, rows) == wanted


def _placed(mesh):
    return [jax.device_put(x, NamedSharding(mesh, p)) for x, p in zip(_inputs(), PLACES, strict=True)]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8)])
def test_a_mesh_changes_nothing(sizes, monkeypatch):
    wanted = jax.jit(partial(_with_gradients, _by_dense))(*_inputs())
    mesh = make_mesh(MeshConfig(*sizes))
    _blocks_of(2, monkeypatch, rows=B // (sizes[0] * sizes[1]), columns=V // sizes[2])
    with jax.set_mesh(mesh):
        _assert_close(jax.jit(partial(_with_gradients, _blocked))(*_placed(mesh)), wanted)


# What the compiled program contains.

ROWS, COLUMNS, T = B // 4, V // 2, 2  # of one device on the mesh (2, 2, 2); positions of a block
COLLECTIVE = re.compile(r"= (\S.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+)(?:-start)?\(")
SHAPE = re.compile(r"\b([a-z]+\d+)\[([\d,]*)\]")


def _computations(program: str) -> dict[str, str]:
    """The text of each computation of an HLO program, by name."""
    return {m[1]: m[2] for m in re.finditer(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL)}


def _called(bodies: dict[str, str], name: str) -> set[str]:
    """A computation and all that it calls."""
    names = re.findall(r"(?:calls|to_apply|body|condition)=%([\w.-]+)", bodies[name])
    return {name}.union(*(_called(bodies, n) for n in names))


def _loops(program: str) -> set[str]:
    """The computations that run inside a while loop."""
    bodies = _computations(program)
    return set().union(*(_called(bodies, n) for n in re.findall(r" while\(.*?body=%([\w.-]+)", program)))


def _collectives(program: str, inside: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Each array that a collective moves, as (operation, shape), inside the loops or outside of them."""
    loops = _loops(program)
    text = "\n".join(body for name, body in _computations(program).items() if (name in loops) == inside)
    return [
        (operation, tuple(int(n) for n in dims.split(",") if n))
        for shapes, operation in COLLECTIVE.findall(text)
        for _, dims in SHAPE.findall(shapes)
    ]


def _compiled() -> str:
    """The program of values and gradients on the mesh (2, 2, 2), several blocks long."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    arguments = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, p))
        for x, p in zip(_inputs(), PLACES, strict=True)
    ]
    out = (None,) * 5 + tuple(a.sharding for a in arguments[:3])
    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patch:
        _blocks_of(T, patch, ROWS, COLUMNS)
        return jax.jit(partial(_with_gradients, _blocked), out_shardings=out).lower(*arguments).compile().as_text()


@pytest.fixture(scope="module")
def program() -> str:
    return _compiled()


def _is_allowed(operation: str, shape: tuple[int, ...]) -> bool:
    """A block's statistics (their maximum, and the stacked sums) or its hidden gradient, summed over `tensor`."""
    return operation == "all-reduce" and shape in {(ROWS, T), (4, ROWS, T), (ROWS, 4, T), (ROWS, T, 4), (ROWS, T, D)}


def test_the_loop_reduces_a_blocks_statistics_and_hidden_gradient_and_nothing_else(program):
    inside = _collectives(program, inside=True)
    assert len(inside) == 3
    assert all(_is_allowed(*c) for c in inside), inside
    # The table is gathered over fsdp before the loop; its gradient and the bias's are reduced after it: once each.
    outside = _collectives(program, inside=False)
    assert outside.count(("all-gather", (COLUMNS, D))) == 1
    assert sorted(shape for operation, shape in outside if operation != "all-gather") == [(COLUMNS,), (COLUMNS, D)]


def test_no_array_holds_all_logits(program):
    largest = max(math.prod(int(n) for n in dims.split(",") if n) for _, dims in SHAPE.findall(program))
    assert largest == max(ROWS * T * COLUMNS, COLUMNS * D)  # a block's logits, or the gathered table
    assert largest < ROWS * L * COLUMNS


def test_a_table_gradient_reduced_in_the_loop_is_noticed(monkeypatch):
    """The reader above is worth something: it sees the order of operations that it is there to forbid."""
    gradient = vocabulary._block_gradient

    def eager(options, table, bias, carry, block):
        (dtable, dbias), dhidden = gradient(options, table, bias, (0 * carry[0], carry[1]), block)
        return (carry[0] + jax.lax.psum(dtable, BATCH_AXES), dbias), dhidden

    monkeypatch.setattr(vocabulary, "_block_gradient", eager)
    inside = _collectives(_compiled(), inside=True)
    assert [c for c in inside if not _is_allowed(*c)] == [("all-reduce", (COLUMNS, D))]
