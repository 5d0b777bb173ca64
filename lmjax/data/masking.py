"""Masking on whole batches, as TensorFlow ops: a pure function of the tokens and of each row's number.

BERT's rule, RoBERTa's and ERNIE's differ in which tokens they choose; what becomes of a chosen token is alike.
Shapes: N rows, L tokens a row, M predictions a row.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lmjax.data.store import (
    ENTITY_BEGINS,
    ENTITY_INSIDE,
    PHRASE_BEGINS,
    PHRASE_INSIDE,
    WORD_BEGINS,
    WORD_INSIDE,
)
from lmjax.data.tf import tensorflow
from lmjax.errors import UserError

LEVELS = {  # of units, the coarser the later: the bits of a token that begins one and of one inside
    "word": (WORD_BEGINS, WORD_INSIDE),
    "phrase": (PHRASE_BEGINS, PHRASE_INSIDE),
    "entity": (ENTITY_BEGINS, ENTITY_INSIDE),
}
UNITS = ("token", *LEVELS)
Unit = Literal["token", "word", "phrase", "entity"]
# Mean size in tokens of the unit that a token belongs to, on Chinese prose (docs/data.md): the variance of "ernie"'s
# count is that of single tokens times this.
UNIT_SIZE = {"token": 1, "word": 2, "phrase": 2, "entity": 3}
ORDER, FATE, WORD, PASS, MIXTURE, COUNT = range(1, 7)  # what a random number decides


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are predicted, and what stands in their place.

    `unit`: what is chosen as a whole; where a text has no entity, "entity" takes phrases, and where no phrase, words.
    `selection`, of a row of n tokens, special ones counted: "bert" takes round(rate n) tokens, at least 1; "roberta"
    floor(rate n + u), u uniform in [0, 1), of all positions, special tokens too (fairseq); "ernie" each unit by a coin
    of its own (PaddlePaddle/ERNIE).
    `mask` and `random`: shares of chosen tokens that become [MASK] or a random word; the rest stay. `fate`: each token
    of a unit draws which ("token": BERT, ERNIE's open code), or the unit does ("unit": ERNIE's paper).
    `random_from`: first id that a random word may have (0 in BERT, 1 in ERNIE, 4 in RoBERTa).
    `max_predictions` caps the tokens chosen in a row; 0 means what the selection can ask for, under "ernie" mean + 6
    standard deviations. `dynamic`: each pass over the data draws new masks.
    """

    unit: Unit = "token"
    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    max_predictions: int = 20
    dynamic: bool = True
    selection: Literal["bert", "roberta", "ernie"] = "bert"
    fate: Literal["token", "unit"] = "token"
    random_from: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or min(self.mask, self.random) < 0 or self.mask + self.random > 1:
            raise UserError(
                f"masking: rate {self.rate}, mask {self.mask} random {self.random} are shares, mask + random at most 1"
            )
        if self.max_predictions < 0:
            raise UserError(f"masking: max_predictions {self.max_predictions} must be at least 1, or 0 for no cap")
        if self.random_from < 0:
            raise UserError(f"masking: random_from {self.random_from} is no id; it is 0 or more")
        if self.selection == "roberta" and self.unit != "token":
            raise UserError(f"masking: selection 'roberta' takes single positions; unit '{self.unit}' needs another")

    def predictions(self, length: int) -> int:
        """M: how many positions of a row of `length` tokens may reach the output layer."""
        mean = self.rate * length
        deviation = math.sqrt(mean * (1 - self.rate) * UNIT_SIZE[self.unit])
        most = {"bert": max(1, round(mean)), "roberta": int(mean) + 1, "ernie": math.ceil(mean + 6 * deviation)}
        return min(self.max_predictions or most[self.selection], length)


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
    """Chooses tokens by the config's rule and hides them.

    "bert" is create_masked_lm_predictions of create_pretraining_data.py: units are taken in random order, and a unit
    that would overshoot is passed over. The same holds under "ernie" where the coins chose more than M tokens.

    Args:
      features: tokens int32 [N, L], flags [N, L] (0 = a special token), segment_ids int32 [N, L] (0 = padding), others.
    Returns:
      The features without flags, tokens masked, and mlm_positions int32 [N, M] (growing; 0 where unused), targets int32
      [N, M] (the original tokens) and loss_weights float32 [N, M] (0 where unused), M = cfg.predictions(L). Under
      "ernie" also float32 [N]: mlm_overflow, tokens that were chosen and found no room, and masking_level, the index
      of the config's unit in UNITS.
    """
    tf = tensorflow()
    features = dict(features)
    tokens, flags = features["tokens"], tf.cast(features.pop("flags"), tf.int32)
    if not cfg.dynamic:
        keys = keys._replace(data_pass=tf.zeros_like(keys.data_pass))
    positions, used, overflow = choose(flags, features["segment_ids"], keys, cfg)
    targets = tf.gather(tokens, positions, batch_dims=1)
    drawers = positions if cfg.fate == "token" else tf.gather(unit_numbers(flags, cfg.unit), positions, batch_dims=1)
    fate = tf.cast(random_bits(keys, drawers, FATE), tf.int64)
    word = tf.cast(random_bits(keys, positions, WORD), tf.int64)
    word = tf.bitwise.right_shift(word * (vocab_size - cfg.random_from), tf.constant(32, tf.int64))
    word = tf.cast(word, tf.int32) + cfg.random_from
    hidden = tf.where(fate < round((cfg.mask + cfg.random) * 2**32), word, targets)
    hidden = tf.where(fate < round(cfg.mask * 2**32), mask_id, hidden)
    # Differences are added, so that the unused entries, all at position 0, change nothing there.
    rows = tf.broadcast_to(tf.range(tf.shape(tokens)[0])[:, None], tf.shape(positions))
    changes = tf.where(used, hidden - targets, 0)
    features["tokens"] = tf.tensor_scatter_nd_add(tokens, tf.stack([rows, positions], axis=-1), changes)
    if cfg.selection == "ernie":
        level = tf.fill(tf.shape(overflow), float(UNITS.index(cfg.unit)))
        features |= {"mlm_overflow": tf.cast(overflow, tf.float32), "masking_level": level}
    return features | {"mlm_positions": positions, "targets": targets, "loss_weights": tf.cast(used, tf.float32)}


