"""BERT's masking on whole batches, as TensorFlow ops: a pure function of the tokens and of each row's number.

Shapes: N rows, L tokens a row, M predictions a row.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lmjax.data.store import ENTITY_INSIDE, PHRASE_INSIDE, WORD_INSIDE
from lmjax.data.tf import tensorflow
from lmjax.errors import UserError

INSIDE = {"word": WORD_INSIDE, "phrase": PHRASE_INSIDE, "entity": ENTITY_INSIDE}
ORDER, FATE, WORD, PASS, MIXTURE = range(1, 6)  # what a random number decides


@dataclass(frozen=True)
class MaskingConfig:
    """BERT's rates. `mask` and `random`: shares of chosen tokens that become [MASK] or a random word; the rest stay.

    `max_predictions` caps the tokens chosen in a row. `dynamic`: each pass over the data draws new masks.
    """

    unit: Literal["token", "word", "phrase", "entity"] = "token"
    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    max_predictions: int = 20
    dynamic: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or min(self.mask, self.random) < 0 or self.mask + self.random > 1:
            raise UserError(
                f"masking: rate {self.rate}, mask {self.mask} random {self.random} are shares, mask + random at most 1"
            )
        if self.max_predictions < 1:
            raise UserError(f"masking: max_predictions {self.max_predictions} must be at least 1")


class RowKeys(NamedTuple):
    """What a row's randomness depends on, int64 [N] each: the run's seed, the pass over the data, the row's number."""

    seed: Any
    data_pass: Any
    row: Any


def random_bits(keys: RowKeys, counters: Any, purpose: int) -> Any:
    """Uniform uint32 numbers [N, K] for `counters` (integers [N, K] or [1, K]): a counter hash, so that rows may be
    drawn in any order and by any process. Two counters of one row never share a number."""
    tf = tensorflow()
    row = tf.fill(tf.shape(keys.row), tf.constant(purpose, tf.uint32))
    for word in (keys.seed, keys.data_pass, keys.row, tf.bitwise.right_shift(keys.row, tf.constant(32, tf.int64))):
        row = _mix(row ^ _low(word))
    return _mix(row[:, None] ^ _mix(tf.cast(counters, tf.uint32)))


def mask_tokens(
    features: dict[str, Any], keys: RowKeys, cfg: MaskingConfig, mask_id: int, vocab_size: int
) -> dict[str, Any]:
    """Chooses tokens by BERT's rule (create_pretraining_data.py, create_masked_lm_predictions) and hides them.

    A row of n tokens, special ones included, gets min(max_predictions, max(1, round(rate n))) predictions: units are
    taken in random order, and a unit that would overshoot is passed over. Each token of a unit draws its own fate; a
    random word comes from the whole vocabulary.

    Args:
      features: tokens int32 [N, L], flags [N, L] (0 = never masked), segment_ids int32 [N, L] (0 = padding), others.
    Returns:
      The features without flags, tokens masked, and mlm_positions int32 [N, M] (growing; 0 where unused), targets int32
      [N, M] (the original tokens) and loss_weights float32 [N, M] (0 where unused), M = min(max_predictions, L).
    """
    tf = tensorflow()
    features = dict(features)
    tokens, flags = features["tokens"], tf.cast(features.pop("flags"), tf.int32)
    if not cfg.dynamic:
        keys = keys._replace(data_pass=tf.zeros_like(keys.data_pass))
    positions, used = choose(flags, _predictions(features["segment_ids"], cfg), keys, cfg)
    targets = tf.gather(tokens, positions, batch_dims=1)
    fate = tf.cast(random_bits(keys, positions, FATE), tf.int64)
    word = tf.cast(random_bits(keys, positions, WORD), tf.int64)
    word = tf.cast(tf.bitwise.right_shift(word * vocab_size, tf.constant(32, tf.int64)), tf.int32)
    hidden = tf.where(fate < round((cfg.mask + cfg.random) * 2**32), word, targets)
    hidden = tf.where(fate < round(cfg.mask * 2**32), mask_id, hidden)
    # Differences are added, so that the unused entries, all at position 0, change nothing there.
    rows = tf.broadcast_to(tf.range(tf.shape(tokens)[0])[:, None], tf.shape(positions))
    changes = tf.where(used, hidden - targets, 0)
    features["tokens"] = tf.tensor_scatter_nd_add(tokens, tf.stack([rows, positions], axis=-1), changes)
    return features | {"mlm_positions": positions, "targets": targets, "loss_weights": tf.cast(used, tf.float32)}


