"""One or two texts as a row of a model, with the special tokens that it was trained with, cut and padded to a length.

"separated": BERT's [CLS] A [SEP] B [SEP] or RoBERTa's <s> A </s></s> B </s>, as the tokenizer tells. "ordered": GPT-1's
start A extract and start A delimiter B extract (Radford et al. 2018, section 3.3), whose three tokens have new rows in
the word table, behind the tokenizer's. "words": ELMo's sentences, <S> A </S> <S> B </S>, as every tokenizer of whole
words has them.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from lmjax.data.huggingface import separator_is_doubled
from lmjax.data.instances import special_ids
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

Frame = Literal["separated", "ordered", "words"]
TEXT = ("tokens", "token_type_ids", "segment_ids")  # what a row is
NEW_TOKENS: dict[str, int] = {"separated": 0, "words": 0, "ordered": 3}  # start, delimiter, extract


def frame(rows: Sequence[Sequence[list[int]]], tokenizer: Tokenizer, length: int, kind: Frame) -> dict[str, np.ndarray]:
    """Rows of one or two lists of ids as tokens, token_type_ids (0, and 1 for the second text with the separator behind
    it) and segment_ids (1 real, 0 padding), int32 [rows, length] each.

    A row that is too long loses tokens at the end of its longer text, one by one (the second where they are equal), as
    in google-research/bert, run_classifier.py.
    """
    begin, between, end, closed, pad = _marks(tokenizer, kind)
    tokens = np.full((len(rows), length), pad, np.int32)
    types, segments = np.zeros_like(tokens), np.zeros_like(tokens)
    for number, texts in enumerate(rows):
        room = length - len(begin) - len(end) - (len(between) + len(closed)) * (len(texts) - 1)
        if room < len(texts):
            raise UserError(f"rows of {length} tokens hold no text beside the special tokens; raise length")
        a, *rest = cut(texts, room)
        first = [*begin, *a, *(closed if rest else end)]
        second = [*between, *rest[0], *end] if rest else []
        size = len(first) + len(second)
        tokens[number, :size] = first + second
        types[number, len(first) : size] = 1
        segments[number, :size] = 1
    return {"tokens": tokens, "token_type_ids": types, "segment_ids": segments}


def next_tokens(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a language model learns on framed texts [rows, ..., L]: targets and loss_weights int32 [rows, ... * L]."""
    targets, weights = (np.roll(rows[name], -1, axis=-1) for name in ("tokens", "segment_ids"))
    weights[..., -1] = 0
    return {name: x.reshape(len(x), -1) for name, x in (("targets", targets), ("loss_weights", weights))}


def cut(texts: Sequence[list[int]], room: int) -> list[list[int]]:
    """One or two texts that together have at most `room` tokens."""
    sizes = [len(text) for text in texts]
    while sum(sizes) > room:
        sizes[0 if len(sizes) == 1 or sizes[0] > sizes[1] else 1] -= 1
    return [list(text[:size]) for text, size in zip(texts, sizes, strict=True)]


def _marks(tokenizer: Tokenizer, kind: Frame) -> tuple[list[int], list[int], list[int], list[int], int]:
    """What stands before a row, before its second text, at its end, after a first text that has a second; padding."""
    if kind == "ordered":
        start, delimiter, extract = range(tokenizer.vocab_size, tokenizer.vocab_size + NEW_TOKENS[kind])
        return [start], [delimiter], [extract], [], 0
    if tokenizer.word_level:
        begin, end = tokenizer.cls_id, tokenizer.sep_id
        assert begin is not None
        assert end is not None
        return [begin], [begin], [end], [end], 0
    pad, cls, sep = special_ids(tokenizer)
    return [cls], [sep] if separator_is_doubled(tokenizer) else [], [sep], [sep], pad