def choose(flags: Any, segment_ids: Any, keys: RowKeys, cfg: MaskingConfig) -> tuple[Any, Any, Any]:
    """Positions int32 [N, M] of the chosen tokens, growing; which of them are used, bool [N, M]; and how many tokens
    found no room, int32 [N]."""
    tf = tensorflow()
    length = flags.shape[1]
    size = cfg.predictions(length)
    if cfg.unit == "token":
        bits = _positive(random_bits(keys, tf.range(length)[None], ORDER))
        order = tf.where((segment_ids if cfg.selection == "roberta" else flags) != 0, bits, -1)
    else:
        order = unit_order(flags, keys, cfg.unit)
    if cfg.selection == "ernie":
        order = tf.where(tf.cast(order, tf.int64) < round(cfg.rate * 2**31), order, -1)
    wanted = _wanted(segment_ids, keys, cfg, size)
    if cfg.unit == "token":
        found, positions = tf.math.top_k(order, size)
        chosen = (found >= 0) & (tf.range(size) < wanted[:, None])
    else:
        found, positions = tf.math.top_k(order, length)
        chosen = _fill(found, wanted)
    left = tf.math.count_nonzero(order >= 0, axis=1) - tf.math.count_nonzero(chosen, axis=1)
    from_end = tf.math.top_k(tf.where(chosen, length - positions, 0), size).values
    used = from_end > 0
    return tf.where(used, length - from_end, 0), used, left


def unit_numbers(flags: Any, unit: str) -> Any:
    """A number for each token, int32 [N, L], that grows along the row and is equal within a unit.

    A token belongs to its coarsest unit up to the level of `unit`. A unit begins at each token without the "inside" bit
    of its level, and where the level changes. As in BERT's code, a piece that lost its word's beginning to truncation
    goes with the word before it, or stands alone where it is the first.
    """
    tf = tensorflow()
    maskable = flags != 0
    level, inside = tf.zeros_like(flags), tf.zeros_like(maskable)
    for number in range(1, UNITS.index(unit) + 1):
        begins_bit, inside_bit = LEVELS[UNITS[number]]
        here = flags & (begins_bit | inside_bit) != 0
        level, inside = tf.where(here, number, level), tf.where(here, flags & inside_bit != 0, inside)
    changes = tf.pad((level[:, 1:] != level[:, :-1]) & maskable[:, :-1], [[0, 0], [1, 0]])
    return tf.cumsum(tf.cast(maskable & (~inside | changes), tf.int32), axis=1)


def unit_order(flags: Any, keys: RowKeys, unit: str) -> Any:
    """A number for each token, int32 [N, L]: equal within a unit, uniform over units, -1 where nothing may be
    masked."""
    tf = tensorflow()
    number = unit_numbers(flags, unit)
    # The unit's number in the low bits: two units that drew the same high bits must not mingle.
    low = (1 << (int(flags.shape[1]) + 1).bit_length()) - 1
    return tf.where(flags != 0, _positive(random_bits(keys, number, ORDER)) & ~low | number, -1)


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


def _wanted(segment_ids: Any, keys: RowKeys, cfg: MaskingConfig, size: int) -> Any:
    """How many tokens of each row are to be chosen, int32 [N]; under "ernie" only the room counts."""
    tf = tensorflow()
    mean = tf.cast(tf.math.count_nonzero(segment_ids, axis=1), tf.float64) * cfg.rate
    if cfg.selection == "ernie":
        return tf.fill(tf.shape(mean), size)
    if cfg.selection == "roberta":
        lots = tf.cast(random_bits(keys, tf.zeros([1, 1], tf.int32), COUNT)[:, 0], tf.float64)
        return tf.minimum(tf.cast(tf.floor(mean + lots / 2**32), tf.int32), size)
    # Half to even in double precision, like Python's round in BERT's code.
    return tf.clip_by_value(tf.cast(tf.round(mean), tf.int32), 1, size)


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
