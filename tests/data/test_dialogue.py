"""The dialogue objective: it has no reference, so these are statistics of what `data.dialogue` promises."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.data import dialogue
from lmjax.data.dialogue import QUERY, RESPONSE, conversations, fitted
from lmjax.data.instances import SentencePairs, open_table
from lmjax.data.prepare import DataConfig, prepare, rows_of
from lmjax.data.sources import Dialogues, texts
from lmjax.data.store import MARKED
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.errors import UserError
from tests.data.test_masking import within

WORDS = ["好", "你", "我", "他", "去", "来", "吃", "饭", "天", "气", "学", "习"]


@pytest.fixture(scope="module")
def made():
    """4,000 conversations of 2 to 7 turns in random roles: whose they are, and the rows of one pass."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 8, 4000)
    conversation, response = np.repeat(np.arange(4000), sizes), rng.random(sizes.sum()) < 0.5
    return conversation, response, list(conversations(response, conversation, random.Random(0)))


def test_half_are_fake_and_each_turn_is_replaced_as_often(made):
    conversation, _, rows = made
    assert len(rows) > 3000
    assert within(sum(not real for _, real in rows), len(rows), 0.5)
    foreign = np.array(
        [[conversation[t] != np.bincount(conversation[list(turns)]).argmax() for t in turns] for turns, _ in rows]
    )
    real = np.array([real for _, real in rows])
    assert not foreign[real].any()
    assert (foreign[~real].sum(1) == 1).all()
    assert all(within(n, (~real).sum(), 1 / 3) for n in foreign[~real].sum(0))


def test_patterns_are_the_papers_three_and_replacing_keeps_them(made):
    conversation, response, rows = made
    patterns = ["".join("QR"[int(response[t])] for t in turns) for turns, _ in rows]
    assert set(patterns) == {"QRQ", "QRR", "QQR"}
    for count in map(patterns.count, ("QRQ", "QRR", "QQR")):  # roles are by coin here
        assert within(count, len(patterns), 1 / 3, sigmas=7)
    real = [turns for turns, real in rows if real]
    assert all(b - a == c - b == 1 for a, b, c in real)
    assert all(conversation[a] == conversation[c] for a, _, c in real)


def test_every_place_where_three_turns_may_begin_is_used(made):
    conversation, response, rows = made
    wanted = sum(
        conversation[i] == conversation[i + 2] and not response[i] and response[i : i + 3].any()
        for i in range(len(response) - 2)
    )
    assert len(rows) == wanted


def test_replacements_are_drawn_from_all_conversations(made):
    _, response, rows = made
    foreign = [t for turns, real in rows if not real for t in turns if abs(t - sorted(turns)[1]) > 2]
    counts = np.histogram(foreign, 10, (0, len(response)))[0]
    assert all(within(n, len(foreign), 0.1) for n in counts)


@given(st.lists(st.integers(1, 60), min_size=3, max_size=3), st.integers(3, 100))
def test_long_rows_lose_the_ends_of_their_longest_turns(lengths, room):
    found = fitted(lengths, room)
    assert sum(found) == min(sum(lengths), max(room, 3)) or sum(found) == sum(lengths)
    assert all(1 <= a <= b for a, b in zip(found, lengths, strict=True))
    cut = [a for a, b in zip(found, lengths, strict=True) if a < b]
    assert not cut or max(found) - min(cut) <= 1


@pytest.fixture
def source(tmp_path):
    rng = random.Random(0)

    def turn():
        return {"role": rng.choice(["query", "response"]), "text": "".join(rng.choices(WORDS, k=rng.randint(1, 9)))}

    rows = [
        {"turns": [{"role": "query", "text": "你好"}, *(turn() for _ in range(rng.randint(2, 5)))]} for _ in range(80)
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return Dialogues((str(tmp_path / "chat.jsonl"),))


def test_rows_are_three_framed_turns_with_their_roles(source, tmp_path):
    cfg = DataConfig(str(tmp_path / "store"), source, TokenizerConfig("wordpiece", 60), heldout=0.2)
    pairs = SentencePairs(24, duplicates=2, true_label=1)
    store = prepare(cfg, [pairs], seed=0)
    table = open_table(rows_of(source, pairs), store, "train", seed=0)
    assert len(table.pass_ends) == 2
    rows = table.gather(np.arange(table.pass_ends[-1]))
    ids, split = store.tokenizer, store.split("train")
    assert rows["tokens"].shape[1] == 24
    assert {v.dtype.name for v in rows.values()} == {"int32", "uint8"}
    for i, n in enumerate(rows["segment_ids"].sum(1)):
        tokens, types = rows["tokens"][i], rows["token_type_ids"][i]
        seps = np.flatnonzero(tokens == ids.sep_id)
        assert tokens[0] == ids.cls_id
        assert (len(seps), seps[-1]) == (3, n - 1)
        assert (tokens[n:] == ids.pad_id).all()
        assert not types[n:].any()
        begin = 0
        for k, end in enumerate(seps):
            assert (types[begin : end + 1] == (RESPONSE if table.columns[f"response{k}"][i] else QUERY)).all()
            start = table.columns[f"start{k}"][i]
            text = slice(begin + (k == 0), end)
            np.testing.assert_array_equal(tokens[text], split.tokens[start : start + end - text.start])
            assert ((rows["flags"][i, text] & MARKED > 0) == (types[begin] == RESPONSE)).all()
            begin = end + 1
        assert types[0] == QUERY
        assert rows["next_sentence_labels"][i] == table.columns["real"][i]
    first, second = np.split(rows["next_sentence_labels"], table.pass_ends[:1])
    assert first.tolist() != second.tolist()


def test_turns_are_lines_and_bad_ones_name_their_place(tmp_path):
    def read(content):
        (tmp_path / "chat.jsonl").write_text(content)
        return [text for _, _, text in texts(Dialogues((str(tmp_path / "chat.jsonl"),)))]

    good = '{"turns": [{"role": "query", "text": "a\\nb"}, {"role": "response", "text": "c"}]}'
    assert read(good) == [f"a b\n{dialogue.RESPONSE_MARK}c"]
    for bad in ("{}", '{"turns": []}', '{"turns": ["a"]}', '{"turns": [{"role": "user", "text": "a"}]}'):
        with pytest.raises(UserError, match=r'chat\.jsonl, line 2: no "turns"'):
            read(f"{good}\n{bad}")


def test_one_conversation_is_not_enough():
    response = np.array([False, True] * 5)
    with pytest.raises(UserError, match="other conversations; there are too few"):
        list(conversations(response, np.zeros(10, int), random.Random(0)))