def choose(flags: Any, predictions: Any, keys: RowKeys, cfg: MaskingConfig) -> tuple[Any, Any]:
    """Positions int32 [N, M] of the chosen tokens, growing, and which of them are used, bool [N, M]."""
    tf = tensorflow()
    length = flags.shape[1]
    size = min(cfg.max_predictions, length)
    if cfg.unit == "token":
        bits = random_bits(keys, tf.range(length)[None], ORDER)
        order = tf.where(flags != 0, _positive(bits), -1)
        found, positions = tf.math.top_k(order, size)
        chosen = (found >= 0) & (tf.range(size) < predictions[:, None])
    else:
        found, positions = tf.math.top_k(unit_order(flags, keys, INSIDE[cfg.unit]), length)
        chosen = _fill(found, predictions)
    from_end = tf.math.top_k(tf.where(chosen, length - positions, 0), size).values
    used = from_end > 0
    return tf.where(used, length - from_end, 0), used


def unit_order(flags: Any, keys: RowKeys, inside: int) -> Any:
    """A number for each token, int32 [N, L]: equal within a unit, uniform over units, -1 where nothing may be masked.

    A unit begins at each token without the `inside` bit. As in BERT's code, a piece that lost its word's beginning to
    truncation goes with the word before it, or stands alone where it is the first.
    """
    tf = tensorflow()
    maskable = flags != 0
    unit = tf.cumsum(tf.cast(maskable & (flags & inside == 0), tf.int32), axis=1)
    # The unit's number in the low bits: two units that drew the same high bits must not mingle.
    low = (1 << (int(flags.shape[1]) + 1).bit_length()) - 1
    return tf.where(maskable, _positive(random_bits(keys, unit, ORDER)) & ~low | unit, -1)


def _fill(order: Any, predictions: Any) -> Any:
    """BERT's greedy rule over units sorted by `order` [N, L]: which tokens are taken, bool [N, L].

    A round takes all units up to the first that does not fit, then closes those larger than what is left. What is left
    only shrinks, so a closed unit would never have fitted; each round takes at least one unit.
    """
    tf = tensorflow()
    rows, length = tf.shape(order)[0], order.shape[1]
    starts = tf.concat([tf.ones([rows, 1], tf.bool), order[:, 1:] != order[:, :-1]], axis=1)
    unit = tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1 + tf.range(rows)[:, None] * length
    sizes = tf.gather(tf.math.bincount(tf.reshape(unit, [-1]), minlength=rows * length), unit)

    def step(taken: Any, fits: Any, left: Any) -> tuple[Any, Any, Any]:
        spent = tf.cumsum(tf.where(fits & starts, sizes, 0), axis=1)
        takes = fits & (spent <= left[:, None])
        left = left - tf.reduce_sum(tf.cast(takes, tf.int32), axis=1)
        return taken | takes, fits & ~takes & (sizes <= left[:, None]), left

    fits = (order >= 0) & (sizes <= predictions[:, None])
    return tf.while_loop(lambda taken, fits, left: tf.reduce_any(fits), step, [tf.zeros_like(fits), fits, predictions])[
        0
    ]


def _predictions(segment_ids: Any, cfg: MaskingConfig) -> Any:
    tf = tensorflow()
    tokens = tf.cast(tf.math.count_nonzero(segment_ids, axis=1), tf.float64)
    # Half to even in double precision, like Python's round in BERT's code.
    return tf.clip_by_value(tf.cast(tf.round(tokens * cfg.rate), tf.int32), 1, cfg.max_predictions)


def _mix(x: Any) -> Any:
    """lowbias32, a bijection of 32 bits whose every input bit flips each output bit about half the time (C. Wellons,
    "Prospecting for Hash Functions"); the constant added first keeps 0 from being a fixed point."""
    tf = tensorflow()
    x = x + tf.constant(0x9E3779B9, tf.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32))) * tf.constant(factor, tf.uint32)
    return x ^ tf.bitwise.right_shift(x, tf.constant(16, tf.uint32))


def _low(x: Any) -> Any:
    tf = tensorflow()
    return tf.cast(x & 0xFFFFFFFF, tf.uint32)


def _positive(bits: Any) -> Any:
    tf = tensorflow()
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(1, tf.uint32)), tf.int32)
