"""What every model family must hold when it runs: who sees whom, and options that must not change values."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.errors import UserError
from lmjax.models import MODELS, weights
from lmjax.models.architecture import check
from tests.models.tiny import (
    CAUSAL,
    CONVERTIBLE,
    FAMILIES,
    RECIPES,
    RECURRENT,
    VOCAB,
    applier,
    forward,
    noisy,
    random_batch,
    tiny,
)

pytestmark = pytest.mark.core

ROWS, LENGTH = 3, 12
each_family = pytest.mark.parametrize("family", FAMILIES)
each_with_attention = pytest.mark.parametrize("family", [family for family in FAMILIES if family not in RECURRENT])


def _inputs(tokens, segment_ids=None, positions=None):
    """The three inputs that every family reads, so that one compiled program serves the tests below; and the same for
    an encoder beside the decoder, whose tokens are other ones."""
    ones = np.ones_like(tokens)
    own = {
        "tokens": tokens,
        "segment_ids": ones if segment_ids is None else np.asarray(segment_ids, np.int32),
        "positions": np.cumsum(ones, 1, dtype=np.int32) - 1 if positions is None else np.asarray(positions, np.int32),
    }
    return own | {f"encoder_{k}": v for k, v in (own | {"tokens": (7 * tokens + 3) % VOCAB}).items()}


def _tokens(rows=ROWS, length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, length)).astype(np.int32)


def _run(cfg, inputs, **changes):
    heads = RECIPES[next(k for k, a in MODELS.items() if a.config is type(cfg))][0]
    outputs = forward(cfg, heads)(noisy(cfg, heads) | changes, **inputs)
    return {k: np.asarray(v, np.float32) for k, v in outputs.items()}


@each_family
def test_a_token_is_seen_by_those_who_may_see_it(family):
    cfg, tokens, at = tiny(family), _tokens(), 5
    inputs = _inputs(tokens)
    before, changed = _run(cfg, inputs), tokens.copy()
    changed[:, at] = (tokens[:, at] + 1) % VOCAB
    moved = np.abs(_run(cfg, inputs | {"tokens": changed})["hidden"] - before["hidden"]).max(-1)
    assert (moved[:, at:] > 1e-4).all()
    assert (moved[:, :at] < 1e-6).all() if CAUSAL[family] else (moved[:, :at] > 1e-4).all()


@each_family
def test_padding_changes_nothing(family):
    """Neither its tokens, nor its positions, nor how much of it there is."""
    cfg, tokens, real = tiny(family), _tokens(), 7
    segments = np.broadcast_to(np.arange(LENGTH) < real, tokens.shape)
    padded = _run(cfg, _inputs(tokens, segments))
    other = np.where(segments, tokens, _tokens(seed=1))
    positions = np.where(segments, np.arange(LENGTH), 3)
    alone = _inputs(tokens[:, :real])
    for outputs in (_run(cfg, _inputs(other, segments, positions)), _run(cfg, alone)):
        for name, value in outputs.items():
            wanted = padded[name][:, :real] if padded[name].ndim == 3 else padded[name]
            np.testing.assert_allclose(value[:, : wanted.shape[1]], wanted, atol=2e-5, err_msg=name)


@each_family
def test_packed_sequences_do_not_meet(family):
    """Rows: two sequences packed into one; the first alone; the second alone."""
    first, second = 5, LENGTH - 5
    tokens = _tokens()
    tokens[1, :first], tokens[2, :second] = tokens[0, :first], tokens[0, first:]
    segments = [[1] * first + [2] * second, [1] * first + [0] * second, [1] * second + [0] * first]
    positions = np.stack([np.r_[:first, :second], np.arange(LENGTH), np.arange(LENGTH)])
    outputs = _run(tiny(family), _inputs(tokens, segments, positions))
    for packed, one, other in (value for value in outputs.values() if value.ndim == 3):
        np.testing.assert_allclose(packed[:first], one[:first], atol=2e-5)
        np.testing.assert_allclose(packed[first:], other[:second], atol=2e-5)


@each_family
def test_absent_inputs_mean_one_segment_from_position_0(family):
    cfg, tokens = tiny(family), _tokens()
    inputs = _inputs(tokens)
    bare, wanted = _run(cfg, {k: v for k, v in inputs.items() if k.endswith("tokens")}), _run(cfg, inputs)
    for name in wanted:
        np.testing.assert_allclose(bare[name], wanted[name], atol=2e-5)


@each_with_attention
def test_concatenation_is_of_token_and_position_in_that_order(family):
    """With two identities as its kernel it adds; with one above a zero it sees no positions."""
    cfg, heads, inputs = tiny(family), RECIPES[family][0], _inputs(_tokens())
    params, identity = noisy(cfg, heads), np.eye(32, dtype=np.float32)

    def logits(second, inputs):
        combine = {"kernel": np.concatenate([identity, second]), "bias": np.zeros_like(identity[0])}
        for side in (params["encoder"], params["decoder"]) if "encoder" in params else (params,):
            side["positions"] = side.get("positions", {}) | {"combine": combine}
        return forward(tiny(family, position_combine="concat"), heads)(params, **inputs)["logits"]

    np.testing.assert_allclose(logits(identity, inputs), _run(cfg, inputs)["logits"], atol=2e-5)
    elsewhere = inputs | {k: v[:, ::-1] for k, v in inputs.items() if k.endswith("positions")}
    np.testing.assert_array_equal(logits(0 * identity, inputs), logits(0 * identity, elsewhere))


@each_family
def test_bfloat16_stays_close_to_float32(family):
    cfg, inputs = tiny(family), _inputs(_tokens())
    heads, half = RECIPES[family][0], dataclasses.replace(cfg, dtype="bfloat16")
    found, wanted = forward(half, heads)(noisy(cfg, heads), **inputs), _run(cfg, inputs)
    assert {found[name].dtype for name in found if name.endswith("logits")} == {jnp.dtype("float32")}
    assert found["hidden"].dtype == jnp.bfloat16
    for name in wanted:
        difference = np.linalg.norm(np.float32(found[name]) - wanted[name])
        assert 0 < difference < 0.03 * np.linalg.norm(wanted[name])


@each_family
def test_collect_adds_the_inner_states_and_changes_nothing_else(family):
    cfg, heads = tiny(family), RECIPES[family][0]
    segments = np.broadcast_to(np.arange(LENGTH) < 7, (ROWS, LENGTH))
    inputs = _inputs(_tokens(), segments)
    found, plain = forward(cfg, heads, collect=True)(noisy(cfg, heads), **inputs), _run(cfg, inputs)
    recurrent = family in RECURRENT
    attentions = set() if recurrent else {"attentions"}
    attentions |= {"encoder_attentions", "cross_attentions"} if family == "marian" else set()
    assert found.keys() - plain.keys() == {"hidden_states"} | attentions
    for name in plain:
        np.testing.assert_allclose(found[name], plain[name], atol=2e-5)
    assert found["hidden_states"].shape == (3, *plain["hidden"].shape)
    if recurrent:
        return
    assert found["attentions"].shape == (2, ROWS, 4, LENGTH, LENGTH)
    attentions = np.asarray(found["attentions"])
    np.testing.assert_allclose(attentions.sum(-1), 1, atol=1e-5)
    assert (attentions[..., :7, 7:] == 0).all()
    assert (np.triu(attentions, 1) == 0).all() == CAUSAL[family]


@cache
def _loss_and_gradients(family, **changes):
    """Under dropout; also the bytes that the compiled program needs for the while."""
    cfg = tiny(family, hidden_dropout=0.2, attention_dropout=0.2, num_hidden_layers=4, **changes)
    heads, objective = RECIPES[family]
    apply, batch = applier(cfg, heads), objective.prepare(random_batch(family, 8, 16))

    def loss(params, key):
        return objective.loss(objective.terms(apply(params, batch, key), batch))

    arguments = noisy(cfg, heads), jax.random.key(0, impl="rbg")
    program = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    return *program(*arguments), program.memory_analysis().temp_size_in_bytes


@each_family
@pytest.mark.parametrize("changes", [{"remat": "dots"}, {"remat": "full", "unroll": 2}])
def test_remat_and_unrolling_trade_memory_and_no_values(family, changes):
    """The masks of dropout are drawn again too, and must be the same. A tiny ELMo has little to save."""
    wanted, gradients, memory = _loss_and_gradients(family)
    loss, found, less = _loss_and_gradients(family, **changes)
    assert loss == pytest.approx(float(wanted), rel=1e-6)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, found, gradients))
    assert difference < 1e-5 * optax.tree.norm(gradients)
    # Measured: 0.35 to 0.56. GPT-3 0.605 with "dots": its loop holds two layers, and saves between two rounds alone.
    # ELMo 1.01 and 1.21: kept are the states of each word, which are all that so small a loop needs.
    assert less < (0.62 if family == "gpt3" else 0.6) * memory or family in RECURRENT


@each_family
def test_rows_that_pad_the_vocabulary_learn_nothing(family):
    _, gradients, _ = _loss_and_gradients(family)
    gradients = weights.flatten(gradients)
    paths = {row.paths[0] for row in FAMILIES[family].weights(tiny(family)) if row.vocabulary} & gradients.keys()
    assert paths
    for table in (gradients[path] for path in paths):
        assert (table[VOCAB:] == 0).all()
        assert np.abs(table[:VOCAB]).max() > 0


@each_with_attention
def test_what_cannot_be_built_is_one_line(family):
    cfg = tiny(family, position_embedding="learned")
    check(cfg, 16)
    with pytest.raises(UserError, match="length 17 exceeds the position table"):
        check(cfg, 17)
    check(dataclasses.replace(cfg, position_embedding="sinusoidal"), 17)
    for bad, said in (
        ({"num_attention_heads": 0}, "num_attention_heads 0 must be at least 1"),
        ({"hidden_dropout": 1.0}, "hidden_dropout 1 must lie in 0 to 1"),
        ({"attention_dropout": -0.1}, "attention_dropout -0.1 must lie in 0 to 1"),
        ({"attention_dropout": 0.1, "attention": "cudnn"}, "cudnn has no dropout; set model.attention_dropout to 0"),
    ):
        with pytest.raises(UserError, match=said):
            check(dataclasses.replace(cfg, **bad), 16)
    with pytest.raises(UserError, match="hidden_size 32 is not divisible by num_attention_heads 5"):
        check(dataclasses.replace(cfg, num_attention_heads=5), 16)
    with pytest.raises(UserError, match="hidden_size 33 is odd"):
        check(tiny(family, hidden_size=33, num_attention_heads=3, position_embedding="sinusoidal"), 16)


UNUSUAL = (  # what the files of a family say: one with attention, one without
    {"hidden_dropout": 0.3, "attention_dropout": 0.2, "layer_norm_eps": 1e-3, "initializer_range": 0.03},
    {"hidden_dropout": 0.3, "cell_clip": 0.0, "projection_clip": 5.0, "activation": "tanh", "skip_connections": False},
)


@each_family
def test_hugging_face_configs_and_weights_return_as_they_went(family):
    architecture = FAMILIES[family]
    for cfg in [*architecture.presets.values(), tiny(family, **UNUSUAL[family in RECURRENT])]:
        if getattr(cfg, "window", 0):  # Hugging Face's GPT-2 has no bands
            with pytest.raises(UserError, match="cannot be converted"):
                architecture.to_hf(cfg, architecture.heads)
            cfg = dataclasses.replace(cfg, window=0)
        cfg = dataclasses.replace(cfg, **CONVERTIBLE.get(family, {}))
        assert architecture.from_hf(architecture.to_hf(cfg, architecture.heads)) == cfg
    placed = ({"position_combine": "concat"}, {"position_embedding": "sinusoidal"})
    for position in () if family in RECURRENT else placed:
        with pytest.raises(UserError, match="cannot be converted"):
            architecture.to_hf(tiny(family, **CONVERTIBLE.get(family, {}) | position), architecture.heads)
    rows, params = architecture.weights(cfg), noisy(cfg, architecture.heads)
    returned = weights.from_hf(rows, weights.to_hf(rows, params, VOCAB), params, VOCAB)
    for path in (row.paths[0] for row in rows if row.vocabulary):
        weights.flatten(params)[path][VOCAB:] = 0  # padding stays behind
    jax.tree.map(np.testing.assert_array_equal, returned, params)
