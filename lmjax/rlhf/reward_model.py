"""A trained reward model as a reward: a pure function of texts, and the network that values begin as.

It is the backbone with a head named "reward", whose number at a text's last token is the score (`tasks.reward`). What
the best answers of its held-out rankings score on average is taken away: "shift" in RUN/result.json.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from lmjax.models import architecture_of
from lmjax.models.architecture import ModelConfig, portable
from lmjax.models.wrapped import Wrapped, init_wrapped, with_new_layers, wrap
from lmjax.parallel import shardings
from lmjax.train.checkpoint import find, restore_params
from lmjax.train.saved import describe_saved
from lmjax.types import Array, Batch, Outputs, Params

# (tokens int32 [B, L], is_response bool [B, L]) -> scores [B]. Texts stand flush left, prompt then answer with its end
# token, and padding behind. Pure; a jitted function of device arrays, or plain Python that calls np.asarray on them.
Reward = Callable[[Array, Array], Any]


def reward_model(path: str, dtype: str, mesh: Mesh) -> Reward:
    """The reward model of a run, its parameters kept as `dtype`. Raises UserError where there is none."""
    params = jax.tree.map(lambda x: x.astype(dtype), reward_params(path, mesh))
    result = find(path).parent.parent / "result.json"
    shift = json.loads(result.read_text())["figures"].get("shift", 0.0) if result.exists() else 0.0
    return scorer(portable(describe_saved(path)[0]), params, shift)


def scorer(cfg: ModelConfig, params: Params, shift: float) -> Reward:
    """The reward at each text's last token, less `shift`."""
    module = _module(cfg)

    @jax.jit
    def score(params: Params, tokens: Array, is_response: Array) -> Array:
        last_B = is_response.shape[1] - 1 - jnp.argmax(jnp.flip(is_response, 1), axis=1)
        segment_ids = (jnp.arange(tokens.shape[1])[None] <= last_B[:, None]).astype(jnp.int32)
        outputs: Any = module.apply({"params": params}, {"tokens": tokens, "segment_ids": segment_ids})
        return jnp.take_along_axis(outputs["rewards"], last_B[:, None], axis=1)[:, 0] - shift

    return lambda tokens, is_response: score(params, tokens, is_response)


def reward_params(path: str, mesh: Mesh) -> Params:
    """Its parameters in float32, on the mesh."""
    cfg = portable(describe_saved(path)[0])
    text = {name: jax.ShapeDtypeStruct((1, 2), jnp.int32) for name in ("tokens", "segment_ids")}
    drawn = jax.eval_shape(lambda key: init_wrapped(_module(cfg), text, key), jax.random.key(0))
    where = shardings(with_new_layers(architecture_of(cfg), cfg, (), drawn), drawn, mesh)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), drawn, where)
    return restore_params(epath.Path(path), placed)


def rewards_at(model: Wrapped, hidden: Array) -> Array:
    """float32 [...] of states [..., D], by the head of reward models; it computes in float32."""
    return model.dense("reward", hidden.astype(jnp.float32), 1, stddev=(hidden.shape[-1] + 1) ** -0.5)[..., 0]


def _module(cfg: ModelConfig) -> Wrapped:
    return wrap(architecture_of(cfg), cfg, (), _read)


def _read(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    return {"rewards": rewards_at(model, model.run(batch, train)["hidden"])}
