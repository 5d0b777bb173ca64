"""ERNIE's released instances come out as they went in."""

import gzip

import numpy as np
import pytest

from lmjax.data.instances import SentencePairs, open_table
from lmjax.data.prepare import DataConfig, prepare, rows_of
from lmjax.data.records import parse
from lmjax.data.sources import ErnieRecords
from lmjax.data.store import MARKED, WORD_BEGINS, WORD_INSIDE
from lmjax.data.tokenizers import TokenizerConfig, make_tokenizer
from lmjax.errors import UserError

LINE = "1 7 8 9 2 5 6 2;0 0 0 0 0 1 1 1;0 1 2 3 4 5 6 7;-1 0 1 0 -1 0 1 -1;1"


def test_a_record_is_two_sentences():
    mark = MARKED
    a, b = parse(LINE, "here")
    assert a == ([7, 8, 9], [WORD_BEGINS, WORD_INSIDE, WORD_BEGINS])
    assert b == ([5, 6], [WORD_BEGINS | mark, WORD_INSIDE | mark])
    assert parse(LINE[:-1] + "0", "here")[1] == ([5, 6], [WORD_BEGINS, WORD_INSIDE])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "f.gz, line 3: not a record"),
        (LINE.replace("7 8", "x 8"), "not a record"),
        (LINE.rpartition(";")[0], "not a record"),
        (LINE.replace("-1 0 1 0 -1", "-1 0 1 0 0"), r"not \[CLS\] A"),
        (LINE.replace("0 1 2 3 4 5", "0 1 2 3 4 4"), "positions or sentence types"),
        (LINE.replace("0 0 0 0 0 1", "0 0 0 0 1 1"), "positions or sentence types"),
    ],
)
def test_other_lines_are_refused(line, message):
    with pytest.raises(UserError, match=message):
        parse(line, "f.gz, line 3")


def test_ernies_vocabulary_is_filled_up(shared_data):
    path = str(shared_data("ernie_demo/vocab.txt"))
    tokenizer = make_tokenizer(TokenizerConfig("file", path=path, fill_to=18000), ())
    assert tokenizer.vocab_size == 18000
    roles = ("pad_id", "cls_id", "sep_id", "mask_id", "unk_id")
    assert [getattr(tokenizer, role) for role in roles] == [0, 1, 2, 3, 17963]
    assert [tokenizer.token(i) for i in (4, 5)] == ["，", "的"]
    assert make_tokenizer(TokenizerConfig("file", path=path), ()).vocab_size == 17964


def test_the_demo_set_returns_as_it_went(shared_data, tmp_path):
    folder = shared_data("ernie_demo")
    with gzip.open(folder / "demo_train_set.gz", "rt") as file:
        lines = [next(file) for _ in range(300)]
    (tmp_path / "part.txt").write_text("".join(lines))
    tokenizer = TokenizerConfig("file", path=str(folder / "vocab.txt"), fill_to=18000)
    source = ErnieRecords((str(tmp_path / "part.txt"),))
    cfg = DataConfig(str(tmp_path / "store"), source, tokenizer, heldout=0.1)
    store = prepare(cfg, [SentencePairs(131, true_label=1)], seed=0)
    found = []
    for split in ("train", "heldout"):
        table = open_table(rows_of(source, SentencePairs(131, true_label=1)), store, split, seed=0)
        rows = table.gather(np.arange(table.pass_ends[-1]))
        for i, n in enumerate(rows["segment_ids"].sum(1)):
            labels = np.where(rows["flags"][i, :n] == 0, -1, rows["flags"][i, :n] & WORD_INSIDE > 0)
            fields = [rows["tokens"][i, :n], rows["token_type_ids"][i, :n], np.arange(n), labels]
            found.append(";".join([*(" ".join(map(str, f)) for f in fields), str(rows["next_sentence_labels"][i])]))
    assert sorted(found) == sorted(line.strip() for line in lines)


def test_a_task_without_pairs_and_a_trained_vocabulary_are_refused(tmp_path):
    (tmp_path / "part.txt").write_text(f"{LINE}\n" * 30)
    source = ErnieRecords((str(tmp_path / "part.txt"),))
    with pytest.raises(UserError, match="ErnieRecords gives labelled pairs"):
        rows_of(source, SentencePairs(16, next_sentence=False))
    with pytest.raises(UserError, match="give their vocabulary, of kind file"):
        prepare(DataConfig(str(tmp_path / "store"), source, TokenizerConfig("wordpiece"), heldout=0.3), [], seed=0)
