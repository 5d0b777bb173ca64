"""Beam search: what is given is read once, then a token a step for all beams, in one compiled program. With an
encoder-decoder that is a source to be translated, with a decoder a prompt to be continued.

The search is transformers' (its `generate` with `num_beams`): of the 2K best continuations of a row's K beams (more
where several tokens end a text), those that end and are among the best K are finished; the best K others go on. The
token that starts a translation, which is padding, is never chosen (`bad_words_ids` of Marian's published models, whose
padding has logit 0). Letters: B rows, K beams, S source length, P prompt length, T most tokens of a text, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.errors import UserError
from lmjax.models import architecture_of, gpt
from lmjax.models.architecture import AttentionConfig, EncoderDecoderConfig, ModelConfig, check, check_use
from lmjax.models.gpt import flush_right
from lmjax.models.transformer import empty_cache
from lmjax.types import Array, Params

SOURCE_MULTIPLE = 16  # sources are padded to multiples of it, so that a program serves many lengths
NEVER = -1e9  # the score of what must not be chosen
PADDING = -1  # behind a continuation


@dataclass(frozen=True)
class Beam:
    """How texts are searched.

    A text of n tokens, its end included, scores its log-probability over a length penalty: "gnmt"
    ((5 + n) / 6)^alpha (Wu et al. 2016, eq. 14; Vaswani et al. 2017 have alpha 0.6), "power" n^alpha (transformers'
    `length_penalty`). Each ends, at the latest, `max_extra` tokens beyond its source's padded length, a continuation
    after so many tokens.

    `early_stopping`, when a row with K finished translations is done: "first_finished" at once (transformers' True),
    "heuristic" when its best open beam would score less if it ended now (False), "never" only when that could not
    score more at any length ("never").
    """

    beams: int = 4
    length_penalty: Literal["gnmt", "power"] = "gnmt"
    alpha: float = 0.6
    early_stopping: Literal["first_finished", "heuristic", "never"] = "heuristic"
    max_extra: int = 50

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_extra < 1:
            raise UserError(f"{self}: beams and max_extra must be at least 1")

    def score(self, log_p: Array, length: Array | int) -> Array:
        """The score of texts of `length` tokens."""
        penalty = (5 + length) / 6 if self.length_penalty == "gnmt" else jnp.asarray(length, jnp.float32)
        return log_p / penalty**self.alpha


class Found(NamedTuple):
    """Tokens without the one that ends them, and the score."""

    tokens: list[int]
    score: float


def translate(
    cfg: ModelConfig, params: Params, sources: Sequence[Sequence[int]], beam: Beam, batch_size: int = 32
) -> list[Found]:
    """The best translation of each source (token ids that close with the end token).

    Sources of like length are searched together; a row's result does not depend on its neighbours.

    Raises:
      UserError: a model without an encoder, an empty source, or one too long for the position table.
    """
    check_use(cfg, architecture_of(cfg).heads, "translate")
    assert isinstance(cfg, EncoderDecoderConfig)
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} must be at least 1")
    if not all(sources):
        raise UserError("a source is empty; give at least its end token")
    found: dict[int, Found] = {}
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = -(-len(sources[chosen[-1]]) // SOURCE_MULTIPLE) * SOURCE_MULTIPLE
        check(cfg, width + beam.max_extra)
        rows = [list(sources[i]) for i in chosen] + [[0]] * (batch_size - len(chosen))  # one shape for all batches
        tokens_BS = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
        segment_ids_BS = (np.arange(width) < np.array([len(row) for row in rows])[:, None]).astype(np.int32)
        best_BT, score_B = jax.device_get(search(cfg, beam, width + beam.max_extra, params, tokens_BS, segment_ids_BS))
        for i, row, score in zip(chosen, best_BT[:, 0].tolist(), score_B[:, 0].tolist(), strict=False):
            found[i] = Found(_until(row, [cfg.eos_token_id]), score)
    return [found[i] for i in range(len(sources))]


def continue_texts(
    cfg: ModelConfig, params: Params, prompts: Sequence[Sequence[int]], beam: Beam, ends: Sequence[int]
) -> list[Found]:
    """The best continuation of each prompt; any token of `ends` ends one.

    Raises:
      UserError: a model that is not causal, an empty prompt, or one too long for the position table.
    """
    check_use(cfg, architecture_of(cfg).heads, "generate")
    assert isinstance(cfg, AttentionConfig)
    if not prompts or not all(prompts):
        raise UserError("a prompt is empty; give at least one token to continue")
    check(cfg, max(map(len, prompts)) + beam.max_extra)
    found = jax.device_get(continuations(cfg, beam, tuple(ends), params, *flush_right(prompts)))
    rows = zip(*(x[:, 0].tolist() for x in found), strict=True)
    return [Found(_until(tokens, [*ends, PADDING]), score) for tokens, score in rows]


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]


class _Search(NamedTuple):
    """`log_p` [B, K] and `open` [B, K, T] of beams that go on; `scores` and `done` of finished ones, and which of
    these exist, bool [B, K]; which rows may still improve, bool [B]; `next_log_p` [B, K, V] of the next token."""

    length: Array
    log_p: Array
    open: Array
    scores: Array
    done: Array
    exists: Array
    improves: Array
    next_log_p: Array
    cache: Any


@partial(jax.jit, static_argnums=(0, 1, 2))
def search(
    cfg: EncoderDecoderConfig,
    beam: Beam,
    longest: int,
    params: Params,
    encoder_tokens_BS: Array,
    encoder_segment_ids_BS: Array,
) -> tuple[Array, Array]:
    """The K best translations of each row, int32 [B, K, T], the end token from their ends on, and their scores float32
    [B, K], best first. T is `longest`."""
    B, S = encoder_tokens_BS.shape
    heads = tuple(h for h in architecture_of(cfg).heads if h != "output_bias" or "output_bias" in params)
    model = architecture_of(cfg).build(cfg, heads)

    def forward(tokens: Array, position: Array | int, cache: Any, **encoder: Array) -> tuple[Array, Any]:
        positions = jnp.full_like(tokens, position)
        outputs = model.apply({"params": params}, tokens=tokens, positions=positions, cache=cache, **encoder)
        log_p = jax.nn.log_softmax(outputs["logits"].dense()[:, 0])
        return log_p.at[:, cfg.decoder_start_token_id].set(NEVER), outputs["cache"]

    start_B1 = jnp.full((B, 1), cfg.decoder_start_token_id, jnp.int32)
    encoder = {"encoder_tokens": encoder_tokens_BS, "encoder_segment_ids": encoder_segment_ids_BS}
    begun = forward(start_B1, 0, empty_cache(cfg, B, longest, S), **encoder)
    return _search(beam, longest, (cfg.eos_token_id,), cfg.eos_token_id, forward, *begun)


@partial(jax.jit, static_argnums=(0, 1, 2))
def continuations(
    cfg: AttentionConfig,
    beam: Beam,
    ends: tuple[int, ...],
    params: Params,
    tokens_BP: Array,
    segment_ids_BP: Array,
) -> tuple[Array, Array]:
    """The same of prompts as `gpt.flush_right` has them; T is `beam.max_extra`, and PADDING stands behind the ends."""
    model, (B, P), T = architecture_of(cfg).build(cfg, ("clm",)), tokens_BP.shape, beam.max_extra
    counts_BP = jnp.cumsum(segment_ids_BP, axis=1)

    def forward(tokens: Array, segment_ids: Array, positions: Array, cache: Any) -> tuple[Array, Any]:
        features = {"tokens": tokens, "segment_ids": segment_ids, "positions": positions, "cache": cache}
        outputs = model.apply({"params": params}, **features)
        logits = outputs["logits"]
        last = logits.replace(hidden_BLD=logits.hidden_BLD[:, -1:]).dense()[:, 0]
        return jax.nn.log_softmax(last), outputs["cache"]

    def step(tokens: Array, n: Array, cache: Any) -> tuple[Array, Any]:
        positions = jnp.repeat(counts_BP[:, -1:], beam.beams, axis=0) + n - 1
        return forward(tokens, jnp.ones_like(tokens), positions, cache)

    begun = forward(tokens_BP, segment_ids_BP, jnp.maximum(counts_BP - 1, 0), gpt.empty_cache(cfg, B, P + T))
    return _search(beam, T, ends, PADDING, step, *begun)


def _search(
    beam: Beam,
    longest: int,
    ends: tuple[int, ...],
    padding: int,
    forward: Callable[[Array, Array, Any], tuple[Array, Any]],
    next_log_p_BV: Array,
    cache: Any,
) -> tuple[Array, Array]:
    """The K best texts of each row, [B, K, longest], and their scores.

    Args:
      forward: (the newest tokens [B K, 1], how many there are of each text, cache) -> the next token's log-probability
        [B K, V], and the cache.
      next_log_p_BV, cache: the first token's, and of each row what was read.
    """
    (B, V), K, wide = next_log_p_BV.shape, beam.beams, (1 + len(ends)) * beam.beams

    def advance(state: _Search) -> _Search:
        total = state.next_log_p + state.log_p[..., None]
        log_p, index = jax.lax.top_k(total.reshape(B, K * V), min(wide, K * V))
        parent, token = index // V, (index % V).astype(jnp.int32)
        n = state.length + 1
        text = _rows(state.open, parent).at[:, :, state.length].set(token)
        ended = jnp.isin(token, jnp.array(ends)) | (n == longest)

        closed = jnp.all(state.exists, -1) if beam.early_stopping == "first_finished" else jnp.zeros(B, bool)
        finishes = ended & (jnp.arange(ended.shape[1]) < K)[None] & (state.improves & ~closed)[:, None]
        scores = jnp.concatenate([state.scores, jnp.where(finishes, beam.score(log_p, n), NEVER)], 1)
        scores, kept = jax.lax.top_k(scores, K)
        done = _rows(jnp.concatenate([state.done, text], 1), kept)
        exists = jnp.take_along_axis(jnp.concatenate([state.exists, finishes], 1), kept, 1)

        log_p, going = jax.lax.top_k(jnp.where(ended, log_p + NEVER, log_p), K)
        parent, token = jnp.take_along_axis(parent, going, 1), jnp.take_along_axis(token, going, 1)
        best = beam.score(log_p[:, 0], longest if beam.early_stopping == "never" and beam.alpha > 0 else n)
        improves = state.improves & (best > jnp.where(jnp.all(exists, -1), scores[:, -1], NEVER))

        cache = _choose_beams(state.cache, parent)
        next_log_p, cache = forward(token.reshape(B * K, 1), n, cache)
        next_log_p = next_log_p.reshape(B, K, V)
        return _Search(n, log_p, _rows(text, going), scores, done, exists, improves, next_log_p, cache)

    def unfinished(state: _Search) -> Array:
        full = jnp.all(state.exists) if beam.early_stopping == "first_finished" else False
        return (state.length < longest) & jnp.any(state.improves) & ~jnp.asarray(full)

    first = jnp.where(jnp.arange(K) == 0, 0.0, NEVER)  # the beams are alike as yet: one of them counts
    texts = jnp.full((B, K, longest), padding, jnp.int32)
    state = _Search(
        length=jnp.zeros((), jnp.int32),
        log_p=jnp.broadcast_to(first[None], (B, K)),
        open=texts,
        scores=jnp.full((B, K), NEVER),
        done=texts,
        exists=jnp.zeros((B, K), bool),
        improves=jnp.ones(B, bool),
        next_log_p=jnp.broadcast_to(next_log_p_BV[:, None], (B, K, V)),
        cache=_repeat(cache, K),
    )
    state = jax.lax.while_loop(unfinished, advance, state)
    return state.done, state.scores


def _rows(x_BKT: Array, index_BJ: Array) -> Array:
    return jnp.take_along_axis(x_BKT, index_BJ[..., None], axis=1)


def _repeat(cache: Any, beams: int) -> Any:
    """Each row of the cache for each of its beams."""
    layers = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), cache["layers"])
    segments = {k: jnp.repeat(x, beams, axis=0) for k, x in cache.items() if k.endswith("segment_ids")}
    return cache | {"layers": layers} | segments


def _choose_beams(cache: Any, parent_BK: Array) -> Any:
    """Each beam's own keys and values become its parent's; what it reads of the source is the same for all beams."""
    B, K = parent_BK.shape
    index = (jnp.arange(B)[:, None] * K + parent_BK).reshape(-1)

    def chosen(layer: dict[str, Any]) -> dict[str, Any]:
        own = jax.tree.map(lambda x: jnp.take(x, index, axis=0), layer.get("self", layer))
        return layer | {"self": own} if "self" in layer else own

    return cache | {"layers": tuple(map(chosen, cache["layers"]))}
