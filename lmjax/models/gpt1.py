"""GPT-1 (Radford et al. 2018): a causal decoder, post-LN, no final LayerNorm, the token table tied as the output.

Where OpenAI's code (finetune-transformer-lm, train.py) and Hugging Face's differ, there is an option:

- `dropout_of`: OpenAI drops elements of the token and position tables, once a step, and the tied output sees the
  dropped table; Hugging Face drops each token's summed vector. Only training differs. The default is OpenAI's.
- `output_rows`: in OpenAI's graph tokens and positions are one table, and the softmax runs over all of its rows; in
  the paper (eq. 2) and in Hugging Face's code over the tokens, which is the default.

Hidden scores are -1e9 there, -1e4 in Hugging Face's code and -1e9 here: their softmax is 0 in all. The activation that
Hugging Face calls "gelu" in this model alone is the tanh form. Every weight starts at N(0, 0.02), without regard to
depth. Letters as in `layers`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lmjax.errors import UserError
from lmjax.models.architecture import Architecture, AttentionConfig
from lmjax.models.gpt import DECODER_SHARDING, HF_KEYS, decoder_flops, layer_weights
from lmjax.models.layers import (
    Dropout,
    Embedding,
    PositionEmbedding,
    hold_batch,
    layer_outputs,
    normal,
    padded,
    positions_like,
    post_norm,
    run_causally,
    stack,
)
from lmjax.models.weights import Weight
from lmjax.ops.vocabulary import VocabLogits
from lmjax.types import Array, Outputs


@dataclass(frozen=True, kw_only=True)
class Gpt1Config(AttentionConfig):
    """Shape of a GPT-1; the defaults are the released one."""

    vocab_size: int = 40478
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    embedding_dropout: float = 0.1
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu_tanh"
    dropout_of: Literal["tables", "sum"] = "tables"
    output_rows: Literal["tokens", "tokens_and_positions"] = "tokens"

    def __post_init__(self) -> None:
        if self.output_rows == "tokens_and_positions" and self.position_embedding != "learned":
            raise UserError("output_rows tokens_and_positions needs learned positions; sinusoids have no table")


class Gpt1Layer(nn.Module):
    """One `post_norm` block."""

    cfg: Gpt1Config
    train: bool
    collect: bool

    @nn.compact
    def __call__(
        self, x_BLD: Array, cache: dict[str, Array] | None, mask: Array | None, offset: Array | int
    ) -> tuple[Array, dict[str, Any]]:
        cfg, init = self.cfg, normal(self.cfg.initializer_range)
        x_BLD, cache, probabilities = post_norm(cfg, self.train, cfg.activation, init, x_BLD, mask, cache, offset)
        collected = {"hidden": x_BLD, "attention": probabilities} if self.collect else {}
        return x_BLD, {"cache": cache, **collected}


class Gpt1(nn.Module):
    """The decoder; with head "clm" also its logits (no parameters of their own)."""

    cfg: Gpt1Config
    heads: tuple[str, ...]

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        cache: Mapping[str, Any] | None = None,
        *,
        train: bool = False,
        collect: bool = False,
    ) -> Outputs:
        """Inputs and outputs are those of `gpt.Gpt`. With `output_rows` "tokens_and_positions" the logits have
        `max_position_embeddings` more entries, at their end, but not in decoding by a cache."""
        cfg, init = self.cfg, normal(self.cfg.initializer_range)
        rate = cfg.embedding_dropout if train else 0.0
        of_tables, of_sum = (rate, 0.0) if cfg.dropout_of == "tables" else (0.0, rate)
        word_init = padded(init, cfg.vocab_size)
        words = Embedding(cfg.padded_vocab_size, cfg.hidden_size, word_init, of_tables, name="word_embeddings")
        positioned = PositionEmbedding(cfg, init, of_tables, name="positions")
        x_BLD = positioned(words(tokens), positions_like(tokens) if positions is None else positions)
        x_BLD = embedded_BLD = hold_batch(Dropout(of_sum, train)(x_BLD.astype(cfg.dtype)))
        layers = stack(Gpt1Layer, cfg, train, collect, cached=cache is not None)
        x_BLD, collected, cached = run_causally(layers, x_BLD, segment_ids, cache)

        outputs: dict[str, Any] = {"hidden": x_BLD, **(layer_outputs(collected, embedded_BLD) if collect else {})}
        if "clm" in self.heads:
            rows, table_VD = cfg.vocab_size, words.embedding
            if cfg.output_rows == "tokens_and_positions" and cache is None:
                rows, table_VD = _one_table(table_VD[:rows], positioned.position.embedding)
            outputs["logits"] = VocabLogits(x_BLD, table_VD, None, rows)
        return outputs | cached


def _one_table(words_VD: Array, positions_TD: Array) -> tuple[int, Array]:
    """Both tables' rows, words first, as one that is padded to a multiple of 128; and how many there are."""
    rows = len(words_VD) + len(positions_TD)
    padding = jnp.zeros((-rows % 128, words_VD.shape[1]), words_VD.dtype)
    return rows, jnp.concatenate([words_VD, positions_TD, padding])


