"""ELMo (Peters et al. 2018): words read by their characters, then two language models, one in each direction.

Shape and order of operations are those of the released code (bilm-tf) and weights: gates lie in the file as input,
candidate, forget, output; 1 is added to the forget gate when it is used; a highway's "carry" gate weighs what was
transformed; the residual around the second layer carries the dropped input. Recurrences are one `lax.scan` a direction
and layer, with the inputs' products taken before the loop.

Letters as in `layers` and `characters`; H cells, G gates (4H).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.models.architecture import Architecture, ModelConfig
from lmjax.models.characters import CHARACTERS, ROWS, CharacterCnn
from lmjax.models.layers import Dropout, hold_batch, normal, padded, rematerialised
from lmjax.models.weights import Weight
from lmjax.ops.dense import dense
from lmjax.ops.vocabulary import VocabLogits
from lmjax.types import Array, Outputs

DIRECTIONS = ("forward", "backward")
RELEASED = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


@dataclass(frozen=True, kw_only=True)
class ElmoConfig(ModelConfig):
    """Shape of an ELMo; the defaults are the original's.

    `vocab_size` is of the words that are predicted; `hidden_size` a direction's width, `intermediate_size` its cells.
    `filters`: (width, count) pairs. A clip of 0 means none. `unroll` is of the scan over words.
    """

    vocab_size: int = 793_471
    hidden_size: int = 512
    num_hidden_layers: int = 2
    intermediate_size: int = 4096
    character_size: int = 16
    filters: tuple[tuple[int, int], ...] = RELEASED
    num_highways: int = 2
    activation: Literal["relu", "tanh"] = "relu"
    cell_clip: float = 3.0
    projection_clip: float = 3.0
    skip_connections: bool = True

    @property
    def num_filters(self) -> int:
        return sum(count for _, count in self.filters)


class Lstm(nn.Module):
    """One layer in one direction: an LSTM whose cells are clipped and whose output is projected, clipped and fed back.

    `keep_BL` is 0 where a word must not see the state before it, `real_BL` False where there is no word and the state
    stays. The state is (cell float32 [B, H], output [B, D]). Returns outputs [B, L, D] and the last state.
    """

    cfg: ElmoConfig

    @nn.compact
    def __call__(
        self, x_BLD: Array, keep_BL: Array, real_BL: Array, state: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        cfg, D, H = self.cfg, self.cfg.hidden_size, self.cfg.intermediate_size
        glorot = nn.initializers.glorot_uniform()
        kernel = self.param("kernel", glorot, (2 * D, 4 * H), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (4 * H,), jnp.float32)
        projection = self.param("projection_kernel", glorot, (H, D), jnp.float32)
        gates_BLG = dense(x_BLD, kernel[:D], bias)

        def step(state: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
            gates_BG, keep_B1, real_B1 = at
            cell_BH, output_BD = state[0] * keep_B1, state[1] * keep_B1.astype(state[1].dtype)
            gates_BG = gates_BG + dense(output_BD, kernel[D:])
            i, j, f, o = jnp.split(gates_BG.astype(jnp.float32), 4, axis=-1)
            new_BH = _clip(jax.nn.sigmoid(f + 1) * cell_BH + jax.nn.sigmoid(i) * jnp.tanh(j), cfg.cell_clip)
            mixed_BH = (jax.nn.sigmoid(o) * jnp.tanh(new_BH)).astype(x_BLD.dtype)
            new_BD = _clip(dense(mixed_BH, projection), cfg.projection_clip)
            return (jnp.where(real_B1, new_BH, state[0]), jnp.where(real_B1, new_BD, state[1])), new_BD

        by_time = (jnp.moveaxis(gates_BLG, 1, 0), keep_BL.T[..., None], real_BL.T[..., None])
        state, outputs_LBD = jax.lax.scan(step, state, by_time, unroll=min(cfg.unroll, x_BLD.shape[1]))
        return jnp.moveaxis(outputs_LBD, 0, 1), state


class OutputTable(nn.Module):
    """Logits over the words of the vocabulary, for both directions."""

    cfg: ElmoConfig

    def setup(self) -> None:
        rows, D = self.cfg.padded_vocab_size, self.cfg.hidden_size
        self.embedding = self.param("embedding", padded(normal(D**-0.5), self.cfg.vocab_size), (rows, D), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (rows,), jnp.float32)

    def __call__(self, hidden_BLD: Array) -> VocabLogits:
        return VocabLogits(hidden_BLD, self.embedding, self.bias, self.cfg.vocab_size)


class Elmo(nn.Module):
    """Both directions; with head "bilm" also their logits, by one output table."""

    cfg: ElmoConfig
    heads: tuple[str, ...]

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        backward_tokens: Array | None = None,
        carry: Mapping[str, Array] | None = None,
        *,
        train: bool = False,
        collect: bool = False,
    ) -> Outputs:
        """Reads words spelled as `data.words.spell` does.

        Args:
          tokens: int32 [B, L, C], 0 where there is no character; fewer than 50 slots are padded, and [B, L] is a
            character a word.
          segment_ids: int32 [B, L]; each word sees its own segment, 0 is padding, over which a state is kept.
          backward_tokens: the same shape, what the backward direction reads, in its own order; its outputs then keep
            that order. Without it, it reads `tokens` from their end.
          carry: states that each direction begins with, see `empty_carry`.

        Returns hidden [B, L, 2D], forward then backward; forward_logits and backward_logits (VocabLogits) with head
        "bilm"; the new carry, if one was given; with `collect`, hidden_states [N + 1, B, L, 2D], of which the first is
        the word's vector twice; while training, "sampling_key".
        """
        cfg, B, L = self.cfg, *tokens.shape[:2]
        cnn = rematerialised(CharacterCnn, cfg)(
            cfg.hidden_size, cfg.character_size, cfg.filters, cfg.num_highways, cfg.activation, cfg.dtype, name="cnn"
        )
        spelled = tokens if tokens.ndim == 3 else tokens[..., None]
        x_BLD = cnn(spelled)
        segments = jnp.ones((B, L), jnp.int32) if segment_ids is None else segment_ids
        if backward_tokens is None:
            reading = ((x_BLD, segments), (jnp.flip(x_BLD, 1), jnp.flip(segments, 1)))
        else:
            reading = ((x_BLD, segments), (cnn(backward_tokens), segments))
        state = empty_carry(cfg, B) if carry is None else carry
        layers, carries = [], []
        for number, (direction, (x, segment)) in enumerate(zip(DIRECTIONS, reading, strict=True)):
            before = {name: value[:, number] for name, value in state.items()}
            states, after = self._direction(direction, x, segment, before, train)
            turned = number == 1 and backward_tokens is None
            layers.append([jnp.flip(s, 1) if turned else s for s in states])
            carries.append(after)
        both = [jnp.concatenate(pair, -1) for pair in zip(*layers, strict=True)]
        outputs: dict[str, Any] = {"hidden": both[-1], **({"hidden_states": jnp.stack(both)} if collect else {})}
        if carry is not None:
            outputs["carry"] = {name: jnp.stack([after[name] for after in carries], 1) for name in carry}
        if train:
            outputs["sampling_key"] = self.make_rng("dropout")
        if "bilm" in self.heads:
            output = OutputTable(cfg, name="bilm")
            for direction, states in zip(DIRECTIONS, layers, strict=True):
                outputs[f"{direction}_logits"] = output(Dropout(cfg.hidden_dropout, train)(states[-1]))
        return outputs

    def _direction(
        self, direction: str, x_BLD: Array, segments_BL: Array, before: Mapping[str, Array], train: bool
    ) -> tuple[list[Array], dict[str, Array]]:
        """The states of layers 0 to N, each [B, L, D] in reading order, and the carry [B, N, ...] after them."""
        cfg, real_BL = self.cfg, segments_BL > 0
        keep_BL, states, ends = _same_text(segments_BL), [x_BLD], []
        for layer in range(cfg.num_hidden_layers):
            read_BLD = Dropout(cfg.hidden_dropout, train)(states[-1])
            lstm = rematerialised(Lstm, cfg)(cfg, name=f"{direction}_{layer}")
            y_BLD, end = lstm(read_BLD, keep_BL, real_BL, (before["cell"][:, layer], before["output"][:, layer]))
            states.append(hold_batch(y_BLD + read_BLD if cfg.skip_connections and layer else y_BLD))
            ends.append(end)
        cells, outputs = zip(*ends, strict=True)
        return states, {"cell": jnp.stack(cells, 1), "output": jnp.stack(outputs, 1)}


def empty_carry(cfg: ElmoConfig, batch: int) -> dict[str, Array]:
    """The state before any word: cell float32 [B, 2, N, H] and output [B, 2, N, D], axis 1 the direction."""
    shape = batch, 2, cfg.num_hidden_layers
    return {
        "cell": jnp.zeros((*shape, cfg.intermediate_size), jnp.float32),
        "output": jnp.zeros((*shape, cfg.hidden_size), cfg.dtype),
    }


def _same_text(segments_BL: Array) -> Array:
    """float32, 0 where a word's segment is not that of the last word read, 1 elsewhere and where none was read."""
    latest_BL = jax.lax.cummax(jnp.where(segments_BL > 0, jnp.arange(segments_BL.shape[1])[None], -1), axis=1)
    before_BL = jnp.pad(latest_BL[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    previous_BL = jnp.take_along_axis(segments_BL, jnp.maximum(before_BL, 0), axis=1)
    return ((before_BL < 0) | (previous_BL == segments_BL)).astype(jnp.float32)


def _clip(x: Array, limit: float) -> Array:
    return jnp.clip(x, -limit, limit) if limit else x


SHARDING = (
    (r"cnn/(characters/embedding|convolution_\d+/(kernel|bias))", P()),
    (r"cnn/highway_\d+_(carry|transform)/kernel", P("fsdp", "tensor")),
    (r"cnn/highway_\d+_(carry|transform)/bias", P("tensor")),
    (r"cnn/projection/kernel", P("tensor", "fsdp")),
    (r"cnn/projection/bias", P()),
    (r"(forward|backward)_\d+/kernel", P("fsdp", "tensor")),
    (r"(forward|backward)_\d+/bias", P("tensor")),
    (r"(forward|backward)_\d+/projection_kernel", P("tensor", "fsdp")),
    (r"bilm/embedding", P(("tensor", "fsdp"), None)),
    (r"bilm/bias", P(("tensor", "fsdp"))),
)


def weights(cfg: ElmoConfig) -> list[Weight]:
    """Names as in the released HDF5 files. These hold no output layer; ours stands under its name in bilm-tf."""
    rows = [
        Weight("char_embed", ("cnn/characters/embedding",), "table"),
        Weight("CNN_proj/W_proj", ("cnn/projection/kernel",), "conv1d"),
        Weight("CNN_proj/b_proj", ("cnn/projection/bias",), "vector"),
        Weight("softmax/W", ("bilm/embedding",), "table", vocabulary=True),
        Weight("softmax/b", ("bilm/bias",), "vector", vocabulary=True),
    ]
    for i in range(len(cfg.filters)):
        rows.append(Weight(f"CNN/W_cnn_{i}", (f"cnn/convolution_{i}/kernel",), "table"))
        rows.append(Weight(f"CNN/b_cnn_{i}", (f"cnn/convolution_{i}/bias",), "vector"))
    for i in range(cfg.num_highways):
        for gate in ("carry", "transform"):
            rows.append(Weight(f"CNN_high_{i}/W_{gate}", (f"cnn/highway_{i}_{gate}/kernel",), "conv1d"))
            rows.append(Weight(f"CNN_high_{i}/b_{gate}", (f"cnn/highway_{i}_{gate}/bias",), "vector"))
    for d, direction in enumerate(DIRECTIONS):
        for i in range(cfg.num_hidden_layers):
            cell, path = f"RNN_{d}/RNN/MultiRNNCell/Cell{i}/LSTMCell", f"{direction}_{i}"
            rows.append(Weight(f"{cell}/W_0", (f"{path}/kernel",), "conv1d"))
            rows.append(Weight(f"{cell}/B", (f"{path}/bias",), "vector"))
            rows.append(Weight(f"{cell}/W_P_0", (f"{path}/projection_kernel",), "conv1d"))
    return rows


# options.json: section and key -> ours
_OPTIONS = {
    ("char_cnn", "activation"): "activation",
    ("char_cnn", "filters"): "filters",
    ("char_cnn", "n_highway"): "num_highways",
    ("lstm", "cell_clip"): "cell_clip",
    ("lstm", "dim"): "intermediate_size",
    ("lstm", "n_layers"): "num_hidden_layers",
    ("lstm", "proj_clip"): "projection_clip",
    ("lstm", "projection_dim"): "hidden_size",
    ("lstm", "use_skip_connections"): "skip_connections",
}
_ABSENT = {"num_highways": 0, "cell_clip": 0.0, "projection_clip": 0.0, "skip_connections": False}


def to_released(cfg: ElmoConfig, heads: tuple[str, ...]) -> dict[str, Any]:
    """The released options.json."""
    options: dict[str, Any] = {
        "bidirectional": True,
        "dropout": cfg.hidden_dropout,
        "n_tokens_vocab": cfg.vocab_size,
        "char_cnn": {
            "embedding": {"dim": cfg.character_size},
            "max_characters_per_token": CHARACTERS,
            "n_characters": ROWS + 1,
        },
        "lstm": {},
    }
    for (section, key), ours in _OPTIONS.items():
        options[section][key] = getattr(cfg, ours)
    return options


def from_released(options: Mapping[str, Any]) -> ElmoConfig:
    """The config of a released options.json. Raises UserError for one without characters or of another word length."""
    try:
        shape: dict[str, Any] = {ours: options[a].get(b) for (a, b), ours in _OPTIONS.items()}
        slots, size = options["char_cnn"]["max_characters_per_token"], options["char_cnn"]["embedding"]["dim"]
    except (KeyError, AttributeError) as error:
        raise UserError(f"options.json lacks {error}; is it the file of a character ELMo?") from None
    shape = {key: _ABSENT.get(key) if value is None else value for key, value in shape.items()}
    if absent := sorted(key for key, value in shape.items() if value is None):
        raise UserError(f"options.json does not say {absent[0]}")
    if slots != CHARACTERS:
        raise UserError(f"options.json: words of {slots} characters; lmjax's ELMo reads {CHARACTERS}")
    shape["filters"] = tuple((width, count) for width, count in shape["filters"])
    shape |= {key: float(shape[key]) for key in ("cell_clip", "projection_clip")}
    rest = {"n_tokens_vocab": "vocab_size", "dropout": "hidden_dropout"}
    shape |= {ours: options[theirs] for theirs, ours in rest.items() if theirs in options}
    return ElmoConfig(character_size=size, **shape)


def flops(cfg: ElmoConfig, length: int, heads: tuple[str, ...], predictions: int) -> float:
    """Forward operations of one row, each word read once: 2 a weight in products, a filter's at every place in a word.

    In training the words of the backward direction go through the convolutions too, which this leaves out.
    """
    D, H, F, E = cfg.hidden_size, cfg.intermediate_size, cfg.num_filters, cfg.character_size
    convolutions = sum(2 * width * E * count * (CHARACTERS - width + 1) for width, count in cfg.filters)
    highways = cfg.num_highways * 4 * F * F
    lstms = 2 * cfg.num_hidden_layers * 2 * (2 * D * 4 * H + H * D)
    head = 2 * 2 * predictions * D * cfg.padded_vocab_size if "bilm" in heads else 0
    return length * (convolutions + highways + 2 * F * D + lstms) + head


PRESETS = {
    "elmo-small": ElmoConfig(intermediate_size=1024, hidden_size=128, num_highways=1),
    "elmo-medium": ElmoConfig(intermediate_size=2048, hidden_size=256, num_highways=1),
    "elmo-original": ElmoConfig(),
}

ARCHITECTURE = Architecture(
    config=ElmoConfig,
    build=Elmo,
    heads=("bilm",),
    inputs=("tokens", "segment_ids", "backward_tokens", "carry"),
    sharding=SHARDING,
    weights=weights,
    to_hf=to_released,
    from_hf=from_released,
    hf_prefix="",
    hf_tied={},
    hf_ignored=(),
    hf_fixed={},
    flops=flops,
    presets=PRESETS,
    carry=empty_carry,
    reads="words",
    files="hdf5",
)
