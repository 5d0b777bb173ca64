"""Streams of sentences: what either direction reads and predicts, rows that continue, and restarts."""

import numpy as np
import pytest

from lmjax.data.instances import Table, build_table, open_table
from lmjax.data.pipeline import Stream, batches, heldout_batches
from lmjax.data.prepare import DataConfig, prepare
from lmjax.data.schedule import Schedule, Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.data.word_streams import WordStreams
from lmjax.errors import UserError

pytestmark = pytest.mark.core

LENGTH, ROWS = 6, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """60 sentences, no word twice but for three: `s7w2` is word 2 of sentence 7."""
    folder = tmp_path_factory.mktemp("words")
    rng = np.random.default_rng(0)
    for document in range(20):
        lines = []
        for sentence in range(3):
            number = 3 * document + sentence
            lines.append(" ".join(["the", *(f"s{number}w{i}" for i in range(rng.integers(1, 14)))]))
        (folder / f"{document:02}.txt").write_text("\n".join(lines))
    cfg = DataConfig(str(folder / "store"), TextFiles((str(folder / "*.txt"),)), TokenizerConfig("words", 120))
    cfg = DataConfig(**{**cfg.__dict__, "heldout": 0.3})
    return prepare(cfg, [WordStreams(LENGTH, carry) for carry in (True, False)], 0)


def read(store, spelled):
    """Spellings as words again."""
    names = {257: "<S>", 258: "</S>"}

    def word(row):
        inner = row[1 : row.tolist().index(260)]
        return names.get(int(inner[0])) or bytes((inner - 1).astype(np.uint8)).decode()

    return [word(row) for row in spelled.reshape(-1, 50)]


def sentences(store, table):
    """The words of each sentence in the table's order, from the text itself."""
    text = {}
    for path in sorted(store.directory.parent.glob("*.txt")):
        for line in path.read_text().splitlines():
            text[line.split()[1].split("w")[0]] = line.split()
    stream = read(store, np.concatenate([table.gather(np.array([i]))["tokens"] for i in range(len_of(table))]))
    return [text[words[2].split("w")[0]] for words in split_at(stream, "<S>") if len(words) > 2]


def len_of(table):
    return int(table.pass_ends[-1])


def split_at(words, mark):
    found = []
    for word in words:
        if word == mark:
            found.append([])
        found[-1].append(word)
    return found


def test_each_direction_reads_and_predicts_whole_sentences(store):
    """In the one stream that the table's rows make, sentence by sentence; unknown words by their own spelling."""
    table = open_table(WordStreams(LENGTH), store, "train", 0)
    rows = table.gather(np.arange(len_of(table)))
    forward, backward = read(store, rows["tokens"]), read(store, rows["backward_tokens"])
    name = [store.tokenizer.token(i) for i in range(store.tokenizer.vocab_size)]
    at, whole = 0, sentences(store, table)
    assert len(whole) > 20
    for words in whole[:-1]:  # the last may be cut
        n = len(words) + 1
        span = slice(at, at + n)
        assert forward[span] == ["<S>", *words]
        assert backward[span] == ["</S>", *reversed(words)]
        known = [word if store.tokenizer.id(word) is not None else "<UNK>" for word in words]
        assert [name[i] for i in rows["targets"].ravel()[span]] == [*known, "</S>"]
        assert [name[i] for i in rows["backward_targets"].ravel()[span]] == [*reversed(known), "<S>"]
        at += n
    assert [w for words in whole for w in words] != sorted(w for words in whole for w in words)


def weigh(features, keys):
    return {"row": keys.row, "data_pass": keys.data_pass} | features


def run(table, steps, first=0, micro_batches=2):
    stage = Stage(steps, ROWS, LENGTH, micro_batches=micro_batches)
    stream = Stream((table,), (1.0,), weigh)
    return [batch for _, batch in batches([stream], Schedule([stage]), 0, first, steps)]


def test_a_row_goes_on_where_it_ended(store):
    table = open_table(WordStreams(LENGTH, carry=True), store, "train", 0)
    stretch = len_of(table) // ROWS
    made = run(table, 2 * stretch + 1)
    rows = np.stack([batch["row"].ravel() for batch in made])
    np.testing.assert_array_equal(rows[:stretch], np.arange(stretch)[:, None] + stretch * np.arange(ROWS))
    np.testing.assert_array_equal(rows[stretch : 2 * stretch], rows[:stretch])
    assert made[stretch]["data_pass"].max() == 1
    again = run(table, 2 * stretch + 1, first=stretch - 1)
    for one, other in zip(again, made[stretch - 1 :], strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    held = list(heldout_batches(open_table(WordStreams(LENGTH, True), store, "heldout", 0), weigh, 2, 0))
    rows = np.stack([batch["row"] for batch in held])
    np.testing.assert_array_equal(np.diff(rows, axis=0), 1)


def test_without_carry_rows_are_shuffled(store):
    table = open_table(WordStreams(LENGTH), store, "train", 0)
    rows = np.concatenate([batch["row"].ravel() for batch in run(table, len_of(table) // ROWS)])
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(rows) == 1).mean() < 0.2


def test_the_order_depends_on_the_seed_alone(store):
    build_table(WordStreams(LENGTH), store, "train", 1)
    orders = [open_table(WordStreams(LENGTH), store, "train", seed).columns["sentence"] for seed in (0, 1)]
    other = open_table(WordStreams(LENGTH, True), store, "train", 0).columns["sentence"]
    np.testing.assert_array_equal(orders[0], other)
    assert (orders[0] != orders[1]).any()


def test_what_cannot_continue_is_one_line(store):
    table = open_table(WordStreams(LENGTH, carry=True), store, "train", 0)
    stage, two = Stage(2, ROWS, LENGTH), Stream((table, table), (1.0, 1.0), weigh)
    with pytest.raises(UserError, match="drawn from one corpus"):
        list(batches([two], Schedule([stage]), 0, 0, 2))
    few = Table(table.cfg, table.split, table.tokenizer, table.columns, np.array([3]))
    with pytest.raises(UserError, match="fewer than one batch of 4"):
        list(heldout_batches(few, weigh, 4, 0))
