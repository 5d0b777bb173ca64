import hashlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from lmjax.data import prepare as module
from lmjax.data.instances import SentencePairs, Windows, open_table
from lmjax.data.prepare import DataConfig, prepare, side
from lmjax.data.sources import TextFiles
from lmjax.data.store import WORD_BEGINS, WORD_INSIDE
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.errors import UserError

WORDS = ["the", "small", "green", "river", "stone", "runs", "under", "bright", "cold", "morning", "walking", "talked"]


@pytest.fixture
def data(tmp_path):
    """60 documents of a few lines in one file."""
    rng = random.Random(0)
    documents = [
        [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(rng.randint(1, 6))] for _ in range(60)
    ]
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(document) for document in documents))
    return DataConfig(
        store=str(tmp_path / "store"),
        source=TextFiles((str(tmp_path / "text.txt"),), documents="blank_line"),
        tokenizer=TokenizerConfig("wordpiece", vocab_size=80),
        heldout=0.2,
    )


def tree(path):
    return {p.relative_to(path): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()}


def decoded(store, name):
    """Every document's sentences, as text."""
    split = store.split(name)
    sentences = [
        store.tokenizer.decode(split.tokens[a:b].tolist())
        for a, b in zip(split.sentence_starts[:-1], split.sentence_starts[1:], strict=True)
    ]
    return [sentences[a:b] for a, b in zip(split.document_starts[:-1], split.document_starts[1:], strict=True)]


def test_the_store_holds_every_sentence_on_its_side(data, tmp_path):
    store = prepare(data, [], seed=0)
    sides = {"train": decoded(store, "train"), "heldout": decoded(store, "heldout")}
    wanted = [block.split("\n") for block in (tmp_path / "text.txt").read_text().split("\n\n")]
    assert sorted(sides["train"] + sides["heldout"]) == sorted(wanted)
    assert 2 <= len(sides["heldout"]) <= 25
    for name, documents in sides.items():
        assert store.meta["counts"][name]["documents"] == len(documents)
        assert store.meta["counts"][name]["sentences"] == sum(map(len, documents))
        assert store.meta["counts"][name]["tokens"] == len(store.split(name).tokens)
    assert store.meta["config"]["heldout"] == 0.2
    assert len(store.meta["source_fingerprint"]) == 64


def test_flags_tell_words_apart(data):
    store = prepare(data, [], seed=0)
    split = store.split("train")
    pieces = np.array([store.tokenizer.token(t).startswith("##") for t in split.tokens])
    np.testing.assert_array_equal(split.flags, np.where(pieces, WORD_INSIDE, WORD_BEGINS))
    assert pieces.any()
    assert split.tokens.dtype == np.uint16


def test_special_tokens_written_in_a_text_are_never_maskable(data, tmp_path):
    with (tmp_path / "text.txt").open("a") as file:
        file.write("\n\n".join(["", *["the [MASK] river [SEP] \u5c71"] * 40]))
    store = prepare(data, [], seed=0)
    split, ids = store.split("train"), store.tokenizer
    assert (split.flags[np.isin(split.tokens, [ids.mask_id, ids.sep_id])] == 0).all()
    assert np.isin([ids.mask_id, ids.sep_id], split.tokens).all()


def test_documents_end_with_end_of_text_where_there_is_one(data):
    store = prepare(replace(data, tokenizer=TokenizerConfig("byte_bpe", vocab_size=300)), [Windows(8)], seed=0)
    split, eos = store.split("train"), store.tokenizer.eos_id
    ends = split.sentence_starts[split.document_starts[1:]] - 1
    np.testing.assert_array_equal(np.flatnonzero(split.tokens == eos), ends)
    assert (split.flags[ends] == 0).all()
    assert (split.flags[split.sentence_starts[:-1]] == WORD_BEGINS).all()


def test_a_second_call_changes_nothing_and_reads_no_source(data, tmp_path, monkeypatch):
    instances = [SentencePairs(16, duplicates=2), Windows(16)]
    prepare(data, instances, seed=0)
    before = tree(tmp_path / "store")
    monkeypatch.setattr(module, "documents", None)
    (tmp_path / "text.txt").unlink()
    store = prepare(data, instances, seed=0)
    assert tree(tmp_path / "store") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]
    prepare(data, [Windows(8)], seed=0)
    assert before.items() < tree(tmp_path / "store").items()
    assert open_table(SentencePairs(16, duplicates=2), store, "heldout", 0).pass_ends.shape == (1,)


