"""Answers from logits, EM and F1: by hand, and as transformers 4.57.1 computes them (tests/golden/make_squad.py)."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from lmjax.data.huggingface import write_tokenizer
from lmjax.data.squad import Question, most_context, read_questions, trimmed
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer, read_tokenizer
from lmjax.errors import UserError
from lmjax.tasks import make_task
from lmjax.tasks.answers import (
    COMPARE,
    best_match,
    best_threshold,
    chinese_f1,
    exact,
    exact_chinese,
    latin_words,
    longest_common,
    n_best,
    probabilities,
    word_f1,
)
from lmjax.tasks.spans import SpanConfig, answered, encode
from tests.golden import squad_cases as cases

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS = {name: cases.SETTINGS[name] for name in ("stride", "query_length")}


@pytest.mark.parametrize(
    ("answer", "predicted", "em", "f1"),
    [
        ("the dog", "Dog!", 1, 1),
        ("an old dog", "the dog barked", 0, 1 / 2),
        ("dog dog cat", "dog", 0, 1 / 2),
        ("dog", "cat", 0, 0),
        ("", "the", 1, 1),
        ("", "dog", 0, 0),
    ],
)
def test_words_of_answers_by_hand(answer: str, predicted: str, em: float, f1: float) -> None:
    assert exact(answer, predicted) == em
    assert word_f1(answer, predicted) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "predicted", "em", "f1"),
    [
        ("《战国无双3》", "战国无双3", 1, 1),
        ("光荣和ω-force", "ω-Force", 0, 2 * 1 / (4 + 1)),  # 光 荣 和 ωforce
        ("一二三四", "二三五四", 0, 2 * 2 / 8),  # 二三 is the longest run, whatever comes behind
        ("1995年10月", "1995年", 0, 2 * 2 / 6),
        ("是", "否", 0, 0),
    ],
)
def test_chinese_answers_by_hand(answer: str, predicted: str, em: float, f1: float) -> None:
    assert exact_chinese(answer, predicted) == em
    assert chinese_f1(answer, predicted) == pytest.approx(f1)


def test_chinese_answers_score_as_by_the_official_script() -> None:
    golden = np.load(GOLDEN / "cmrc.npz")["figures"]
    compare = COMPARE[True]
    ours = [[best_match(one, *answer) for one in compare] for answer in cases.chinese_answers()]
    np.testing.assert_allclose(ours, golden, rtol=0, atol=1e-12)
    assert 0.05 < np.mean(golden[:, 0]) < 0.5 < np.mean(golden[:, 1]) < 0.95
    assert longest_common("abcde", "xbcdx") == 3


def test_without_nltk_chinese_spans_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    latin_words.cache_clear()
    with pytest.raises(UserError, match=r"nltk is not installed, and CMRC 2018's F1 needs it: pip install lmjax\[zh\]"):
        make_task(SpanConfig(data="cmrc2018"))
    make_task(SpanConfig(data="squad2"))


def test_the_best_match_counts() -> None:
    assert best_match(exact, ["dog", "cat"], "cat") == 1
    assert best_match(word_f1, [], "") == 1
    assert best_match(word_f1, [], "dog") == 0
    assert best_match(exact, ["the", "dog"], "") == 0  # "the" leaves nothing to answer


def test_n_best_by_hand() -> None:
    """Two windows of "a b c d": a b c, which is the home of a and b, and b c d."""
    context, offsets, cut = "a b c d", [(0, 1), (2, 3), (4, 5), (6, 7)], [(0, 3, 2), (1, 3, 2)]
    start, end = np.zeros((2, 6), np.float32), np.zeros((2, 6), np.float32)
    start[0, 2:5], end[0, 2:5] = [1, 5, 2], [1, 2, 6]
    start[1, 2:5], end[1, 2:5] = [9, 0, 3], [0, 0, 4]  # b may not start here: the first window shows more around it
    best, odds = n_best(context, offsets, cut, start, end, 20, 2, True)
    assert (best[0].text, best[0].start_logit, best[0].end_logit) == ("b c", 5, 6)
    assert {candidate.text for candidate in best} == {"", "a", "b", "c", "d", "a b", "b c", "c d"}
    assert odds == 0 - 11
    assert sum(probabilities(best)) == pytest.approx(1)
    best, _ = n_best(context, offsets, cut, start, end, 20, 1, False)
    assert {candidate.text for candidate in best} == {"a", "b", "c", "d"}
    best, _ = n_best(context, offsets, cut, start - 100 * np.eye(6)[2:5].sum(0), end, 1, 1, False)
    assert best[0].text == "empty"


def test_the_threshold_by_hand() -> None:
    odds, scores, answerable = np.array([-3.0, 1.0, 0.0, 2.0]), np.array([1.0, 0.5, 0, 0]), np.array([1, 1, 0, 0], bool)
    assert best_threshold(odds, scores, answerable) == -3  # 1 + 2 right; at 1 it would be 1 + 0.5 + 1
    assert best_threshold(odds, 0 * scores, answerable) == -4  # never to answer
    assert best_threshold(np.zeros(2), np.array([1.0, 0]), np.array([True, False])) == -1  # both or none


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "squad.npz", allow_pickle=False) as file:
        return dict(file)


def test_em_and_f1_are_those_of_transformers(golden: dict[str, np.ndarray]) -> None:
    ours = [[best_match(compare, *case) for compare in COMPARE[False]] for case in cases.answers()]
    np.testing.assert_allclose(ours, golden["figures"], rtol=0, atol=1e-12)
    assert 0.2 < np.mean(golden["figures"][:, 0]) < np.mean(golden["figures"][:, 1]) < 0.8


def test_the_best_threshold_gives_the_best_f1_of_transformers(golden: dict[str, np.ndarray]) -> None:
    for case, best in zip(cases.thresholds(), golden["best_f1"], strict=True):
        threshold = best_threshold(**case)
        right = np.where(case["odds"] > threshold, ~case["answerable"], case["scores"])
        assert np.mean(right) == pytest.approx(best, abs=1e-12)


def made_up(folder: Path) -> tuple[list[Question], Tokenizer]:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in cases.VOCABULARY))
    (folder / "train.json").write_text(json.dumps(cases.squad()))
    return read_questions(epath.Path(folder / "train.json"), "squad2", True), read_tokenizer(folder)


def test_windows_and_n_best_are_those_of_transformers(golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Of a thousand questions: tokens, types, places of the answers, which tokens may start one, n-best lists, odds.

    transformers answers with the whole word where a span begins inside one; so n-best lists are compared where all
    words are tokens.
    """
    questions, tokenizer = made_up(tmp_path)
    cfgs = [
        SpanConfig(data=name, **SETTINGS, n_best=cases.N_BEST, answer_length=cases.ANSWER_LENGTH)
        for name in ("squad1", "squad2")
    ]
    split = encode(questions, tokenizer, cases.SETTINGS["length"], cfgs[0], training=False)
    found = []
    for paragraph in split.notes:
        for question in paragraph["questions"]:
            home = most_context([window[:2] for window in question["windows"]], len(paragraph["offsets"]))
            for number, (first, count, _) in enumerate(question["windows"]):
                row = {name: array[len(found)].tolist() for name, array in split.features.items()}
                may_start = [bool(home[first + i] == number) for i in range(count)]
                ends = (row["starts"], row["ends"])
                found.append(cases.digest(question["id"], row["tokens"], row["token_type_ids"], *ends, may_start))
    np.testing.assert_array_equal(np.array(found, np.uint64), golden["windows"])

    logits = np.stack([cases.logits(row) for row in range(len(found))], 1)
    predictions = {"start_logits": logits[0], "end_logits": logits[1]}
    for cfg in cfgs:
        lists, odds = [], []
        for _, best, null in answered(cfg, split, predictions):
            lists.append(cases.digest([tuple(candidate) for candidate in best]))
            odds.append(null)
        whole = np.arange(len(lists)) // cases.QUESTIONS % 2 == 1
        np.testing.assert_array_equal(np.array(lists, np.uint64)[whole], golden[f"v{cfg.data[-1]}"][whole])
    np.testing.assert_allclose(np.array(odds)[whole], golden["odds"][whole], rtol=0, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["bert-base-uncased", "bert-base-cased", "bert-base-chinese", "roberta"])
