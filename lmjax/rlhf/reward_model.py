"""A trained reward model as PPO's reward: a pure function of texts on the run's mesh, and what values begin as."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lmjax.models import architecture_of
from lmjax.models.architecture import ModelConfig
from lmjax.models.wrapped import with_new_layers
from lmjax.parallel import shardings
from lmjax.rlhf.networks import frozen_copy
from lmjax.rlhf.scores import load_reward_model, reward_function
from lmjax.types import Array, Params

# (tokens int32 [B, L], is_response bool [B, L]) -> scores [B]. Texts stand flush left, prompt then answer with its end
# token, and padding behind. Pure; a jitted function of device arrays, or, where one process runs, plain Python that
# calls np.asarray on them.
Reward = Callable[[Array, Array], Any]


def reward_model(path: str, dtype: str, mesh: Mesh) -> Reward:
    """The reward model of a run, its backbone kept as `dtype` and its head in float32. Raises UserError where there is
    none."""
    cfg, params = reward_params(path, mesh)
    return scorer(cfg, {**frozen_copy(params, dtype), "reward": params["reward"]})


def scorer(cfg: ModelConfig, params: Params) -> Reward:
    """The reward at each text's last token."""
    rewards = jax.jit(reward_function(cfg))

    def score(tokens: Array, is_response: Array) -> Array:
        last_B = is_response.shape[1] - 1 - jnp.argmax(jnp.flip(is_response, 1), axis=1)
        return rewards(params, tokens, last_B)

    return score


def reward_params(path: str, mesh: Mesh) -> tuple[ModelConfig, Params]:
    """Its config, and its parameters in float32 on the mesh."""
    model = load_reward_model(path)
    rules = with_new_layers(architecture_of(model.config), model.config, (), model.params)
    # By way of the host: no process puts its own device's array on another's.
    return model.config, jax.device_put(jax.device_get(model.params), shardings(rules, model.params, mesh))
