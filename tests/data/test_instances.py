import random
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from lmjax.data import instances
from lmjax.data.instances import (
    SentencePairs,
    Sentences,
    Windows,
    build_table,
    open_table,
    sentence_pairs,
    sentence_rows,
)
from lmjax.data.store import Split, Store, write_array
from lmjax.errors import UserError
from tests.data.synthetic import CLS, PAD, SEP, TOKENIZER, make_split, make_table

SPLIT = make_split(documents=300, seed=1)
DOCUMENT_ENDS = SPLIT.sentence_starts[SPLIT.document_starts[1:]]


def document_of(token):
    return np.searchsorted(DOCUMENT_ENDS, token, side="right")


def pairs_of(cfg, seed=0):
    made = list(sentence_pairs(SPLIT.sentence_starts, SPLIT.document_starts, cfg, random.Random(seed)))
    return np.array(made, np.int64).T


@pytest.mark.parametrize("length", [16, 40, 1000])
@pytest.mark.parametrize("next_sentence", [True, False])
def test_chunks_tile_every_document_and_pairs_are_whole_sentences(monkeypatch, length, next_sentence):
    monkeypatch.setattr(instances, "truncate", lambda a, b, longest, rng: (a[0], a[1] - a[0], b[0], b[1] - b[0]))
    a, a_length, b, b_length, is_random = pairs_of(
        SentencePairs(length, short_fraction=0.3, next_sentence=next_sentence)
    )
    follows = is_random == 0
    # What B did not use is put back: the next A begins where this chunk's used part ended, and all text is covered.
    ends = np.where(follows, b + b_length, a + a_length)
    np.testing.assert_array_equal(a, np.concatenate([[0], ends[:-1]]))
    assert ends[-1] == len(SPLIT.tokens)
    np.testing.assert_array_equal(b[follows], (a + a_length)[follows])
    assert np.isin([*a, *(a + a_length), *b, *(b + b_length)], SPLIT.sentence_starts).all()
    np.testing.assert_array_equal(document_of(a), document_of(a + a_length - 1))
    np.testing.assert_array_equal(document_of(b)[b_length > 0], document_of(b + b_length - 1)[b_length > 0])
    assert (document_of(a) != document_of(b))[~follows].all()
    assert (a_length > 0).all()
    assert (b_length > 0).all() if next_sentence else not is_random.any()


def test_random_sentences_fill_what_a_left_and_no_more(monkeypatch):
    monkeypatch.setattr(instances, "truncate", lambda a, b, longest, rng: (a[0], a[1] - a[0], b[0], b[1] - b[0]))
    _, a_length, b, b_length, is_random = pairs_of(SentencePairs(40, short_fraction=0))
    starts, left = SPLIT.sentence_starts, 37 - a_length
    last_sentence = b + b_length - starts[np.searchsorted(starts, b + b_length) - 1]
    one = b_length == last_sentence
    full, at_end = b_length >= left, np.isin(b + b_length, DOCUMENT_ENDS)
    assert (full | at_end)[is_random == 1].all()
    assert (one | (b_length - last_sentence < left))[is_random == 1].all()


def test_pairs_fit_and_random_ones_are_more_than_half():
    a, a_length, b, b_length, is_random = np.concatenate(
        [pairs_of(SentencePairs(32), seed) for seed in range(20)], axis=1
    )
    assert (a_length + b_length).max() == 32 - 3
    assert min(a_length.min(), b_length.min()) >= 1
    for begin, length in ((a, a_length), (b, b_length)):
        np.testing.assert_array_equal(document_of(begin), document_of(begin + length - 1))
    assert (document_of(a) != document_of(b))[is_random == 1].all()
    assert (document_of(a) == document_of(b))[is_random == 0].all()
    assert (b >= a + a_length)[is_random == 0].all()
    # A coin for chunks of several sentences, always random for the others.
    assert 0.55 < is_random.mean() < 0.75
    assert len(a) > 10_000


def test_a_tenth_of_the_documents_is_cut_shorter():
    whole, some, every = (
        np.mean([len(pairs_of(SentencePairs(64, short_fraction=f), seed)[0]) for seed in range(20)])
        for f in (0.0, 0.1, 1.0)
    )
    assert every > 1.4 * whole
    assert 0.05 < (some - whole) / (every - whole) < 0.15


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 64), st.randoms(use_true_random=False))
def test_truncation_takes_from_the_longer_side(a_length, b_length, longest, rng):
    start, kept_a, b_start, kept_b = instances.truncate((100, 100 + a_length), (300, 300 + b_length), longest, rng)
    a, b = a_length, b_length
    while a + b > longest:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    assert (kept_a, kept_b) == (a, b)
    assert 100 <= start <= 100 + a_length - a
    assert 300 <= b_start <= 300 + b_length - b


