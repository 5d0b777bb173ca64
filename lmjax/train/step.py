"""The train step and the evaluation step: the only place that differentiates.

A batch arrives cut into micro-batches: every feature is [A, B, ...], A micro-batches of B rows, but for two scalars,
`micro_batches` (how many of the A hold rows: fewer during a batch ramp) and `tokens_seen` (before this step).

A model that carries its state from batch to batch finds it in the batch as `carry` and returns it in its outputs; it
lies in `TrainState.extra["carry"]`, leaves [A, B, ...], so that each micro-batch holds the state of its own rows.
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

    def loss(params: Params, micro: Batch, key: Array) -> tuple[Array, Any]:
        outputs = apply(params, micro, key)
        terms = objective.terms(outputs, micro)
        return objective.loss(terms), (terms, _carried(outputs))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        rows = objective.prepare({k: v for k, v in batch.items() if k not in SCALARS}) | _carried(state.extra)
        count = batch["micro_batches"]
        grads, (terms, carried) = accumulate(jax.grad(loss, has_aux=True), state.params, rows, key, count)
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
        new = (optax.apply_updates(state.params, updates), opt_state, {**state.extra, **carried})
        old = (state.params, state.opt_state, dict(state.extra))
        params, opt_state, extra = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        metrics["skipped"] = 1 - good.astype(jnp.int32)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=extra), metrics

    return step


def accumulate(
    grad: Callable[[Params, Batch, Array], tuple[Any, tuple[Mapping[str, Mean], Mapping[str, Any]]]],
    params: Params,
    rows: Mapping[str, Any],
    key: Array,
    count: Array,
) -> tuple[Any, tuple[Mapping[str, Mean], Mapping[str, Any]]]:
    """Sums gradients (float32) and terms over the first `count` micro-batches; each draws its own dropout. What they
    carry on is stacked."""
    micro_batches = jax.tree.leaves(rows)[0].shape[0]

    def one(index: Array | int) -> tuple[Any, tuple[Mapping[str, Mean], Mapping[str, Any]]]:
        micro = jax.tree.map(lambda x: x[index], dict(rows))
        grads, (terms, carried) = grad(params, micro, jax.random.fold_in(key, index))
        # Each in a place of its own, so that a sum stacks them.
        placed = jax.tree.map(lambda x: jnp.zeros((micro_batches, *x.shape), x.dtype).at[index].set(x), carried)
        return grads, (terms, placed)

    if micro_batches == 1:
        return one(0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
    return jax.lax.fori_loop(0, count, lambda i, sums: jax.tree.map(jnp.add, sums, one(i)), zeros)


def group_norms(tree: Mapping[str, Any]) -> dict[str, Array]:
    """The L2 norm of each top-level group of a parameter tree, and of "all"."""
    squares = {group: optax.tree.norm(leaves, squared=True) for group, leaves in tree.items()}
    squares["all"] = sum(squares.values(), jnp.zeros(()))
    return {group: jnp.sqrt(square) for group, square in squares.items()}


def _carried(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {"carry": extra["carry"]} if "carry" in extra else {}


def make_eval_step(
    apply: Apply, objective: Objective
) -> Callable[[Params, Batch], tuple[Mapping[str, Mean], dict[str, Any]]]:
    """Returns `step(params, batch) -> {term: Mean}, carried` over rows [B, ...], without dropout and without normalised
    weights: Means of many batches are added and divided once. `carried` belongs into the next batch."""

    def step(params: Params, batch: Batch) -> tuple[Mapping[str, Mean], dict[str, Any]]:
        outputs = apply(params, batch, None)
        return objective.terms(outputs, batch), _carried(outputs)

    return step
