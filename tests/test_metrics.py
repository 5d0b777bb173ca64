"""Each metric against a value that was worked out by hand."""

import math

import numpy as np
import pytest

from lmjax.metrics import METRICS

RIGHT, FOUND = np.array([1, 1, 1, 0, 0, 0, 0, 1]), np.array([1, 0, 1, 0, 1, 0, 0, 1])  # tp 3, fn 1, fp 1, tn 3
NUMBERS, GUESSES = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.0, 2.0, 1.0, 5.0])


@pytest.mark.parametrize(
    ("name", "right", "found", "value"),
    [
        ("accuracy", RIGHT, FOUND, 6 / 8),
        ("f1", RIGHT, FOUND, 2 * 3 / (2 * 3 + 1 + 1)),
        ("f1", RIGHT, 0 * RIGHT, 0.0),
        ("matthews", RIGHT, FOUND, (3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4)),
        ("matthews", RIGHT, 0 * RIGHT, 0.0),
        ("pearson", NUMBERS, GUESSES, 13 / 14),  # covariance 13 / 4, both variances 14 / 4
        ("spearman", NUMBERS, GUESSES, 1 - 6 * 2 / (4 * 15)),
        ("spearman", NUMBERS, 0 * NUMBERS, 0.0),
    ],
)
def test_values_worked_out_by_hand(name: str, right: np.ndarray, found: np.ndarray, value: float) -> None:
    assert METRICS[name](right, found) == pytest.approx(value)
