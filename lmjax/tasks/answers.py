"""Answers from the logits of spans, and how official scripts compare them.

n-best lists and the odds of no answer are those of google-research/bert's run_squad.py; EM and F1 those of SQuAD's
evaluate-v2.0.py and of CMRC 2018's script. All figures lie in 0 to 1.
"""

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lmjax.data.squad import Offsets, most_context
from lmjax.errors import UserError

Compare = Callable[[str, str], float]  # (an answer, the prediction) -> figure


class Candidate(NamedTuple):
    """An answer; "" is none."""

    text: str
    start_logit: float
    end_logit: float


def n_best(
    context: str,
    offsets: Offsets,
    cut: Sequence[tuple[int, int, int]],
    start_WL: np.ndarray,
    end_WL: np.ndarray,
    size: int,
    longest: int,
    unanswerable: bool,
) -> tuple[list[Candidate], float]:
    """The best answers to a question, the best one first, and by how much no answer is better than the best answer.

    Args:
      offsets: the characters of each token of the paragraph.
      cut: each window's first token, its tokens, and where in the row the first one stands.
      start_WL, end_WL: logits of each window's row; place 0, [CLS], stands for no answer.
      size, longest: how many answers, and how many tokens of one.
    """
    home = most_context([(first, count) for first, count, _ in cut], len(offsets))
    found: list[tuple[float, Candidate]] = []
    for number, (first, count, begin) in enumerate(cut):
        start, end = start_WL[number].astype(np.float64), end_WL[number].astype(np.float64)
        i, j = (np.argsort(-logits, kind="stable")[:size] for logits in (start, end))
        a, b = i[:, None] - begin, j[None] - begin  # places in the window
        fits = (a >= 0) & (b < count) & (a <= b) & (b - a < longest)
        for x, y in zip(*np.nonzero(fits), strict=True):
            token = first + int(a[x, 0])
            text = context[offsets[token][0] : offsets[first + int(b[0, y])][1]]
            if text and home[token] == number:
                found.append((start[i[x]] + end[j[y]], Candidate(text, float(start[i[x]]), float(end[j[y]]))))
    nulls = [Candidate("", float(s[0]), float(e[0])) for s, e in zip(start_WL, end_WL, strict=True)]
    null = min(nulls, key=lambda c: c.start_logit + c.end_logit)
    if unanswerable:
        found.append((null.start_logit + null.end_logit, null))
    found.sort(key=lambda item: -item[0])
    distinct: dict[str, Candidate] = {}
    for _, candidate in found:
        if len(distinct) < size:
            distinct.setdefault(candidate.text, candidate)
    if unanswerable:
        distinct.setdefault("", null)
    if not any(distinct):
        distinct = {"empty": Candidate("empty", 0.0, 0.0), **distinct}  # as the original answers
    best = next(c for c in distinct.values() if c.text)
    odds = null.start_logit + null.end_logit - best.start_logit - best.end_logit
    return list(distinct.values()), odds


def probabilities(candidates: Sequence[Candidate]) -> list[float]:
    """The softmax over their scores."""
    scores = np.array([c.start_logit + c.end_logit for c in candidates])
    weights = np.exp(scores - scores.max())
    return (weights / weights.sum()).tolist()


def best_threshold(odds: np.ndarray, scores: np.ndarray, answerable: np.ndarray) -> float:
    """The threshold on the odds of no answer, above which none is given, that gives the best mean score.

    Args, [questions]: the odds; the score of the best answer, 0 where there is none; whether there is one.
    """
    order = np.argsort(odds, kind="stable")
    gains = np.cumsum(np.where(answerable, scores, -1.0)[order])
    whole = np.append(odds[order][1:] != odds[order][:-1], True)  # equal odds are answered together
    gains = np.where(whole, gains, -np.inf)
    best = int(np.argmax(gains))
    return float(odds[order][best]) if gains[best] > 0 else float(odds.min()) - 1.0


def best_match(compare: Compare, answers: Sequence[str], predicted: str) -> float:
    """The best figure over the answers, of SQuAD's those left out of which nothing remains; of no answers, whether none
    is predicted."""
    told = answers if compare in COMPARE[True] else [answer for answer in answers if compare(answer, "") < 1]
    return max(compare(answer, predicted) for answer in told or [""])


def normalize(text: str) -> str:
    """SQuAD's: lower case, without punctuation and articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(answer: str, predicted: str) -> float:
    return float(normalize(answer) == normalize(predicted))


def word_f1(answer: str, predicted: str) -> float:
    """Over the words that both have."""
    right, found = normalize(answer).split(), normalize(predicted).split()
    if not right or not found:
        return float(right == found)
    return _f1(sum((Counter(right) & Counter(found)).values()), len(right), len(found))


PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def exact_chinese(answer: str, predicted: str) -> float:
    """CMRC 2018's: lower case, without its list of punctuation."""
    return float(_plain(answer) == _plain(predicted))


def chinese_f1(answer: str, predicted: str) -> float:
    """CMRC 2018's: over the longest run that both have, of Chinese characters and words of other letters."""
    right, found = segments(answer), segments(predicted)
    return _f1(longest_common(right, found), len(right), len(found))


def segments(text: str) -> list[str]:
    """Chinese characters, and what stands between two of them cut by NLTK, as the official script does it. (That also
    cuts sentences first, by a model that NLTK downloads: a full stop inside such a piece may fall otherwise.)"""
    pieces = re.findall(r"[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+", _plain(text))
    return [word for piece in pieces for word in latin_words()(piece)]


@functools.cache
def latin_words() -> Callable[[str], list[str]]:
    """NLTK's word tokenizer. Raises UserError where it is not installed."""
    try:
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError:
        raise UserError("nltk is not installed, and CMRC 2018's F1 needs it: pip install lmjax[zh]") from None
    return NLTKWordTokenizer().tokenize


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest run that stands in both."""
    lengths, longest = [0] * (len(b) + 1), 0
    for x in a:
        lengths = [0, *(lengths[j] + 1 if x == y else 0 for j, y in enumerate(b))]
        longest = max(longest, *lengths)
    return longest


def _plain(text: str) -> str:
    return "".join(c for c in text.lower().strip() if c not in PUNCTUATION)


def _f1(common: int, right: int, found: int) -> float:
    return 2 * common / (right + found) if common else 0.0


COMPARE: Mapping[bool, tuple[Compare, Compare]] = {False: (exact, word_f1), True: (exact_chinese, chinese_f1)}
