"""Logits over the vocabulary that are never written down whole.

A language-model head returns `VocabLogits`: hidden states, the output table and a bias. `statistics` passes over them
in blocks of the length axis, forwards and backwards, so that no large float32 [batch, length, vocabulary] array exists.
Logits that fit in one block are kept for the backward pass; those of several are computed again.

On a mesh the pass runs under `shard_map`: the table is gathered over `fsdp` once, before the loop; inside it only a
block's statistics and its hidden gradient are summed over `tensor`; the table's gradient is accumulated in float32 on
each device and summed over (data, fsdp) once, after the loop.

Letters: B batch, L length (T: of one block), D width, V table rows (vocabulary padded up; extra rows have logit -inf).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.sharding import PartitionSpec as P

from lmjax.parallel import BATCH_AXES, current_mesh
from lmjax.types import Array

BLOCK_BYTES = 256 * 2**20  # of one device's float32 logits


class TokenStatistics(NamedTuple):
    """What one pass over the logits tells of each position; float32 [B, L] each. Logits are divided by the temperature
    first."""

    target_log_probability: Array
    log_normalizer: Array  # log sum exp
    sum_logits: Array  # over the true vocabulary; label smoothing needs it
    entropy: Array  # zeros unless asked for
    target_is_largest: Array  # 1.0 where no logit exceeds the target's; carries no gradient


class VocabLogits(struct.PyTreeNode):
    """Logits `hidden @ table.T + bias` over `vocab_size` entries, not yet computed.

    `hidden_BLD` in the compute dtype, `table_VD` float32 with V >= vocab_size rows, `bias_V` float32 or None.
    """

    hidden_BLD: Array
    table_VD: Array
    bias_V: Array | None
    vocab_size: int = struct.field(pytree_node=False)

    def dense(self) -> Array:
        """All logits, float32 [B, L, vocab_size]."""
        logits = _logits(self.hidden_BLD, self.table_VD.astype(self.hidden_BLD.dtype), self.bias_V)
        return logits[..., : self.vocab_size]

    def statistics(self, targets_BL: Array, *, temperature: float = 1.0, entropy: bool = False) -> TokenStatistics:
        """One blocked pass, differentiable in every field but the last.

        Args:
          targets_BL: int32 ids below vocab_size.
          temperature: divides the logits.
          entropy: also compute the entropy of each position (one more pass over each block).
        """
        bias_V = jnp.zeros(self.table_VD.shape[:1], jnp.float32) if self.bias_V is None else self.bias_V
        options = _Options(self.vocab_size, temperature, entropy)
        return TokenStatistics(*_statistics(options, self.hidden_BLD, self.table_VD, bias_V, targets_BL))


class _Options(NamedTuple):
    vocab_size: int
    temperature: float
    entropy: bool


def _logits(hidden_BTD: Array, table_VD: Array, bias_V: Array | None) -> Array:
    logits = lax.dot_general(hidden_BTD, table_VD, (((2,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    return logits if bias_V is None else logits + bias_V[None, None]


def _sum(x: Array, *axes: str) -> Array:
    return x if current_mesh() is None else lax.psum(x, axes)


def _columns(table_VD: Array) -> Array:
    """The vocabulary ids of this device's rows, int32 [1, 1, V]."""
    rows = table_VD.shape[0]
    first = 0 if current_mesh() is None else lax.axis_index("tensor") * rows
    return (first + jnp.arange(rows))[None, None]


def _scaled_logits(options: _Options, hidden_BTD: Array, table_VD: Array, bias_V: Array) -> Array:
    logits = _logits(hidden_BTD, table_VD, bias_V) / options.temperature
    return jnp.where(_columns(table_VD) < options.vocab_size, logits, -jnp.inf)


def _summed(table_VD: Array, bias_V: Array, real_V: Array) -> tuple[Array, Array]:
    """The sum of the table's true rows, float32 [1, D], and of their biases, [1]."""
    rows = jnp.where(real_V[:, None], table_VD, 0).sum(0, dtype=jnp.float32)
    return rows[None], jnp.where(real_V, bias_V, 0).sum(keepdims=True)