def test_truncation_takes_from_front_and_back_alike():
    rng = random.Random(0)
    fronts = [instances.truncate((0, 50), (100, 110), 30, rng)[0] for _ in range(4000)]
    assert abs(np.mean(fronts) - 15) < 5 * np.sqrt(30 / 4 / 4000)
    assert abs(np.var(fronts) - 30 / 4) < 1  # binomial: each token its own coin


def test_gathered_pairs_are_berts_input():
    table = make_table(SentencePairs(24, duplicates=2), documents=30)
    features = table.gather(np.arange(table.pass_ends[-1]))
    for row in range(table.pass_ends[-1]):
        a, a_length, b, b_length, is_random = (
            int(table.columns[c][row]) for c in ("a_start", "a_length", "b_start", "b_length", "random")
        )
        text, marks = table.split.tokens, table.split.flags
        tokens = [CLS, *text[a : a + a_length], SEP, *text[b : b + b_length], SEP]
        flags = [0, *marks[a : a + a_length], 0, *marks[b : b + b_length], 0]
        pad = 24 - len(tokens)
        assert features["tokens"][row].tolist() == tokens + [PAD] * pad
        assert features["flags"][row].tolist() == flags + [0] * pad
        assert features["segment_ids"][row].tolist() == [1] * len(tokens) + [0] * pad
        assert features["token_type_ids"][row].tolist() == [0] * (a_length + 2) + [1] * (b_length + 1) + [0] * pad
        assert features["next_sentence_labels"][row] == is_random
    assert {k: v.dtype.name for k, v in features.items()} == {
        "tokens": "int32",
        "flags": "uint8",
        "token_type_ids": "int32",
        "segment_ids": "int32",
        "next_sentence_labels": "int32",
    }


def test_an_empty_second_sentence_leaves_one_separator():
    table = make_table(SentencePairs(24, next_sentence=False), documents=30)
    alone = np.flatnonzero(table.columns["b_length"] == 0)
    features = table.gather(alone)
    assert len(alone) > 0
    assert ((features["tokens"] == SEP).sum(1) == 1).all()
    assert not features["token_type_ids"].any()


def test_duplicates_differ():
    table = make_table(SentencePairs(24, duplicates=3))
    first, second, third = np.split(table.columns["a_length"], table.pass_ends[:-1])
    assert first.tolist() != second.tolist() != third.tolist()


