"""One of several endings: rows, outputs, figures, prediction files."""

import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.choices import Choice
from lmjax.data.examples import Encoded
from lmjax.tasks import make_task
from lmjax.tasks.choice import ChoiceConfig, encode
from tests.models.tiny import VOCAB
from tests.tasks.tiny_task import batch_of, model_of
from tests.tiny_runs import tiny_tokenizer

FOUND = [
    Choice("The dog", ("barked", "ran away", "walked", "knows why"), 2),
    Choice("A river", ("bank", "clerk", "said", "old"), 0),
]


def test_each_ending_follows_the_context() -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    split = encode(FOUND, tokenizer, 24, "separated", False)
    assert split.features["tokens"].shape == (2, 4, 24)
    assert split.features["labels"].tolist() == [2, 0]
    assert split.labelled
    for row, one in enumerate(FOUND):
        for number, ending in enumerate(one.endings):
            tokens, types = (split.features[name][row, number] for name in ("tokens", "token_type_ids"))
            assert tokenizer.decode(tokens[types == 1].tolist()) == tokenizer.decode(tokenizer.encode(ending))
            assert tokenizer.decode(tokens[types == 0].tolist()) == tokenizer.decode(tokenizer.encode(one.context))
    assert not encode([FOUND[0]._replace(label=None)], tokenizer, 24, "separated", False).labelled


def test_rows_of_decoders_are_ordered_texts_with_their_next_tokens() -> None:
    features = encode(FOUND, tiny_tokenizer("byte_bpe"), 24, "ordered", True).features
    tokens, targets = features["tokens"], features["targets"].reshape(2, 4, 24)
    np.testing.assert_array_equal(targets[..., :-1], tokens[..., 1:])
    weights = features["loss_weights"].reshape(2, 4, 24)
    np.testing.assert_array_equal(weights.sum(-1), features["segment_ids"].sum(-1) - 1)


@pytest.mark.parametrize(("family", "frame"), [("bert", "separated"), ("gpt2", "ordered")])
def test_each_choice_is_read_for_itself(family: str, frame: str) -> None:
    task = make_task(ChoiceConfig(data="swag", frame=frame))  # type: ignore[arg-type]
    batch = batch_of(task)
    model, _ = model_of(family, task)
    outputs = model(batch)
    assert outputs["class_logits"].shape == (3, 4)
    changed = batch | {"tokens": batch["tokens"].copy()}
    changed["tokens"][1, 2, 8] = (changed["tokens"][1, 2, 8] + 1) % VOCAB
    moved = jnp.abs(model(changed)["class_logits"] - outputs["class_logits"]) > 1e-5
    assert np.argwhere(moved).tolist() == [[1, 2]]
    terms = task.objective.terms(outputs, batch)
    assert ("clm" in terms) == (family == "gpt2")
    assert float(terms["cross_entropy"].weight) == 3


def test_figures_and_prediction_files() -> None:
    task = make_task(ChoiceConfig(data="openbookqa")).supervised
    assert task
    split = Encoded({"tokens": np.zeros((2, 4, 8)), "labels": np.array([2, 0])}, [])
    found = {"class_logits": np.array([[0.0, 1, 3, 2], [0.0, 1, 3, 2]])}
    assert task.score(split, found, {}) == {"accuracy": 0.5}
    assert task.baselines(split, split) == {"accuracy": {"chance": 0.25}}
    assert task.files("heldout", split, found, {}) == {"openbookqa.tsv": "index\tprediction\n0\tC\n1\tC\n"}
