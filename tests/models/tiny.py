"""Tiny models of every family, whose parameters leave nothing at zero or one, and the batches that they read."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import jax
import numpy as np

from lmjax import objectives
from lmjax.models import MODELS, architecture_of
from lmjax.models.architecture import AttentionConfig, ModelConfig, abstract_params, model_inputs
from lmjax.models.weights import flatten, unflatten
from lmjax.objectives import Objective
from lmjax.ops.vocabulary import VocabLogits

VOCAB = 120  # the tables have 128 rows
RECIPES: dict[str, tuple[tuple[str, ...], Objective]] = {  # family: heads and objective of its pretraining
    "bert": (("mlm", "nsp"), objectives.mlm(next_sentence=True)),
    "gpt2": (("clm",), objectives.clm()),
    "gpt3": (("clm",), objectives.clm()),
    "openai-gpt": (("clm",), objectives.clm()),
    "marian": (("seq2seq",), objectives.seq2seq(0.1)),
    "elmo": (("bilm",), objectives.bilm(negatives=0)),
    "ernie": (("mlm", "nsp"), objectives.mlm(next_sentence=True)),
    "roberta": (("mlm",), objectives.mlm(next_sentence=False)),
}
# Families without attention and positions; what a generic test says of those does not speak of them.
RECURRENT = {family for family, a in MODELS.items() if not issubclass(a.config, AttentionConfig)}
CONVERTIBLE: dict[str, dict[str, Any]] = {  # what makes a config one that Hugging Face has
    "marian": {"position_embedding": "sinusoidal_marian", "layer_norm_eps": 1e-5},
}
FAMILIES = {**MODELS, "gpt3": MODELS["gpt2"]}  # GPT-3 is GPT-2 with bands: the tests of families take it as one more
# Whether a token sees only what stands before it.
CAUSAL = {"bert": False, "ernie": False, "roberta": False, "elmo": False}
CAUSAL |= dict.fromkeys(["gpt2", "gpt3", "openai-gpt", "marian"], True)
SHAPES: dict[str, dict[str, Any]] = {  # what makes a family's model tiny beside the sizes that all have
    "gpt3": {"window": 3},
    "openai-gpt": {"intermediate_size": 128},
    "elmo": {"character_size": 4, "filters": ((1, 4), (2, 12), (3, 16)), "num_highways": 1},
}


def tiny(family: str, **changes: Any) -> ModelConfig:
    """Two layers of width 32, without dropout. Of a family without attention, what is said of attention is dropped."""
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
        **SHAPES.get(family, {}),
    }
    config = FAMILIES[family].config
    names = {f.name for f in fields(config)}
    quiet = {name: 0.0 for name in names if name.endswith("dropout")}
    foreign = {f.name for f in fields(AttentionConfig)} - names
    return config(**{k: v for k, v in (shape | quiet | changes).items() if k not in foreign})


def noisy(cfg: ModelConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    """Random parameters of moderate size; biases, scales and the rows that pad the vocabulary are random too."""
    rng = np.random.default_rng(0)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = rng.normal(size=shape)
        if path.endswith("kernel"):
            noise *= cfg.hidden_size**-0.5
        elif path.endswith("embedding"):
            noise *= 0.3  # logits of about 1
        else:
            noise = path.endswith("scale") + 0.1 * noise
        return np.asarray(noise, np.float32)

    leaves = flatten(abstract_params(architecture_of(cfg), cfg, heads))
    return unflatten({path: draw(path, leaf.shape) for path, leaf in leaves.items()})


@cache
def forward(cfg: ModelConfig, heads: tuple[str, ...], collect: bool = False) -> Callable[..., dict[str, Any]]:
    """A jitted (params, **inputs) -> Outputs as a dict, with dense logits; it takes what the family reads."""
    architecture = architecture_of(cfg)
    module = architecture.build(cfg, heads)

    @jax.jit
    def run(params: Any, **inputs: Any) -> dict[str, Any]:
        outputs = module.apply({"params": params}, **model_inputs(architecture, inputs), collect=collect)
        return {k: v.dense() if isinstance(v, VocabLogits) else v for k, v in outputs.items()}

    return run


def applier(cfg: ModelConfig, heads: tuple[str, ...]) -> Callable[..., Any]:
    """(params, micro-batch, dropout key or None) -> Outputs, as the train step wants it."""
    architecture = architecture_of(cfg)
    module = architecture.build(cfg, heads)

    def apply(params: Any, batch: Mapping[str, Any], key: Any) -> Any:
        rngs = {} if key is None else {"rngs": {"dropout": key}}
        return module.apply({"params": params}, **model_inputs(architecture, batch), train=key is not None, **rngs)

    return apply


def random_batch(family: str, rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A pretraining batch [rows, length] whose weights are very uneven: some rows are short, and one counts for
    nothing."""
    rng = np.random.default_rng(seed)
    real = np.arange(length)[None] < rng.integers(length // 2, length + 1, (rows, 1))
    batch = {
        "tokens": rng.integers(0, VOCAB, (rows, length)).astype(np.int32),
        "segment_ids": real.astype(np.int32),
        "example_weights": (np.arange(rows) != 1).astype(np.float32),
    }
    if "mlm" in RECIPES[family][0]:
        masked = 3
        batch |= {
            "token_type_ids": rng.integers(0, 2, (rows, length)).astype(np.int32),
            "mlm_positions": rng.integers(0, length // 2, (rows, masked)).astype(np.int32),
            "next_sentence_labels": rng.integers(0, 2, rows).astype(np.int32),
        }
        real = np.arange(masked)[None] < rng.integers(1, masked + 1, (rows, 1))
    if family == "marian":  # two segments of moderate length on the encoder's side, of which the first row has one
        parts = 1 + (np.arange(length)[None] >= rng.integers(2, length // 2, (rows, 1)))
        parts[0] = 1
        batch |= {
            "encoder_tokens": rng.integers(0, VOCAB, (rows, length)).astype(np.int32),
            "encoder_segment_ids": (parts * (np.arange(length) < length - 1)).astype(np.int32),
        }
    weights = real * batch["example_weights"][:, None] * rng.choice([0.0, 1.0, 5.0], (rows, 1))
    targets = rng.integers(0, VOCAB, weights.shape).astype(np.int32)
    batch |= {"targets": targets, "loss_weights": weights.astype(np.float32)}
    return batch | ({"backward_targets": VOCAB - 1 - targets} if family == "elmo" else {})
