"""Rollouts: prompts flush right, answers drawn behind them from the policy itself, all shapes static.

Every token is drawn from the whole distribution: a cut by top-k or top-p would make each ratio wrong by the mass that
was cut off, so there is no such option here, and the temperature divides the logits in every log-probability.
Letters: B rows, P prompt length, N tokens of an answer, L = P + N.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.errors import UserError
from lmjax.generate import Sampling, continue_rows
from lmjax.models.architecture import AttentionConfig, portable
from lmjax.parallel import BATCH_AXES, constrain
from lmjax.types import Array, Params


@dataclass(frozen=True)
class RolloutConfig:
    """Shapes and temperature.

    Attributes:
      prompt_length: room for a prompt, in tokens; longer ones are refused.
      response_length: tokens of an answer at most; it ends at its first end token.
      temperature: divides the logits, when answers are drawn and in all log-probabilities.
      truncate_after: end tokens among so many first ones do not count (Ziegler et al. 2019: 16 of 24).
      rows: answers that are drawn at once, of all devices; what a cache takes goes by it (0 = all).
      pad_id: what stands behind an answer's end, and is never seen by the networks (None: the tokenizer's padding, or
        where it has none the first token that is not the end).
    """

    prompt_length: int = 64
    response_length: int = 64
    temperature: float = 1.0
    truncate_after: int = 0
    rows: int = 0
    pad_id: int | None = None

    def __post_init__(self) -> None:
        if min(self.prompt_length, self.response_length) < 1 or self.temperature <= 0:
            raise UserError(f"{self}: lengths and temperature are positive")
        if min(self.truncate_after, self.rows) < 0:
            raise UserError(f"{self}: truncate_after and rows are not negative")
        if self.truncate_after >= self.response_length:
            raise UserError(
                f"truncate_after {self.truncate_after}: no end would count in answers of {self.response_length} tokens"
            )


def prompt_rows(prompts: Sequence[Sequence[int]], length: int) -> dict[str, np.ndarray]:
    """tokens and segment_ids int32 [prompts, length], flush right, of prompts of 1 to `length` tokens."""
    lengths = np.array([len(prompt) for prompt in prompts])
    tokens = np.array([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts], np.int32)
    return {"tokens": tokens, "segment_ids": (np.arange(length) >= length - lengths[:, None]).astype(np.int32)}


def drawn_prompts(count: int, batch: int, seed: int, iteration: int) -> np.ndarray:
    """Which prompts an iteration answers, int64 [batch], by (seed, iteration) alone: passes over all of them, one after
    the other, each in an order of its own."""

    def numbers() -> Iterator[int]:
        for number in range(iteration * batch, (iteration + 1) * batch):
            passed, place = divmod(number, count)
            if passed not in orders:
                orders[passed] = np.random.default_rng((seed, passed)).permutation(count)
            yield orders[passed][place]

    orders: dict[int, np.ndarray] = {}
    return np.fromiter(numbers(), np.int64, batch)


def roll_out(
    model: AttentionConfig,
    cfg: RolloutConfig,
    eos_id: int,
    pad_id: int,
    params: Params,
    prompts: dict[str, Array],
    key: Array,
) -> dict[str, Array]:
    """Draws an answer to each prompt, by the kernel that runs anywhere.

    Returns the rows of `answered`, and sampler_log_probs float32 [B, N], what the answers' tokens were drawn with.
    """
    sampling = Sampling(cfg.response_length, cfg.temperature)
    # Where early ends do not count, drawing goes on behind them.
    end = jnp.int32(-1 if cfg.truncate_after else eos_id)
    draw = partial(continue_rows, portable(model), sampling, end, params)
    rows = prompts["tokens"], prompts["segment_ids"], jnp.arange(len(prompts["tokens"]))
    if cfg.rows:
        cut = [constrain(x.reshape(-1, cfg.rows, *x.shape[1:]), None, BATCH_AXES) for x in rows]
        found = jax.lax.map(lambda some: draw(*some[:2], key, some[2]), cut)
    else:
        found = draw(*rows[:2], key)
    new_BN, log_probs_BN = (x.reshape(-1, cfg.response_length) for x in found)
    return answered(prompts, new_BN, eos_id, pad_id, cfg.truncate_after) | {"sampler_log_probs": log_probs_BN}


def answered(
    prompts: dict[str, Array], new_BN: Array, eos_id: int, pad_id: int, truncate_after: int = 0
) -> dict[str, Array]:
    """Prompts and what was drawn behind them, as rows of a batch.

    Returns tokens, segment_ids (0 = padding), positions int32 [B, L]; targets int32 [B, N], the answers, padded behind
    their end; loss_weights float32 [B, N], 1 on an answer's tokens with its end; ended bool [B].
    """
    N = new_BN.shape[1]
    is_end_BN = (new_BN == eos_id) & (jnp.arange(N)[None] >= truncate_after)
    ended_B = jnp.any(is_end_BN, axis=1)
    last_B = jnp.where(ended_B, jnp.argmax(is_end_BN, axis=1), N - 1)
    real_BN = jnp.arange(N)[None] <= last_B[:, None]
    targets_BN = jnp.where(real_BN, new_BN, pad_id).astype(jnp.int32)
    segment_ids_BL = jnp.concatenate([prompts["segment_ids"], real_BN.astype(jnp.int32)], axis=1)
    return {
        "tokens": jnp.concatenate([prompts["tokens"], targets_BN], axis=1),
        "segment_ids": segment_ids_BL,
        "positions": jnp.maximum(jnp.cumsum(segment_ids_BL, axis=1) - 1, 0).astype(jnp.int32),
        "targets": targets_BN,
        "loss_weights": real_BN.astype(jnp.float32),
        "ended": ended_B,
    }


def as_text(rows: dict[str, Array], pad_id: int) -> tuple[Array, Array]:
    """What a reward sees: (tokens int32 [B, L], is_response bool [B, L]), each text flush left from its prompt's first
    token, padding behind the answer."""
    L, N = rows["tokens"].shape[1], rows["targets"].shape[1]
    real_BL = rows["segment_ids"] > 0
    start_B1 = jnp.argmax(real_BL, axis=1, keepdims=True)
    place_BL = jnp.arange(L)[None] + start_B1
    is_response_BL = jnp.concatenate([jnp.zeros_like(real_BL[:, : L - N]), rows["loss_weights"] > 0], axis=1)

    def moved(x_BL: Array, filler: int | bool) -> Array:
        found_BL = jnp.take_along_axis(x_BL, jnp.minimum(place_BL, L - 1), axis=1)
        return jnp.where(place_BL < L, found_BL, filler)

    tokens_BL = jnp.where(real_BL, rows["tokens"], pad_id)
    return moved(tokens_BL, pad_id), moved(is_response_BL, False)
