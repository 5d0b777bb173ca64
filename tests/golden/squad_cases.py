"""Made-up paragraphs, answers, logits and tags, the same for the golden records and for the tests that read them.

By `random.Random` and `numpy.random.RandomState`, whose streams never change. Needs numpy alone.
"""

import hashlib
import random
import string
from typing import Any

import numpy as np

TEXT = """
the a an of in river cafe naive bank clerk 1895 1943 7 old dog barked postman ran away seven elephants walked who
why when where nobody knows it was is not far from north south king queen army battle won lost paid gold silver
"""
OTHERS = "bankers dogfight riverside 18951943 unwalked kingly goldsmith southern"  # are no words of VOCABULARY
WORDS, PIECES = TEXT.split(), OTHERS.split()
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = string.ascii_lowercase + string.digits
VOCABULARY = [*SPECIALS, *string.punctuation, *LETTERS, *(f"##{c}" for c in LETTERS), *(w for w in WORDS if len(w) > 1)]
SHOWN = {"cafe": "café", "naive": "Naïve"}
PARAGRAPHS, QUESTIONS = 200, 5
SETTINGS = {"length": 40, "stride": 11, "query_length": 6}
N_BEST, ANSWER_LENGTH = 10, 9
TYPES = ("PER", "LOC", "ORG")


def paragraph(rng: random.Random, pieces: bool) -> tuple[str, list[tuple[int, int]]]:
    """A text, and where its words stand in it."""
    text, places = "", []
    joined: set[str] = set()  # by hyphens: transformers takes the first of equal ones for the answer
    for _ in range(rng.randrange(12, 90)):
        word = rng.choice(PIECES) if pieces and rng.random() < 0.2 else rng.choice(sorted(set(WORDS) - joined))
        joined = {*joined, word} if text.endswith("-") else {word}
        word = SHOWN.get(word, word)
        word = word.title() if rng.random() < 0.2 else word
        before, after = (
            rng.choice(["", "", "", "", "(", '"', "$"]),
            rng.choice(["", "", "", "", ".", ",", ")", '"', "-"]),
        )
        text += before
        places.append((len(text), len(text) + len(word)))
        text += word + after + ("" if after == "-" else " ")
    return text.strip(), places


def squad(seed: int = 0) -> dict[str, Any]:
    """SQuAD 2.0's JSON; the paragraphs with an even number have words of several pieces."""
    rng, paragraphs = random.Random(seed), []
    for number in range(PARAGRAPHS):
        text, places = paragraph(rng, number % 2 == 0)
        questions = []
        for _ in range(QUESTIONS):
            first = rng.randrange(len(places))
            begin, end = places[first][0], places[min(first + rng.randrange(4), len(places) - 1)][1]
            impossible = rng.random() < 0.25
            questions.append(
                {
                    "id": f"{number}-{len(questions)}",
                    "question": " ".join(rng.choice(WORDS) for _ in range(rng.randrange(2, 10))) + "?",
                    "answers": [] if impossible else [{"text": text[begin:end], "answer_start": begin}],
                    "is_impossible": impossible,
                }
            )
        paragraphs.append({"context": text, "qas": questions})
    return {"version": "v2.0", "data": [{"title": "made up", "paragraphs": paragraphs}]}


def logits(row: int) -> np.ndarray:
    """Of starts and ends, float32 [2, length], of a window."""
    return np.random.RandomState(row).normal(0, 3, (2, SETTINGS["length"])).astype(np.float32)


def answers(seed: int = 0, count: int = 4000) -> list[tuple[list[str], str]]:
    """Right answers and a prediction, alike more often than not; some have nothing but articles and punctuation."""
    rng, found = random.Random(seed), []
    words = ["the", "a", "An", "dog", "Dog", "dog's", "don't", "U.S.", "café", "don", "—", "-", "1,000", "'", "an", "x"]
    for _ in range(count):
        right = [" ".join(rng.choice(words) for _ in range(rng.randrange(5))) for _ in range(rng.randrange(4))]
        chosen = rng.choice([*right, ""]).split(" ")
        predicted = "  ".join(w if rng.random() < 0.7 else rng.choice(words) for w in chosen if rng.random() < 0.9)
        found.append((right, predicted))
    return found


def chinese_answers(seed: int = 0, count: int = 4000) -> list[tuple[list[str], str]]:
    """The same of Chinese characters, words of other letters, numbers, units and punctuation, with few spaces."""
    rng, found = random.Random(seed), []
    words = [
        *"一二三四人的国",
        "3.5",
        "km",
        "iPhone 4s",
        "ω-force",
        "Henry A. Walsh",
        "don't",
        "23~28℃",
        "50%",
        "1,000",
    ]
    words += ["，", "。", "《", "》", "、", "……", "·", "—", "(", ")", '"', "U.S.", "．", " ", "Ｌ"]
    for _ in range(count):
        right = ["".join(rng.choice(words) for _ in range(rng.randrange(1, 9))) for _ in range(rng.randrange(1, 4))]
        chosen = list(rng.choice(right))
        cut = chosen[rng.randrange(3) :] + [rng.choice(words) for _ in range(rng.randrange(3))]
        found.append((right, "".join(c for c in cut if rng.random() < 0.95)))
    return found


def tags(seed: int = 0, count: int = 3000) -> list[tuple[list[str], list[str]]]:
    """Tags of a sentence, right ones and predicted ones, with I- wherever it likes."""
    rng, found = random.Random(seed), []
    known = ["O", *(f"{mark}-{name}" for mark in "BI" for name in TYPES)]
    for _ in range(count):
        right = [rng.choice(known) for _ in range(rng.randrange(1, 12))]
        found.append((right, [tag if rng.random() < 0.7 else rng.choice(known) for tag in right]))
    return found


def thresholds(seed: int = 0, count: int = 300) -> list[dict[str, np.ndarray]]:
    """Odds of no answer, scores of the best answers, and which questions have one."""
    rng, found = np.random.RandomState(seed), []
    for _ in range(count):
        size = rng.randint(2, 30)
        answerable = rng.uniform(size=size) < 0.6
        odds = rng.normal(size=size) + ~answerable
        found.append({"odds": odds, "scores": answerable * rng.uniform(size=size), "answerable": answerable})
    return found


def digest(*parts: object) -> int:
    """64 bits that stand for the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8])
