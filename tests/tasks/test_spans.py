"""Answers in paragraphs: rows, figures, prediction files, refusals."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.examples import Encoded
from lmjax.data.squad import Answer, Question
from lmjax.errors import UserError
from lmjax.tasks import make_task
from lmjax.tasks.spans import SpanConfig, encode
from tests.tasks.tiny_task import batch_of, model_of
from tests.tiny_runs import SENTENCES, tiny_tokenizer

TEXT = " ".join(SENTENCES)
CFG = SpanConfig(data="squad2", stride=8)
LENGTH = 32
QUESTIONS = [
    Question("0", "Who ran away?", TEXT, (Answer("postman", TEXT.index("postman ran")),), 0),
    Question("1", "Who barked?", TEXT, (Answer("The dog", 1),), 0),  # it begins at 0
    Question("2", "Who slept?", TEXT, (), 0),
]


@pytest.fixture(scope="module")
def split() -> Encoded:
    return encode(QUESTIONS, tiny_tokenizer("wordpiece"), LENGTH, CFG, training=False)


@pytest.mark.parametrize("kind", ["wordpiece", "roberta_bpe"])
def test_answers_are_the_characters_of_their_tokens(kind: str) -> None:
    """Each window that shows the answer says where it is: read back through the offsets it is the answer."""
    tokenizer = tiny_tokenizer(kind)
    split = encode(QUESTIONS, tokenizer, LENGTH, CFG, training=False)
    (paragraph,) = split.notes
    row = shown = 0
    for question in paragraph["questions"]:
        for first, _, begin in question["windows"]:
            start, end = (int(split.features[name][row]) for name in ("starts", "ends"))
            if end:
                a, b = (paragraph["offsets"][first + place - begin] for place in (start, end))
                assert TEXT[a[0] : b[1]] == question["answers"][0]
                shown += 1
            assert split.features["loss_weights"][row] == (question["id"] != "1")
            assert tokenizer.decode(split.features["tokens"][row, begin : begin + 2].tolist()).strip()
            row += 1
    assert row == len(split)
    assert shown > 1


def test_questions_whose_answer_is_not_at_its_offset_are_not_trained_on(split: Encoded) -> None:
    trained = encode(QUESTIONS, tiny_tokenizer("wordpiece"), LENGTH, CFG, training=True)
    windows = [len(question["windows"]) for question in split.notes[0]["questions"]]
    assert len(trained) == windows[0] + windows[2]
    assert trained.features["loss_weights"].all()
    assert not trained.notes
    assert not encode([QUESTIONS[0]._replace(answers=None)], tiny_tokenizer("wordpiece"), LENGTH, CFG, False).labelled


def logits_for(split: Encoded, **answers: str) -> dict[str, np.ndarray]:
    """Logits that say these answers to the questions "q0", "q1", ...: 5 at either end, 0 elsewhere; "" is none."""
    start, end, row = np.zeros((len(split), LENGTH)), np.zeros((len(split), LENGTH)), 0
    for paragraph in split.notes:
        offsets = paragraph["offsets"]
        for question in paragraph["questions"]:
            text = answers[f"q{question['id']}"]
            at = paragraph["context"].find(text)
            for first, count, begin in question["windows"]:
                places = [i for i in range(count) if at <= offsets[first + i][0] < at + len(text)]
                start[row, begin + places[0] if places else 0] = 5
                end[row, begin + places[-1] if places else 0] = 5
                row += 1
    return {"start_logits": start.astype(np.float32), "end_logits": end.astype(np.float32)}


def test_figures_and_prediction_files(split: Encoded) -> None:
    task = make_task(CFG).supervised
    assert task
    found = logits_for(split, q0="postman", q1="The dog barked", q2="")
    figures = task.score(split, found, {})
    # "The dog" in "The dog barked": one of two words, without the article.
    assert figures["f1"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert figures["exact"] == pytest.approx(2 / 3)
    assert (figures["exact_answerable"], figures["exact_unanswerable"]) == (1 / 2, 1)
    files = {name: json.loads(text) for name, text in task.files("heldout", split, found, figures).items()}
    assert files["predictions.json"] == {"0": "postman", "1": "The dog barked", "2": ""}
    assert files["nbest_predictions.json"]["0"][0]["text"] == "postman"
    assert sum(best["probability"] for best in files["nbest_predictions.json"]["2"]) == pytest.approx(1)
    assert files["null_odds.json"]["2"] > figures["null_threshold"] >= files["null_odds.json"]["0"]
    assert task.baselines(split, split) == {name: {"no answer": pytest.approx(1 / 3)} for name in ("f1", "exact")}
    untold = [question._replace(answers=None) for question in QUESTIONS]
    hidden = encode(untold, tiny_tokenizer("wordpiece"), LENGTH, CFG, training=False)
    of_test = task.files("test", hidden, found, figures)
    assert json.loads(of_test["predictions.json"]) == files["predictions.json"]
    of_heldout = figures | {"null_threshold": -100.0}
    low = task.files("test", hidden, found, of_heldout)
    assert json.loads(low["predictions.json"]) == dict.fromkeys("012", "")
    of_test = task.score(split, found, of_heldout)  # what was tuned on the held-out questions, not on these
    assert (of_test["exact"], of_test["f1"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert "null_threshold" not in of_test


def test_squad1_always_answers(split: Encoded) -> None:
    task = make_task(replace(CFG, data="squad1")).supervised
    assert task
    found = logits_for(split, q0="", q1="The dog", q2="")
    figures = task.score(split, found, {})
    assert set(figures) == {"f1", "exact"}
    files = task.files("heldout", split, found, figures)
    assert set(files) == {"predictions.json", "nbest_predictions.json"}
    assert all(json.loads(files["predictions.json"]).values())
    assert task.baselines(split, split) == {}


def test_the_loss_is_the_mean_of_both_ends() -> None:
    task = make_task(CFG)
    batch = batch_of(task)
    outputs = model_of("bert", task)[0](batch)
    assert outputs["start_logits"].shape == outputs["end_logits"].shape == (3, 12)
    assert np.isneginf(outputs["start_logits"]).tolist() == [[False] * 9 + [True] * 3] * 3  # padding
    batch["loss_weights"][2] = 0
    losses = [
        -jnp.log(jnp.exp(logits)[:, 1] / jnp.exp(logits).sum(1))[:2].mean()
        for logits in (outputs["start_logits"], outputs["end_logits"])
    ]
    assert float(task.objective.terms(outputs, batch)["cross_entropy"].value()) == pytest.approx(
        float(sum(losses) / 2), rel=1e-5
    )


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"squad2: a causal model .* takes an encoder"):
        make_task(replace(CFG, frame="ordered"))
    with pytest.raises(UserError, match=r"rows of 6 tokens have no room beside question 0; raise length"):
        encode(QUESTIONS, tiny_tokenizer("wordpiece"), 6, CFG, training=False)
    with pytest.raises(UserError, match="must be at least 1"):
        make_task(replace(CFG, stride=0))
    with pytest.raises(UserError, match="does not tell where its tokens stand"):
        encode(QUESTIONS, tiny_tokenizer("sentencepiece"), LENGTH, CFG, training=False)
