"""Packed pairs: every pair is whole, on both sides, in one row; the rows are full; nothing depends on more than the
seed. Packed conversations: so are they, and what counts are their responses."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from lmjax.data import packing
from lmjax.data.instances import open_table
from lmjax.data.packing import PackedPairs, first_fit, pack_responses
from lmjax.data.prepare import DataConfig, prepare
from lmjax.data.sources import ParallelText
from lmjax.data.store import Split
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.errors import UserError

PAD, EOS = 0, 3
TOKENIZER = SimpleNamespace(pad_id=PAD, eos_id=EOS)
LENGTH = 32


def make_pairs(count=400, seed=0):
    """Random sources and targets, and the split that holds them: each document is a pair, closed by the end token."""
    rng = np.random.default_rng(seed)
    pairs = [tuple(rng.integers(4, 100, n).tolist() for n in rng.integers(1, 15, 2)) for _ in range(count)]
    sentences = [text for source, target in pairs for text in (source, [*target, EOS])]
    tokens = np.array([token for text in sentences for token in text], np.uint16)
    starts = np.cumsum([0, *map(len, sentences)])
    return pairs, Split(tokens, np.ones_like(tokens), starts, np.arange(0, 2 * count + 1, 2))


def rows(split, seed=0, length=LENGTH):
    cfg = PackedPairs(length)
    (columns,) = cfg.tables(split, TOKENIZER, seed)
    return columns, cfg.gather(split, TOKENIZER, columns)


def unpacked(features):
    """The pairs, read back from the features alone, and where they stand."""
    for row in range(len(features["tokens"])):
        for segment in range(1, features["segment_ids"][row].max() + 1):
            here = features["segment_ids"][row] == segment
            there = features["encoder_segment_ids"][row] == segment
            source, target = features["encoder_tokens"][row, there], features["targets"][row, here]
            np.testing.assert_array_equal(features["positions"][row, here], np.arange(here.sum()))
            np.testing.assert_array_equal(features["encoder_positions"][row, there], np.arange(there.sum()))
            assert (source[-1], target[-1], features["tokens"][row, here][0]) == (EOS, EOS, PAD)
            np.testing.assert_array_equal(features["tokens"][row, here][1:], target[:-1])
            yield source[:-1].tolist(), target[:-1].tolist()


def test_each_pair_is_in_one_row_whole():
    pairs, split = make_pairs()
    columns, features = rows(split)
    assert sorted(unpacked(features)) == sorted(pairs)
    for name, value in features.items():
        assert (value.shape, value.dtype) == ((len(columns["pair_0000"]), LENGTH), np.int32), name
        padding = features["encoder_segment_ids" if name.startswith("encoder") else "segment_ids"] == 0
        assert not value[padding].any()


def test_rows_are_full_and_the_seed_decides_which_pairs_share_one():
    _, split = make_pairs(4000)
    columns, features = rows(split, length=64)
    real = [(features[name] > 0).mean() for name in ("segment_ids", "encoder_segment_ids")]
    assert np.mean(real) > 0.9
    again, other = rows(split, length=64)[0], rows(split, seed=1, length=64)[0]
    assert columns.keys() == again.keys()
    assert all((columns[name] == again[name]).all() for name in columns)
    assert any(
        len(columns[k]) != len(other[k]) or (columns[k] != other[k]).any() for k in columns.keys() & other.keys()
    )


def test_first_fit_takes_the_first_row_with_room(monkeypatch):
    lengths = np.array([[6, 3], [5, 5], [4, 6], [3, 3], [1, 2], [2, 2]])
    assert first_fit(lengths, 10).tolist() == [[0, 2, -1], [1, 3, 4], [5, -1, -1]]
    monkeypatch.setattr(packing, "OPEN_ROWS", 1)  # the fullest is closed, and never opened again
    assert first_fit(lengths, 10).tolist() == [[0, -1], [1, -1], [2, 3], [4, 5]]


def test_long_pairs_are_left_out_and_counted(capsys):
    pairs, split = make_pairs()
    _, features = rows(split, length=9)
    fitting = [pair for pair in pairs if max(map(len, pair)) < 9]
    assert 100 < len(fitting) < 300
    assert sorted(unpacked(features)) == sorted(fitting)
    assert f"{400 - len(fitting)} longer pairs left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of 400 pairs fits into rows of length 1"):
        rows(split, length=1)


def test_frequencies_are_of_the_targets():
    pairs, split = make_pairs()
    wanted = [token for _, target in pairs for token in (*target, EOS)]
    assert PackedPairs(LENGTH).predicted(split).tolist() == wanted


def test_what_is_no_pair_is_refused():
    _, split = make_pairs(4)
    with pytest.raises(UserError, match="ParallelText"):
        rows(dataclasses.replace(split, document_starts=np.array([0, 3, 8])))
    with pytest.raises(UserError, match="SentencePiece"):
        next(PackedPairs(LENGTH).tables(split, SimpleNamespace(pad_id=0, eos_id=None), 0))


def test_a_side_without_a_token_leaves_its_pair_out(tmp_path):
    """As an invisible character alone, of which SentencePiece makes nothing; the other pairs stay together."""
    lines = [f"the dog {n} barked at postman {n % 7}" for n in range(60)]
    (tmp_path / "source.txt").write_text("\n".join(lines))
    (tmp_path / "target.txt").write_text("\n".join("\u200b" if n == 20 else line for n, line in enumerate(lines)))
    source = ParallelText(str(tmp_path / "source.txt"), str(tmp_path / "target.txt"))
    cfg = DataConfig(str(tmp_path / "store"), source, TokenizerConfig("sentencepiece", 60), heldout=0.2)
    store = prepare(cfg, [PackedPairs(64)], seed=0)
    counts = [store.meta["counts"][side] for side in ("train", "heldout")]
    assert sum(count["documents"] for count in counts) == 59
    assert all(count["sentences"] == 2 * count["documents"] for count in counts)
    with pytest.raises(UserError, match="sentences split: a ParallelText is pairs of lines"):
        prepare(dataclasses.replace(cfg, store=str(tmp_path / "other"), sentences="split"), [], seed=0)


def test_real_pairs_fill_nine_tenths_of_the_rows(shared_data, tmp_path):
    """Multi30k, English and German; its own validation set is held out."""
    source, heldout = (
        ParallelText(*(str(shared_data(f"multi30k/{split}.{side}.gz")) for side in ("en", "de")))
        for split in ("test_2016_flickr", "val")
    )
    cfg = DataConfig(str(tmp_path / "store"), source, TokenizerConfig("sentencepiece", 2000), heldout_source=heldout)
    store = prepare(cfg, [PackedPairs(128)], seed=0)
    assert [store.meta["counts"][side]["documents"] for side in ("train", "heldout")] == [1000, 1014]
    for side in ("train", "heldout"):
        table = open_table(PackedPairs(128), store, side, 0)
        features = table.gather(np.arange(table.pass_ends[-1]))
        assert np.mean([(features[f"{e}segment_ids"] > 0).mean() for e in ("", "encoder_")]) > 0.9
        assert len(list(unpacked(features))) == store.meta["counts"][side]["documents"]


def make_encoded(count=60, seed=0):
    """Conversations of two turns with their masks; the end token is the padding token, too."""
    rng = np.random.default_rng(seed)
    sizes = [(int(a), int(b)) for a, b in rng.integers(1, 15, (count, 2))]
    return [(np.append(rng.integers(1, 100, a + b), 0).astype(np.int32), np.arange(a + b + 1) >= a) for a, b in sizes]


def test_each_conversation_is_in_one_row_whole_and_its_responses_count(capsys):
    encoded = make_encoded()
    rows = pack_responses(encoded, LENGTH)
    found = []
    for row in range(len(rows["tokens"])):
        for segment in range(1, rows["segment_ids"][row].max() + 1):
            tokens, targets, positions, weights = (
                rows[name][row, rows["segment_ids"][row] == segment]
                for name in ("tokens", "targets", "positions", "loss_weights")
            )
            np.testing.assert_array_equal(positions, np.arange(len(tokens)))
            np.testing.assert_array_equal(tokens[1:], targets[:-1])
            found.append((tuple(tokens), tuple(targets), tuple(weights)))
    wanted = [(tuple(tokens[:-1]), tuple(tokens[1:]), tuple(mask[1:])) for tokens, mask in encoded]
    assert sorted(found) == sorted(wanted)
    assert not any(value[rows["segment_ids"] == 0].any() for value in rows.values())
    assert rows["loss_weights"].sum() == sum(mask.sum() for _, mask in encoded)  # each answer with its end
    assert len(rows["tokens"]) < len(encoded) / 1.5
    said = capsys.readouterr().err
    assert f"{len(encoded)} conversations in {len(rows['tokens'])} rows of length {LENGTH}" in said
    assert "0 cut at their ends, 0 left out" in said


def test_long_conversations_are_cut_and_those_without_a_response_left_out(capsys):
    encoded, length = make_encoded(), 9
    rows = pack_responses(encoded, length)
    kept = [(tokens, mask) for tokens, mask in encoded if mask[: length + 1].any()]
    assert rows["loss_weights"].sum() == sum(mask[1 : length + 1].sum() for _, mask in kept)
    longer = sum(len(tokens) > length + 1 for tokens, _ in kept)
    assert 10 < longer < len(kept) < len(encoded)
    assert f"{longer} cut at their ends, {len(encoded) - len(kept)} left out" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"none of {len(encoded)} conversations has an answer that begins within"):
        pack_responses([(tokens, mask & False) for tokens, mask in encoded], length)
