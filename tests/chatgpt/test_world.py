"""The made-up world: its right answers, what answers are worth, what its people show and choose."""

import itertools
import json

import numpy as np
import pytest

from lmjax.chatgpt import world

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ("repeat: cat ant dog", "cat ant dog"),
        ("reverse: cat ant dog", "dog ant cat"),
        ("first: cat ant", "cat"),
        ("last: cat ant", "ant"),
        ("sort: cat ant dog", "ant cat dog"),
        ("count: cat ant dog", "three"),
    ],
)
def test_right_answers(asked: str, right: str) -> None:
    assert world.right_answer(asked) == right


@pytest.mark.parametrize(
    ("answer", "worth"),
    [
        ("sure: dog ant cat", 5),
        ("dog ant cat", 4),
        ("sure:", 1),
        ("", 0),
        ("owl", 0),
        ("dog ant", 4 * 2 * 2 / 5),  # twice the matches, over the words of both
        ("dog ant cat cat", 4 * 2 * 3 / 7),
        ("sure: sure: dog ant cat", 1 + 4 * 2 * 3 / 7),  # one courtesy is enough
        ("dog ant cat sure:", 4 * 2 * 3 / 7),  # and it comes first
        ("cat ant dog", 4 * 2 * 1 / 6),  # in order, one word matches
    ],
)
def test_what_an_answer_is_worth(answer: str, worth: float) -> None:
    asked = "reverse: cat ant dog"
    assert world.true_reward(asked, answer) == pytest.approx(worth)
    assert world.is_right(asked, answer) == (worth in (world.RIGHT, world.RIGHT + world.POLITE))


def test_every_question_has_an_answer_and_the_best_one_is_worth_most() -> None:
    asked = world.questions(np.random.default_rng(0), 2000)
    assert {one.partition(":")[0] for one in asked} == set(world.TASKS)
    for one in asked:
        assert world.true_reward(one, f"{world.COURTESY} {world.right_answer(one)}") == world.RIGHT + world.POLITE


def test_experts_err_and_are_polite_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    asked = world.questions(rng, 4000)
    said = [world.expert_answer(one, rng) for one in asked]
    polite = np.mean([answer.startswith(f"{world.COURTESY} ") for answer in said])
    plain = [answer.removeprefix(f"{world.COURTESY} ") for answer in said]
    wrong = np.mean([answer != world.right_answer(one) for one, answer in zip(asked, plain, strict=True)])
    assert all(plain)  # nobody says nothing
    assert polite == pytest.approx(world.COURTESIES, abs=0.03)
    assert wrong == pytest.approx(world.SLIPS, abs=0.03)
    rows = [json.loads(line) for line in world.demonstrations(rng, asked[:5]).splitlines()]
    assert [row["instruction"] for row in rows] == asked[:5]
    assert all(row["output"] for row in rows)


def test_every_second_page_has_the_solutions() -> None:
    sheet, solved = (page.split("\n") for page in world.pages(rng(), 2))
    assert len(sheet) == world.LINES
    assert all(": " in line for line in sheet)
    assert [world.right_answer(asked) for asked in solved[::2]] == solved[1::2]


def test_choices_are_bradley_terrys_in_every_pair() -> None:
    """P(a before b) = sigmoid(r_a - r_b); 20,000 rankings, so that 0.02 are more than five standard errors."""
    rewards, some = [0.0, 0.5, 2.0, 4.0], rng()
    ranks = np.array([world.chosen_ranks(rewards, some) for _ in range(20_000)])
    assert (np.sort(ranks, axis=1) == [1, 2, 3, 4]).all()
    for a, b in itertools.combinations(range(4), 2):
        preferred = np.mean(ranks[:, a] < ranks[:, b])
        assert preferred == pytest.approx(1 / (1 + np.exp(rewards[b] - rewards[a])), abs=0.02)


def test_the_best_accuracy_is_that_of_who_knows_the_rewards() -> None:
    some, rewards = rng(), [[0.0, 1.0, 3.0], [2.0, 2.0, 2.5]]
    found = []
    for row in rewards:
        ranks = np.array([world.chosen_ranks(row, some) for _ in range(20_000)])
        for a, b in itertools.combinations(range(3), 2):
            found.append(np.mean((ranks[:, a] < ranks[:, b]) == (row[a] >= row[b])))
    assert world.best_accuracy(rewards) == pytest.approx(np.mean(found), abs=0.01)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)
