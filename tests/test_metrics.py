"""Each metric against a value that was worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from lmjax.metrics import METRICS, clustered_error, entities, entity_scores
from tests.golden import squad_cases as cases

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


def test_a_mean_over_groups_is_as_unsure_as_it_varies() -> None:
    """Of 4000 means over 60 groups of 1 to 8 values that go together; the formula of single values is far too sure."""
    rng = np.random.default_rng(0)
    means, errors, naive = [], [], []
    for _ in range(4000):
        groups = np.repeat(np.arange(60), rng.integers(1, 9, 60))
        values = rng.normal(size=60)[groups] + 0.3 * rng.normal(size=len(groups))
        means.append(values.mean())
        errors.append(clustered_error(values, groups))
        naive.append(values.std() / np.sqrt(len(values)))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.04)
    assert np.mean(naive) < 0.6 * np.std(means)
    assert math.isnan(clustered_error(np.arange(3.0), np.array([4, 4, 4])))


def test_entities_by_hand() -> None:
    tags = ["B-PER", "I-PER", "I-LOC", "B-LOC", "O", "I-ORG"]
    assert entities(tags, strict=False) == {("PER", 0, 2), ("LOC", 2, 3), ("LOC", 3, 4), ("ORG", 5, 6)}
    assert entities(tags, strict=True) == {("PER", 0, 2), ("LOC", 3, 4)}
    assert entity_scores([tags, ["O"]], [tags[:3] + ["O"] * 3, ["B-PER"]]) == (2 / 3, 2 / 4, pytest.approx(4 / 7))
    assert entity_scores([["O"]], [["O"]]) == (0, 0, 0)


def test_entities_are_those_of_seqeval() -> None:
    """Of thousands of random sentences, as conlleval reads tags and in strict IOB2 (tests/golden/make_squad.py)."""
    with np.load(Path(__file__).parent / "golden/squad.npz", allow_pickle=False) as golden:
        found = [entity_scores([right], [predicted]) for right, predicted in cases.tags()]
        np.testing.assert_allclose(found, golden["entities"], rtol=0, atol=1e-12)
        strict = [entity_scores([right], [predicted], strict=True)[2] for right, predicted in cases.tags()]
        np.testing.assert_allclose(strict, golden["strict_entities"], rtol=0, atol=1e-12)
        assert np.abs(golden["entities"][:, 2] - golden["strict_entities"]).max() > 0.5
