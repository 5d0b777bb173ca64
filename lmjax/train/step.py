"""The train step and the evaluation step: the only place that differentiates.

A batch arrives cut into micro-batches: every feature is [A, B, ...], A micro-batches of B rows, but for two scalars,
`micro_batches` (how many of the A hold rows: fewer during a batch ramp) and `tokens_seen` (before this step).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmjax.objectives import Objective
from lmjax.train.optim import Schedule
from lmjax.types import Array, Batch, Mean, Outputs, Params, TrainState

Apply = Callable[..., Outputs]  # (params, micro-batch, dropout key or None) -> Outputs
Metrics = dict[str, Any]
SCALARS = ("micro_batches", "tokens_seen")


def make_train_step(
    apply: Apply, objective: Objective, tx: optax.GradientTransformation, schedule: Schedule, unit: str
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns `step(state, batch) -> (state, metrics)`, pure and ready to be jitted.

    A step whose loss or gradient is not finite, or in which every optimised term weighs 0, leaves parameters, optimizer
    and extra state as they were; `metrics["skipped"]` tells.
    """

    def loss(params: Params, micro: Batch, key: Array) -> tuple[Array, Mapping[str, Mean]]:
        terms = objective.terms(apply(params, micro, key), micro)
        return objective.loss(terms), terms

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        rows = objective.prepare({k: v for k, v in batch.items() if k not in SCALARS})
        grads, terms = accumulate(jax.grad(loss, has_aux=True), state.params, rows, key, batch["micro_batches"])
        rate = schedule(state.step.astype(jnp.float32) if unit == "steps" else batch["tokens_seen"])
        direction, opt_state = tx.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda d: -rate * d, direction)
        norms = {"gradient": grads, "update": updates, "parameter": state.params}
        metrics = {
            "loss": objective.loss(terms),
            **{name: mean.value() for name, mean in terms.items()},
            "learning_rate": rate,
            **{f"{kind}_norm": group_norms(tree) for kind, tree in norms.items()},
        }
        weight = sum(terms[name].weight for name in objective.coefficients)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"]["all"]) & (weight > 0)
        new = (optax.apply_updates(state.params, updates), opt_state)
        params, opt_state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, (state.params, state.opt_state))
        metrics["skipped"] = 1 - good.astype(jnp.int32)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return step


def accumulate(
    grad: Callable[[Params, Batch, Array], tuple[Any, Mapping[str, Mean]]],
    params: Params,
    rows: Batch,
    key: Array,
    count: Array,
) -> tuple[Any, Mapping[str, Mean]]:
    """Sums gradients (float32) and terms over the first `count` micro-batches; each draws its own dropout."""

    def one(index: Array | int) -> tuple[Any, Mapping[str, Mean]]:
        return grad(params, {k: v[index] for k, v in rows.items()}, jax.random.fold_in(key, index))

    if next(iter(rows.values())).shape[0] == 1:
        return one(0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
    return jax.lax.fori_loop(0, count, lambda i, sums: jax.tree.map(jnp.add, sums, one(i)), zeros)


def group_norms(tree: Mapping[str, Any]) -> dict[str, Array]:
    """The L2 norm of each top-level group of a parameter tree, and of "all"."""
    squares = {group: optax.tree.norm(leaves, squared=True) for group, leaves in tree.items()}
    squares["all"] = sum(squares.values(), jnp.zeros(()))
    return {group: jnp.sqrt(square) for group, square in squares.items()}


def make_eval_step(apply: Apply, objective: Objective) -> Callable[[Params, Batch], Mapping[str, Mean]]:
    """Returns `step(params, batch) -> {term: Mean}` over rows [B, ...], without dropout and without normalised weights:
    Means of many batches are added and divided once."""

    def step(params: Params, batch: Batch) -> Mapping[str, Mean]:
        return objective.terms(apply(params, batch, None), batch)

    return step
