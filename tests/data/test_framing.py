"""How texts become rows, token by token."""

import numpy as np
import pytest

from lmjax.data.framing import cut, frame
from lmjax.errors import UserError
from tests.tiny_runs import tiny_tokenizer


def test_berts_rows() -> None:
    t = tiny_tokenizer("wordpiece")
    rows = frame([[[40, 41], [42]], [[40]]], t, 8, "separated")
    pad, cls, sep = t.pad_id, t.cls_id, t.sep_id
    assert rows["tokens"].tolist() == [[cls, 40, 41, sep, 42, sep, pad, pad], [cls, 40, sep, *[pad] * 5]]
    assert rows["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0] * 8]
    assert rows["segment_ids"].tolist() == [[1] * 6 + [0] * 2, [1] * 3 + [0] * 5]


def test_robertas_separator_is_doubled() -> None:
    t = tiny_tokenizer("roberta_bpe")
    rows = frame([[[40], [42]]], t, 8, "separated")
    assert rows["tokens"].tolist() == [[0, 40, 2, 2, 42, 2, 1, 1]]
    assert rows["segment_ids"].tolist() == [[1] * 6 + [0] * 2]


def test_gpts_ordered_texts_end_in_the_token_that_is_read() -> None:
    t = tiny_tokenizer("byte_bpe")
    start, delimiter, extract = range(t.vocab_size, t.vocab_size + 3)
    rows = frame([[[40, 41], [42]], [[40]]], t, 7, "ordered")
    assert rows["tokens"].tolist() == [[start, 40, 41, delimiter, 42, extract, 0], [start, 40, extract, 0, 0, 0, 0]]
    assert rows["segment_ids"].sum(1).tolist() == [6, 3]


def test_elmos_sentences() -> None:
    rows = frame([[[40, 41], [42]], [[40]]], tiny_tokenizer("words"), 8, "words")
    assert rows["tokens"].tolist() == [[0, 40, 41, 1, 0, 42, 1, 0], [0, 40, 1, *[0] * 5]]
    assert rows["segment_ids"].sum(1).tolist() == [7, 3]


@pytest.mark.parametrize("kind", ["separated", "ordered"])
def test_long_rows_lose_the_ends_of_the_longer_text(kind) -> None:
    t = tiny_tokenizer("wordpiece")
    rows = frame([[[40, 41, 42, 43, 44], [50, 51]], [[40] * 9]], t, 7, kind)
    assert np.all(rows["segment_ids"] == 1)
    assert [i for i in rows["tokens"][0] if 40 <= i < 60] == [40, 41, 50, 51]
    assert cut([[1, 2, 3], [4, 5, 6]], 3) == [[1, 2], [4]]  # the second where they are equal
    with pytest.raises(UserError, match="raise length"):
        frame([[[40], [50]]], t, 4, kind)
