"""Filled masks."""

import jax
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.evals.masks import fill_masks
from lmjax.interop import load
from tests.tiny_runs import write_run


def test_the_likeliest_words_of_each_mask(tmp_path):
    write_run("bert", tmp_path / "run")
    lm = load(tmp_path / "run")
    text = "The [MASK] barked at the [MASK]."
    filled = fill_masks(lm, text, top=3)
    features = lm.encode(text)
    probabilities = np.asarray(jax.nn.softmax(lm(**features)["logits"][0]))
    positions = np.flatnonzero(features["tokens"][0] == lm.tokenizer.mask_id)
    assert len(filled) == len(positions) == 2
    for position, words in zip(positions, filled, strict=True):
        best = np.argsort(-probabilities[position])[:3]
        assert [word for word, _ in words] == [lm.tokenizer.token(i) for i in best]
        np.testing.assert_allclose([p for _, p in words], probabilities[position][best], rtol=1e-4)


def test_nothing_to_fill(tmp_path):
    write_run("bert", tmp_path / "bert")
    with pytest.raises(UserError, match=r"no mask; write \[MASK\]"):
        fill_masks(load(tmp_path / "bert"), "The dog")
