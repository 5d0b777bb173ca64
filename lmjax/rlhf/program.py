"""The three phases of an iteration as compiled functions on one mesh: roll out, score, update.

Roll out: answers drawn from the policy. Score: old log-probabilities, values and the reference's log-probabilities, by
the function and in the row count of the loss, so that the first update's ratios are 1. Update: epochs of minibatches
through the ordinary train step. Between the phases only [B, L] and [B, N] arrays are kept.

Letters: B answers of an iteration, L tokens of a row, N of an answer, E epochs, M minibatches, A micro-batches of a
minibatch, R rows of a micro-batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.models import architecture_of
from lmjax.models.architecture import AttentionConfig, ModelConfig, abstract_params
from lmjax.objectives import Objective, ppo, with_pretraining
from lmjax.parallel import BATCH_AXES, check_rows, constrain, like_params, make_mesh, shardings
from lmjax.rlhf.advantages import adapted, final_scores, shaped, token_kl, token_rewards, value_mask
from lmjax.rlhf.networks import Networks, make_networks
from lmjax.rlhf.rollout import roll_out
from lmjax.train.optim import make_optimizer, make_schedule
from lmjax.train.step import make_train_step
from lmjax.types import Array, Params, TrainState

if TYPE_CHECKING:
    from lmjax.rlhf.config import PpoConfig

ROLLOUT, UPDATE = 0, 1  # what a key is for
Rows = dict[str, Array]


@dataclass(frozen=True)
class Program:
    """The compiled side of a run. `update` donates the state.

    Attributes:
      init_state: () -> parameters drawn from the seed, a fresh optimizer, iteration 0.
      reference: where the reference's parameters lie.
      roll_out: (parameters, key, iteration, prompts) -> rows, see `rollout.roll_out`.
      score: (state, the reference's parameters, rows, scores [B]) -> experience, figures.
      update: (state, experience, pretraining text, divergence) -> state of the next iteration, metrics.
      update_on: the same on given minibatches: int32 [E * M, A, R], numbers of rows.
    """

    mesh: Mesh
    init_state: Callable[[], TrainState]
    abstract_state: TrainState
    reference: Any
    roll_out: Callable[..., Rows]
    score: Callable[..., tuple[Rows, Rows]]
    update: Callable[..., tuple[TrainState, dict[str, Any]]]
    update_on: Callable[..., tuple[TrainState, dict[str, Any]]]


def assemble_ppo(
    cfg: "PpoConfig", model: AttentionConfig, critic: ModelConfig | None, eos_id: int, pad_id: int
) -> Program:
    """The program of a run with a policy `model`; `critic`: see `make_networks`.

    Raises:
      UserError: a batch or mesh that does not fit.
    """
    mesh = make_mesh(cfg.mesh)
    check_rows(cfg.micro_batch, mesh)
    check_rows(cfg.rollout.rows, mesh, "rollout.rows")
    networks = make_networks(model, critic, _abstract_rows(cfg))
    tx = make_optimizer(cfg.optim)
    # The rate goes by iterations: "tokens" is the unit whose position the batch tells.
    schedule = make_schedule(cfg.optim, cfg.iterations)
    train_step = make_train_step(networks.apply, _objective(cfg), tx, schedule, "tokens")
    init = partial(_init, cfg, networks, tx)
    abstract = jax.eval_shape(init)
    where = _placed(abstract, networks, mesh)

    def update(state: TrainState, experience: Rows, text: Rows, kl: Array) -> Any:
        rows_UAR = minibatches(cfg, state.key, state.step)
        return _update(cfg, train_step, state, experience, text, kl, rows_UAR)

    compiled = partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    return Program(
        mesh=mesh,
        init_state=jax.jit(init, out_shardings=where),
        abstract_state=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where),
        reference={name: part for name, part in where.params.items() if name in _backbone(model)},
        roll_out=jax.jit(partial(_roll_out, cfg, model, eos_id, pad_id)),
        score=jax.jit(partial(_score, cfg, networks)),
        update=compiled(update),
        update_on=compiled(partial(_update, cfg, train_step)),
    )


def _objective(cfg: "PpoConfig") -> Objective:
    objective = ppo(cfg.clip, cfg.value_clip, cfg.value_coefficient, cfg.rollout.temperature)
    return with_pretraining(objective, cfg.pretraining.coefficient) if cfg.pretraining.coefficient else objective


def _init(cfg: "PpoConfig", networks: Networks, tx: optax.GradientTransformation) -> TrainState:
    params = networks.draw(jax.random.key(cfg.seed))
    extra = {"kl_coefficient": jnp.full((), cfg.kl.coefficient, jnp.float32)}
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(cfg.seed), extra)


def _roll_out(
    cfg: "PpoConfig",
    model: AttentionConfig,
    eos_id: int,
    pad_id: int,
    params: Params,
    key: Array,
    iteration: Array,
    prompts: Rows,
) -> Rows:
    key = jax.random.fold_in(jax.random.fold_in(key, ROLLOUT), iteration)
    rows = roll_out(model, cfg.rollout, eos_id, pad_id, params, prompts, key)
    return {name: constrain(value, BATCH_AXES) for name, value in rows.items()}


def minibatches(cfg: "PpoConfig", key: Array, iteration: Array | int) -> Array:
    """Numbers of rows int32 [E * M, A, R]: each epoch goes through all rows in an order of its own."""
    key = jax.random.fold_in(jax.random.fold_in(key, UPDATE), iteration)
    orders_EB = [jax.random.permutation(jax.random.fold_in(key, epoch), cfg.batch_size) for epoch in range(cfg.epochs)]
    return jnp.stack(orders_EB).reshape(-1, cfg.micro_batches, cfg.micro_batch)


def _score(
    cfg: "PpoConfig", networks: Networks, state: TrainState, reference: Params, rows: Rows, scores_B: Array
) -> tuple[Rows, Rows]:
    mask_BN, temperature = rows["loss_weights"], cfg.rollout.temperature

    def read(some: Rows) -> tuple[Array, ...]:
        outputs = networks.apply(state.params, some, None)
        found = outputs["logits"].statistics(some["targets"], temperature=temperature, entropy=True)
        expected = networks.log_probs(reference, some, temperature)
        return found.target_log_probability, outputs["values"], found.entropy, expected

    texts = {name: rows[name] for name in ("tokens", "segment_ids", "positions", "targets")}
    cut = {k: constrain(x.reshape(-1, cfg.micro_batch, x.shape[1]), None, BATCH_AXES) for k, x in texts.items()}
    found = [x.reshape(mask_BN.shape) for x in jax.lax.map(read, cut)]
    log_probs_BN, values_BN, entropy_BN, reference_BN = (constrain(x, BATCH_AXES) for x in found)

    kl_BN = token_kl(log_probs_BN, reference_BN, mask_BN, cfg.shaping.kl_estimator)
    final_B = final_scores(scores_B, rows["ended"], cfg.shaping)
    coefficient = state.extra["kl_coefficient"]
    rewards_BN = token_rewards(kl_BN, final_B, mask_BN, coefficient, cfg.shaping.score_at)
    experience = {
        **texts,
        "loss_weights": mask_BN,
        "value_weights": value_mask(mask_BN, cfg.shaping.score_at),
        "old_log_probs": log_probs_BN,
        "old_values": values_BN,
        "rewards": rewards_BN,
    }
    if cfg.shaping.whiten_over == "batch":
        experience |= _with_advantages(cfg, experience)
    difference_BN = jnp.abs(rows["sampler_log_probs"] - log_probs_BN)
    figures = {
        "score": jnp.mean(scores_B.astype(jnp.float32)),
        "reward": jnp.mean(jnp.sum(rewards_BN, axis=1)),
        "kl": jnp.mean(jnp.sum(kl_BN, axis=1)),
        "kl_coefficient": coefficient,
        "rollout_entropy": jnp.sum(entropy_BN * mask_BN) / jnp.sum(mask_BN),
        "response_length": jnp.mean(jnp.sum(mask_BN, axis=1)),
        "eos_share": jnp.mean(rows["ended"].astype(jnp.float32)),
        "sampler_difference": jnp.max(difference_BN, where=mask_BN > 0, initial=0),
    }
    return experience, figures


def _with_advantages(cfg: "PpoConfig", rows: Rows) -> Rows:
    advantages, returns = shaped(rows["rewards"], rows["old_values"], rows["loss_weights"], cfg.shaping)
    return {"advantages": advantages, "returns": returns}


def _update(
    cfg: "PpoConfig",
    train_step: Callable[..., Any],
    state: TrainState,
    experience: Rows,
    text: Rows,
    kl: Array,
    rows_UAR: Array,
) -> tuple[TrainState, dict[str, Any]]:
    """All epochs; metrics are means over the updates that were made."""
    iteration = state.step
    coefficient = adapted(state.extra["kl_coefficient"], kl, cfg.batch_size, cfg.kl)

    def minibatch(number: Array, rows_AR: Array) -> Rows:
        flat = {k: x[rows_AR.reshape(-1)] for k, x in experience.items()}
        if cfg.shaping.whiten_over == "minibatch":
            flat |= _with_advantages(cfg, flat)
        cut = {k: x.reshape(cfg.micro_batches, cfg.micro_batch, *x.shape[1:]) for k, x in flat.items()}
        first = number % cfg.minibatches * cfg.micro_batches
        cut |= {k: jax.lax.dynamic_slice_in_dim(x, first, cfg.micro_batches) for k, x in text.items()}
        rows = {k: constrain(x, None, BATCH_AXES) for k, x in cut.items() if k != "rewards"}
        scalars = {"micro_batches": jnp.int32(cfg.micro_batches), "tokens_seen": iteration.astype(jnp.float32)}
        return rows | scalars

    def one(carry: tuple[TrainState, Array], at: tuple[Array, Array]) -> tuple[tuple[TrainState, Array], Any]:
        (state, stopped), batch = carry, minibatch(*at)
        if not cfg.stop_at_kl:
            state, metrics = train_step(state, batch)
            return (state, stopped), metrics | {"updates": jnp.ones(())}
        untouched = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(train_step, state, batch)[1])
        state, metrics = jax.lax.cond(stopped, lambda: (state, untouched), lambda: train_step(state, batch))
        metrics["updates"] = 1 - stopped.astype(jnp.float32)
        return (state, stopped | (metrics["approximate_kl"] > cfg.stop_at_kl)), metrics

    numbered = jnp.arange(len(rows_UAR)), rows_UAR
    (state, _), metrics = jax.lax.scan(one, (state, jnp.zeros((), bool)), numbered)
    made = jnp.sum(metrics["updates"])
    means = jax.tree.map(lambda x: jnp.sum(x, axis=0) / made, metrics) | {"updates": made}
    state = state.replace(step=iteration + 1, extra={"kl_coefficient": coefficient})
    return state, means | {"first_log_ratio": jnp.sqrt(2 * metrics["approximate_kl"][0])}


def _abstract_rows(cfg: "PpoConfig") -> dict[str, jax.ShapeDtypeStruct]:
    N, L = cfg.rollout.response_length, cfg.rollout.prompt_length + cfg.rollout.response_length
    rows = dict.fromkeys(("tokens", "segment_ids", "positions"), (1, L)) | {"targets": (1, N)}
    return {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in rows.items()}


def _backbone(model: ModelConfig) -> set[str]:
    return set(abstract_params(architecture_of(model), model, ("clm",)))


def _placed(state: TrainState, networks: Networks, mesh: Mesh) -> Any:
    """A sharding for each leaf."""
    params = shardings(networks.rules, state.params, mesh)
    replicated = NamedSharding(mesh, P())
    return jax.tree.map(lambda _: replicated, state).replace(
        params=params, opt_state=like_params(state.opt_state, state.params, params, mesh)
    )
