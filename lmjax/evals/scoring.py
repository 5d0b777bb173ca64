"""Log-probabilities that a model gives to texts, and the rules by which they decide between answers.

Rows are padded to a few lengths and batches to one size, so that a few programs serve all texts.
Letters: B batch, L length, M tokens predicted in a row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.interop import LanguageModel
from lmjax.models import architecture_of
from lmjax.models.architecture import ModelConfig
from lmjax.types import Array, Params

SHORTEST = 32  # rows are as long as this, or twice, four times, ... as long, or as the position table

Rule = Literal["sum", "per_token", "per_character", "per_byte", "unconditional"]


class Request(NamedTuple):
    """Tokens that are read, and the tokens behind them whose probabilities are asked for."""

    context: Sequence[int]
    continuation: Sequence[int]


class Score(NamedTuple):
    """`log_probabilities` float32 [tokens of the continuation]; `greedy`: was each of them the likeliest? The tokens
    that are `barred` do not count as likelier than the first."""

    log_probabilities: np.ndarray
    greedy: bool


class _Row(NamedTuple):
    """What the model reads and what it is to predict, at each position or at the `masked` one."""

    tokens: Sequence[int]
    targets: Sequence[int]
    masked: int | None = None


def score(
    lm: LanguageModel,
    requests: Sequence[Request],
    batch_size: int = 16,
    progress: str = "",
    barred: Sequence[int] = (),
) -> list[Score]:
    """The score of each continuation. A causal model reads rows from the left; where a row outgrows the position table,
    its beginning is cut off. An encoder's are pseudo-log-probabilities (Salazar et al. 2020, section 2.1): each token
    of the continuation masked in turn, all others seen.

    Raises:
      UserError: a model that does neither, nothing before a continuation, or one that alone outgrows the table.
    """
    causal = "clm" in lm.heads
    if not causal and "mlm" not in lm.heads:
        raise UserError(f"{type(lm.config).__name__}: this model gives no probabilities to the words of one text")
    if any(len(continuation) > room(lm) - causal for _, continuation in requests):
        raise UserError(f"a text to score is longer than the model's {lm.longest} positions")
    if not all(continuation and (context or not causal) for context, continuation in requests):
        raise UserError("a text to score is empty, or nothing stands before it")
    make_rows = _causal_row if causal else _masked_rows
    rows = [list(make_rows(lm, request)) for request in requests]
    found = iter(_predict(lm, [row for part in rows for row in part], batch_size, progress, barred))
    scores = []
    for (_, continuation), part in zip(requests, rows, strict=True):
        of_part = (np.concatenate(x)[-len(continuation) :] for x in zip(*[next(found) for _ in part], strict=True))
        log_p, largest, largest_first = of_part
        scores.append(Score(log_p, bool(largest_first[0] and largest[1:].all())))
    return scores


def room(lm: LanguageModel) -> int:
    """How many tokens a request may have in all: the last one is not read by a causal model, and an encoder's stand
    between two more."""
    return lm.longest + (1 if lm.causal else -2)


def _causal_row(lm: LanguageModel, request: Request) -> Iterator[_Row]:
    text = [*request.context, *request.continuation][-room(lm) :]
    yield _Row(text[:-1], text[1:])


def _masked_rows(lm: LanguageModel, request: Request) -> Iterator[_Row]:
    cls, sep, mask = lm.tokenizer.cls_id, lm.tokenizer.sep_id, lm.tokenizer.mask_id
    assert cls is not None
    assert sep is not None
    assert mask is not None
    text = [*request.context, *request.continuation][-room(lm) :]
    for place in range(len(text) - len(request.continuation), len(text)):
        yield _Row([cls, *text[:place], mask, *text[place + 1 :], sep], [text[place]], place + 1)


def _predict(
    lm: LanguageModel, rows: Sequence[_Row], batch_size: int, progress: str, barred: Sequence[int]
) -> list[tuple[np.ndarray, ...]]:
    """Of each row's targets, the log-probability, whether none is likelier, and whether none but barred ones are; the
    longest rows first."""
    head: Literal["clm", "mlm"] = "clm" if "clm" in lm.heads else "mlm"
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].tokens))
    found: list[tuple[np.ndarray, ...]] = [()] * len(rows)
    for start in tqdm(range(0, len(order), batch_size), progress, unit=" batches", disable=not progress):
        places = order[start : start + batch_size]
        width = padded_length(len(rows[places[0]].tokens), lm.longest)
        tokens_BL, segment_ids_BL, targets_BL = np.zeros((3, batch_size, width), np.int32)
        masked_B1 = np.zeros((batch_size, 1), np.int32)
        for b, place in enumerate(places):
            tokens, targets, masked = rows[place]
            tokens_BL[b, : len(tokens)], segment_ids_BL[b, : len(tokens)] = tokens, 1
            targets_BL[b, : len(targets)], masked_B1[b] = targets, masked or 0
        features = {"tokens": tokens_BL, "segment_ids": segment_ids_BL}
        if head == "mlm":
            features, targets_BL = features | {"mlm_positions": masked_B1}, targets_BL[:, :1]
        told = _statistics(lm.config, head, lm.params, features, targets_BL, np.array(barred, np.int32))
        log_p_BM, *largest = map(np.asarray, told)
        for b, place in enumerate(places):
            n = len(rows[place].targets)
            found[place] = log_p_BM[b, :n], *(largest_BM[b, :n] == 1 for largest_BM in largest)
    return found


def padded_length(length: int, longest: int) -> int:
    """SHORTEST, or so often twice of it that `length` fits, but not above `longest`."""
    return min(longest, max(SHORTEST, 1 << (length - 1).bit_length()))


@partial(jax.jit, static_argnums=(0, 1))
def _statistics(
    cfg: ModelConfig,
    head: Literal["clm", "mlm"],
    params: Params,
    features: Mapping[str, Array],
    targets_BM: Array,
    barred: Array,
) -> tuple[Array, Array, Array]:
    logits = architecture_of(cfg).build(cfg, (head,)).apply({"params": params}, **features)["logits"]
    found = logits.statistics(targets_BM)
    largest_BM = without_BM = found.target_is_largest
    if barred.size:
        bias_V = jnp.zeros(len(logits.table_VD)) if logits.bias_V is None else logits.bias_V
        without_BM = logits.replace(bias_V=bias_V.at[barred].set(-1e9)).statistics(targets_BM).target_is_largest
    return found.target_log_probability, largest_BM, without_BM


def split(tokenizer: Tokenizer, texts: Sequence[tuple[str, str]]) -> list[Request]:
    """(context, continuation) as tokens: those of both together, cut where the context's own end. A token that spans
    the border belongs to the continuation, and so does a space before it."""
    moved = [(a.rstrip(" "), a[len(a.rstrip(" ")) :] + b) for a, b in texts]
    contexts = tokenizer.encode_batch([context for context, _ in moved])
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in moved])
    found = []
    for context, whole in zip(contexts, wholes, strict=True):
        shared = next((i for i, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b), len(context))
        found.append(Request(whole[:shared], whole[shared:]))
    return found


def begun(lm: LanguageModel, request: Request) -> Request:
    """The request, with the end of a text before it where a causal model would else have nothing to read.

    Raises:
      UserError: a vocabulary that does not mark the end of a text.
    """
    if request.context or not lm.causal:
        return request
    if lm.tokenizer.eos_id is None:
        raise UserError("this model's vocabulary has no token for the beginning of a text, which this task begins with")
    return Request([lm.tokenizer.eos_id], request.continuation)


def windows(tokens: Sequence[int], first: int, length: int, stride: int) -> Iterator[Request]:
    """A long text in windows that the model can read, with `first` before it: each token is scored once, at most
    `stride` of them a window, and but for the first window after at least `length` - `stride` others."""
    text, scored = [first, *tokens], 1
    while scored < len(text):
        end = min(len(text), scored + (length if scored == 1 else stride))
        yield Request(text[max(0, end - length - 1) : scored], text[scored:end])
        scored = end


def _sum(score: Score) -> float:
    return float(score.log_probabilities.sum(dtype=np.float64))


# How a model values an answer, from its score, its text without the space before it, and its sum after "Answer:" alone.
RULES: Mapping[Rule, Callable[[Score, str, float], float]] = {
    "sum": lambda score, text, alone: _sum(score),
    "per_token": lambda score, text, alone: _sum(score) / len(score.log_probabilities),
    "per_character": lambda score, text, alone: _sum(score) / len(text),
    "per_byte": lambda score, text, alone: _sum(score) / len(text.encode()),
    "unconditional": lambda score, text, alone: _sum(score) - alone,
}
