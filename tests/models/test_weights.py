"""Hugging Face tensors to parameters and back, and what is said of tensors that do not fit."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.models import MODELS, architecture_of, preset, weights
from lmjax.models.architecture import AttentionConfig, ModelConfig, abstract_params
from lmjax.types import Params

pytestmark = pytest.mark.core

# class of transformers: {"config", "tensors": {name: shape}}, as it saves itself (tests/golden/make_models.py)
SAVED = json.loads((Path(__file__).parents[1] / "golden" / "tensors.json").read_text())
HEADS = {
    "BertForPreTraining": ("mlm", "pooler", "nsp"),
    "BertForMaskedLM": ("mlm",),
    "BertForNextSentencePrediction": ("nsp",),
    "BertModel": ("pooler",),
    "GPT2LMHeadModel": ("clm",),
    "ErnieForPreTraining": ("mlm", "pooler", "nsp"),
    "ErnieForMaskedLM": ("mlm",),
    "ErnieForNextSentencePrediction": ("nsp",),
    "ErnieModel": ("pooler",),
    "RobertaForMaskedLM": ("mlm",),
    "RobertaModel": ("pooler",),
    "GPT2Model": (),
    "OpenAIGPTLMHeadModel": ("clm",),
    "OpenAIGPTModel": (),
    "MarianMTModel": ("seq2seq", "output_bias"),
}


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def saved(name: str) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """A tiny model of this class: its config, and random tensors with the names that stand in a whole model."""
    architecture = MODELS[SAVED[name]["config"]["model_type"]]
    shapes = SAVED[name]["tensors"]
    prefix = "" if any(k.startswith(architecture.hf_prefix) for k in shapes) else architecture.hf_prefix
    return architecture.from_hf(SAVED[name]["config"]), random_tensors({prefix + k: v for k, v in shapes.items()})


def assert_tensors_return(cfg: ModelConfig, abstract: Params, tensors: dict[str, np.ndarray]) -> None:
    architecture = architecture_of(cfg)
    params = weights.from_hf(architecture.weights(cfg), tensors, abstract, cfg.vocab_size)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, abstract)
    for row in architecture.weights(cfg):
        assert not row.vocabulary or not weights.flatten(params).get(row.paths[0], np.zeros(0))[cfg.vocab_size :].any()
    returned = weights.to_hf(architecture.weights(cfg), params, cfg.vocab_size)
    assert returned.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(returned[name], tensor, err_msg=name)


@pytest.mark.parametrize("name", SAVED)
def test_what_transformers_saves_returns_as_it_went(name):
    cfg, tensors = saved(name)
    assert_tensors_return(cfg, abstract_params(architecture_of(cfg), cfg, HEADS[name]), tensors)


@pytest.mark.parametrize("name", [name for a in MODELS.values() for name in a.presets])
def test_each_preset_with_all_heads_returns_as_it_went(name):
    cfg = preset(name)
    heads = getattr(cfg, "num_attention_heads", 1)
    narrow = {"hidden_size": 2 * heads, "intermediate_size": 6 * heads}
    narrow |= {"max_position_embeddings": 5} if isinstance(cfg, AttentionConfig) else {}
    cfg = dataclasses.replace(cfg, vocab_size=cfg.vocab_size // 100, **narrow)
    architecture = architecture_of(cfg)
    abstract = abstract_params(architecture, cfg, architecture.heads)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract)
    shapes = {k: v.shape for k, v in weights.to_hf(architecture.weights(cfg), zeros, cfg.vocab_size).items()}
    assert_tensors_return(cfg, abstract, random_tensors(shapes))


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "message"),
    [
        ("BertForMaskedLM", "cls.predictions.bias", None, "tensor cls.predictions.bias is missing"),
        ("BertForMaskedLM", "cls.more", (2,), r"unknown tensor cls.more \(and 0 more\)"),
        ("BertForMaskedLM", "bert.encoder.layer.1.intermediate.dense.weight", (16, 40), r"\[16, 40\]; .* \[40, 16\]"),
        ("BertForMaskedLM", "bert.embeddings.word_embeddings.weight", (60, 16), r"\[60, 16\]; .* \[61, 16\]"),
        ("BertForMaskedLM", "cls.predictions.bias", (62,), r"\[62\]; .* \[61\]"),
        ("GPT2Model", "transformer.h.0.attn.c_attn.weight", (48, 16), r"\[48, 16\]; .* \[16, 48\]"),
        ("GPT2Model", "transformer.h.1.attn.c_attn.bias", (47,), r"\[47\]; .* \[48\]"),
        ("GPT2Model", "transformer.h.1.ln_1.bias", (), r"\[\]; .* \[16\]"),
        ("MarianMTModel", "final_logits_bias", (61,), r"\[61\]; .* \[1, 61\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_one_line_that_names_it(name, tensor, shape, message):
    cfg, tensors = saved(name)
    tensors.pop(tensor, None)
    if shape is not None:
        tensors[tensor] = np.zeros(shape, np.float32)
    architecture = architecture_of(cfg)
    abstract = abstract_params(architecture, cfg, HEADS[name])
    with pytest.raises(UserError, match=message) as raised:
        weights.from_hf(architecture.weights(cfg), tensors, abstract, cfg.vocab_size)
    assert "\n" not in str(raised.value)
    assert tensor in str(raised.value)


def test_a_parameter_without_a_row_is_refused():
    cfg, tensors = saved("GPT2Model")
    rows = MODELS["gpt2"].weights(cfg)
    params = weights.from_hf(rows, tensors, abstract_params(MODELS["gpt2"], cfg, ()), cfg.vocab_size)
    with pytest.raises(ValueError, match=r"no weight row for .*extra"):
        weights.to_hf(rows, params | {"extra": np.zeros(1)}, cfg.vocab_size)
