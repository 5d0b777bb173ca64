"""Words: how they are counted, spelled, stored with their spelling, and read from published lists."""

import numpy as np
import pytest

from lmjax.data.prepare import DataConfig, prepare
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig, load_tokenizer, make_tokenizer, read_tokenizer
from lmjax.data.words import BEGIN_SENTENCE, END_SENTENCE, WordCollector, spell
from lmjax.errors import UserError

pytestmark = pytest.mark.core

TEXTS = ["the dog saw the cat .", " = A title = ", "the <unk> cat saw <S> and ate 1 @,@ 000"]


def test_spellings_are_those_of_the_release():
    """Ids as AllenNLP's batch_to_ids gives them; bytes, not characters, are counted and cut."""
    cat, begin, end, long, chinese = spell(["cat", BEGIN_SENTENCE, END_SENTENCE, "x" * 60, "鯨"])
    assert cat.tolist() == [259, 100, 98, 117, 260, *[261] * 45]
    assert begin.tolist() == [259, 257, 260, *[261] * 47]
    assert end.tolist() == [259, 258, 260, *[261] * 47]
    assert long.tolist() == [259, *[121] * 48, 260]
    assert chinese[:5].tolist() == [259, *[byte + 1 for byte in "鯨".encode()], 260]


def test_a_vocabulary_is_of_the_most_frequent_words():
    tokenizer = make_tokenizer(TokenizerConfig("words", 8), TEXTS)
    names = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    assert names == ["<S>", "</S>", "<UNK>", "the", "=", "cat", "saw", "."]
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.encode("the dog saw <unk> .") == [3, 2, 6, 2, 7]
    assert tokenizer.decode([0, 3, 5, 1]) == "the cat"
    with pytest.raises(UserError, match="vocab_size 3 is too small"):
        make_tokenizer(TokenizerConfig("words", 3), TEXTS)


def test_it_is_saved_and_read_again(tmp_path):
    tokenizer = make_tokenizer(TokenizerConfig("words", 8), TEXTS)
    tokenizer.save(tmp_path)
    for found in (load_tokenizer(tmp_path), read_tokenizer(tmp_path / "words.txt")):
        assert found.fingerprint == tokenizer.fingerprint
    (tmp_path / "words.txt").write_text("<S>\n</S>\nthe\n")
    with pytest.raises(UserError, match="lacks <UNK>"):
        load_tokenizer(tmp_path)


def test_a_store_keeps_sentences_and_the_spelling_of_unknown_words(tmp_path):
    for number, text in enumerate(["the dog saw\nthe cat\n", "a whale saw the\n"] * 10):
        (tmp_path / f"{number:02}.txt").write_text(text)
    source = TextFiles((str(tmp_path / "*.txt"),))
    store = prepare(DataConfig(str(tmp_path / "store"), source, TokenizerConfig("words", 5), heldout=0.3), [], 0)
    names = [store.tokenizer.token(i) for i in range(5)]
    assert names[3:] == ["the", "saw"]
    for side in ("train", "heldout"):
        split = store.split(side)
        starts, tokens = split.sentence_starts, np.asarray(split.tokens)
        assert (tokens[starts[1:] - 1] == store.tokenizer.sep_id).all()
        assert (np.flatnonzero(tokens == store.tokenizer.unk_id) == split.unknown_at).all()
        spelled = np.asarray(split.unknown_spelling).reshape(-1, 50)
        found = {bytes((row[1 : list(row).index(260)] - 1).astype(np.uint8)).decode() for row in spelled}
        assert found == {"dog", "cat", "a", "whale"}


def test_a_collector_takes_in_the_words_that_it_meets() -> None:
    collector = WordCollector()
    assert collector.encode_batch(["a dog", "a 鯨 ."]) == [[3, 4], [3, 5, 6]]
    words = collector.collected()
    assert (words.vocab_size, words.decode([3, 4, 5]), words.cls_id, words.sep_id) == (7, "a dog 鯨", 0, 1)
    np.testing.assert_array_equal(words.spellings[5], spell(["鯨"])[0])
