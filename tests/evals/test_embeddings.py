"""Vectors of words and texts."""

import h5py
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.evals.embeddings import embed, save_embeddings, word_spans
from lmjax.interop import LanguageModel, load
from tests.models.tiny import noisy, tiny
from tests.tiny_runs import SENTENCES, tiny_tokenizer, write_run

TEXTS = ["The postman barked.", SENTENCES[1], "river"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run("bert", folder)
    return load(folder)


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run("gpt2", folder)
    return load(folder)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "bpe", "sentencepiece"])
def test_words_are_whole(kind):
    tokenizer = tiny_tokenizer(kind)
    ids = tokenizer.encode("Nobody knows seventeen elephants")
    assert len(ids) > 4
    spans = list(word_spans(tokenizer, [*ids, *[i for i in (tokenizer.sep_id,) if i is not None]]))
    assert [word.lower() for *_, word in spans] == ["nobody", "knows", "seventeen", "elephants"]
    assert [a for a, *_ in spans] == [0, *(b for _, b, _ in spans[:-1])]
    assert spans[-1][1] == len(ids)


def test_an_unknown_word_is_a_word():
    tokenizer = tiny_tokenizer("wordpiece")
    ids = [tokenizer.cls_id, *tokenizer.encode("the 鯨"), tokenizer.sep_id]
    assert [word for *_, word in word_spans(tokenizer, ids)] == ["the", "[UNK]"]


def test_a_vector_for_each_word(bert):
    found = embed(bert, TEXTS, layers=(1, -1), batch_size=2)
    assert found.vectors.shape == (len(found.words), 64)
    assert found.vectors.dtype == np.float32
    assert found.texts.tolist() == sorted(found.texts.tolist())
    assert [w for w, t in zip(found.words, found.texts, strict=True) if t != 1] == [
        "the",
        "postman",
        "barked",
        ".",
        "river",
    ]
    features = bert.encode(TEXTS[0])
    states = np.asarray(bert(**features, collect=("hidden_states",))["hidden_states"])[:, 0]
    start, end, _ = list(word_spans(bert.tokenizer, features["tokens"][0].tolist()))[1]
    expected = np.concatenate([states[1, start:end].mean(0), states[2, start:end].mean(0)])
    np.testing.assert_allclose(found.vectors[1], expected, rtol=1e-4, atol=1e-5)


def test_pools(bert):
    words = embed(bert, TEXTS, layers=(0, 1, 2))
    mixed = embed(bert, TEXTS, layers=(0, 1, 2), pool="mix")
    np.testing.assert_allclose(mixed.vectors, words.vectors.reshape(-1, 3, 32).mean(1), rtol=1e-4, atol=1e-5)
    assert mixed.words == words.words
    cls = embed(bert, TEXTS, pool="cls")
    np.testing.assert_allclose(cls.vectors, bert(**bert.encode(TEXTS))["hidden"][:, 0], rtol=1e-4, atol=1e-5)
    mean = embed(bert, TEXTS, pool="mean")
    assert mean.vectors.shape == cls.vectors.shape == (3, 32)
    assert mean.texts.tolist() == [0, 1, 2]
    one = bert.encode(TEXTS[2])
    np.testing.assert_allclose(mean.vectors[2], bert(**one)["hidden"][0, 1:-1].mean(0), rtol=1e-4, atol=1e-5)


def test_a_decoders_last_layer_is_what_its_head_reads(gpt):
    last = embed(gpt, TEXTS, pool="mean").vectors[2]
    np.testing.assert_allclose(last, gpt(**gpt.encode(TEXTS[2]))["hidden"][0].mean(0), rtol=1e-4, atol=1e-5)


def test_elmo_has_a_vector_for_each_word_between_spaces(tmp_path):
    """From a released directory, which has no vocabulary; a text's vectors do not depend on its neighbours."""
    cfg = tiny("elmo")
    LanguageModel(cfg, (), noisy(cfg, ()), None).save_hf(tmp_path / "elmo")
    lm, texts = load(tmp_path / "elmo"), ["The don't 鯨 barked .", "river"]
    found = embed(lm, texts, layers=(0, 1, 2))
    assert found.words == [*texts[0].split(), "river"]
    assert found.vectors.shape == (6, 3 * 64)
    alone = embed(lm, texts[1:], layers=(0, 1, 2))
    np.testing.assert_allclose(found.vectors[5], alone.vectors[0], atol=1e-5)
    np.testing.assert_allclose(found.vectors[:, :32], found.vectors[:, 32:64], atol=1e-6)  # the word itself, twice
    mixed = embed(lm, texts, layers=(0, 1, 2), pool="mix")
    np.testing.assert_allclose(mixed.vectors, found.vectors.reshape(-1, 3, 64).mean(1), atol=1e-5)
    with pytest.raises(UserError, match="nor has ELMo"):
        embed(lm, texts, pool="cls")


@pytest.mark.parametrize("bad", [(3,), (-4,)])
def test_layers_that_are_not_there(bert, bad):
    with pytest.raises(UserError, match=f"layer {bad[0]}: this model has layers 0"):
        embed(bert, TEXTS, layers=bad)


def test_what_has_no_vector(bert, gpt):
    with pytest.raises(UserError, match="no \\[CLS\\]"):
        embed(gpt, TEXTS, pool="cls")
    with pytest.raises(UserError, match="text 2 has no words"):
        embed(bert, ["dog", " "])


def test_files(bert, tmp_path):
    found = embed(bert, TEXTS)
    save_embeddings(found, TEXTS, str(tmp_path / "v.h5"))
    with h5py.File(tmp_path / "v.h5") as store:
        np.testing.assert_array_equal(store["vectors"], found.vectors)
        assert store["words"].asstr()[:].tolist() == found.words
        assert store["texts"].asstr()[:].tolist() == TEXTS
        assert store["text_of_row"][:].tolist() == found.texts.tolist()
    save_embeddings(found, TEXTS, str(tmp_path / "v.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy", allow_pickle=False), found.vectors)
    rows = [line.split("\t") for line in (tmp_path / "v.tsv").read_text().splitlines()]
    assert rows == [[str(t), w] for t, w in zip(found.texts, found.words, strict=True)]
    with pytest.raises(UserError, match=r"\.npy or \.h5"):
        save_embeddings(found, TEXTS, str(tmp_path / "v.csv"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.h5", "v.npy", "v.tsv"]