def _block_statistics(
    options: _Options,
    keep: bool,
    table_VD: Array,
    bias_V: Array,
    summed: tuple[Array, Array],
    block: tuple[Array, Array],
) -> tuple[tuple[Array, ...], Array | None]:
    hidden_BTD, targets_BT = block
    logits = _scaled_logits(options, hidden_BTD, table_VD, bias_V)
    largest = jnp.max(logits, -1)
    largest = largest if current_mesh() is None else lax.pmax(largest, "tensor")
    exponentials = jnp.exp(logits - largest[..., None])
    place = targets_BT - _columns(table_VD)[0, 0, 0]
    here = (place >= 0) & (place < table_VD.shape[0])
    target = jnp.take_along_axis(logits, jnp.where(here, place, 0)[..., None], -1)[..., 0]
    sums = [
        jnp.sum(exponentials, -1),
        jnp.where(here, target, 0),
        # The sum of products is the product with the sum: no pass over the block.
        _logits(hidden_BTD.astype(jnp.float32), *summed)[..., 0] / options.temperature,
    ]
    if options.entropy:
        real = _columns(table_VD) < options.vocab_size
        sums.append(jnp.sum(jnp.where(real, exponentials * logits, 0), -1))
    normalizer, target, sum_logits, *rest = _sum(jnp.stack(sums), "tensor")
    log_normalizer = jnp.log(normalizer) + largest
    entropy = log_normalizer - rest[0] / normalizer if options.entropy else jnp.zeros_like(target)
    is_largest = (target >= largest).astype(jnp.float32)
    return (target - log_normalizer, log_normalizer, sum_logits, entropy, is_largest), logits if keep else None


