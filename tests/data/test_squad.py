"""SQuAD's JSON and windows over paragraphs."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

from lmjax.data.squad import Answer, most_context, read_questions, token_span, trimmed, windows
from lmjax.errors import UserError

CONTEXT = "The dog barked. The dog ran."


def write(path: Path, *questions: dict[str, Any], context: str = CONTEXT) -> epath.Path:
    asked = [{"id": f"q{i}", "question": "Who?", **question} for i, question in enumerate(questions)]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": asked}]}]}))
    return epath.Path(path)


def answered(text: str, begin: int) -> dict[str, Any]:
    return {"answers": [{"text": text, "answer_start": begin}]}


def test_questions_and_answers_that_do_not_stand_where_they_should(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "dev.json", answered("dog", 4), answered("dog", 5), {"answers": [], "is_impossible": True})
    found = read_questions(file, "squad2", True)
    assert [question.answers for question in found] == [(Answer("dog", 4),), (Answer("dog", 5),), ()]
    assert (found[0].id, found[0].text, found[0].context, found[0].article) == ("q0", "Who?", CONTEXT, 0)
    assert capsys.readouterr().out == f"{file}: 1 of 2 answers are not at their offset\n"
    (tmp_path / "dev.json.gz").write_bytes(gzip.compress((tmp_path / "dev.json").read_bytes()))
    assert read_questions(epath.Path(tmp_path / "dev.json.gz"), "squad2", True) == found


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    for questions, name, says in (
        ([answered("dog", 4), {"question": " ", **answered("dog", 4)}], "squad1", "question q1: its question is empty"),
        ([{"answers": []}], "squad2", "question q0: it has no answers"),
        (
            [{"answers": [], "is_impossible": True}],
            "squad1",
            "question q0: it is unanswerable; set task.data to squad2",
        ),
    ):
        with pytest.raises(UserError, match=f"dev.json, {says}"):
            read_questions(write(tmp_path / "dev.json", *questions), name, True)
    for wrong, says in (
        ({"question": None}, "question is None, not a text"),
        ({"answers": [{"text": "dog", "answer_start": "4"}]}, "answer_start is '4', not a whole number"),
        ({"answers": [{"text": 7, "answer_start": 4}]}, "text is 7, not a text"),
    ):
        with pytest.raises(UserError, match=f"dev.json, question q0: its {says}"):
            read_questions(write(tmp_path / "dev.json", answered("dog", 4) | wrong), "squad1", True)
    with pytest.raises(UserError, match=r"question q0: its context is empty"):
        read_questions(write(tmp_path / "dev.json", answered("dog", 4), context=" \n"), "squad1", True)
    assert read_questions(write(tmp_path / "dev.json", {}), "squad1", False)[0].answers is None
    (tmp_path / "dev.json").write_text('{"data":\n [}')
    with pytest.raises(UserError, match=r"dev.json, line 2: not JSON"):
        read_questions(epath.Path(tmp_path / "dev.json"), "squad1", True)
    (tmp_path / "dev.json").write_text('{"data": [{"title": "x"}]}')
    with pytest.raises(UserError, match=r"dev.json: not in SQuAD's format .*paragraphs"):
        read_questions(epath.Path(tmp_path / "dev.json"), "squad1", True)
    with pytest.raises(UserError, match=r"unknown set of questions 'squad'; did you mean"):
        read_questions(epath.Path(tmp_path / "dev.json"), "squad", True)


def test_windows_overlap_and_reach_the_end() -> None:
    assert windows(5, 8, 3) == [(0, 5)]
    assert windows(8, 8, 3) == [(0, 8)]
    assert windows(12, 8, 3) == [(0, 8), (3, 8), (6, 6)]
    assert windows(10, 4, 9) == [(0, 4), (4, 4), (8, 2)]  # nothing is left out, whatever the stride
    assert windows(0, 4, 3) == [(0, 0)]


def test_a_token_belongs_to_the_window_that_shows_most_around_it() -> None:
    # Token 5 has 2 tokens behind it in the first window, 2 before it in the second, which is as long: the first.
    assert most_context([(0, 8), (3, 8), (6, 6)], 12).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_an_answer_is_the_tokens_that_hold_its_characters() -> None:
    offsets = [(0, 3), (4, 6), (6, 7), (8, 14), (14, 15)]
    assert token_span(offsets, Answer("dog", 4)) == (1, 2)
    assert token_span(offsets, Answer("o", 5)) == (1, 1)
    assert token_span(offsets, Answer(" ", 3)) is None
    assert trimmed("a  dog ", [(0, 1), (1, 6), (6, 7)]) == [(0, 1), (3, 6), (7, 7)]


@pytest.mark.parametrize(
    ("path", "name", "questions", "unanswerable", "misplaced"),
    [
        ("squad_v2/dev-part.json", "squad2", 748, 364, 0),
        ("squad_v2/train-part.json", "squad2", 4065, 2155, 0),
        ("xquad/xquad.en.json", "squad1", 614, 0, 0),
        ("xquad/xquad.zh.json", "squad1", 614, 0, 0),
        ("cmrc2018/cmrc2018_dev.json.gz", "cmrc2018", 3219, 0, 200),
    ],
)
def test_real_files(
    shared_data,
    capsys: pytest.CaptureFixture[str],
    path: str,
    name: str,
    questions: int,
    unanswerable: int,
    misplaced: int,
) -> None:
    found = read_questions(epath.Path(shared_data(path)), name, True)
    assert len(found) == questions
    assert sum(not question.answers for question in found) == unanswerable
    said = capsys.readouterr().out
    assert said.count(f": {misplaced} of ") == (misplaced > 0), said


def test_most_context_is_the_window_with_the_best_score() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        tokens, room, stride = (int(n) for n in rng.integers(1, (60, 20, 12)))
        cut = windows(tokens, room, stride)
        home = most_context(cut, tokens)
        for token in range(tokens):
            scores = [min(token - a, a + n - 1 - token) + 0.01 * n if a <= token < a + n else -1 for a, n in cut]
            assert home[token] == scores.index(max(scores))
