"""Texts packed into rows of one length, several side by side, each a segment of its own: translations, whose pairs are
segments on both sides, and conversations.

Letters: n rows, L their length, K pairs in the fullest row.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmjax.data.instances import COUNTED, Columns, InstanceConfig
from lmjax.data.store import Split
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

OPEN_ROWS = 256  # rows that a pair may still go into; the fullest makes room for a new one


@dataclass(frozen=True)
class PackedPairs(InstanceConfig):
    """Pairs of a `ParallelText`, packed once by first fit in an order that the seed decides.

    A pair of which either side, closed by the end token, exceeds `length` is left out; their number is printed.
    Features, int32 [n, L]: encoder_tokens, encoder_segment_ids, encoder_positions of the sources; tokens (each target
    after the padding token, which starts it), targets (each target with its end token), segment_ids and positions.
    Segments count from 1 (0 is padding), and a segment's positions from 0.
    """

    def tables(self, split: Split, tokenizer: Tokenizer, seed: int) -> Iterator[Columns]:
        _special_ids(tokenizer)
        sources, lengths = _pairs(split)
        fitting = np.flatnonzero((lengths <= self.length).all(1))
        if not len(fitting):
            raise UserError(f"none of {len(sources)} pairs fits into rows of length {self.length}; raise it")
        order = np.random.default_rng(seed).permutation(fitting)
        grid = first_fit(lengths[order], self.length)
        real = lengths[fitting].sum() / (2 * self.length * len(grid))
        print(
            f"lmjax: {len(order)} pairs in {len(grid)} rows of length {self.length}, {real:.1%} of it real tokens; "
            f"{len(sources) - len(order)} longer pairs left out",
            file=sys.stderr,
        )
        grid = np.where(grid >= 0, sources[order][grid], -1)
        yield {f"pair_{k:04}": grid[:, k] for k in range(grid.shape[1])}

    def gather(self, split: Split, tokenizer: Tokenizer, columns: Columns) -> dict[str, np.ndarray]:
        pad, eos = _special_ids(tokenizer)
        grid_nK = np.stack([columns[name] for name in sorted(columns)], axis=1)
        real_nK, source_nK = grid_nK >= 0, np.maximum(grid_nK, 0)
        begin_nK, middle_nK, end_nK = (np.asarray(split.sentence_starts[source_nK + i]) for i in range(3))
        source_lengths_nK = np.where(real_nK, middle_nK - begin_nK + 1, 0)
        target_lengths_nK = np.where(real_nK, end_nK - middle_nK, 0)

        def lay(lengths_nK: np.ndarray, first_nK: np.ndarray) -> tuple[np.ndarray, ...]:
            """Segments, positions and, for each place of a row, which token of the store stands there; [n, L]."""
            ends_nK, place_L = np.cumsum(lengths_nK, axis=1), np.arange(self.length)
            pair_nL = (ends_nK[:, :, None] <= place_L).sum(1)
            used_nL, pair_nL = pair_nL < grid_nK.shape[1], np.minimum(pair_nL, grid_nK.shape[1] - 1)
            within_nL = np.where(used_nL, place_L - np.take_along_axis(ends_nK - lengths_nK, pair_nL, 1), 0)
            return np.where(used_nL, pair_nL + 1, 0), within_nL, np.take_along_axis(first_nK, pair_nL, 1) + within_nL

        encoder_segments, encoder_positions, index = lay(source_lengths_nK, begin_nK)
        last = index == np.take_along_axis(middle_nK, np.maximum(encoder_segments - 1, 0), 1)
        encoder_tokens = np.where(last, eos, np.asarray(split.tokens[index]))
        segments, positions, index = lay(target_lengths_nK, middle_nK)
        features = {
            "encoder_tokens": np.where(encoder_segments > 0, encoder_tokens, pad),
            "encoder_segment_ids": encoder_segments,
            "encoder_positions": encoder_positions,
            "tokens": np.where(positions > 0, np.asarray(split.tokens[index - (positions > 0)]), pad),
            "targets": np.where(segments > 0, np.asarray(split.tokens[index]), pad),
            "segment_ids": segments,
            "positions": positions,
        }
        return {name: value.astype(np.int32) for name, value in features.items()}

    def predicted(self, split: Split) -> np.ndarray:
        """The targets' tokens."""
        tokens = np.asarray(split.tokens[:COUNTED])
        is_target = np.ones(split.sentence_starts.shape[0] - 1, bool)
        is_target[np.asarray(split.document_starts[:-1])] = False
        return tokens[np.repeat(is_target, np.diff(split.sentence_starts[:]))[: len(tokens)]]


