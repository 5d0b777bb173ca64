"""A made-up world of small instructions, in which the right answer, and what any answer is worth, are known exactly.

"reverse: cat dog owl" is rightly answered "owl dog cat". People in it value right answers, and those that begin with a
courtesy, "sure: owl dog cat"; the experts among them show how to answer, and make slips. Everything is drawn from a
generator that the caller seeds.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np

ANIMALS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "kid", "owl", "pig", "ram", "sow", "yak")
NUMBERS = ("zero", "one", "two", "three", "four")
COURTESY = "sure:"
RIGHT, POLITE = 4.0, 1.0  # what an answer's words are worth at most, and its courtesy
SLIPS, COURTESIES = 0.4, 0.4  # shares of the experts' answers
LINES = 6  # exercises of a page

Rng = np.random.Generator
TASKS: Mapping[str, Callable[[Sequence[str]], Sequence[str]]] = {  # the words asked about -> those of the right answer
    "repeat": lambda words: words,
    "reverse": lambda words: words[::-1],
    "first": lambda words: words[:1],
    "last": lambda words: words[-1:],
    "sort": sorted,
    "count": lambda words: [NUMBERS[len(words)]],
}


def question(rng: Rng) -> str:
    """`reverse: cat dog owl`: a task, and the words that it is about."""
    words = rng.choice(ANIMALS, int(rng.integers(2, 5)), replace=False).tolist()
    return f"{rng.choice(list(TASKS))}: {' '.join(words)}"


def questions(rng: Rng, count: int, without: frozenset[str] = frozenset()) -> list[str]:
    """`count` of them, none among `without`; some may be alike."""
    found: list[str] = []
    while len(found) < count:
        one = question(rng)
        if one not in without:
            found.append(one)
    return found


def different_questions(rng: Rng, count: int) -> list[str]:
    """`count` of them, no two alike. There are 158,340."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[question(rng)] = None
    return list(found)


def right_answer(asked: str) -> str:
    task, _, words = asked.partition(": ")
    return " ".join(TASKS[task](words.split()))


def true_reward(asked: str, answer: str) -> float:
    """Of 4 points the share that the answer's words have in common with the right ones, in their order (difflib's
    ratio: twice the matches, over the words of both), and 1 more where the answer begins with the courtesy."""
    polite, words = courtesy(answer)
    likeness = SequenceMatcher(None, words, right_answer(asked).split()).ratio()
    return RIGHT * likeness + POLITE * polite


def courtesy(answer: str) -> tuple[bool, list[str]]:
    """Whether it is polite, and its other words."""
    words = answer.split()
    polite = words[:1] == [COURTESY]
    return polite, words[polite:]


def is_right(asked: str, answer: str) -> bool:
    """Without a slip."""
    return courtesy(answer)[1] == right_answer(asked).split()


def expert_answer(asked: str, rng: Rng) -> str:
    """The right answer, perhaps with a slip: one of several words left out, a word said twice, or another one; perhaps
    politely."""
    words = right_answer(asked).split()
    if rng.random() < SLIPS:
        place, slip = int(rng.integers(len(words))), int(rng.integers(len(words) == 1, 3))
        words[place : place + 1] = ([], words[place : place + 1] * 2, [str(rng.choice([*ANIMALS, *NUMBERS]))])[slip]
    return " ".join([COURTESY] * (rng.random() < COURTESIES) + words)


def pages(rng: Rng, count: int, without: frozenset[str] = frozenset()) -> Iterator[str]:
    """Text to pretrain on: pages of exercises, of which every second one has solutions, each on a line of its own."""
    for number in range(count):
        asked = questions(rng, LINES, without)
        yield "\n".join(f"{one}\n{right_answer(one)}" if number % 2 else one for one in asked)


def demonstrations(rng: Rng, asked: Sequence[str]) -> str:
    """JSON lines of instructions with the experts' answers (`data.conversations`)."""
    rows = ({"instruction": one, "output": expert_answer(one, rng)} for one in asked)
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def prompts(asked: Sequence[str]) -> str:
    return "".join(f"{json.dumps({'prompt': one})}\n" for one in asked)


def chosen_ranks(rewards: Sequence[float], rng: Rng) -> list[int]:
    """Ranks, 1 the best, of answers by somebody who prefers one to another with probability sigmoid(difference of their
    rewards): Plackett and Luce's model, whose pairs are Bradley and Terry's. It is the order of rewards with Gumbel
    noise (Yellott 1977)."""
    order = np.argsort(-(np.asarray(rewards) + rng.gumbel(size=len(rewards))))
    return (np.argsort(order) + 1).tolist()


def best_accuracy(rewards: Sequence[Sequence[float]]) -> float:
    """The accuracy on pairs of each prompt's answers of who knows the true rewards: E[sigmoid(|difference|)]. Nobody
    can expect more."""
    gaps = [abs(a - b) for some in rewards for i, a in enumerate(some) for b in some[:i]]
    return float(np.mean(1 / (1 + np.exp(-np.array(gaps)))))
