"""Words to vectors by their characters: convolutions of several widths, highways, a projection (Kim et al. 2016).

Letters: B rows, L words, C characters a word, E character size, F filters, D width of the result.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.models.layers import Dense, Embedding, Initializer, hold_batch, normal
from lmjax.ops.dense import dense
from lmjax.types import Array

CHARACTERS, PAD = 50, 261  # slots of a word, and the id that fills them (`data.words`)
ROWS = 261  # of the table: ids less 1, since 0 is no character


class Convolution(nn.Module):
    """Filters of one width over a word's characters, padding included, and the largest answer of each."""

    width: int
    count: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x_BLCE: Array) -> Array:
        C, E = x_BLCE.shape[2:]
        kernel = self.param("kernel", self.kernel_init, (1, self.width, E, self.count), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.count,), jnp.float32)
        windows = [x_BLCE[:, :, start : C - self.width + 1 + start] for start in range(self.width)]
        return jnp.max(dense(jnp.stack(windows, 3), kernel[0], bias, inputs=2), 2)


class CharacterCnn(nn.Module):
    """Words by their characters, int32 [B, L, C], to vectors [B, L, D]: convolutions, highways, a projection."""

    features: int
    character_size: int
    filters: tuple[tuple[int, int], ...]
    highways: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, characters_BLC: Array) -> Array:
        E, F = self.character_size, sum(count for _, count in self.filters)
        fan = normal(F**-0.5)
        missing = max(0, CHARACTERS - characters_BLC.shape[-1])
        characters_BLC = jnp.pad(characters_BLC, ((0, 0), (0, 0), (0, missing)), constant_values=PAD)
        table = Embedding(ROWS, E, _uniform(1.0), name="characters")
        x_BLCE = table(jnp.maximum(characters_BLC - 1, 0)) * (characters_BLC > 0)[..., None]
        x_BLCE = x_BLCE.astype(self.dtype)
        found = []
        for number, (width, count) in enumerate(self.filters):
            init = _uniform(0.05) if self.activation == "relu" else normal((width * E) ** -0.5)
            found.append(Convolution(width, count, init, name=f"convolution_{number}")(x_BLCE))
        x_BLF = {"relu": jax.nn.relu, "tanh": jnp.tanh}[self.activation](jnp.concatenate(found, -1))
        for number in range(self.highways):
            open_ = nn.initializers.constant(-2.0)
            gate_BLF = jax.nn.sigmoid(Dense((F,), (F,), fan, bias_init=open_, name=f"highway_{number}_carry")(x_BLF))
            new_BLF = jax.nn.relu(Dense((F,), (F,), fan, name=f"highway_{number}_transform")(x_BLF))
            x_BLF = gate_BLF * new_BLF + (1 - gate_BLF) * x_BLF
        return hold_batch(Dense((F,), (self.features,), fan, name="projection")(x_BLF))


def _uniform(limit: float) -> Initializer:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)
