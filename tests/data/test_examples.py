"""Stores of examples: what was encoded comes back, small on disk; epochs are permutations, the last batch is filled."""

from pathlib import Path

import numpy as np
import pytest

from lmjax.data.examples import Encoded, digest_of, open_examples, store_name, table_of, write_examples
from lmjax.data.pipeline import Stream, batches, heldout_batches
from lmjax.data.schedule import Schedule, Stage
from lmjax.data.store import Store
from lmjax.errors import UserError
from tests.tiny_runs import tiny_tokenizer

ROWS = 10
TRAIN = Encoded(
    {
        "tokens": np.arange(ROWS * 6).reshape(ROWS, 2, 3),
        "labels": np.arange(ROWS),
        "scores": np.linspace(-1, 1, ROWS),
        "answer_weights": np.arange(ROWS) % 2,
        "offsets": np.arange(ROWS) - 1,
    },
    [{"id": "甲"}],
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("examples") / "store"
    write_examples(folder, tiny_tokenizer("wordpiece"), {"train": TRAIN, "test": Encoded(TRAIN.features, [], False)})
    return Store.open(folder)


def test_what_was_encoded_comes_back(store: Store) -> None:
    splits = open_examples(store)
    assert [split.labelled for split in splits.values()] == [True, False]
    assert splits["train"].notes == [{"id": "甲"}]
    for name, array in TRAIN.features.items():
        found = splits["train"].features[name]
        np.testing.assert_array_equal(found, array.astype(np.float32) if name == "scores" else array)
    assert splits["train"].features["tokens"].dtype == np.uint8


def test_a_batch_has_the_kinds_that_models_read(store: Store) -> None:
    table = table_of(open_examples(store)["train"], 3, store.tokenizer)
    found = table.gather(np.array([2, 0]))
    assert found["tokens"].tolist() == [[[12, 13, 14], [15, 16, 17]], [[0, 1, 2], [3, 4, 5]]]
    kinds = {name: value.dtype for name, value in found.items()}
    assert kinds["tokens"] == kinds["labels"] == kinds["offsets"] == np.int32
    assert kinds["scores"] == kinds["answer_weights"] == np.float32


def test_epochs_are_permutations_and_batches_a_function_of_the_step(store: Store) -> None:
    table = table_of(open_examples(store)["train"], 3, store.tokenizer)
    stream = Stream((table,), (1.0,), lambda features, keys: features)
    schedule = Schedule((Stage(10, batch_size=4, length=3),))

    def labels(first: int) -> list[int]:
        return [int(i) for _, b in batches([stream], schedule, 5, first, 10) for i in b["labels"].ravel()]

    epochs = np.reshape(labels(0), (4, ROWS))
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(ROWS))] * 4
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert labels(7) == labels(0)[28:]


def test_the_last_batch_of_an_evaluation_is_filled_with_weight_0(store: Store) -> None:
    table = table_of(open_examples(store)["train"], 3, store.tokenizer)
    found = list(heldout_batches(table, lambda features, keys: features, 4, 0))
    assert np.concatenate([b["labels"] for b in found])[:ROWS].tolist() == list(range(ROWS))
    assert [b["example_weights"].tolist() for b in found] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]


def test_a_changed_file_is_another_store(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = store_name("mrpc-128", digest_of([tmp_path / "a"]))
    (tmp_path / "a").write_text("2")
    assert store_name("mrpc-128", digest_of([tmp_path / "a"])) != before
    assert store_name("a", "bc") != store_name("a", "b", "c")


def test_a_split_without_rows_leaves_nothing_behind(tmp_path: Path) -> None:
    empty = Encoded({"labels": np.zeros(0, int)}, [])
    with pytest.raises(UserError, match="heldout split has no example"):
        write_examples(tmp_path / "store", tiny_tokenizer("wordpiece"), {"train": TRAIN, "heldout": empty})
    assert list(tmp_path.iterdir()) == []
