"""Supervised tuning: only responses are learned, packed conversations do not see each other, and figures are exact."""

import json
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from lmjax.data.chat_template import TEMPLATES, Turn
from lmjax.data.examples import Encoded
from lmjax.data.packing import pack_responses
from lmjax.errors import UserError
from lmjax.tasks import make_task
from lmjax.tasks.instruction import InstructionConfig, encode_split, predict
from tests.models.tiny import VOCAB
from tests.tasks.tiny_task import model_of
from tests.tiny_runs import tiny_tokenizer

LENGTH = 12
TASK = make_task(InstructionConfig(data="chat", template="plain"))
# Two fit into a row; token 0, padding too, ends the answers.
ENCODED = [
    (np.array(tokens, np.int32), np.arange(len(tokens)) >= asked)
    for tokens, asked in (([5, 6, 7, 8, 0], 2), ([9, 10, 11, 12, 13, 14, 0], 4), ([15, 16, 17, 0], 1))
]


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of("gpt2", TASK)[0]


def batch(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    weights = {"loss_weights": rows["loss_weights"].astype(np.float32)}
    return {**rows, **weights, "example_weights": np.ones(len(rows["tokens"]), np.float32)}


def loss(model: Any, rows: dict[str, np.ndarray]) -> float:
    given = batch(rows)
    return float(TASK.objective.loss(TASK.objective.terms(model(given), TASK.objective.prepare(given))))


def test_packed_conversations_are_as_if_apart(model: Any) -> None:
    packed = pack_responses(ENCODED, LENGTH)
    apart = [pack_responses([one], LENGTH) for one in ENCODED]
    apart = {name: np.concatenate([rows[name] for rows in apart]) for name in packed}
    assert (len(packed["tokens"]), len(apart["tokens"])) == (2, 3)

    def found(rows: dict[str, np.ndarray]) -> np.ndarray:
        """Log-probabilities by their conversations, which their first tokens tell apart."""
        p, first = np.asarray(predict(model(batch(rows)))["log_probability"]), {}
        for row, segments in enumerate(rows["segment_ids"]):
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                first[rows["tokens"][row, here][0]] = p[row, here]
        return np.concatenate([first[tokens[0]] for tokens, _ in ENCODED])

    np.testing.assert_allclose(found(packed), found(apart), rtol=0, atol=2e-6)
    assert loss(model, packed) == pytest.approx(loss(model, apart), abs=2e-6)


def test_only_responses_are_learned(model: Any) -> None:
    rows = pack_responses(ENCODED, LENGTH)
    before = loss(model, rows)
    asked, padding = rows["loss_weights"] == 0, rows["segment_ids"] == 0
    assert padding.any()
    assert (rows["targets"][~asked] == 0).sum() == 3  # the ends are learned, though padding is the same token
    for name, where in (("targets", asked), ("tokens", padding), ("positions", padding)):
        changed = rows | {name: np.where(where, (rows[name] + 3) % 10, rows[name]).astype(np.int32)}
        assert loss(model, changed) == before, name
    for name in ("targets", "tokens"):
        changed = rows | {name: np.where(asked, rows[name], (rows[name] + 1) % VOCAB).astype(np.int32)}
        assert loss(model, changed) != before, name


def test_figures_are_of_response_tokens(model: Any) -> None:
    rows = pack_responses(ENCODED, LENGTH)
    split, outputs = Encoded(rows, []), model(batch(rows))
    assert TASK.supervised
    figures = TASK.supervised.score(split, jax.device_get(TASK.supervised.predict(outputs)), {})
    terms = TASK.objective.terms(outputs, batch(rows))
    for name, mean in terms.items():
        assert figures[name] == pytest.approx(float(mean.value()), rel=1e-6)
    deviations = []  # of the conversations; two of them share a row
    for row, segment in ((0, 1), (0, 2), (1, 1)):
        here = (rows["segment_ids"][row] == segment) & (rows["loss_weights"][row] > 0)
        losses = -np.asarray(predict(outputs)["log_probability"])[row, here]
        deviations.append((losses - figures["response_loss"]).sum())
    wanted = np.linalg.norm(deviations) / sum(mask.sum() for _, mask in ENCODED)
    assert figures["response_loss_error"] == pytest.approx(wanted, rel=1e-5)
    assert float(terms["response_loss"].weight) == sum(mask.sum() for _, mask in ENCODED)
    assert figures["response_perplexity"] == pytest.approx(np.exp(figures["response_loss"]))
    assert (TASK.headline, TASK.larger_is_better) == ("response_loss", False)
    found = TASK.supervised.baselines(split, split)
    counts = np.bincount([7, 8, 0, 13, 14, 0, 16, 17, 0])
    shares = (counts + 1) / (9 + len(counts))
    assert found["response_loss"]["unigram"] == pytest.approx(-(counts * np.log(shares)).sum() / 9)
    assert found["response_accuracy"]["unigram"] == pytest.approx(1 / 3)


def test_rows_are_conversations_in_the_template() -> None:
    tokenizer = tiny_tokenizer("byte_bpe")
    answers = ("barked", "I")
    found = [(Turn("user", "The dog", "a river"), Turn("assistant", text)) for text in answers]
    split = encode_split(found, TEMPLATES["zephyr"], tokenizer, 64)
    assert split.notes == found
    learned = split.features["targets"][split.features["loss_weights"] > 0]
    wanted = [token for text in answers for token in (*tokenizer.encode(text), tokenizer.eos_id)]
    assert sorted(learned.tolist()) == sorted(wanted)


def test_questions_are_held_out_whole(tmp_path) -> None:
    """Rows with the same instruction, whatever their inputs, stand on one side."""
    rows = [{"instruction": f"task {i % 20}", "input": f"{i}", "output": "done"} for i in range(100)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    cfg = InstructionConfig(data="chat", folder=str(tmp_path), heldout_share=0.1, template="plain")
    task = make_task(cfg).supervised
    assert task
    splits = task.encode(tiny_tokenizer("byte_bpe"), 64)
    asked = {name: {turns[0].text for turns in split.notes} for name, split in splits.items()}
    assert not asked["train"] & asked["heldout"]
    assert {name: len(split.notes) for name, split in splits.items()} == {"train": 90, "heldout": 10}
    assert task.fingerprint() != make_task(replace(cfg, template="alpaca")).supervised.fingerprint()  # type: ignore[union-attr]


def test_what_does_not_predict_next_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="takes a model that predicts next tokens"):
        model_of("bert", TASK)
    with pytest.raises(UserError, match="unknown chat template 'alpacca'"):
        make_task(InstructionConfig(data="chat", template="alpacca"))
