"""What only the Transformer has: attention to the encoder, a cache for both sides, pre-LN, its initialiser."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.models import transformer
from lmjax.models.architecture import init_params, num_params
from tests.models.tiny import CONVERTIBLE, VOCAB, forward, noisy, tiny

pytestmark = pytest.mark.core

CFG, HEADS = tiny("marian"), ("seq2seq",)
ROWS, LENGTH, SOURCE, ROOM = 3, 6, 8, 9


def _inputs():
    rng = np.random.default_rng(0)
    lengths = np.array([[SOURCE], [5], [2]])
    return {
        "tokens": rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32),
        "encoder_tokens": rng.integers(0, VOCAB, (ROWS, SOURCE)).astype(np.int32),
        "encoder_segment_ids": (np.arange(SOURCE) < lengths).astype(np.int32),
    }


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_decoding_by_a_cache_equals_the_whole_forward_pass(norm):
    """The encoder runs at the first call alone."""
    cfg = tiny("marian", norm=norm)
    inputs, run, params = _inputs(), forward(cfg, HEADS), noisy(cfg, HEADS)
    source = {k: v for k, v in inputs.items() if k.startswith("encoder")}
    cache, logits = transformer.empty_cache(cfg, ROWS, ROOM, SOURCE), []
    for i in range(LENGTH):
        positions = np.full((ROWS, 1), i, np.int32)
        outputs = run(params, tokens=inputs["tokens"][:, i : i + 1], positions=positions, cache=cache, **source)
        assert ("encoder_hidden" in outputs) == (i == 0)
        cache, source = outputs["cache"], {}
        logits.append(outputs["logits"])
    assert int(cache["length"]) == LENGTH
    np.testing.assert_allclose(np.concatenate(logits, 1), run(params, **inputs)["logits"], atol=2e-5)


def test_a_source_is_seen_from_its_own_segment_alone():
    """Two pairs in a row: a token of the second source moves the second target, all of it, and nothing else."""
    segments = {"segment_ids": np.repeat([[1, 2]], 3, 1), "encoder_segment_ids": np.repeat([[1, 2]], 4, 1)}
    inputs = {k: v[:1] for k, v in _inputs().items()} | {k: v.astype(np.int32) for k, v in segments.items()}
    run, params = forward(CFG, HEADS), noisy(CFG, HEADS)
    before = run(params, **inputs)["logits"]
    inputs["encoder_tokens"][0, 6] += 1
    moved = np.abs(run(params, **inputs)["logits"] - before).max(-1)[0]
    assert (moved[:3] < 1e-6).all()
    assert (moved[3:] > 1e-4).all()


def test_without_a_source_or_a_cache_there_is_nothing_to_translate():
    with pytest.raises(ValueError, match="encoder_tokens are missing"):
        forward(CFG, HEADS)(noisy(CFG, HEADS), tokens=_inputs()["tokens"])


def test_pre_ln_adds_a_norm_after_each_stack():
    base, pre = (num_params(transformer.ARCHITECTURE, tiny("marian", norm=norm), HEADS) for norm in ("post", "pre"))
    assert pre - base == 2 * 2 * 32
    zeros = jax.tree.map(np.zeros_like, noisy(tiny("marian", norm="pre"), HEADS))
    inputs = _inputs()
    zeros["decoder"]["final_norm"]["bias"] += 1  # all that is left where kernels are 0
    assert (np.asarray(forward(tiny("marian", norm="pre"), HEADS)(zeros, **inputs)["hidden"]) == 1).all()


def test_initialiser():
    """Glorot uniform kernels; words N(0, 1/D)."""
    cfg = tiny("marian", hidden_size=64)
    params = jax.jit(lambda key: init_params(transformer.ARCHITECTURE, cfg, HEADS, key))(jax.random.key(0, impl="rbg"))
    layers = params["decoder"]["layers"]
    shapes = [("attention", "query", 64, 64), ("cross_attention", "out", 64, 64), ("mlp", "up", 64, 64)]
    for part, name, read, written in shapes:
        kernel, limit = np.asarray(layers[part][name]["kernel"]), math.sqrt(6 / (read + written))
        assert 0.97 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert np.std(params["word_embeddings"]["embedding"][:VOCAB]) == pytest.approx(64**-0.5, rel=0.05)
    assert not np.any(jnp.concatenate([jnp.ravel(layers[k]["out"]["bias"]) for k in ("attention", "cross_attention")]))


def test_what_marian_lacks_or_lmjax_lacks_is_one_line():
    marian = tiny("marian", **CONVERTIBLE["marian"])
    for field, value in {"norm": "pre", "layer_norm_eps": 1e-6, "position_embedding": "sinusoidal"}.items():
        with pytest.raises(UserError, match=rf"{field} .* cannot be converted"):
            transformer.to_hf(tiny("marian", **CONVERTIBLE["marian"] | {field: value}), HEADS)
    data = transformer.to_hf(marian, HEADS)
    with pytest.raises(UserError, match=r"encoder_layers and decoder_layers differ"):
        transformer.from_hf(data | {"decoder_layers": 3})
    with pytest.raises(UserError, match=r"activation_function 'tanh' is none of"):
        transformer.from_hf(data | {"activation_function": "tanh"})
