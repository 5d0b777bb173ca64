"""What only GPT-2 has: the decoding cache, the scaled residual projections, dropout that differs from layer to
layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models import gpt
from lmjax.models.architecture import init_params
from tests.models.tiny import QUICKLY, VOCAB, forward, noisy, tiny

pytestmark = pytest.mark.core

CFG, HEADS = tiny("gpt2"), ("clm",)
ROWS, LENGTH, PROMPT, ROOM = 3, 8, 5, 10


def _tokens():
    return np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)


def _decode(tokens, segment_ids, positions):
    """Logits [B, L, V] of a prompt read at once, and of single tokens after it, by a cache with room to spare."""
    run, params, cache = forward(CFG, HEADS), noisy(CFG, HEADS), gpt.empty_cache(CFG, ROWS, ROOM)
    logits = []
    for start, end in [(0, PROMPT), *((i, i + 1) for i in range(PROMPT, LENGTH))]:
        inputs = {"tokens": tokens, "segment_ids": segment_ids, "positions": positions}
        outputs = run(params, cache=cache, **{k: jnp.asarray(v)[:, start:end] for k, v in inputs.items()})
        logits.append(outputs["logits"])
        cache = outputs["cache"]
    assert int(cache["length"]) == LENGTH
    return np.concatenate(logits, 1)


@pytest.mark.parametrize("padding", [(0, 0, 0), (0, 2, 4)])
def test_decoding_by_a_cache_equals_the_whole_forward_pass(padding):
    """Also where prompts of different lengths were padded on the left."""
    tokens, padding = _tokens(), np.array(padding)
    segment_ids = (np.arange(LENGTH)[None] >= padding[:, None]).astype(np.int32)
    positions = np.maximum(np.cumsum(segment_ids, 1, dtype=np.int32) - 1, 0)
    logits = _decode(tokens, segment_ids, positions)
    assert np.isfinite(logits).all()
    # Each row moved to the left end; what then follows it is seen by none of it.
    moved = np.stack([np.roll(row, -n) for row, n in zip(tokens, padding, strict=True)])
    wanted = forward(CFG, HEADS)(noisy(CFG, HEADS), tokens=moved)["logits"]
    for row, n in enumerate(padding):
        np.testing.assert_allclose(logits[row, n:], wanted[row, : LENGTH - n], atol=2e-5)


def test_an_empty_cache_is_of_the_compute_dtype():
    cache = gpt.empty_cache(tiny("gpt2", dtype="bfloat16"), 3, 7)
    assert cache["layers"]["key"].shape == (2, 3, 7, 4, 8)
    assert cache["layers"]["value"].dtype == jnp.bfloat16


def test_initialiser():
    """0.02; residual projections 0.02 / sqrt(2 N), positions 0.01."""
    init = jax.jit(lambda key: init_params(gpt.ARCHITECTURE, CFG, HEADS, key), compiler_options=QUICKLY)
    params = init(jax.random.key(0, impl="rbg"))
    layers = params["layers"]
    wanted = {
        0.02: (params["word_embeddings"]["embedding"][:VOCAB], layers["mlp"]["up"]["kernel"]),
        0.01: (
            params["positions"]["position"]["embedding"],
            layers["attention"]["out"]["kernel"],
            layers["mlp"]["down"]["kernel"],
        ),
    }  # with two layers sqrt(2 N) is 2
    for stddev, arrays in wanted.items():
        for values in arrays:
            assert np.std(values) == pytest.approx(stddev, rel=0.1)


def test_each_layer_and_each_key_drops_its_own():
    """With every kernel zero a layer adds nothing but its last bias, and what dropout leaves of that is its mask."""
    cfg = tiny("gpt2", hidden_dropout=0.5)
    params = jax.tree.map(np.zeros_like, noisy(cfg, ()))
    params["layers"]["mlp"]["down"]["bias"] += 1
    module, tokens = gpt.Gpt(cfg, ()), np.zeros((2, 8), np.int32)

    @partial(jax.jit, compiler_options=QUICKLY)
    def masks(key):
        outputs = module.apply({"params": params}, tokens, train=True, collect=True, rngs={"dropout": key})
        return jnp.diff(outputs["hidden_states"], axis=0)

    first, second = np.asarray(masks(jax.random.key(0)))
    other, _ = np.asarray(masks(jax.random.key(1)))
    assert set(np.unique(first)) == {0, 2}
    for another in (second, other):
        assert 0.35 < (first != another).mean() < 0.65
