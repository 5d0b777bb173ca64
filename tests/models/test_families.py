"""What every model family must hold: placement, counts, operations, who sees whom, and options that must not change
values."""

import dataclasses
import re
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.errors import UserError
from lmjax.models import MODELS, architecture_of, preset, weights
from lmjax.models.architecture import ModelConfig, abstract_params, check, num_params
from lmjax.parallel import MeshConfig, make_mesh, shardings, spec_for
from tests.models.tiny import (
    CONVERTIBLE,
    FAMILIES,
    QUICKLY,
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

CAUSAL = {"bert": False, "ernie": False, "roberta": False, "elmo": False}
CAUSAL |= dict.fromkeys(["gpt2", "gpt3", "openai-gpt", "marian"], True)
UNCUT = {"gpt2-xl": "layers/attention/.*25"}  # presets whose heads two devices cannot share
ROWS, LENGTH = 3, 12
each_family = pytest.mark.parametrize("family", FAMILIES)
each_with_attention = pytest.mark.parametrize("family", [family for family in FAMILIES if family not in RECURRENT])


def _variants(family: str) -> list[tuple[ModelConfig, tuple[str, ...]]]:
    """Every preset with all heads; tiny models with every choice of heads, and of positions."""
    heads = FAMILIES[family].heads
    some = [
        tuple(h for h, on in zip(heads, choice, strict=True) if on) for choice in product([0, 1], repeat=len(heads))
    ]
    positions = product(["learned", "sinusoidal"], ["add", "concat"])
    placed = [tiny(family, position_embedding=e, position_combine=c) for e, c in positions]
    placed += [tiny(family, norm="pre")] if hasattr(FAMILIES[family].config, "norm") else []
    return list(product([*FAMILIES[family].presets.values(), *placed], [heads])) + list(product([tiny(family)], some))


@each_family
def test_each_parameter_matches_one_rule_and_no_rule_is_idle(family):
    architecture, idle = FAMILIES[family], {regex for regex, _ in FAMILIES[family].sharding}
    for cfg, heads in _variants(family):
        for path, leaf in weights.flatten(abstract_params(architecture, cfg, heads)).items():
            assert len(spec_for(architecture.sharding, path)) <= len(leaf.shape)  # it raises unless one rule matches
            idle -= {regex for regex, _ in architecture.sharding if re.fullmatch(regex, path)}
    assert not idle


@pytest.mark.parametrize("name", [name for a in MODELS.values() for name in a.presets])
def test_every_preset_is_cut_by_a_mesh_that_its_heads_allow(name):
    cfg = preset(name)
    architecture = architecture_of(cfg)
    params = abstract_params(architecture, cfg, architecture.heads)
    shardings(architecture.sharding, params, make_mesh(MeshConfig(2, 4, 1)))
    cut = make_mesh(MeshConfig(2, 2, 2))
    if name in UNCUT:
        with pytest.raises(UserError, match=f"{UNCUT[name]}.* is not divisible by mesh axes tensor = 2"):
            shardings(architecture.sharding, params, cut)
    else:
        shardings(architecture.sharding, params, cut)


COUNTS = {  # reference: the published checkpoints; {heads: trainable parameters}
    "bert-tiny": {("pooler",): 4_385_920, ("mlm", "nsp"): 4_433_468},
    "bert-mini": {("pooler",): 11_170_560, ("mlm", "nsp"): 11_267_900},
    "bert-small": {("pooler",): 28_763_648, ("mlm", "nsp"): 29_058_876},
    "bert-medium": {("pooler",): 41_373_184, ("mlm", "nsp"): 41_668_412},
    "bert-base-uncased": {
        (): 108_891_648,
        ("mlm",): 109_514_298,
        ("pooler",): 109_482_240,
        ("mlm", "nsp"): 110_106_428,
        ("mlm", "pooler", "nsp"): 110_106_428,
    },
    "bert-base-cased": {("pooler",): 108_310_272, ("mlm", "nsp"): 108_932_934},
    "bert-large-uncased": {("pooler",): 335_141_888, ("mlm", "nsp"): 336_226_108},
    "bert-large-cased": {("pooler",): 333_579_264, ("mlm", "nsp"): 334_661_958},
    "bert-base-multilingual-cased": {("pooler",): 177_853_440, ("mlm", "nsp"): 178_566_653},
    "bert-base-multilingual-uncased": {("pooler",): 167_356_416, ("mlm", "nsp"): 168_055_961},
    "bert-base-chinese": {("pooler",): 102_267_648, ("mlm", "nsp"): 102_882_442},
    "gpt2": {(): 124_439_808, ("clm",): 124_439_808},
    "gpt2-medium": {("clm",): 354_823_168},
    "gpt2-large": {("clm",): 774_030_080},
    "gpt2-xl": {("clm",): 1_557_611_200},
    # No GPT-3 was released: the paper's Table D.1, to its digits; here the shapes' own counts, dense, tied.
    "gpt3-small": {("clm",): 125_226_240},
    "gpt3-medium": {("clm",): 355_871_744},
    "gpt3-large": {("clm",): 760_300_032},
    "gpt3-xl": {("clm",): 1_315_723_264},
    "gpt3-2.7b": {("clm",): 2_651_553_280},
    "gpt3-6.7b": {("clm",): 6_658_404_352},
    "gpt3-13b": {("clm",): 12_853_386_240},
    "gpt3-175b": {("clm",): 174_604_259_328},
    "openai-gpt": {(): 116_534_784, ("clm",): 116_534_784},
    # No checkpoint; `MarianMTModel` of these shapes has as many. The paper says 65M and 213M.
    "transformer-base": {("seq2seq",): 63_082_496},
    "transformer-big": {("seq2seq",): 214_245_376},
    "elmo-small": {(): 13_593_296},
    "elmo-medium": {(): 28_027_728},
    "elmo-original": {(): 93_600_848, ("bilm",): 93_600_848 + 407_050_623},
    "ernie-1.0": {("pooler",): 99_866_112, ("mlm",): 99_885_648, ("mlm", "nsp"): 100_477_778},
    "roberta-base": {(): 124_055_040, ("pooler",): 124_645_632, ("mlm",): 124_697_433},
    "roberta-large": {(): 354_310_144, ("pooler",): 355_359_744, ("mlm",): 355_412_057},
}


@pytest.mark.parametrize("name", [name for a in MODELS.values() for name in a.presets])
def test_parameters_are_as_many_as_published(name):
    cfg = preset(name)
    assert COUNTS[name] == {heads: num_params(architecture_of(cfg), cfg, heads) for heads in COUNTS[name]}


def test_an_unknown_preset_is_one_line():
    with pytest.raises(UserError, match=r"unknown preset 'bert-basecased'.*bert-base-cased"):
        preset("bert-basecased")


@pytest.mark.parametrize(
    ("family", "combine"),
    [(family, c) for family in MODELS for c in (("add",) if family in RECURRENT else ("add", "concat"))],
)
def test_flops_are_those_that_xla_counts(family, combine):
    """XLA counts a scanned body once, so layers and words are unrolled; wide, since it counts elementwise work too.

    It also computes the scores of tokens that a causal or banded layer hides, which the formula leaves out: 4 D each,
    added here.
    """
    L, D, N = 8 if family in RECURRENT else 64, 512, 2  # without attention a word costs the same in rows of any length
    cfg = tiny(
        family,
        vocab_size=1000,
        hidden_size=D,
        num_attention_heads=8,
        intermediate_size=4 * D,
        max_position_embeddings=L,
        position_combine=combine,
        unroll=L,
    )
    architecture, heads = architecture_of(cfg), FAMILIES[family].heads if combine == "add" else ()
    inputs = dict.fromkeys(["tokens", "encoder_tokens"], jax.ShapeDtypeStruct((1, L), jnp.int32))
    program = forward(cfg, heads).lower(abstract_params(architecture, cfg, heads), **inputs).compile()
    seen = [L * w - w * w / 2 for w in (w or L for w in getattr(cfg, "windows", (0,)))]
    unseen = 4 * D * N * (L * L - sum(seen) / len(seen))
    formula = architecture.flops(cfg, L, heads, L) + (unseen if CAUSAL[family] else 0)
    assert formula == pytest.approx(program.cost_analysis()["flops"], rel=0.05)


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
    program = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile(QUICKLY)
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
    assert less < 0.65 * memory or family in RECURRENT  # GELU keeps but its input anyway


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
    with pytest.raises(UserError, match="hidden_size 32 is not divisible by num_attention_heads 5"):
        check(dataclasses.replace(cfg, num_attention_heads=5), 16)
    with pytest.raises(UserError, match="hidden_size 33 is odd"):
        check(tiny(family, hidden_size=33, num_attention_heads=3, position_embedding="sinusoidal"), 16)


UNUSUAL = (  # what the files of a family say: one with attention, one without
    {"hidden_dropout": 0.3, "attention_dropout": 0.2, "layer_norm_eps": 1e-3, "initializer_range": 0.03},
    {"hidden_dropout": 0.3, "attention_dropout": 0.1, "num_attention_heads": 1, "max_position_embeddings": 0}
    | {"cell_clip": 0.0, "projection_clip": 5.0, "activation": "tanh", "skip_connections": False},
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
