"""What only decoders have: the decoding cache, GPT-2's scaled residual projections, GPT-3's bands, dropout that differs
from layer to layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.models import gpt
from lmjax.models.architecture import init_params
from tests.models.tiny import VOCAB, forward, noisy, tiny

pytestmark = pytest.mark.core

CFG, HEADS = tiny("gpt2"), ("clm",)
ROWS, LENGTH, PROMPT, ROOM = 3, 8, 5, 10


def _tokens():
    return np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)


def _decode(cfg, tokens, segment_ids, positions):
    """Logits [B, L, V] of a prompt read at once, and of single tokens after it, by a cache with room to spare."""
    run, params, cache = forward(cfg, HEADS), noisy(cfg, HEADS), gpt.empty_cache(cfg, ROWS, ROOM)
    logits = []
    for start, end in [(0, PROMPT), *((i, i + 1) for i in range(PROMPT, LENGTH))]:
        inputs = {"tokens": tokens, "segment_ids": segment_ids, "positions": positions}
        outputs = run(params, cache=cache, **{k: jnp.asarray(v)[:, start:end] for k, v in inputs.items()})
        logits.append(outputs["logits"])
        cache = outputs["cache"]
    assert int(cache["length"]) == LENGTH
    return np.concatenate(logits, 1)


@pytest.mark.parametrize("padding", [(0, 0, 0), (0, 2, 4)])
@pytest.mark.parametrize("family", ["gpt2", "gpt3", "openai-gpt"])
def test_decoding_by_a_cache_equals_the_whole_forward_pass(family, padding):
    """Also where prompts of different lengths were padded on the left."""
    cfg = tiny(family, num_hidden_layers=4)
    tokens, padding = _tokens(), np.array(padding)
    segment_ids = (np.arange(LENGTH)[None] >= padding[:, None]).astype(np.int32)
    positions = np.maximum(np.cumsum(segment_ids, 1, dtype=np.int32) - 1, 0)
    logits = _decode(cfg, tokens, segment_ids, positions)
    assert np.isfinite(logits).all()
    # Each row moved to the left end; what then follows it is seen by none of it.
    moved = np.stack([np.roll(row, -n) for row, n in zip(tokens, padding, strict=True)])
    wanted = forward(cfg, HEADS)(noisy(cfg, HEADS), tokens=moved)["logits"]
    for row, n in enumerate(padding):
        np.testing.assert_allclose(logits[row, n:], wanted[row, : LENGTH - n], atol=2e-5)


def test_an_empty_cache_is_of_the_compute_dtype():
    cache = gpt.empty_cache(tiny("gpt2", dtype="bfloat16"), 3, 7)
    assert [layer["key"].shape for layer in cache["layers"]] == [(3, 4, 7, 8)] * 2
    assert cache["layers"][0]["value"].dtype == jnp.bfloat16


def test_initialiser():
    """0.02; residual projections 0.02 / sqrt(2 N), positions 0.01."""
    init = jax.jit(lambda key: init_params(gpt.ARCHITECTURE, CFG, HEADS, key))
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

    @jax.jit
    def masks(key):
        outputs = module.apply({"params": params}, tokens, train=True, collect=True, rngs={"dropout": key})
        return jnp.diff(outputs["hidden_states"], axis=0)

    first, second = np.asarray(masks(jax.random.key(0)))
    other, _ = np.asarray(masks(jax.random.key(1)))
    assert set(np.unique(first)) == {0, 2}
    for another in (second, other):
        assert 0.35 < (first != another).mean() < 0.65


def _bands(cfg):
    """Who looks at whom in a layer of each kind, by loops: bool [2, L, L]."""
    seen = np.zeros((2, LENGTH, LENGTH), bool)
    for i, j in np.ndindex(LENGTH, LENGTH):
        seen[0, i, j] = j <= i
        seen[1, i, j] = i - cfg.window < j <= i
    return seen


def test_dense_and_banded_layers_alternate():
    cfg = tiny("gpt3", num_hidden_layers=4)
    outputs = forward(cfg, HEADS, collect=True)(noisy(cfg, HEADS), tokens=_tokens())
    assert outputs["hidden_states"].shape == (5, ROWS, LENGTH, 32)
    looked = np.asarray(outputs["attentions"]) > 0
    for layer in range(4):
        np.testing.assert_array_equal(looked[layer], np.broadcast_to(_bands(cfg)[layer % 2], looked[layer].shape))


def test_without_bands_it_is_a_gpt2():
    """On the same stacked parameters; also with bands that are as wide as the row. Narrow ones are another function."""
    cfg, tokens = tiny("gpt2", num_hidden_layers=4), _tokens()
    params = noisy(cfg, HEADS)
    dense, wide, narrow = (
        forward(tiny("gpt3", num_hidden_layers=4, window=window), HEADS)(params, tokens=tokens)["logits"]
        for window in (0, LENGTH, 3)
    )
    np.testing.assert_array_equal(dense, forward(cfg, HEADS)(params, tokens=tokens)["logits"])
    np.testing.assert_allclose(wide, dense, atol=2e-5)
    np.testing.assert_allclose(narrow[:, :3], dense[:, :3], atol=2e-5)
    assert np.abs(narrow - dense)[:, 4:].max() > 1e-2


def test_parameters_of_gpt3_start_as_those_of_gpt2():
    key = jax.random.key(0, impl="rbg")

    def init(family):
        draw = jax.jit(lambda: init_params(gpt.ARCHITECTURE, tiny(family), HEADS, key))
        return draw()

    jax.tree.map(np.testing.assert_array_equal, init("gpt2"), init("gpt3"))


def test_each_layer_of_a_period_drops_its_own():
    cfg = tiny("gpt3", num_hidden_layers=4, hidden_dropout=0.5)
    params = jax.tree.map(np.zeros_like, noisy(cfg, ()))
    params["layers"]["mlp"]["down"]["bias"] += 1
    module, tokens = gpt.Gpt(cfg, ()), np.zeros((2, 8), np.int32)

    @jax.jit
    def hidden_states():
        rngs = {"dropout": jax.random.key(0)}
        return module.apply({"params": params}, tokens, train=True, collect=True, rngs=rngs)["hidden_states"]

    masks = np.diff(np.asarray(hidden_states()), axis=0)
    for one, other in [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]:
        assert 0.35 < (masks[one] != masks[other]).mean() < 0.65


def test_flops_count_the_band():
    """Two layers of a full row: 4 D for each pair of tokens of which one sees the other, by counting."""
    cfg = tiny("gpt3", max_position_embeddings=2048, window=256)
    counted = [sum(min(i + 1, window) for i in range(2048)) for window in (2048, 256)]
    products = 2 * 2 * 2048 * (4 * 32 * 32 + 2 * 32 * 64)
    formula = gpt.flops(cfg, 2048, (), 0) - products
    assert formula == pytest.approx(4 * 32 * sum(counted), rel=1e-3)
    assert gpt.flops(cfg, 128, (), 0) == gpt.flops(tiny("gpt2"), 128, (), 0)  # a row within the band


def test_layers_that_cannot_alternate_are_one_line():
    with pytest.raises(UserError, match="window 3 with 5 layers"):
        tiny("gpt3", num_hidden_layers=5)
