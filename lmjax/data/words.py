"""Words as ELMo reads and predicts them: whole ones, between whitespace, each spelled in 50 characters.

The rule is that of WikiText's .tokens and the 1 Billion Word Benchmark, whose punctuation stands apart: a word is what
stands between two whitespaces, case kept. A model predicts the words of its vocabulary; it reads any word by its
spelling, so a store keeps the spelling of the words that the vocabulary lacks.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

BEGIN_SENTENCE, END_SENTENCE, UNKNOWN = "<S>", "</S>", "<UNK>"  # the first three of a vocabulary, as in bilm-tf
WRITTEN_UNKNOWN = "<unk>"  # in WikiText; read as UNKNOWN
CHARACTERS = 50  # slots of a spelling
NUM_CHARACTERS = 262  # ids of slots: 0 where there is no word, 1 to 256 the bytes, then the five below
_BEGIN_SENTENCE, _END_SENTENCE, _BEGIN_WORD, _END_WORD, _PAD = range(257, 262)


def spell(words: Sequence[str]) -> np.ndarray:
    """The spelling of each word, uint16 [n, 50]: a mark, at most 48 UTF-8 bytes, a mark, padding (bilm-tf, data.py).

    Ids are those of the released inference code: one more than in training and in the weight file, whose tables begin
    with byte 0, so that 0 is left for slots without a word. <S> and </S> are words of one mark of their own.
    """
    spelled = np.full((len(words), CHARACTERS), _PAD, np.uint16)
    marks = {BEGIN_SENTENCE: [_BEGIN_SENTENCE], END_SENTENCE: [_END_SENTENCE]}
    for row, word in zip(spelled, words, strict=True):
        inner = marks.get(word) or [byte + 1 for byte in word.encode("utf-8", "ignore")[: CHARACTERS - 2]]
        row[: len(inner) + 2] = [_BEGIN_WORD, *inner, _END_WORD]
    return spelled


class WordTokenizer(Tokenizer):
    """A vocabulary of words, one a line, most frequent first after the three special ones.

    <S> is its `cls_id`, </S> its `sep_id` and <UNK> its `unk_id`.
    """

    filename = "words.txt"
    word_level = True

    def __init__(self, data: bytes):
        self._words = data.decode("utf-8").rstrip("\n").split("\n")
        self._ids = {word: i for i, word in enumerate(self._words)}
        missing = [word for word in (BEGIN_SENTENCE, END_SENTENCE, UNKNOWN) if word not in self._ids]
        if missing or len(self._ids) < len(self._words):
            raise UserError(f"a vocabulary of words lacks {missing[0]}" if missing else "a word stands there twice")
        super().__init__(data, len(self._words), ())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        unknown, ids = self._ids[UNKNOWN], self._ids
        return [[ids.get(word, unknown) for word in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        frame = (self.cls_id, self.sep_id)
        return " ".join(self._words[int(i)] for i in ids if int(i) not in frame)

    def token(self, id: int) -> str:
        return self._words[int(id)]

    def id(self, token: str) -> int | None:
        return self._ids.get(token)

    @functools.cached_property
    def word_begins(self) -> np.ndarray:
        return np.ones(self.vocab_size, bool)

    @functools.cached_property
    def spellings(self) -> np.ndarray:
        """uint16 [vocab_size, 50], see `spell`."""
        return spell(self._words)


class WordCollector(WordTokenizer):
    """A vocabulary that takes in each word it meets: of texts that are only to be read, every word by its spelling."""

    def __init__(self) -> None:
        super().__init__("\n".join((BEGIN_SENTENCE, END_SENTENCE, UNKNOWN)).encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for word in (word for text in texts for word in text.split()):
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
        return super().encode_batch(texts)

    def collected(self) -> WordTokenizer:
        """The vocabulary so far, as one that stays."""
        return WordTokenizer("".join(f"{word}\n" for word in self._words).encode())


def count_words(texts: Iterable[str], vocab_size: int) -> bytes:
    """A words.txt: the three special words, then the corpus's most frequent ones, ties in alphabetical order.

    Raises UserError where `vocab_size` leaves no room for a word.
    """
    specials = (BEGIN_SENTENCE, END_SENTENCE, UNKNOWN)
    if vocab_size <= len(specials):
        raise UserError(f"vocab_size {vocab_size} is too small: special words alone take {len(specials)}")
    counts = Counter(word for text in texts for word in text.split())
    for word in (*specials, WRITTEN_UNKNOWN):
        del counts[word]
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: vocab_size - len(specials)]
    return "".join(f"{word}\n" for word in (*specials, *frequent)).encode()
