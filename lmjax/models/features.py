"""A frozen backbone's layers as features, and what learns from them: a mixture of the layers and biLSTMs on top.

The backbone runs without dropout and gets no gradient (Peters et al. 2018; Devlin et al. 2019, section 5.3).
Letters: N layers with the embeddings' first, B rows, L tokens, D width, H cells of a direction.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.errors import UserError
from lmjax.models.architecture import Architecture, ModelConfig
from lmjax.models.mix import LayerMix
from lmjax.ops.dense import dense
from lmjax.types import Array

CONCATENATED = 4
MIXTURES = ("mix", "alphas")


@dataclass(frozen=True)
class FeatureConfig:
    """What is learned from, "none" = the backbone itself is trained.

    `layers`: "last", "second_last", "concat4" (the last four side by side), "mix" (their sum, weighted by a softmax,
    times gamma) or "alphas" (their plain weighted sum), both learned. The mixtures are of all layers; of ELMo's the
    words' own vectors are one, a Transformer's embeddings are not. `layer_norm`: the mixed layers are first brought to
    one scale, by their mean and variance over the real words of a batch, see `LayerMix`. `lstm`: cells in a direction
    of each biLSTM on top.
    """

    layers: Literal["none", "last", "second_last", "mix", "alphas", "concat4"] = "none"
    layer_norm: bool = False
    lstm: tuple[int, ...] = ()

    @property
    def frozen(self) -> bool:
        return self.layers != "none"


def check_features(cfg: FeatureConfig, architecture: Architecture, model: ModelConfig) -> None:
    """Raises UserError for features that are not to be had of this model."""
    if cfg.lstm and not cfg.frozen:
        raise UserError("features.lstm stands on a frozen model; choose features.layers (last, mix, ...) too")
    if cfg.layer_norm and cfg.layers not in MIXTURES:
        raise UserError(f"features.layer_norm is of the layers {' and '.join(MIXTURES)}, not of {cfg.layers}")
    if cfg.layers == "concat4" and model.num_hidden_layers < CONCATENATED:
        raise UserError(f"features.layers concat4 takes four layers, and this model has {model.num_hidden_layers}")
    if cfg.frozen and "cache" in architecture.inputs:
        raise UserError("features are taken of encoders and ELMo; this model is causal")


def combined(cfg: FeatureConfig, architecture: Architecture, hidden_states_NBLD: Array, real_BL: Array) -> Array:
    """float32 [B, L, D], or [B, L, 4D] side by side; no gradient reaches the layers. Called by a compact module."""
    h_NBLD = jax.lax.stop_gradient(hidden_states_NBLD).astype(jnp.float32)
    if cfg.layers in MIXTURES:
        layers = tuple(range(0 if architecture.reads == "words" else 1, len(h_NBLD)))
        mix = LayerMix(layers, normalise=cfg.layers == "mix", layer_norm=cfg.layer_norm, name="mix")
        return mix(h_NBLD, real_BL)
    if cfg.layers == "concat4":
        return jnp.concatenate(list(h_NBLD[-CONCATENATED:]), -1)
    return h_NBLD[-1 if cfg.layers == "last" else -2]


class Lstm(nn.Module):
    """One direction (Hochreiter and Schmidhuber 1997, with forget gates, to which 1 is added)."""

    cells: int

    @nn.compact
    def __call__(self, x_BLD: Array, real_BL: Array) -> Array:
        """Outputs [B, L, H]; where `real_BL` is False the state stays."""
        D, H, glorot = x_BLD.shape[-1], self.cells, nn.initializers.glorot_uniform()
        kernel = self.param("kernel", glorot, (D + H, 4 * H), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (4 * H,), jnp.float32)

        def step(state: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            gates_BG, real_B1 = at
            i, j, f, o = jnp.split(gates_BG + dense(state[1], kernel[D:]), 4, axis=-1)
            cell = jax.nn.sigmoid(f + 1) * state[0] + jax.nn.sigmoid(i) * jnp.tanh(j)
            output = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (jnp.where(real_B1, cell, state[0]), jnp.where(real_B1, output, state[1])), output

        gates_LBG = jnp.moveaxis(dense(x_BLD, kernel[:D], bias), 1, 0)
        empty = jnp.zeros((x_BLD.shape[0], H), jnp.float32)
        _, outputs_LBH = jax.lax.scan(step, (empty, empty), (gates_LBG, real_BL.T[..., None]))
        return jnp.moveaxis(outputs_LBH, 0, 1)


class BiLstm(nn.Module):
    """Both directions side by side."""

    cells: int

    @nn.compact
    def __call__(self, x_BLD: Array, real_BL: Array) -> Array:
        """float32 [B, L, 2H] of float32 `x_BLD`."""
        forward = Lstm(self.cells, name="forward")(x_BLD, real_BL)
        backward = Lstm(self.cells, name="backward")(jnp.flip(x_BLD, 1), jnp.flip(real_BL, 1))
        return jnp.concatenate([forward, jnp.flip(backward, 1)], -1)
