"""What every model family must hold before it runs: placement, counts of parameters, and of operations."""

import re
from itertools import product

import jax
import jax.numpy as jnp
import pytest

from lmjax.errors import UserError
from lmjax.models import MODELS, architecture_of, preset, weights
from lmjax.models.architecture import ModelConfig, abstract_params, num_params
from lmjax.parallel import MeshConfig, make_mesh, shardings, spec_for
from tests.models.tiny import CAUSAL, FAMILIES, RECURRENT, forward, tiny

pytestmark = pytest.mark.core

UNCUT = {"gpt2-xl": "layers/attention/.*25"}  # presets whose heads two devices cannot share
each_family = pytest.mark.parametrize("family", FAMILIES)


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
