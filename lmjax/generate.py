"""Text from a causal model: one prefill of all prompts, then a token a step from a cache, each compiled once per shape.

Prompts of different lengths stand flush right: the left is padding (segment 0), and positions count real tokens only.
Letters: B batch, P prompt length, N new tokens, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import AttentionConfig, ModelConfig, check_use
from lmjax.models.gpt import empty_cache, flush_right
from lmjax.types import Array, Params


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    `temperature` divides the logits (0 = always the likeliest token); then `top_k` keeps the k likeliest (0 = all),
    then `top_p` the fewest likeliest whose probabilities reach p (Holtzman et al. 2020, section 3.1).
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(f"{self}: max_new_tokens must be >= 1, temperature and top_k >= 0, 0 < top_p <= 1")


def generate(
    cfg: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_id: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Continues token sequences; each ends before `eos_id`, or after `max_new_tokens`.

    A row's randomness depends on the seed and the row's number, never on its neighbours.

    Raises:
      UserError: a model that is not causal, an empty prompt, or one too long for the position table.
    """
    _check_room(cfg, prompts, sampling)
    tokens_BP, segment_ids_BP = flush_right(prompts)  # to a few widths, so that a program serves many lengths
    end = jnp.int32(-1 if eos_id is None else eos_id)
    new_BN, _ = continue_rows(cfg, sampling, end, params, tokens_BP, segment_ids_BP, jax.random.key(seed))
    return [row[: row.index(eos_id)] if eos_id in row else row for row in np.asarray(new_BN).tolist()]