def _special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    if tokenizer.pad_id is None or tokenizer.eos_id is None:
        raise UserError("translation needs a tokenizer with <pad> and </s>; choose SentencePiece")
    return tokenizer.pad_id, tokenizer.eos_id


def _pairs(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pair's source sentence, int64 [pairs], and tokens with the end token, [pairs, 2]."""
    documents, starts = np.asarray(split.document_starts[:]), np.asarray(split.sentence_starts[:])
    if (np.diff(documents) != 2).any():
        raise UserError("translation reads pairs of lines; give it data whose source is a ParallelText")
    lengths = np.diff(starts).reshape(-1, 2)
    return documents[:-1], lengths + np.array([1, 0])  # the store closes documents, and so the targets, alone


def first_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Puts each text, int [texts, sides] tokens (a pair has two sides), into the first open row with `capacity` left
    for it on all of them.

    Returns the texts of each row, int64 [rows, K], -1 where there are fewer.
    """
    left = np.full((OPEN_ROWS, lengths.shape[1]), capacity)
    number, row_of = np.arange(OPEN_ROWS), np.empty(len(lengths), np.int64)
    for pair, needed in enumerate(lengths):
        fits = (left >= needed).all(1)
        slot = int(fits.argmax())
        if not fits[slot]:
            slot = int(left.sum(1).argmin())
            left[slot], number[slot] = capacity, number.max() + 1
        left[slot] -= needed
        row_of[pair] = number[slot]
    _, row_of, counts = np.unique(row_of, return_inverse=True, return_counts=True)
    order = np.argsort(row_of, kind="stable")
    grid = np.full((len(counts), counts.max()), -1, np.int64)
    grid[row_of[order], np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)] = order
    return grid


def pack_responses(encoded: Sequence[tuple[np.ndarray, np.ndarray]], length: int) -> dict[str, np.ndarray]:
    """Conversations as rows of a causal model that learns their responses, packed by first fit in a fixed order.

    What does not fit into a row is cut off; where no response token is left, the conversation is left out. Both are
    counted on the screen.

    Args:
      encoded: of each conversation its tokens [T] and which are response tokens, bool [T].

    Returns, int32 [n, L]: tokens, targets (each one further in its conversation), segment_ids (from 1; 0 is padding),
    positions (from 0 in each segment), loss_weights (1 where the target is a response token).

    Raises:
      UserError: no conversation of which a response fits.
    """
    kept = [(tokens, mask[: length + 1]) for tokens, mask in encoded if mask[1 : length + 1].any()]
    if not kept:
        count = f"none of {len(encoded)} conversations"
        raise UserError(f"{count} has an answer that begins within a row of length {length}; raise it")
    order = np.random.default_rng(0).permutation(len(kept))
    sizes = np.array([len(kept[i][1]) - 1 for i in order])
    grid = first_fit(sizes[:, None], length)
    names = ("tokens", "targets", "segment_ids", "positions", "loss_weights")
    rows = {name: np.zeros((len(grid), length), np.int32) for name in names}
    for row, numbers in enumerate(grid):
        begin = 0
        for segment, number in enumerate(numbers[numbers >= 0], 1):
            tokens, is_response = kept[order[number]]
            here = (row, slice(begin, begin := begin + sizes[number]))
            rows["tokens"][here], rows["targets"][here] = tokens[: sizes[number]], tokens[1 : sizes[number] + 1]
            rows["segment_ids"][here], rows["positions"][here] = segment, np.arange(sizes[number])
            rows["loss_weights"][here] = is_response[1:]
    real, learned = (f"{np.mean(rows[name] > 0):.1%}" for name in ("segment_ids", "loss_weights"))
    print(
        f"lmjax: {len(kept)} conversations in {len(grid)} rows of length {length}, {real} of it real tokens, {learned} "
        f"responses; {sum(len(tokens) > len(mask) for tokens, mask in kept)} cut at their ends, "
        f"{len(encoded) - len(kept)} left out, whose answers begin too late",
        file=sys.stderr,
    )
    return rows
