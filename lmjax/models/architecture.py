"""What the rest of lmjax may ask of a model family: one `Architecture` record a family."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lmjax.config import operational
from lmjax.errors import UserError
from lmjax.models.weights import Weight, flatten
from lmjax.ops.attention import Implementation
from lmjax.parallel import Rules
from lmjax.types import Params

Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "dots", "full"]
PositionForm = Literal["learned", "sinusoidal", "sinusoidal_marian", "sinusoidal_tensor2tensor"]
USES = {"fill-mask": "mlm", "generate": "clm", "translate": "seq2seq"}  # verb: the head that it needs


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every family's config has. Names follow Hugging Face's configs.

    `vocab_size` counts real entries; tables are stored with rows rounded up to a multiple of 128.
    `dtype` is that of activations; parameters are float32 always. `remat`: what the backward pass computes again.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    hidden_dropout: float = 0.1
    dtype: Dtype = "float32"
    remat: Remat = operational("none")
    unroll: int = operational(1)

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // 128) * 128


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(ModelConfig):
    """What the configs of models with attention add."""

    num_attention_heads: int
    max_position_embeddings: int
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    position_embedding: PositionForm = "learned"
    position_combine: Literal["add", "concat"] = "add"
    attention: Implementation = operational("xla")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(AttentionConfig):
    """What those add whose encoder reads a text of its own: the tokens that a decoder's text starts from, and that
    closes either text."""

    decoder_start_token_id: int
    eos_token_id: int


@dataclass(frozen=True)
class Architecture:
    """One model family.

    Attributes:
      config: the family's ModelConfig subclass.
      build: (config, heads) -> Flax module whose `apply(variables, **inputs, train=...)` returns Outputs.
      heads: what `build` may put on the backbone.
      inputs: names of the batch features that the module reads.
      sharding: (path regex, PartitionSpec) rows; each parameter matches exactly one.
      weights: config -> rows that map parameters to Hugging Face tensors.
      to_hf, from_hf: config <-> the content of Hugging Face's config.json.
      hf_prefix: what stands before the backbone's tensor names, unless the backbone was saved alone.
      hf_tied: tensors that repeat another one (name -> that one), in files that hold both.
      hf_ignored: regexes of tensors that are no parameters (masks, position numbers).
      hf_fixed: keys of config.json that may have no other value here.
      hf_tasks: Hugging Face's classes with a task's layer that the family has (see `task_layers`), and of each what it
        calls otherwise: its modules, and their names in `weights`.
      flops: (config, length, heads, predictions a row) -> floating-point operations of one row's forward pass.
      presets: published shapes by name.
      carry: (config, rows) -> the state before any word, of a model that may carry one from batch to batch.
      reads: "words" reads each word by its characters, [B, L, C].
      files: what released weights lie in, "hdf5" beside an options.json.
    """

    config: type[ModelConfig]
    build: Callable[[Any, tuple[str, ...]], Any]
    heads: tuple[str, ...]
    inputs: tuple[str, ...]
    sharding: Rules
    weights: Callable[[Any], Sequence[Weight]]
    to_hf: Callable[[Any, tuple[str, ...]], dict[str, Any]]
    from_hf: Callable[[Mapping[str, Any]], Any]
    hf_prefix: str
    hf_tied: Mapping[str, str]
    hf_ignored: tuple[str, ...]
    hf_fixed: Mapping[str, Any]
    flops: Callable[[Any, int, tuple[str, ...], int], float]
    presets: Mapping[str, ModelConfig]
    carry: Callable[[Any, int], dict[str, Any]] | None = None
    reads: Literal["tokens", "words"] = "tokens"
    files: Literal["safetensors", "hdf5"] = "safetensors"
    hf_tasks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def check(cfg: ModelConfig, length: int) -> None:
    """Raises UserError where a config cannot be built, or not for rows of `length` tokens."""
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "unroll")
    sizes += ("num_attention_heads", "max_position_embeddings") if isinstance(cfg, AttentionConfig) else ()
    if bad := [f"{name} {getattr(cfg, name)}" for name in sizes if getattr(cfg, name) < 1]:
        raise UserError(f"model: {', '.join(bad)} must be at least 1")
    rates = [field.name for field in fields(cfg) if field.name.endswith("dropout")]
    if bad := [f"{name} {getattr(cfg, name):g}" for name in rates if not 0 <= getattr(cfg, name) < 1]:
        raise UserError(f"model: {', '.join(bad)} must lie in 0 to 1, 1 left out")
    if not isinstance(cfg, AttentionConfig):
        return
    if cfg.attention == "cudnn" and cfg.attention_dropout:
        raise UserError("model.attention cudnn has no dropout; set model.attention_dropout to 0, or attention to xla")
    if cfg.hidden_size % cfg.num_attention_heads:
        raise UserError(
            f"hidden_size {cfg.hidden_size} is not divisible by num_attention_heads {cfg.num_attention_heads}"
        )
    if cfg.position_embedding.startswith("sinusoidal") and cfg.hidden_size % 2:
        raise UserError(f"hidden_size {cfg.hidden_size} is odd; sinusoidal positions come in pairs")
    if cfg.position_embedding == "learned" and length > cfg.max_position_embeddings:
        raise UserError(
            f"length {length} exceeds the position table ({cfg.max_position_embeddings} rows); "
            "lower the length or raise model.max_position_embeddings"
        )


def portable(cfg: ModelConfig) -> ModelConfig:
    """The same model by the kernel and the memory plan that run anywhere; its layers in a loop where there is no
    cache, which is soonest compiled."""
    cfg = replace(cfg, remat="none")
    return replace(cfg, attention="xla", unroll=1) if isinstance(cfg, AttentionConfig) else cfg


def check_use(cfg: ModelConfig, heads: Sequence[str], verb: str) -> None:
    """Raises UserError where a model with these heads does not do what the verb asks, naming one that suits it."""
    if USES[verb] not in heads:
        suits = next((other for other, head in USES.items() if head in heads), "embed")
        has = ", ".join(heads) or "none"
        raise UserError(
            f"{verb} needs a model with head {USES[verb]}, and this {type(cfg).__name__} has {has}; use {suits}"
        )


def model_inputs(architecture: Architecture, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The features of a batch that the family's module reads."""
    return {name: batch[name] for name in architecture.inputs if name in batch}


def init_params(architecture: Architecture, cfg: ModelConfig, heads: tuple[str, ...], key: jax.Array) -> Params:
    """Fresh parameters, a nested dict of float32 arrays."""
    module = architecture.build(cfg, heads)
    texts = [name for name in ("tokens", "encoder_tokens") if name in architecture.inputs]
    return module.init(key, **{name: jnp.zeros((1, 2), jnp.int32) for name in texts})["params"]


def abstract_params(architecture: Architecture, cfg: ModelConfig, heads: tuple[str, ...]) -> Any:
    """The same tree as ShapeDtypeStructs; takes no memory, whatever the model's size."""
    return jax.eval_shape(lambda key: init_params(architecture, cfg, heads, key), jax.random.key(0))


def num_params(architecture: Architecture, cfg: ModelConfig, heads: tuple[str, ...]) -> int:
    """Trainable parameters, without the rows that pad the vocabulary."""
    leaves = flatten(abstract_params(architecture, cfg, heads))
    padded = {path for row in architecture.weights(cfg) if row.vocabulary for path in row.paths}
    padding = cfg.padded_vocab_size - cfg.vocab_size
    return sum(math.prod(x.shape) - (path in padded) * padding * math.prod(x.shape[1:]) for path, x in leaves.items())
