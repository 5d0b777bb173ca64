"""Metrics of fine-tuning tasks, by scikit-learn and scipy, which are imported where they are used: they cost a second.
Those of spans are in `lmjax.tasks.answers`.

Each, but entities' own, takes what is right and what was predicted, [n] each, and gives a number. Correlations with a
constant are 0.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(right: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(right == predicted))


def f1(right: np.ndarray, predicted: np.ndarray) -> float:
    """Of label 1; 0 where nothing is or is said to be 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(right, predicted, zero_division=0))  # type: ignore[arg-type]


def matthews(right: np.ndarray, predicted: np.ndarray) -> float:
    """Matthews' correlation coefficient."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(right, predicted))


def pearson(right: np.ndarray, predicted: np.ndarray) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, right, predicted)


def spearman(right: np.ndarray, predicted: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, right, predicted)


def clustered_error(values: np.ndarray, groups: np.ndarray) -> float:
    """The standard error of the mean of values [n] that come in whole groups, int [n] (a prompt's pairs, a
    conversation's tokens): sqrt(sum over groups of (sum of deviations)^2) / n (Liang and Zeger 1986); not a number
    where there is but one group."""
    if len(np.unique(groups)) < 2:
        return math.nan
    spread = np.bincount(groups, values - values.mean(dtype=np.float64))
    return float(np.sqrt(np.sum(spread**2)) / len(values))


def _correlation(function: Callable, right: np.ndarray, predicted: np.ndarray) -> float:
    constant = np.ptp(right) == 0 or np.ptp(predicted) == 0  # scipy warns and gives not a number
    return 0.0 if constant else float(function(right, predicted).statistic)


METRICS: dict[str, Metric] = {m.__name__: m for m in (accuracy, f1, matthews, pearson, spearman)}


def entity_scores(
    right: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], strict: bool = False
) -> tuple[float, float, float]:
    """Precision, recall and F1 over the entities of all sentences (micro averages), 0 where there are none."""
    sides = [{(i, *e) for i, tags in enumerate(side) for e in entities(tags, strict)} for side in (right, predicted)]
    common = len(sides[0] & sides[1])
    recall, precision = (common / len(side) if side else 0.0 for side in sides)
    return precision, recall, 2 * common / (len(sides[0]) + len(sides[1])) if common else 0.0


def entities(tags: Sequence[str], strict: bool) -> set[tuple[str, int, int]]:
    """(type, first word, word behind the last) of each entity of a sentence, from tags B-TYPE, I-TYPE and O.

    An I- that follows no entity of its type begins one, as in conlleval; `strict`: it belongs to none.
    """
    found, begin, kind = set(), None, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if begin is not None and not (mark == "I" and name == kind):
            found.add((kind, begin, place))
            begin = None
        if mark == "B" or (mark == "I" and begin is None and not strict):
            begin, kind = place, name
    return found