def _block_gradient(
    options: _Options, table_VD: Array, bias_V: Array, carry: tuple[Array, Array], block: tuple[Any, ...]
) -> tuple[tuple[Array, Array], Array]:
    dtable_VD, dbias_V = carry
    hidden_BTD, targets_BT, kept_logits, log_normalizer, entropy, d_target, d_normalizer, d_sum, d_entropy = block
    logits = _scaled_logits(options, hidden_BTD, table_VD, bias_V) if kept_logits is None else kept_logits
    p = jnp.exp(logits - log_normalizer[..., None])
    is_target = _columns(table_VD) == targets_BT[..., None]
    # d target = 1[v = target] - p; d normalizer = p; d sum = 1; d entropy = -p (log p + entropy)
    d = p * (d_normalizer - d_target)[..., None] + jnp.where(is_target, d_target[..., None], 0)
    real = _columns(table_VD) < options.vocab_size
    d = d + jnp.where(real, d_sum[..., None], 0)
    if options.entropy:
        log_p = jnp.where(real, logits - log_normalizer[..., None], 0)
        d = d - p * (log_p + entropy[..., None]) * d_entropy[..., None]
    d = d / options.temperature
    dbias_V = dbias_V + jnp.sum(d, (0, 1))
    d = d.astype(hidden_BTD.dtype)
    dhidden = lax.dot_general(d, table_VD, (((2,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    dtable_VD = dtable_VD + lax.dot_general(
        d, hidden_BTD, (((0, 1), (0, 1)), ((), ())), preferred_element_type=jnp.float32
    )
    return (dtable_VD, dbias_V), _sum(dhidden, "tensor").astype(hidden_BTD.dtype)


def _blocks(batch: int, length: int, rows: int) -> int:
    """The fewest equal blocks of the length axis that each stay under BLOCK_BYTES (one block a position at worst)."""
    wanted = math.ceil(batch * length * rows * 4 / BLOCK_BYTES)
    return next(n for n in range(min(wanted, length), length + 1) if length % n == 0)


def _cut(x_BL: Array, blocks: int) -> Array:
    batch, length, *rest = x_BL.shape
    return jnp.moveaxis(x_BL.reshape(batch, blocks, length // blocks, *rest), 1, 0)


def _join(x_nBT: Array) -> Array:
    x = jnp.moveaxis(x_nBT, 0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _fits_one_block(hidden_BLD: Array, table_VD: Array) -> bool:
    mesh = current_mesh()
    sizes = dict.fromkeys((*BATCH_AXES, "tensor"), 1) if mesh is None else mesh.shape
    batch = hidden_BLD.shape[0] // math.prod(sizes[axis] for axis in BATCH_AXES)
    return _blocks(batch, hidden_BLD.shape[1], table_VD.shape[0] // sizes["tensor"]) == 1


def _forward_pass(
    options: _Options, keep: bool, hidden_BLD: Array, table_VD: Array, bias_V: Array, targets_BL: Array
) -> tuple[tuple[Array, ...], Array | None]:
    blocks = _blocks(targets_BL.shape[0], targets_BL.shape[1], table_VD.shape[0])
    summed = _summed(table_VD, bias_V, _columns(table_VD)[0, 0] < options.vocab_size)
    one = partial(_block_statistics, options, keep, table_VD, bias_V, summed)
    return jax.tree.map(_join, lax.map(one, (_cut(hidden_BLD, blocks), _cut(targets_BL, blocks))))


def _backward_pass(options: _Options, table_VD: Array, bias_V: Array, *per_position: Any) -> tuple[Array, Array, Array]:
    batch, length = per_position[0].shape[:2]
    blocks = _blocks(batch, length, table_VD.shape[0])
    one = partial(_block_gradient, options, table_VD, bias_V)
    zeros = jnp.zeros(table_VD.shape, jnp.float32), jnp.zeros(bias_V.shape, jnp.float32)
    (dtable, dbias), dhidden = lax.scan(one, zeros, jax.tree.map(lambda x: _cut(x, blocks), per_position))
    return _join(dhidden), _sum(dtable, *BATCH_AXES), _sum(dbias, *BATCH_AXES)


_ROWS, _TABLE, _LOGITS = P(BATCH_AXES), P("tensor"), P(BATCH_AXES, None, "tensor")


def _on_mesh(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` on each device's shards, or bare where there is no mesh."""
    if current_mesh() is None:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _run_forward(
    options: _Options, keep: bool, hidden_BLD: Array, table_VD: Array, bias_V: Array, targets_BL: Array
) -> tuple[tuple[Array, ...], Array | None]:
    places = (_ROWS, _TABLE, _TABLE, _ROWS), ((_ROWS,) * 5, _LOGITS if keep else None)
    run = _on_mesh(partial(_forward_pass, options, keep), *places)
    return run(hidden_BLD, table_VD.astype(hidden_BLD.dtype), bias_V, targets_BL)  # cast first: half the gather


def _statistics_primal(options: _Options, *inputs: Array) -> tuple[Array, ...]:
    return _run_forward(options, False, *inputs)[0]


def _statistics_forward(
    options: _Options, hidden_BLD: Array, table_VD: Array, bias_V: Array, targets_BL: Array
) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
    keep = _fits_one_block(hidden_BLD, table_VD)
    out, logits = _run_forward(options, keep, hidden_BLD, table_VD, bias_V, targets_BL)
    return out, (table_VD, bias_V, hidden_BLD, targets_BL, logits, out[1], out[3])


def _statistics_backward(options: _Options, saved: tuple[Any, ...], cotangents: tuple[Array, ...]) -> tuple[Any, ...]:
    table_VD, bias_V, hidden_BLD, targets_BL, logits, *rest = saved
    in_specs = (_TABLE, _TABLE, _ROWS, _ROWS, None if logits is None else _LOGITS, *(_ROWS,) * 6)
    run = _on_mesh(partial(_backward_pass, options), in_specs, (_ROWS, _TABLE, _TABLE))
    table_VD = table_VD.astype(hidden_BLD.dtype)
    return *run(table_VD, bias_V, hidden_BLD, targets_BL, logits, *rest, *cotangents[:4]), None


_statistics: Any = jax.custom_vjp(_statistics_primal, nondiff_argnums=(0,))
_statistics.defvjp(_statistics_forward, _statistics_backward)
