"""A task's own mixture of a model's layers (Peters et al. 2018, equation 1): gamma sum_j softmax(w)_j h_j.

Letters: N layers with the embeddings' first, J mixed layers, B rows, L words, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.types import Array


class LayerMix(nn.Module):
    """One vector a word from `hidden_states` [N, B, L, D].

    `layers`: which are mixed (none = all; 0 is the embeddings', -1 the last). `normalise`: weights through a softmax,
    times gamma, as released (both learned; a plain mean at first); without it the plain sum of alpha_j h_j, alpha = 1/J
    at first. `layer_norm` (do_layer_norm in the release): first shifts and scales each layer by one mean and variance
    over all real words and features of the batch.
    """

    layers: tuple[int, ...] = ()
    normalise: bool = True
    layer_norm: bool = False

    @nn.compact
    def __call__(self, hidden_states_NBLD: Array, mask_BL: Array | None = None) -> Array:
        """float32 [B, L, D]; `mask_BL` is 0 at padding, which only `layer_norm` asks for."""
        layers = self.layers or tuple(range(len(hidden_states_NBLD)))
        h_JBLD = hidden_states_NBLD[jnp.array(layers)].astype(jnp.float32)
        if self.layer_norm:
            h_JBLD = _normalised(h_JBLD, jnp.ones(h_JBLD.shape[1:3]) if mask_BL is None else mask_BL)
        if self.normalise:
            weight_J = self.param("weight", nn.initializers.zeros, (len(layers),), jnp.float32)
            gamma = self.param("gamma", nn.initializers.ones, (), jnp.float32)
            return gamma * jnp.einsum("j,jbld->bld", jax.nn.softmax(weight_J), h_JBLD)
        alpha_J = self.param("alpha", nn.initializers.constant(1 / len(layers)), (len(layers),), jnp.float32)
        return jnp.einsum("j,jbld->bld", alpha_J, h_JBLD)


def _normalised(h_JBLD: Array, mask_BL: Array) -> Array:
    real = mask_BL.astype(jnp.float32)[None, ..., None]
    axes, count = (1, 2, 3), jnp.sum(real) * h_JBLD.shape[-1]
    mean = jnp.sum(h_JBLD * real, axes, keepdims=True) / count
    variance = jnp.sum(jnp.square((h_JBLD - mean) * real), axes, keepdims=True) / count
    return (h_JBLD - mean) * jax.lax.rsqrt(variance + 1e-12)