def _check_room(cfg: ModelConfig, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
    check_use(cfg, architecture_of(cfg).heads, "generate")
    assert isinstance(cfg, AttentionConfig)
    if not prompts or not all(map(len, prompts)):
        raise UserError("a prompt is empty; give at least one token to continue")
    longest, rows = max(map(len, prompts)), cfg.max_position_embeddings
    if cfg.position_embedding == "learned" and longest + sampling.max_new_tokens > rows:
        needed = f"a prompt of {longest} tokens and {sampling.max_new_tokens} new ones"
        raise UserError(f"{needed} exceed the position table ({rows} rows); lower max_new_tokens, or cut the prompt")


def next_token_logits(logits_BV: Array, sampling: Sampling) -> Array:
    """The logits of the distribution that is drawn from, float32 [B, V]; -inf where top-k or top-p cut off.

    The temperature must not be 0. Tokens as likely as the last one kept are kept too.
    """
    logits_BV = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        smallest_B1 = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < smallest_B1, -jnp.inf, logits_BV)
    if sampling.top_p < 1:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        p_BV = jax.nn.softmax(sorted_BV, axis=-1)
        kept_BV = jnp.cumsum(p_BV, axis=-1) - p_BV < sampling.top_p  # what stands before it is not enough
        smallest_B1 = jnp.min(jnp.where(kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < smallest_B1, -jnp.inf, logits_BV)
    return logits_BV


def draw(logits_BV: Array, sampling: Sampling, keys_B: Array) -> Array:
    """One token for each row, int32 [B]; each row has its own key."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return jax.vmap(_categorical)(keys_B, next_token_logits(logits_BV, sampling))


def _categorical(key: Array, logits_V: Array) -> Array:
    """One of the softmax's tokens, int32: a group of about sqrt(V), then one of it. jax.random.categorical alone draws
    a random number for every token, which may take longer than the model."""
    size, of_group, of_token = math.isqrt(len(logits_V)), *jax.random.split(key)
    logits_GT = jnp.pad(logits_V, (0, -len(logits_V) % size), constant_values=-jnp.inf).reshape(-1, size)
    group = jax.random.categorical(of_group, jax.nn.logsumexp(logits_GT, axis=1))
    return (group * size + jax.random.categorical(of_token, logits_GT[group])).astype(jnp.int32)


def log_probability(logits_BV: Array, sampling: Sampling, token_B: Array) -> Array:
    """With which `draw` gives these tokens, float32 [B]; 0 where it always takes the likeliest."""
    if sampling.temperature == 0:
        return jnp.zeros(token_B.shape)
    logits_BV = next_token_logits(logits_BV, sampling)
    return jnp.take_along_axis(logits_BV, token_B[:, None], -1)[:, 0] - jax.nn.logsumexp(logits_BV, axis=-1)


@partial(jax.jit, static_argnums=(0, 1))
def continue_rows(
    cfg: AttentionConfig,
    sampling: Sampling,
    eos_id: Array,
    params: Params,
    tokens_BP: Array,
    segment_ids_BP: Array,
    key: Array,
    numbers_B: Array | None = None,
) -> tuple[Array, Array]:
    """The new tokens of rows that stand flush right, int32 [B, N], with `eos_id` from a row's end on (-1 = none); and
    the log-probabilities that they were drawn with, float32 [B, N], of no meaning behind a row's end.

    Row r of step n is drawn with a key of its own, folded from `key`, r and n; `numbers_B`: the rows' r, where they are
    not all that there are.
    """
    batch, width = tokens_BP.shape
    N = sampling.max_new_tokens
    row_keys_B = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch) if numbers_B is None else numbers_B)

    def choose(logits_BV: Array, step: Array | int, done_B: Array) -> tuple[Array, Array, Array]:
        keys_B = jax.vmap(lambda k: jax.random.fold_in(k, step))(row_keys_B)
        token_B = jnp.where(done_B, eos_id, draw(logits_BV, sampling, keys_B))
        return token_B, log_probability(logits_BV, sampling, token_B), done_B | (token_B == eos_id)

    lengths_B = jnp.sum(segment_ids_BP, axis=1)
    positions_BP = jnp.maximum(jnp.cumsum(segment_ids_BP, axis=1) - 1, 0)
    cache = empty_cache(cfg, batch, width + N)
    logits_BV, cache = _forward(cfg, params, tokens_BP, segment_ids_BP, positions_BP, cache)
    first_B, log_p_B, done_B = choose(logits_BV, 0, jnp.zeros(batch, bool))
    new_BN = jnp.full((batch, N), eos_id, jnp.int32).at[:, 0].set(first_B)
    log_p_BN = jnp.zeros((batch, N)).at[:, 0].set(log_p_B)

    def unfinished(state: tuple[Any, ...]) -> Array:
        step, *_, done_B, _ = state
        return (step < N) & ~jnp.all(done_B)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, token_B, new_BN, log_p_BN, done_B, cache = state
        positions_B1 = (lengths_B + step - 1)[:, None]
        real_B1 = jnp.ones((batch, 1), jnp.int32)
        logits_BV, cache = _forward(cfg, params, token_B[:, None], real_B1, positions_B1, cache)
        token_B, log_p_B, done_B = choose(logits_BV, step, done_B)
        new_BN, log_p_BN = new_BN.at[:, step].set(token_B), log_p_BN.at[:, step].set(log_p_B)
        return step + 1, token_B, new_BN, log_p_BN, done_B, cache

    return jax.lax.while_loop(unfinished, advance, (1, first_B, new_BN, log_p_BN, done_B, cache))[2:4]


def stream(
    cfg: ModelConfig,
    params: Params,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    eos_id: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """The tokens that `generate` gives for a single prompt, each as soon as it is drawn.

    Raises:
      UserError: as `generate`.
    """
    _check_room(cfg, [prompt], sampling)
    assert isinstance(cfg, AttentionConfig)
    count, room = sampling.max_new_tokens, max(cfg.max_position_embeddings, len(prompt) + sampling.max_new_tokens)
    multiple = max(32, room // 8)  # a few programs for prompts of all lengths, and one for all steps
    tokens, real = flush_right([prompt], multiple)
    positions = np.maximum(np.cumsum(real, axis=1, dtype=np.int32) - 1, 0)
    cache, key = empty_cache(cfg, 1, room + multiple), jax.random.fold_in(jax.random.key(seed), 0)
    for step in range(count):
        token_1, cache = _draw_next(
            cfg, sampling, params, tokens, real, positions, cache, jax.random.fold_in(key, step)
        )
        if (token := int(token_1[0])) == eos_id:
            return
        yield token
        tokens, real = token_1[:, None], np.ones((1, 1), np.int32)
        positions = np.array([[len(prompt) + step]], np.int32)


@partial(jax.jit, static_argnums=(0, 1), donate_argnames="cache")
def _draw_next(
    cfg: AttentionConfig,
    sampling: Sampling,
    params: Params,
    tokens: Array,
    segment_ids: Array,
    positions: Array,
    cache: Any,
    key: Array,
) -> tuple[Array, Any]:
    """The token behind those given [1, L], int32 [1], and the cache with these."""
    logits_1V, cache = _forward(cfg, params, tokens, segment_ids, positions, cache)
    return draw(logits_1V, sampling, key[None]), cache


def _forward(
    cfg: AttentionConfig, params: Params, tokens: Array, segment_ids: Array, positions: Array, cache: Any
) -> tuple[Array, Any]:
    """The logits behind the last of the tokens [B, L], float32 [B, V], and the cache with all of them."""
    features = {"tokens": tokens, "segment_ids": segment_ids, "positions": positions, "cache": cache}
    outputs = architecture_of(cfg).build(cfg, ("clm",)).apply({"params": params}, **features)
    logits = outputs["logits"]
    return logits.replace(hidden_BLD=logits.hidden_BLD[:, -1:]).dense()[:, 0], outputs["cache"]
