"""Tokenizers written for transformers give the same ids."""

import json

import pytest
import tokenizers
from etils import epath

from lmjax.data.huggingface import hf_tokenizer, write_tokenizer
from lmjax.data.tokenizers import read_tokenizer
from tests.tiny_runs import SENTENCES, tiny_tokenizer

AWKWARD = [
    "",
    " ",
    "  the  dog ",
    "Ünïcode ﬁ １２",
    "中文。日本",
    "👍🏽",
    "a\tb\nc\x00d",
    "x" * 300,
    "the▁dog",
    *SENTENCES,
]


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "roberta_bpe", "sentencepiece"])
def test_same_ids_and_text(tmp_path, kind):
    tokenizer = tiny_tokenizer(kind)
    framed = kind != "byte_bpe"
    write_tokenizer(tokenizer, epath.Path(tmp_path), 64, framed)
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in AWKWARD:
        ids = tokenizer.encode(text)
        assert written.encode(text, add_special_tokens=False).ids == ids, text
        assert written.decode(ids).strip() == tokenizer.decode(ids).strip()
        frame = ([tokenizer.cls_id], [tokenizer.sep_id]) if framed else ([], [])
        assert written.encode(text).ids == [*frame[0], *ids, *frame[1]]
    pair, dog, ran = written.encode("the dog", "ran"), tokenizer.encode("the dog"), tokenizer.encode("ran")
    if kind == "roberta_bpe":
        assert pair.ids == [0, *dog, 2, 2, *ran, 2]
        assert not any(pair.type_ids)
    elif framed:
        assert pair.type_ids.count(1) == len(ran) + 1
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for role in ("pad", "unk", "cls", "sep", "mask", "eos"):
        id = getattr(tokenizer, f"{role}_id")
        assert settings.get(f"{role}_token") == (None if id is None else tokenizer.token(id))
    assert read_tokenizer(tmp_path).encode_batch(AWKWARD) == tokenizer.encode_batch(AWKWARD)


def test_a_decoder_puts_nothing_around_its_text(tmp_path):
    tokenizer = tiny_tokenizer("wordpiece")
    write_tokenizer(tokenizer, epath.Path(tmp_path), 64, framed=False)
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert written.encode("the dog").ids == tokenizer.encode("the dog")
    assert "token_type_ids" not in (tmp_path / "tokenizer_config.json").read_text()


def test_sentencepiece_of_the_real_world(shared_data):
    lines = shared_data("tokenizers/botchan.txt").read_text().splitlines()[:300]
    tokenizer = read_tokenizer(shared_data("tokenizers/spiece.model"))
    converted = hf_tokenizer(tokenizer)
    assert [e.ids for e in converted.encode_batch(lines, add_special_tokens=False)] == tokenizer.encode_batch(lines)
    assert hf_tokenizer(read_tokenizer(shared_data("tokenizers/transformers_test_sentencepiece_bpe.model"))) is None