def weights(cfg: Gpt1Config) -> list[Weight]:
    """Names as in `OpenAIGPTLMHeadModel`."""
    return [
        Weight("transformer.tokens_embed.weight", ("word_embeddings/embedding",), "table", vocabulary=True),
        Weight("transformer.positions_embed.weight", ("positions/position/embedding",), "table"),
        *layer_weights(),
    ]


def to_hf(cfg: Gpt1Config, heads: tuple[str, ...]) -> dict[str, Any]:
    """Hugging Face's config.json. It cannot say what dropout is of: reading it gives `dropout_of`'s default.

    Raises:
      UserError: an input layer, activation, feed-forward size or output that Hugging Face's GPT-1 does not have.
    """
    wanted = {
        "position_embedding": "learned",
        "position_combine": "add",
        "output_rows": "tokens",
        "intermediate_size": 4 * cfg.hidden_size,
    }
    for name, value in wanted.items():
        if getattr(cfg, name) != value:
            raise UserError(
                f"Hugging Face's GPT-1 has {name} {value} only; this model ({getattr(cfg, name)}) cannot be converted"
            )
    if cfg.activation == "gelu":
        raise UserError(
            "Hugging Face's GPT-1 means the tanh form by its activation gelu; this model (erf) cannot be converted"
        )
    return {
        "model_type": "openai-gpt",
        "architectures": ["OpenAIGPTLMHeadModel" if "clm" in heads else "OpenAIGPTModel"],
        "afn": {"gelu_tanh": "gelu", "relu": "relu"}[cfg.activation],
        "tie_word_embeddings": True,
        **{theirs: getattr(cfg, ours) for theirs, ours in HF_KEYS.items()},
    }


def from_hf(data: Mapping[str, Any]) -> Gpt1Config:
    activations = {"gelu": "gelu_tanh", "relu": "relu"}
    activation = data.get("afn", "gelu")
    if activation not in activations:
        raise UserError(f"config.json: afn '{activation}' is none of {', '.join(activations)}")
    shape = {ours: data[theirs] for theirs, ours in HF_KEYS.items() if theirs in data}
    inner = 4 * shape.get("hidden_size", 768)
    return Gpt1Config(activation=activations[activation], intermediate_size=inner, **shape)  # type: ignore[arg-type]


# OpenAI's release is all parameters as one flat array, in this order (finetune-transformer-lm, train.py).
RELEASED = ("transformer.positions_embed.weight", "transformer.tokens_embed.weight")
RELEASED_LAYER = tuple(
    f"{name}.{kind}"
    for name in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
    for kind in ("weight", "bias")
)


def from_released(shapes: Sequence[Sequence[int]], values: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Hugging Face's config.json and tensors of OpenAI's release: `shapes` as params_shapes.json has them, `values`
    [n]. Kernels are [1, in, out] there; heads are 64 wide. Raises UserError where the two do not fit."""
    sizes = [math.prod(shape) for shape in shapes]
    layers, rest = divmod(len(shapes) - len(RELEASED), len(RELEASED_LAYER))
    if layers < 1 or rest or sum(sizes) != values.size:
        raise UserError(f"params_shapes.json: {len(sizes)} arrays of {sum(sizes)} values; found {values.size} values")
    names = [*RELEASED, *(f"transformer.h.{i}.{name}" for i in range(layers) for name in RELEASED_LAYER)]
    pieces = np.split(values, np.cumsum(sizes)[:-1])
    found = {n: p.reshape(s[-2:]) for n, p, s in zip(names, pieces, shapes, strict=True)}
    (positions, width), (vocab_size, _) = shapes[0], shapes[1]
    config = {"n_positions": positions, "n_embd": width, "vocab_size": vocab_size, "n_layer": layers}
    return config | {"n_head": width // 64}, found


def flops(cfg: Gpt1Config, length: int, heads: tuple[str, ...], predictions: int) -> float:
    """Forward operations of one row; see `gpt.decoder_flops`."""
    predictions = predictions if "clm" in heads else 0
    positions = cfg.max_position_embeddings if cfg.output_rows == "tokens_and_positions" else 0
    return decoder_flops(cfg, length, predictions) + 2 * predictions * cfg.hidden_size * positions


PRESETS = {"openai-gpt": Gpt1Config()}

ARCHITECTURE = Architecture(
    config=Gpt1Config,
    build=Gpt1,
    heads=("clm",),
    inputs=("tokens", "segment_ids", "positions", "cache"),
    sharding=DECODER_SHARDING,
    weights=weights,
    to_hf=to_hf,
    from_hf=from_hf,
    hf_prefix="transformer.",
    hf_tied={"lm_head.weight": "transformer.tokens_embed.weight"},
    hf_ignored=(r"transformer\.h\.\d+\.attn\.bias|transformer\.position_ids",),
    hf_fixed={"tie_word_embeddings": True},
    flops=flops,
    presets=PRESETS,
)
