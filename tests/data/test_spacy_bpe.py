"""GPT-1's own clean-up: with ftfy and spaCy the ids of its reference, without them everything around the two."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from lmjax.data import spacy_bpe
from lmjax.data.huggingface import hf_tokenizer, write_tokenizer
from lmjax.data.spacy_bpe import standardize
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer
from lmjax.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "spacy_bpe.json").read_text())
TEXTS = ["The Miller's (old) lantern -- and the miller's other lantern!", "Nobody -- but the old miller."] * 5
CONFIG = TokenizerConfig("bpe", 70, cleaning="spacy")


def released(shared_data, folder: Path) -> Path:
    for name in ("encoder_bpe_40000.json", "vocab_40000.bpe"):
        shutil.copy(shared_data(f"tokenizers/gpt1-{name}"), folder / name)
    return folder


def test_ids_are_those_of_the_reference(shared_data, tmp_path):
    for library in ("ftfy", "spacy"):
        pytest.importorskip(library, reason=f"{library} is missing: pip install 'lmjax[gpt1]'")
    folder = released(shared_data, tmp_path)
    tokenizer = make_tokenizer(TokenizerConfig("file", path=str(folder), cleaning="spacy"), ())
    basic = make_tokenizer(TokenizerConfig("file", path=str(folder)), ())
    texts = [text for text, _ in GOLDEN]
    assert tokenizer.encode_batch(texts) == [ids for _, ids in GOLDEN]
    assert sum(tokenizer.encode(text) != basic.encode(text) for text in texts) > len(texts) / 2
    assert tokenizer.encode("a\\b") != tokenizer.encode("a \\ b")  # the original leaves a backslash where it is
    assert tokenizer.decode(tokenizer.encode("I can't—\nreally…")) == "i ca n't - \n really ..."


def test_signs_stand_apart_and_whitespace_is_one_space():
    assert standardize("well—yes… (no)!!x-y\t z\\w") == r"well - yes... ( no ) !! x - y z\w"
    assert standardize(" a \n\n b\u00a0 c ´d´ ++;; ") == "a \n b c 'd' ++ ;;"


@pytest.fixture
def trained(monkeypatch) -> Tokenizer:
    """With words at spaces in place of spaCy's."""
    monkeypatch.setattr(spacy_bpe, "_libraries", lambda: (str.strip, lambda text: text.lower().split(" ")))
    return make_tokenizer(CONFIG, iter(TEXTS))


def test_words_are_cut_once_in_training_and_in_encoding(trained):
    assert (trained.vocab_size, trained.unk_id, trained.special_ids) == (70, 0, (0,))
    words = ["the", "miller's", "(", "old", ")", "lantern", "--", "but"]
    ids = trained.encode("The Miller's (old) lantern--but")
    assert "".join(trained.token(i) for i in ids) == "".join(f"{word}</w>" for word in words)
    assert trained.decode(ids) == " ".join(words)
    assert trained.id("</w>") is None
    with pytest.raises(UserError, match="does not tell where its tokens stand"):
        trained.encode_offsets(["the"])


def test_it_is_saved_under_a_name_of_its_own(trained, tmp_path):
    """Another library would read its tokenizer.json and cut no words."""
    trained.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint == trained.fingerprint
    assert again.encode_batch(TEXTS) == trained.encode_batch(TEXTS)
    assert hf_tokenizer(trained) is None
    write_tokenizer(trained, tmp_path / "hf", 16, framed=False)
    assert [file.name for file in (tmp_path / "hf").iterdir()] == ["spacy_bpe.json"]


def test_any_file_of_gpt1s_bpe_will_do(trained, shared_data, tmp_path):
    folder = released(shared_data, tmp_path)
    read = TokenizerConfig("file", path=str(folder), cleaning="spacy")
    wanted = make_tokenizer(read, ())
    make_tokenizer(TokenizerConfig("file", path=str(folder)), ()).save(tmp_path / "hf")
    found = make_tokenizer(TokenizerConfig("file", path=str(tmp_path / "hf"), cleaning="spacy"), ())
    assert found.encode_batch(TEXTS) == wanted.encode_batch(TEXTS)
    assert found.fingerprint == wanted.fingerprint


@pytest.mark.parametrize("absent", ["ftfy", "spacy"])
def test_without_its_libraries_it_says_what_to_install(absent, monkeypatch):
    spacy_bpe._libraries.cache_clear()
    for library in ("ftfy", "spacy"):
        monkeypatch.setitem(sys.modules, library, None if library == absent else object())
    with pytest.raises(UserError, match=rf"needs {absent}, .*pip install 'lmjax\[gpt1\]'"):
        make_tokenizer(CONFIG, iter(TEXTS))


def test_other_kinds_have_no_such_clean_up(tmp_path):
    with pytest.raises(UserError, match="cleaning 'spacy' is of kind 'bpe'"):
        make_tokenizer(TokenizerConfig("wordpiece", 60, cleaning="spacy"), TEXTS)
    make_tokenizer(TokenizerConfig("byte_bpe", 300), TEXTS).save(tmp_path)
    with pytest.raises(UserError, match="this vocabulary is another"):
        make_tokenizer(TokenizerConfig("file", path=str(tmp_path), cleaning="spacy"), ())