def test_windows_are_those_of_fast_tokenizers(kind: str, shared_data, run_peer, tmp_path: Path) -> None:
    """Ids, types and offsets of overflowing tokens, on the real paragraphs of XQuAD."""
    language = "zh" if kind.endswith("chinese") else "en"
    if kind == "roberta":
        questions = read_questions(epath.Path(shared_data("xquad/xquad.en.json")), "squad1", True)
        tokenizer = make_tokenizer(TokenizerConfig("roberta_bpe", 2000), [q.context for q in questions])
    else:
        questions = read_questions(epath.Path(shared_data(f"xquad/xquad.{language}.json")), "squad1", True)
        tokenizer = read_tokenizer(shared_data(f"tokenizers/{kind}-vocab.txt"), lowercase="uncased" in kind)
    write_tokenizer(tokenizer, epath.Path(tmp_path), 512, framed=True)
    texts = {"questions": np.array([q.text for q in questions]), "contexts": np.array([q.context for q in questions])}
    theirs = run_peer(GOLDEN / "squad_windows.py", texts, str(tmp_path), "128", "32")
    split = encode(questions, tokenizer, 128, SpanConfig(data="squad1", stride=32), training=False)
    np.testing.assert_array_equal(split.features["tokens"], theirs["ids"])
    if kind != "roberta":
        np.testing.assert_array_equal(split.features["token_type_ids"], theirs["types"])
    offsets, numbers = np.zeros((*theirs["ids"].shape, 2), int), []
    for paragraph in split.notes:
        for question in paragraph["questions"]:
            for first, count, begin in question["windows"]:
                offsets[len(numbers), begin : begin + count] = paragraph["offsets"][first : first + count]
                numbers.append(question["id"])
    np.testing.assert_array_equal([questions[i].id for i in theirs["question"]], numbers)
    for number, row, ours in zip(theirs["question"], theirs["offsets"], offsets, strict=True):
        np.testing.assert_array_equal(ours, trimmed(questions[number].context, row.tolist()))
