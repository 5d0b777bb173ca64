"""ERNIE's dialogue objective: three turns of a conversation, real or with one of them replaced, to be told apart.

The paper (Sun et al. 2019, section 4.2.1) describes it in words: query-response-query, -response-response or
query-query-response, a dialogue embedding in place of the sentence embedding, fake samples by replacing a query or a
response at random. The released code and models have nothing of it, so there is no reference to hold this against: its
tests are statistics of its own promises. What the paper leaves open is chosen here: half of the rows are fake, each of
the three turns is replaced as often as another, by a turn of the same role from another conversation.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from lmjax.data.instances import Columns, InstanceConfig, special_ids
from lmjax.data.store import MARKED, Split
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

TURNS = 3
QUERY, RESPONSE = 2, 3  # token types; 0 and 1 are the sentences of a pair
RESPONSE_MARK = "\ue002"  # stands before a response, from the reader to the store
ROLES = {"query": "", "response": RESPONSE_MARK}


def turns_as_lines(row: dict[str, Any], where: str) -> str:
    """A conversation {"turns": [{"role": "query" or "response", "text": ...}, ...]} as text, a turn a line.

    Raises:
      UserError: anything else.
    """
    turns = row.get("turns")
    good = isinstance(turns, list) and all(
        isinstance(t, dict) and t.get("role") in ROLES and isinstance(t.get("text"), str) for t in turns
    )
    if not turns or not good:
        raise UserError(f'{where}: no "turns", a list of {{"role": "query" or "response", "text": ...}}')
    return "\n".join(ROLES[t["role"]] + " ".join(t["text"].replace(RESPONSE_MARK, "").split()) for t in turns)


@dataclass(frozen=True)
class DialogueTurns(InstanceConfig):
    """[CLS] turn [SEP] turn [SEP] turn [SEP], three turns in a row of which the first is a query and not all are.

    Features as of `SentencePairs`; token_type_ids are QUERY or RESPONSE, a turn's [SEP] with it and [CLS] with the
    first; next_sentence_labels are `true_label` where the conversation is real. Rows too long lose the last tokens of
    their longest turns. Each of `duplicates` passes draws anew.
    """

    token_types: ClassVar[int] = 4
    duplicates: int = 1
    true_label: int = 1

    def once(self) -> "DialogueTurns":
        return replace(self, duplicates=1)

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        special_ids(tokenizer)
        starts, documents = np.asarray(split.sentence_starts[:]), np.asarray(split.document_starts[:])
        response = np.asarray(split.flags[starts[:-1]]) & MARKED != 0
        conversation = np.searchsorted(documents, np.arange(len(response)), side="right")
        for number in range(self.duplicates):
            rng = random.Random(f"{seed} {number}")
            rows = list(conversations(response, conversation, rng))
            if not rows:
                raise UserError("no three turns of these conversations begin with a query and hold a response")
            turns, real = map(np.array, zip(*rows, strict=True))
            lengths = np.array(
                [fitted(x, self.length - TURNS - 1) for x in (starts[turns + 1] - starts[turns]).tolist()]
            )
            columns: Columns = {"real": real.astype(np.uint8)}
            for k in range(TURNS):
                columns |= {f"start{k}": starts[turns[:, k]], f"length{k}": lengths[:, k].astype(np.int32)}
                columns |= {f"response{k}": response[turns[:, k]].astype(np.uint8)}
            yield columns

    def gather(self, split: Split, tokenizer: Tokenizer, columns: Columns) -> dict[str, np.ndarray]:
        pad, cls, sep = special_ids(tokenizer)
        position, shape = np.arange(self.length), (len(columns["real"]), self.length)
        tokens, flags = np.full(shape, pad, np.int32), np.zeros(shape, np.uint8)
        types, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        begin = np.ones((shape[0], 1), np.int64)
        for k in range(TURNS):
            end = begin + columns[f"length{k}"][:, None]
            text, turn = (position >= begin) & (position < end), (position >= begin - (k == 0)) & (position <= end)
            index = np.where(text, columns[f"start{k}"][:, None] + position - begin, 0)
            tokens = np.where(text, split.tokens[index], np.where(position == end, sep, tokens)).astype(np.int32)
            flags = np.where(text, split.flags[index], flags).astype(np.uint8)
            types = np.where(turn, np.where(columns[f"response{k}"][:, None] == 1, RESPONSE, QUERY), types)
            segments = np.where(turn, 1, segments)
            begin = end + 1
        tokens[:, 0] = cls
        labels = np.where(columns["real"] == 1, self.true_label, 1 - self.true_label)
        return {
            "tokens": tokens,
            "flags": flags,
            "token_type_ids": types.astype(np.int32),
            "segment_ids": segments.astype(np.int32),
            "next_sentence_labels": labels.astype(np.int32),
        }


def conversations(
    response: np.ndarray, conversation: np.ndarray, rng: random.Random
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Three turns by number, and whether they are real, for each place where three may begin.

    Args:
      response: bool [turns], not a query. conversation: [turns], growing, to which each belongs.
    """
    pools = {role: np.flatnonzero(response == role).tolist() for role in (False, True)}
    for first in range(len(response) - TURNS + 1):
        turns = list(range(first, first + TURNS))
        if conversation[first] != conversation[turns[-1]] or response[first] or not response[turns].any():
            continue
        if fake := rng.random() < 0.5:
            replaced = first + rng.randrange(TURNS)
            turns[replaced - first] = _another(pools[bool(response[replaced])], replaced, conversation, rng)
        yield tuple(turns), not fake


def _another(pool: list[int], turn: int, conversation: np.ndarray, rng: random.Random) -> int:
    """A turn of the pool from another conversation than `turn`'s."""
    for _ in range(1000):
        if conversation[other := rng.choice(pool)] != conversation[turn]:
            return other
    raise UserError("the dialogue objective replaces turns by those of other conversations; there are too few of them")


def fitted(lengths: list[int], room: int) -> list[int]:
    """Lengths that fit together: the longest turn gives a token at a time, the last of equals."""
    lengths = list(lengths)
    while sum(lengths) > room:
        longest = max(range(len(lengths)), key=lambda k: (lengths[k], k))
        lengths[longest] -= 1
    return lengths