def test_two_builds_are_equal_byte_for_byte(data, tmp_path):
    prepare(data, [SentencePairs(16, duplicates=2)], seed=0)
    prepare(replace(data, store=str(tmp_path / "again")), [SentencePairs(16, duplicates=2)], seed=0)
    first, second = tree(tmp_path / "store"), tree(tmp_path / "again")
    differing = {path.name for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
    assert differing == {"meta.json"}  # it holds the store's own path


def test_a_store_may_be_moved(data, tmp_path):
    prepare(data, [], seed=0)
    (tmp_path / "store").rename(tmp_path / "moved")
    prepare(replace(data, store=str(tmp_path / "moved")), [], seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokenizer": TokenizerConfig("wordpiece", vocab_size=90)},
            r"tokenizer.vocab_size \(80 -> 90\); choose another",
        ),
        ({"heldout": 0.1}, r"heldout \(0.2 -> 0.1\)"),
        ({"source": TextFiles(("other.txt",), documents="blank_line")}, "source.paths"),
    ],
)
def test_a_store_of_another_config_is_refused_by_key(data, change, message):
    prepare(data, [], seed=0)
    with pytest.raises(UserError, match=message):
        prepare(replace(data, **change), [], seed=0)


def test_a_vocabulary_that_changed_under_its_path_is_refused(data, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    data = replace(data, tokenizer=TokenizerConfig("file", path=str(tmp_path / "vocab.txt")))
    prepare(data, [], seed=0)
    prepare(data, [], seed=0)
    (tmp_path / "vocab.txt").write_text("\n".join(reversed(words)))
    with pytest.raises(UserError, match=r"another config: tokenizer \(the vocabulary at"):
        prepare(data, [], seed=0)


def test_files_that_changed_under_the_store_are_noticed(data, tmp_path, monkeypatch):
    """By their names and sizes; they are not read again."""
    prepare(data, [], seed=0)
    monkeypatch.setattr(module, "documents", None)
    prepare(data, [], seed=0)
    with (tmp_path / "text.txt").open("a") as file:
        file.write("\n\none more")
    with pytest.raises(UserError, match="store was made when the source had other files, or of other sizes; choose"):
        prepare(data, [], seed=0)


def test_an_older_store_is_refused(data, tmp_path):
    prepare(data, [], seed=0)
    meta = json.loads((tmp_path / "store" / "meta.json").read_text())
    (tmp_path / "store" / "meta.json").write_text(json.dumps(meta | {"schema_version": 0}))
    with pytest.raises(UserError, match="store schema 0, this lmjax reads 2; delete the store"):
        prepare(data, [], seed=0)


def test_bad_corpora_leave_nothing_behind(data, tmp_path):
    cases = {
        "the corpus is empty": ("\n\n \n", data),
        "all 1 documents fall on the": ("one line\n", data),
        "all 3 documents fall on the train side at heldout 0.0": ("a\n\nb\n\nc\n", replace(data, heldout=0.0)),
    }
    for message, (text, cfg) in cases.items():
        (tmp_path / "text.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            prepare(cfg, [], seed=0)
        assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


def test_a_directory_that_is_no_store_is_left_alone(data, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a data store"):
        prepare(data, [], seed=0)
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["thesis.tex"]


def test_sides_are_decided_by_the_group_alone():
    groups = [f"group {i}" for i in range(5000)]
    heldout = {g for g in groups if side(g, 0.05) == "heldout"}
    assert abs(len(heldout) - 250) < 5 * np.sqrt(5000 * 0.05 * 0.95)
    assert heldout < {g for g in groups if side(g, 0.1) == "heldout"}


def test_a_corpus_of_its_own_is_held_out_whole(data, tmp_path):
    (tmp_path / "other.txt").write_text("the cold stone\n\nthe bright river runs")
    other = replace(data.source, paths=(str(tmp_path / "other.txt"),))
    store = prepare(replace(data, heldout_source=other), [], seed=0)
    assert decoded(store, "heldout") == [["the cold stone"], ["the bright river runs"]]
    assert store.meta["counts"]["train"]["documents"] == 60
    assert len(store.meta["source_fingerprint"].split()) == 2
    with pytest.raises(UserError, match="heldout_source"):
        prepare(data, [], seed=0)
