"""Chinese text as characters, with the words, phrases and entities that they belong to.

Words are jieba's. A phrase, or an entity, is a run of whole words that stands in a word list; entities are also what an
annotation file marks (see `annotated`), and those come first. Each level is found by itself: `masking` puts an entity
before the phrases and words that it cuts across.

Text in other scripts goes the same way: jieba keeps a run of Latin letters or digits together, so all its pieces are
one word; punctuation marks are words of one character; spaces give no token.
"""

import functools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from etils import epath

from lmjax.data.annotated import ENTITY_BEGIN, ENTITY_END
from lmjax.data.masking import LEVELS
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

NONE = -1  # a character that belongs to no unit of a level
Span = tuple[int, int]


@dataclass(frozen=True)
class Boundaries:
    """How units are found in Chinese text; needs jieba, `pip install lmjax[zh]`.

    `phrases` and `entities`: files of words as THUOCL has them, a word, a tab and its frequency a line.
    """

    phrases: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()


class Segmenter:
    """Finds the units of sentences. Raises UserError without jieba, or where a list cannot be read."""

    def __init__(self, cfg: Boundaries):
        self._jieba = _jieba()
        self._lists = {
            "phrase": beginnings(word for path in cfg.phrases for word in read_word_list(path)),
            "entity": beginnings(word for path in cfg.entities for word in read_word_list(path)),
        }

    def units(self, text: str, marked: Sequence[Span] = ()) -> np.ndarray:
        """The number of each character's word, phrase and entity, int64 [3, characters]; `NONE` where it has none.

        `marked`: spans of the text that are entities, whatever the lists say.
        """
        ends = [0, *accumulate(map(len, self._jieba.cut(text)))]
        spans = {
            "word": list(pairwise(ends)),
            "phrase": listed_runs(text, ends, self._lists["phrase"]),
            "entity": listed_runs(text, ends, self._lists["entity"]),
        }
        found = np.full((len(LEVELS), len(text)), NONE)
        for level, name in enumerate(LEVELS):
            for number, (a, b) in enumerate(spans[name]):
                found[level, a:b] = number
        entities = found[-1]
        for number, (a, b) in enumerate(marked):
            entities[np.isin(entities, entities[a:b][entities[a:b] != NONE])] = NONE  # none is left cut in two
            entities[a:b] = len(text) + number
        return found


def encode(
    sentences: Sequence[str], tokenizer: Tokenizer, table: np.ndarray, segmenter: Segmenter
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Ids and flags (uint8, see `store`) of each sentence, whose entities may be marked.

    `table`: uint8 [vocabulary], 0 for special tokens, which belong to no unit.
    """
    plain, marked = zip(*map(take_marks, sentences), strict=True)
    for text, spans, (ids, offsets) in zip(plain, marked, tokenizer.encode_offsets(plain), strict=True):
        units = segmenter.units(text, spans)[:, [begin for begin, _ in offsets]]
        yield ids, np.where(table[ids] == 0, 0, flags_of(units)).astype(np.uint8)


def flags_of(units: np.ndarray) -> np.ndarray:
    """The bits of tokens whose units have these numbers, int64 [3, tokens]."""
    flags = np.zeros(units.shape[1], np.uint8)
    for numbers, (begins, inside) in zip(units, LEVELS.values(), strict=True):
        first = np.diff(numbers, prepend=NONE) != 0
        flags |= np.where(numbers == NONE, 0, np.where(first, begins, inside)).astype(np.uint8)
    return flags


def take_marks(sentence: str) -> tuple[str, list[Span]]:
    """The sentence without the marks of `annotated`, and the spans between them."""
    text, spans, begin = "", [], 0
    for piece in re.split(f"([{ENTITY_BEGIN}{ENTITY_END}])", sentence):
        if piece == ENTITY_BEGIN:
            begin = len(text)
        elif piece == ENTITY_END:
            spans.append((begin, len(text)))
        else:
            text += piece
    if sentence.rfind(ENTITY_BEGIN) > sentence.rfind(ENTITY_END):  # it goes on in the next sentence
        spans.append((begin, len(text)))
    return text, [(a, b) for a, b in spans if a < b]


def listed_runs(text: str, ends: Sequence[int], listed: Mapping[str, bool]) -> list[Span]:
    """Spans of the longest runs of whole words that are listed, from left to right.

    `ends`: where each word begins, and the end of the last; `listed`: see `beginnings`.
    """
    spans, i = [], 0
    while i < len(ends) - 1:
        last = 0
        for j in range(i + 1, len(ends)):
            is_whole = listed.get(text[ends[i] : ends[j]])
            if is_whole is None:
                break
            last = j if is_whole else last
        if last:
            spans.append((ends[i], ends[last]))
        i = last or i + 1
    return spans


def beginnings(words: Iterable[str]) -> dict[str, bool]:
    """What listed words begin with, and whether it is listed itself."""
    words = frozenset(words)
    return {word[:n]: word[:n] in words for word in words for n in range(1, len(word) + 1)}


def read_word_list(path: str) -> frozenset[str]:
    """The words of a list in THUOCL's format, whatever its line ends; a byte order mark is dropped."""
    file = epath.Path(path).expanduser()
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the word list {file}: {error}") from None
    return frozenset(word for line in lines if (word := line.split("\t")[0].strip()))


@functools.cache
def _jieba() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that Python deprecates in its source, and pkg_resources
            import jieba
    except ImportError:
        raise UserError("boundaries of Chinese words need jieba: pip install 'lmjax[zh]'") from None
    tokenizer: Any = jieba.Tokenizer()
    # Of itself it would unmarshal its dictionary from the temporary directory, where anyone may have put another.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
