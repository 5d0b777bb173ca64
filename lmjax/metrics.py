"""Metrics of fine-tuning tasks, by scikit-learn and scipy, which are imported where they are used: they cost a second.

Each takes what is right and what was predicted, [n] each, and gives a number. Correlations with a constant are 0.
"""

from collections.abc import Callable

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


def _correlation(function: Callable, right: np.ndarray, predicted: np.ndarray) -> float:
    constant = np.ptp(right) == 0 or np.ptp(predicted) == 0  # scipy warns and gives not a number
    return 0.0 if constant else float(function(right, predicted).statistic)


METRICS: dict[str, Metric] = {m.__name__: m for m in (accuracy, f1, matthews, pearson, spearman)}
