"""A tag for each word: rows with and without context, figures, prediction files, refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmjax.data.examples import Encoded
from lmjax.data.tagged import Sentence, tagged_set
from lmjax.errors import UserError
from lmjax.tasks import make_task
from lmjax.tasks.tagging import TaggingConfig, encode
from tests.tasks.tiny_task import batch_of, model_of
from tests.tiny_runs import tiny_tokenizer

CFG = TaggingConfig(data="conll2003")
RECORD = tagged_set("conll2003")
SENTENCES = [
    Sentence(("The", "old", "postman", "ran"), ("O", "B-PER", "I-PER", "O"), 0),
    Sentence(("unbelievable", "elephants"), ("B-MISC", "B-ORG"), 0),
    Sentence(("river", "\u200b", "bank"), ("B-LOC", "I-LOC", "I-LOC"), 1),  # a word that leaves no token
]


def own_words(split: Encoded, row: int) -> tuple[list[int], list[str]]:
    """Where they begin, and their tags."""
    places = np.flatnonzero(split.features["loss_weights"][row]).tolist()
    return places, [RECORD.labels[split.features["labels"][row, place]] for place in places]


def test_first_sub_tokens_are_tagged() -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    split = encode(SENTENCES, tokenizer, 40, RECORD, "sentence")
    assert split.notes == [list(sentence.words) for sentence in SENTENCES]
    for row, sentence in enumerate(SENTENCES):
        places, tags = own_words(split, row)
        assert tags == list(sentence.tags)
        pieces = [tokenizer.encode(word) or [tokenizer.unk_id] for word in sentence.words]
        assert places == [1 + sum(map(len, pieces[:i])) for i in range(len(pieces))]
        assert split.features["segment_ids"][row].sum() == 2 + sum(map(len, pieces))


def test_rows_are_filled_with_what_follows_in_the_document() -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    plain = encode(SENTENCES, tokenizer, 40, RECORD, "sentence").features
    split = encode(SENTENCES, tokenizer, 40, RECORD, "document")
    sizes = plain["segment_ids"].sum(1)
    tokens = split.features["tokens"]
    np.testing.assert_array_equal(tokens[0, : sizes[0] - 1], plain["tokens"][0, : sizes[0] - 1])
    np.testing.assert_array_equal(tokens[0, sizes[0] - 1 : sizes[0] + sizes[1] - 2], plain["tokens"][1, 1 : sizes[1]])
    for name in ("labels", "loss_weights"):
        np.testing.assert_array_equal(split.features[name], plain[name])
    np.testing.assert_array_equal(tokens[1:], plain["tokens"][1:])  # another document does not follow
    chosen = encode(SENTENCES, tokenizer, 40, RECORD, "document", {0})
    np.testing.assert_array_equal(chosen.features["tokens"], tokens[:1])
    assert chosen.notes == [list(SENTENCES[0].words)]


@pytest.mark.parametrize("context", ["sentence", "document"])
def test_a_long_sentence_goes_on_in_the_next_row(context: str) -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    split = encode(SENTENCES, tokenizer, 9, RECORD, context)  # type: ignore[arg-type]
    assert len(split) > len(SENTENCES)
    tags = [tag for row in range(len(split)) for tag in own_words(split, row)[1]]
    assert tags == [tag for sentence in SENTENCES for tag in sentence.tags]
    task = make_task(CFG).supervised
    assert task
    right = {"labels": split.features["labels"]}
    assert task.score(split, right, {}) == {"f1": 1, "precision": 1, "recall": 1, "strict_f1": 1}


def test_figures_and_prediction_files() -> None:
    task = make_task(CFG).supervised
    assert task
    split = encode(SENTENCES, tiny_tokenizer("wordpiece"), 40, RECORD, "sentence")
    found = split.features["labels"].copy()
    found[0, own_words(split, 0)[0][1]] = 0  # the old postman is but a postman
    figures = task.score(split, {"labels": found}, {})
    assert (figures["precision"], figures["recall"], figures["f1"]) == (3 / 4, 3 / 4, 3 / 4)
    assert figures["strict_f1"] == pytest.approx(2 * 3 / (4 + 3))
    assert task.baselines(split, split) == {"accuracy": {"no entity": pytest.approx(2 / 9)}}
    (text,) = task.files("heldout", split, {"labels": found}, {}).values()
    assert text.startswith("The O O\nold B-PER O\npostman I-PER I-PER\nran O O\n\nunbelievable B-MISC B-MISC\n")
    assert text.endswith("bank I-LOC I-LOC\n\n")


def test_sentences_are_held_out_where_there_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("".join(f"{word}\tO\n\n" for word in SENTENCES[0].words))
    cfg = TaggingConfig(data="msra_ner", folder=str(tmp_path), heldout_share=0.25)
    task = make_task(cfg).supervised
    assert task
    assert {name: len(split) for name, split in task.encode(tiny_tokenizer("wordpiece"), 24).items()} == {
        "train": 3,
        "heldout": 1,
    }


def test_the_loss_weighs_words() -> None:
    task = make_task(CFG)
    batch = batch_of(task)
    outputs = model_of("bert", task)[0](batch)
    assert outputs["class_logits"].shape == (3, 12, 9)
    batch["loss_weights"] *= np.arange(12) < 4
    terms = task.objective.terms(outputs, batch)
    log_p = outputs["class_logits"] - np.log(np.exp(outputs["class_logits"]).sum(-1, keepdims=True))
    assert float(terms["cross_entropy"].value()) == pytest.approx(-float(log_p[:, :4, 1].mean()), rel=1e-5)
    assert float(terms["accuracy"].weight) == 12


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"conll2003: a causal model .* takes an encoder"):
        make_task(replace(CFG, frame="ordered"))
    with pytest.raises(UserError, match="rows of 2 tokens hold no text"):
        encode(SENTENCES, tiny_tokenizer("wordpiece"), 2, RECORD, "sentence")