def test_windows_cover_the_tokens_once_as_targets():
    table = make_table(Windows(16))
    tokens = table.gather(np.arange(table.pass_ends[-1]))["tokens"]
    assert tokens.shape == ((len(table.split.tokens) - 1) // 16, 17)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[:, 1:].ravel(), table.split.tokens[1 : tokens[:, 1:].size + 1])
    np.testing.assert_array_equal(tokens[1:, 0], tokens[:-1, -1])


@pytest.fixture
def store(tmp_path):
    split = make_split()
    for side in ("train", "heldout"):
        for name in Split.__dataclass_fields__:
            if getattr(split, name) is not None:
                write_array(epath.Path(tmp_path / side / name), getattr(split, name))
    counts = {"tokens": len(split.tokens)}
    return Store(epath.Path(tmp_path), {"counts": {"train": counts, "heldout": counts}}, TOKENIZER)


def test_tables_are_built_once_and_found_again(store):
    cfg = SentencePairs(24, duplicates=3)
    for side, passes in (("train", 3), ("heldout", 1)):
        build_table(cfg, store, side, seed=0)
        table, wanted = open_table(cfg, store, side, seed=0), make_table(SentencePairs(24, duplicates=passes))
        np.testing.assert_array_equal(table.pass_ends, wanted.pass_ends)
        for name, value in wanted.gather(np.arange(50)).items():
            np.testing.assert_array_equal(table.gather(np.arange(50))[name], value)
    before = {path: path.stat().mtime for path in (store.directory / "tables").iterdir()}
    build_table(cfg, store, "train", seed=0)
    assert {path: path.stat().mtime for path in (store.directory / "tables").iterdir()} == before
    with pytest.raises(UserError, match="has no table SentencePairs-24-train-"):
        open_table(cfg, store, "train", seed=1)


@pytest.mark.parametrize("cfg", [Windows(5000), SentencePairs(5000)])
def test_a_corpus_shorter_than_a_sequence_is_refused(store, cfg):
    with pytest.raises(UserError, match=r"the train side has \d+ tokens, fewer than one sequence of length 5000"):
        build_table(cfg, store, "train", seed=0)
    assert not (store.directory / "tables").exists()


def test_pairs_without_special_tokens_are_refused(store):
    store.tokenizer.__dict__.update(cls_id=None)
    try:
        with pytest.raises(UserError, match=r"need a tokenizer with \[CLS\]"):
            build_table(SentencePairs(24), store, "train", seed=0)
        assert list((store.directory / "tables").iterdir()) == []
    finally:
        store.tokenizer.__dict__.update(cls_id=CLS)


EOS = SEP  # RoBERTa closes a document with its separator


def roberta_split(documents=60, seed=2):
    """As the store has it: the last token of each document's last sentence is </s>."""
    split = make_split(documents, seed)
    last = split.sentence_starts[split.document_starts[1:]] - 1
    split.tokens[last], split.flags[last] = EOS, 0
    return split


ROBERTA = SimpleNamespace(**vars(TOKENIZER) | {"eos_id": EOS})


def roberta_rows(cfg, split):
    (columns,) = cfg.tables(split, ROBERTA, 0)
    features = cfg.gather(split, ROBERTA, columns)
    real = features["segment_ids"].sum(1)
    return columns, features, [row[:n].tolist() for row, n in zip(features["tokens"], real, strict=True)]


@pytest.mark.parametrize("cross_documents", [True, False])
def test_roberta_rows_hold_all_text_in_whole_sentences(cross_documents):
    split = roberta_split()
    columns, features, rows = roberta_rows(Sentences(40, cross_documents), split)
    assert all(row[0] == CLS and row[-1] == SEP for row in rows)
    assert (features["tokens"][features["segment_ids"] == 0] == PAD).all()
    begins, ends = columns["start"], columns["start"] + columns["size"]
    closed = np.isin(ends + 1, split.sentence_starts[split.document_starts])  # its </s> is the row's own
    np.testing.assert_array_equal(np.r_[begins[1:], len(split.tokens)], ends + closed)
    assert np.isin(begins, split.sentence_starts).all()
    text = [token for row, own in zip(rows, closed, strict=True) for token in row[1 : None if own else -1]]
    assert text == split.tokens.tolist()
    assert not (features["flags"] > 0)[features["tokens"] == EOS].any()


def test_full_sentences_fill_their_rows_and_cross_documents_after_a_separator():
    split = roberta_split()
    columns, _, rows = roberta_rows(Sentences(40), split)
    ends = columns["start"] + columns["size"]
    following = split.sentence_starts[np.searchsorted(split.sentence_starts, ends + 1, side="right")[:-1]]
    needs = following - np.isin(following, split.sentence_starts[split.document_starts])
    assert (needs - columns["start"][:-1] > 40 - 2).all()  # the next sentence would not have fitted
    assert (columns["size"] > 0).all()
    assert np.mean([len(row) for row in rows]) > 0.8 * 40
    documents = np.cumsum(np.r_[0, split.tokens == EOS])  # of each token
    first, last = documents[columns["start"]], documents[ends - 1]
    assert (last > first).any()
    inner = [row[1:-1].count(EOS) for row in rows]
    np.testing.assert_array_equal(inner, last - first)


def test_doc_sentences_never_cross_a_document():
    split = roberta_split()
    columns, _, rows = roberta_rows(Sentences(40, cross_documents=False), split)
    assert all(EOS not in row[1:-1] for row in rows)
    starts = split.sentence_starts[split.document_starts[:-1]]
    assert np.isin(starts, columns["start"]).all()  # each document begins a row


def test_only_a_sentence_longer_than_a_row_is_cut():
    starts = np.array([0, 3, 25, 27, 31])
    assert list(sentence_rows(starts, starts, 0, 31, 10)) == [(0, 3), (3, 13), (13, 23), (23, 31)]
    contents = np.array([0, 3, 25, 27, 30])  # a closing </s> needs no room
    assert list(sentence_rows(starts, contents, 0, 31, 7)) == [(0, 3), (3, 10), (10, 17), (17, 24), (24, 31)]


def test_rows_without_room_are_refused():
    with pytest.raises(UserError, match="rows of 2 tokens have no room"):
        list(Sentences(2).tables(roberta_split(), TOKENIZER, 0))


def test_sentences_need_robertas_end_of_text():
    with pytest.raises(UserError, match="choose roberta_bpe"):
        list(Sentences(40).tables(roberta_split(), TOKENIZER, 0))
