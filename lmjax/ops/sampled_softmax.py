"""Softmax over the target and a sample of the vocabulary (Jean et al. 2015), as TensorFlow's sampled_softmax_loss.

For vocabularies in order of frequency: word k is drawn with p = log((k + 2) / (k + 1)) / log(V + 1). Draws go on until
S different words are found (TensorFlow's `unique`); their number N, the tries, gives the expected count of a word,
1 - (1 - p)^N, whose logarithm is subtracted from its logit, the target's too. A negative that is a position's target
(an accidental hit) does not count there.

Letters: B batch, L length, D width, V vocabulary, S negatives.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lmjax.errors import UserError
from lmjax.ops.vocabulary import VocabLogits
from lmjax.types import Array


class Negatives(NamedTuple):
    """`ids` int32 [S], all different, and the number of `tries`, int32, that found them."""

    ids: Array
    tries: Array


def log_uniform(key: Array, count: int, vocab_size: int) -> Array:
    """`count` independent draws, int32: floor(exp(u log(V + 1))) - 1 of a uniform u."""
    u, rest = jax.random.uniform(key, (2, count))
    scale = math.log(vocab_size + 1)
    # A second number fills the gaps of 2^-23 between floats, which are wider than a word at the end of a large table.
    x = jnp.exp(u * scale) * (1 + rest * (scale * 2**-23))
    return jnp.clip(jnp.floor(x).astype(jnp.int32) - 1, 0, vocab_size - 1)


def probability(ids: Array, vocab_size: int) -> Array:
    """Of drawing each word, float32."""
    return jnp.log1p(1 / (ids + 1).astype(jnp.float32)) / math.log(vocab_size + 1)


def expected_counts(ids: Array, tries: Array, vocab_size: int) -> Array:
    """How often each word is among the negatives of `tries` draws, on average, float32."""
    return -jnp.expm1(tries.astype(jnp.float32) * jnp.log1p(-probability(ids, vocab_size)))


def sample(key: Array, count: int, vocab_size: int) -> Negatives:
    """The first `count` different words of an endless sequence of draws, a function of `key` alone.

    Raises:
      UserError: the vocabulary has fewer words.
    """
    if count > vocab_size:
        raise UserError(f"{count} negatives cannot all differ in a vocabulary of {vocab_size}; lower task.negatives")
    order = jnp.arange(count, dtype=jnp.int32)

    def draw(state: tuple[Array, ...]) -> tuple[Array, ...]:
        rounds, found, tries, ids, seen = state
        drawn = log_uniform(jax.random.fold_in(key, rounds), count, vocab_size)
        first = jnp.full((vocab_size,), count, jnp.int32).at[drawn].min(order)
        new = (first[drawn] == order) & ~seen[drawn]
        place = found + jnp.cumsum(new) - 1
        ids = ids.at[jnp.where(new, place, count)].set(drawn, mode="drop")
        needed = jnp.where(new & (place == count - 1), order + 1, count).min()  # of these draws
        return rounds + 1, found + jnp.sum(new), tries + needed, ids, seen.at[drawn].set(True)

    zero = jnp.zeros((), jnp.int32)
    state = zero, zero, zero, jnp.zeros((count,), jnp.int32), jnp.zeros((vocab_size,), bool)
    _, _, tries, ids, _ = lax.while_loop(lambda state: state[1] < count, draw, state)
    return Negatives(ids, tries)


def sampled_softmax_loss(logits: VocabLogits, targets_BL: Array, count: int, key: Array) -> Array:
    """Cross-entropy (nats) of the targets against `count` negatives shared by all positions, float32 [B, L]."""
    return loss_against(logits, targets_BL, sample(key, count, logits.vocab_size))


def loss_against(logits: VocabLogits, targets_BL: Array, negatives: Negatives) -> Array:
    """The same with given negatives. Differentiable in the hidden states, the table and the bias."""
    hidden_BLD, table_VD, bias_V, V = logits.hidden_BLD, logits.table_VD, logits.bias_V, logits.vocab_size
    bias_V = jnp.zeros(table_VD.shape[:1], jnp.float32) if bias_V is None else bias_V
    offset_V = bias_V[:V] - jnp.log(expected_counts(jnp.arange(V), negatives.tries, V))
    dtype = hidden_BLD.dtype
    target_BL = jnp.sum(hidden_BLD * table_VD[targets_BL].astype(dtype), -1, dtype=jnp.float32) + offset_V[targets_BL]
    sampled_BLS = lax.dot_general(
        hidden_BLD, table_VD[negatives.ids].astype(dtype), (((2,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    hit_BLS = targets_BL[..., None] == negatives.ids[None, None]
    sampled_BLS = jnp.where(hit_BLS, -jnp.inf, sampled_BLS + offset_V[negatives.ids][None, None])
    return jnp.logaddexp(target_BL, jax.nn.logsumexp(sampled_BLS, -1)) - target_BL
