"""ops.attention against a loop that a reader can check, and the rule of who may look at whom."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.ops.attention import appended, attention, attention_mask, cached_attention
from lmjax.ops.dropout import dropout

pytestmark = pytest.mark.core

B, L, S, H, K = 2, 5, 7, 3, 4


def _inputs(dtype=np.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(B, n, H, K)), dtype) for n in (L, S, S)]


def _by_loop(q, k, v, mask):
    """Vaswani et al. 2017, eq. 1, one query and head at a time, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out, probabilities = np.zeros(q.shape), np.zeros((B, H, L, S))
    for b, i, h in np.ndindex(B, L, H):
        seen = [j for j in range(S) if mask[b, 0, i, j]]
        scores = np.array([q[b, i, h] @ k[b, j, h] / np.sqrt(K) for j in seen])
        p = np.exp(scores - scores.max())
        probabilities[b, h, i, seen] = p / p.sum()
        out[b, i, h] = probabilities[b, h, i] @ v[b, :, h]
    return out, probabilities


@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_loop(masked):
    q, k, v = _inputs()
    mask = np.random.default_rng(1).random((B, 1, L, S)) < 0.6 if masked else np.ones((B, 1, L, S), bool)
    mask[..., 0] = True
    out, probabilities = jax.jit(attention)(q, k, v, mask if masked else None)
    wanted, wanted_probabilities = _by_loop(q, k, v, mask)
    np.testing.assert_allclose(out, wanted, atol=1e-6)
    np.testing.assert_allclose(probabilities, wanted_probabilities, atol=1e-6)


def test_bfloat16_mixes_probabilities_of_float32():
    inputs = _inputs(jnp.bfloat16)
    out, probabilities = jax.jit(attention)(*inputs)
    wanted, wanted_probabilities = _by_loop(*inputs, np.ones((B, 1, L, S), bool))
    assert (out.dtype, probabilities.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(probabilities, wanted_probabilities, atol=1e-6)
    np.testing.assert_allclose(np.float32(out), wanted, atol=2e-2)


def test_a_query_that_sees_nothing_stays_a_number():
    mask = np.ones((B, 1, L, S), bool)
    mask[:, :, 2] = False

    @jax.jit
    def run(q, k, v):
        out, pullback = jax.vjp(lambda *a: attention(*a, mask)[0], q, k, v)
        return out, *pullback(out)

    assert all(np.isfinite(a).all() for a in run(*_inputs()))


def test_dropout_falls_on_what_is_mixed_and_not_on_what_is_returned():
    q, k, v = _inputs()
    key = jax.random.key(0, impl="rbg")
    dropped, returned = jax.jit(partial(attention, dropout_rate=0.5))(q, k, v, dropout_key=key)
    _, probabilities = _by_loop(q, k, v, np.ones((B, 1, L, S), bool))
    np.testing.assert_allclose(returned, probabilities, atol=1e-6)
    kept = np.asarray(dropout(jnp.ones((B, H, L, S)), 0.5, key))
    np.testing.assert_allclose(dropped, np.einsum("bhls,bshk->blhk", kept * probabilities, v), atol=1e-5)


def test_cudnn_refuses_dropout():
    with pytest.raises(ValueError, match="attention_dropout=0"):
        attention(*_inputs(), dropout_rate=0.1, dropout_key=jax.random.key(0, impl="rbg"), implementation="cudnn")


@settings(max_examples=40, deadline=None)
@given(
    queries=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    keys=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    causal=st.booleans(),
    offset=st.integers(0, 2),
)
def test_who_may_look_at_whom(queries, keys, causal, offset):
    mask = attention_mask(np.array([queries]), np.array([keys]), causal, 3, 5, offset)
    for i, j in np.ndindex(3, 5):
        assert mask[0, 0, i, j] == (queries[i] == keys[j] and (not causal or j <= i + offset))


def test_without_segments_order_alone_decides():
    assert attention_mask(None, None, causal=False, length=4, key_length=4) is None
    mask = attention_mask(None, None, causal=True, length=4, key_length=4)
    np.testing.assert_array_equal(mask[0, 0], np.tril(np.ones((4, 4), bool)))


def test_keys_default_to_the_queries_segments():
    segments = np.array([[1, 1, 2, 0]])
    mask = attention_mask(segments, None, causal=False, length=4, key_length=4)
    np.testing.assert_array_equal(mask[0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("offset", [0, 4])
def test_a_window_is_the_naive_band(offset):
    """Also for queries that stand behind a cache's keys, and together with segments."""
    length, window = 9, 3
    keys = length + offset
    segments = np.array([[1] * 5 + [2] * (keys - 5), [1] * keys], np.int32)
    wanted = np.zeros((2, 1, length, keys), bool)
    for b, i, j in np.ndindex(2, length, keys):
        at = i + offset
        wanted[b, 0, i, j] = at - window < j <= at and segments[b, at] == segments[b, j]
    found = attention_mask(segments[:, offset:], segments, True, length, keys, offset, window)
    np.testing.assert_array_equal(found, wanted)
    assert wanted.sum(-1).max() == window
    np.testing.assert_array_equal(attention_mask(None, None, True, length, keys, offset, window), wanted[1:])


@pytest.mark.parametrize("length", [1, 3])
def test_a_cache_with_new_tokens_gives_what_they_give_together(length: int) -> None:
    B, H, S, K, offset = 2, 3, 8, 4, 4
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, S, H, K)).astype(np.float32) for _ in range(3))
    segments = np.array([[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 2, 2, 2]], np.int32)  # padding; and a wall
    now = slice(offset, offset + length)
    mask = attention_mask(segments[:, now], segments, True, length, S, offset)
    wanted, p = attention(q[:, now], k, v, mask)
    later = (np.arange(S) >= offset)[None, None, :, None]  # whatever stands there
    held = {name: jnp.where(later, 1e3, jnp.swapaxes(x, 1, 2)) for name, x in {"key": k, "value": v}.items()}
    cache = appended(held, {"key": k[:, now], "value": v[:, now]}, offset)
    found, found_p = cached_attention(q[:, now], cache, mask)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_allclose(found_p, p, atol=2e-6)
