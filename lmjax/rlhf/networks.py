"""The networks of PPO: a policy with values, and the frozen reference that it may not leave.

Values come from a new head on the policy's own trunk, which begins at zero (Ziegler et al. 2019), or from a network of
its own that begins as a copy of the reward model (Stiennon et al. 2020; Ouyang et al. 2022). The parameters are one
tree with the policy's names; a network for values lies beside them under `value_network`. Nothing here drops out.
Letters: B rows, L tokens of prompt and answer, N tokens of an answer, D hidden size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.models import architecture_of
from lmjax.models.architecture import ModelConfig, init_params
from lmjax.models.wrapped import Wrapped, init_wrapped, with_new_layers, wrap
from lmjax.parallel import Rules
from lmjax.tasks.reward import every_reward
from lmjax.types import Array, Batch, Outputs, Params

NETWORK = "value_network"


@dataclass(frozen=True)
class Networks:
    """What computes; the parameters are passed in.

    Attributes:
      draw: key -> fresh parameters.
      apply: (parameters, batch, key) -> logits (VocabLogits) and values float32 [B, N] of the states before each token
        of an answer; and, where the batch has text_tokens, "text", the outputs on them.
      log_probs: (the policy's parameters alone, batch, temperature) -> float32 [B, N], of the reference.
      rules: where the parameters lie on a mesh.
    """

    draw: Callable[[Array], Params]
    apply: Callable[[Params, Batch, Array | None], Outputs]
    log_probs: Callable[[Params, Batch, float], Array]
    rules: Rules


def make_networks(
    cfg: ModelConfig, critic: ModelConfig | None, features: Mapping[str, jax.ShapeDtypeStruct]
) -> Networks:
    """The networks of a policy `cfg`.

    Args:
      critic: the shape of a network for values; None = a head on the policy.
      features: a batch's rows without their values.
    """
    architecture, heads = architecture_of(cfg), ("clm",)
    policy = wrap(architecture, cfg, heads, _policy_with_head if critic is None else _policy)
    network = None if critic is None else wrap(architecture_of(critic), critic, (), _values)
    backbone = architecture.build(cfg, heads)

    def draw(key: Array) -> Params:
        if network is None:
            return init_wrapped(policy, features, key)
        own = init_wrapped(network, features, jax.random.fold_in(key, 1))
        return {**init_params(architecture, cfg, heads, key), NETWORK: own}

    def apply(params: Params, batch: Batch, key: Array | None) -> Outputs:
        own = {name: part for name, part in params.items() if name != NETWORK}
        found: Any = policy.apply({"params": own}, batch)
        outputs: dict[str, Any] = dict(found)
        if network is not None:
            values: Any = network.apply({"params": params[NETWORK]}, batch)
            outputs |= values
        if "text_tokens" in batch:
            text = {k: batch[f"text_{k}"] for k in ("tokens", "segment_ids") if f"text_{k}" in batch}
            outputs["text"] = backbone.apply({"params": own}, **text)
        return outputs

    def log_probs(params: Params, batch: Batch, temperature: float) -> Array:
        outputs: Any = wrap(architecture, cfg, heads, _policy).apply({"params": params}, batch)
        return outputs["logits"].statistics(batch["targets"], temperature=temperature).target_log_probability

    drawn = jax.eval_shape(draw, jax.random.key(0))
    rules = with_new_layers(architecture, cfg, heads, {k: v for k, v in drawn.items() if k != NETWORK})
    if critic is not None:
        beside = with_new_layers(architecture_of(critic), critic, (), drawn[NETWORK])
        rules = (*rules, *((rf"{NETWORK}/(?:{regex})", spec) for regex, spec in beside))
    return Networks(draw, apply, log_probs, rules)


def frozen_copy(params: Params, dtype: str) -> Params:
    """Parameters that are read only, at a smaller precision."""
    return jax.tree.map(lambda x: x.astype(dtype), params)


def _before_answer(x_BL: Array, batch: Batch) -> Array:
    """What belongs to the states that each token of the answer is drawn from [B, N, ...]: one place before it."""
    N = batch["targets"].shape[1]
    return x_BL[:, -N - 1 : -1]


def _policy(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    outputs = model.run(batch, train)
    return {"logits": outputs["logits"].replace(hidden_BLD=_before_answer(outputs["hidden"], batch))}


def _policy_with_head(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    outputs = model.run(batch, train)
    hidden_BND = _before_answer(outputs["hidden"], batch)
    values_BN = model.dense("value", hidden_BND.astype(jnp.float32), 1, stddev=0.0)[..., 0]
    return {"logits": outputs["logits"].replace(hidden_BLD=hidden_BND), "values": values_BN}


def _values(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    return {"values": _before_answer(every_reward(model, batch, train)["rewards"], batch)}
