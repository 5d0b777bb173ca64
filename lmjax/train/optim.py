"""Optimizers and learning rates. optax does the work; here is what it lacks, and the choice by config.

An optimizer maps gradients to a direction that is not yet multiplied by the learning rate; the train step does that.
So the rate is one pure function of the run's position, in steps or in tokens, and is logged as it was used.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax.errors import UserError
from lmjax.parallel import is_stacked, path_of
from lmjax.types import Array

Schedule = Callable[[Array], Array]


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule.

    `no_decay`: regex on parameter paths; those that match anywhere are not decayed (BERT's rule by default: biases and
    LayerNorms; "" decays everything, as RoBERTa does). `unit`: what `warmup` and `total` count; `total` 0 means the
    whole run. The linear and cosine decays end at `end_factor` times the peak. `initial_accumulator`: what Adagrad's
    sums of squares begin with.
    """

    optimizer: Literal["adamw", "bert_adam", "tf_adam", "lamb", "adafactor", "adagrad"] = "adamw"
    peak_lr: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    no_decay: str = r"(bias|scale)$"
    clip_norm: float = 1.0
    decay: Literal["linear", "linear_from_zero", "cosine", "inverse_sqrt", "constant"] = "linear"
    warmup: int = 0
    total: int = 0
    end_factor: float = 0.0
    unit: Literal["steps", "tokens"] = "steps"
    initial_accumulator: float = 1.0

    def __post_init__(self) -> None:
        names = ("peak_lr", "weight_decay", "clip_norm", "warmup", "total", "end_factor", "initial_accumulator")
        if bad := [f"{name} {getattr(self, name):g}" for name in names if getattr(self, name) < 0]:
            raise UserError(f"optim: {', '.join(bad)}: none of these is negative")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise UserError(f"optim: b1 {self.b1:g} and b2 {self.b2:g} lie in 0 to 1, 1 left out")
        try:
            re.compile(self.no_decay)
        except re.error as error:
            raise UserError(f"optim.no_decay '{self.no_decay}' is no regular expression: {error}") from None


def make_schedule(cfg: OptimConfig, whole_run: int) -> Schedule:
    """The learning rate by position (steps or tokens before this step), float32 scalar to float32 scalar.

    The warm-up rises to the peak, which its last step has. "linear_from_zero" is BERT's: both lines start at position
    0, so the first step changes nothing and the rate drops at the end of the warm-up (google-research/bert,
    optimization.py). "inverse_sqrt" is Vaswani et al. 2017, eq. 3, scaled to the peak.
    """
    # As floats: GPT-3's 260 billion tokens are no int32, which JAX would make of them.
    total, begin, warmup = float(cfg.total or whole_run), float(cfg.warmup), float(max(cfg.warmup, 1))

    def schedule(position: Array) -> Array:
        count = position + (1 if cfg.unit == "steps" else 0)  # steps are counted from 1
        done = jnp.clip((position - begin) / max(total - begin, 1), 0, 1)
        falling = {
            "linear": lambda: 1 - (1 - cfg.end_factor) * done,
            "linear_from_zero": lambda: 1 - (1 - cfg.end_factor) * jnp.clip(position / total, 0, 1),
            "cosine": lambda: cfg.end_factor + (1 - cfg.end_factor) * 0.5 * (1 + jnp.cos(jnp.pi * done)),
            "inverse_sqrt": lambda: jax.lax.rsqrt(jnp.maximum(count, warmup) / warmup),
            "constant": lambda: jnp.ones(()),
        }[cfg.decay]()
        rising = (position if cfg.decay == "linear_from_zero" else count) / warmup
        return cfg.peak_lr * jnp.where(position < begin, rising, falling)

    return schedule


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """optax's function as one multiplication by a scalar. XLA joins that to what follows; optax's quotient an element
    is written to memory and read again."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = jnp.minimum(1.0, max_norm / optax.tree.norm(updates))
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class _BertAdamState(NamedTuple):
    mu: Any
    nu: Any


def scale_by_bert_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam without bias correction, as BERT was trained (google-research/bert, optimization.py); optax corrects."""

    def init(params: Any) -> _BertAdamState:
        return _BertAdamState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, _BertAdamState]:
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), _BertAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_tf_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam as TensorFlow 1 has it: eps stands outside the bias correction (Kingma and Ba 2015, section 2, last
    paragraph). With a large eps, optax's first steps are longer."""
    plain = scale_by_bert_adam(b1, b2, eps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moments, count = state
        count = count + 1
        direction, moments = plain.update(updates, moments)
        factor = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        return jax.tree.map(lambda d: d * factor, direction), (moments, count)

    return optax.GradientTransformation(lambda params: (plain.init(params), jnp.zeros((), jnp.int32)), update)


def per_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` on each layer of the stacked parameters (those under "layers") as if it stood alone; on the others as it is.

    For optimizers with arithmetic over a whole tensor (LAMB's trust ratio, Adafactor's root mean squares).
    """

    def each_layer(function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of trees whose leaves hold all layers, or of trees without any."""
        return lambda *trees: (jax.vmap(function) if jax.tree.leaves(trees[0]) else function)(*trees)

    stacked = optax.GradientTransformation(each_layer(tx.init), each_layer(tx.update))

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda p, _: "stacked" if is_stacked(path_of(p)) else "single", params)

    return optax.partition({"stacked": stacked, "single": tx}, labels)


def frozen(tx: optax.GradientTransformation, groups: Collection[str]) -> optax.GradientTransformation:
    """`tx` on all parameters but the top-level `groups`, which stay as they are and have no state."""

    def labels(params: Any) -> Any:
        return {group: "frozen" if group in groups else "trained" for group in params}

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def decay_mask(no_decay: str) -> Callable[[Any], Any]:
    """Parameters to a tree of bools: True where `no_decay` matches nowhere in the path."""

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda p, _: not (no_decay and re.search(no_decay, path_of(p))), params)

    return mask


def make_optimizer(cfg: OptimConfig) -> optax.GradientTransformation:
    """Gradients -> direction: clipping by global norm (0 = none), the optimizer's scaling, decoupled weight decay.

    The new parameters are `params - learning_rate * direction`.
    """
    decay = (
        optax.add_decayed_weights(cfg.weight_decay, decay_mask(cfg.no_decay)) if cfg.weight_decay else optax.identity()
    )
    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)
    scaling = {
        "adamw": lambda: [adam, decay],
        "bert_adam": lambda: [scale_by_bert_adam(cfg.b1, cfg.b2, cfg.eps), decay],
        "tf_adam": lambda: [scale_by_tf_adam(cfg.b1, cfg.b2, cfg.eps), decay],
        "lamb": lambda: [adam, decay, per_layer(optax.scale_by_trust_ratio())],
        "adafactor": lambda: [
            per_layer(
                optax.chain(
                    optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
                )
            ),
            decay,
        ],
        # TensorFlow's has no eps: the accumulator is never 0.
        "adagrad": lambda: [optax.scale_by_rss(cfg.initial_accumulator, eps=0.0), decay],
    }[cfg.optimizer]()
    return optax.chain(*([clip_by_global_norm(cfg.clip_norm)] if cfg.clip_norm else []), *scaling)
