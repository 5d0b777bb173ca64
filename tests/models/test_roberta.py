"""What only RoBERTa has: positions that count real tokens from row 2 on, padding's rows, its initialiser, its pairs."""

import jax
import numpy as np
import pytest

from lmjax.interop import LanguageModel
from lmjax.models import roberta
from lmjax.models.architecture import init_params
from tests.models.tiny import VOCAB, forward, noisy, tiny
from tests.tiny_runs import tiny_tokenizer

pytestmark = pytest.mark.core

CFG = tiny("roberta")


def test_positions_count_real_tokens_wherever_the_padding_stands():
    tokens = np.random.default_rng(0).integers(2, VOCAB, (1, 12)).astype(np.int32)
    real = np.array([[0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0]], np.int32)
    run, params = forward(CFG, ("mlm",)), noisy(CFG, ("mlm",))
    spread = run(params, tokens=tokens, segment_ids=real)["hidden"][real == 1]
    packed = np.sort(1 - real, axis=1, kind="stable")
    together = run(params, tokens=np.r_[tokens[real == 1], np.ones(6, np.int32)][None], segment_ids=1 - packed)[
        "hidden"
    ]
    np.testing.assert_allclose(spread, together[0, :6], atol=2e-5)


def test_the_first_position_reads_row_2_and_padding_row_1():
    params, run = noisy(CFG, ()), forward(CFG, ())
    table = params["positions"]["position"]["embedding"]
    assert table.shape == (16 + 2, 32)
    inputs = {"tokens": np.full((1, 4), 7, np.int32), "segment_ids": np.array([[1, 1, 0, 0]], np.int32)}

    def moved(row):
        """Which positions of the output change with a row of the table."""
        changed = table.copy()
        changed[row, :16] += 1
        other = params | {"positions": {"position": {"embedding": changed}}}
        return np.abs(run(other, **inputs)["hidden"] - run(params, **inputs)["hidden"]).max(-1)[0] > 1e-4

    assert moved(0).tolist() == [False] * 4
    assert moved(1).tolist() == [False, False, True, True]
    assert moved(2).tolist() == [True, True, False, False]  # padding sees no text


def test_initialiser_is_an_untruncated_normal_with_empty_rows_for_padding():
    init = jax.jit(lambda key: init_params(roberta.ARCHITECTURE, CFG, (), key))
    params = init(jax.random.key(0, impl="rbg"))
    tables = params["word_embeddings"], params["positions"]["position"]
    words, positions = (np.asarray(table["embedding"]) for table in tables)
    assert np.abs(words).max() > 0.05
    assert np.std(words[2:VOCAB]) == pytest.approx(0.02, rel=0.05)
    for table in (words, positions):
        assert (table[1] == 0).all()
        assert (np.abs(table[[0, 2]]).max(1) > 0).all()


def test_pairs_have_two_separators_between_them():
    tokenizer = tiny_tokenizer("roberta_bpe")
    lm = LanguageModel(tiny("roberta", vocab_size=tokenizer.vocab_size), (), {}, tokenizer)
    features = lm.encode([("the dog", " ran"), "the dog"])
    a, b = tokenizer.encode_batch(["the dog", " ran"])
    assert features.keys() == {"tokens", "attention_mask"}
    assert features["tokens"][0].tolist() == [0, *a, 2, 2, *b, 2]
    assert features["tokens"][1].tolist() == [0, *a, 2] + [1] * (len(b) + 2)
