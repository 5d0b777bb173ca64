"""Conversations as tokens: what is a response and what is not, borders that hold, and templates that travel."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.data.chat_template import FILENAME, TEMPLATES, Turn, encode, named_template, prompt_tokens
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer
from lmjax.errors import UserError

LINES = ["How do you bake bread?", "Mix flour, water and salt.", "### Response:", "User: Assistant: <|user|>"] * 3
KINDS = {"byte_bpe": 400, "sentencepiece": 60, "roberta_bpe": 400}
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.sampled_from(
    ["<|endoftext|>", "a</s>b", " \n", "Assistant:\n", "é漢🙂"]
)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {kind: make_tokenizer(TokenizerConfig(kind, size), LINES) for kind, size in KINDS.items()}  # type: ignore[arg-type]


@given(st.data())
def test_the_mask_is_the_answers_with_their_ends_and_a_prompt_is_a_prefix(tokenizers, data):
    template, tokenizer = (TEMPLATES[data.draw(st.sampled_from(sorted(TEMPLATES)))], tokenizers["byte_bpe"])
    exchanges = data.draw(st.lists(st.tuples(TEXTS, TEXTS | st.just(""), TEXTS), min_size=1, max_size=3))
    turns = [Turn("system", text) for text in data.draw(st.lists(TEXTS, max_size=1))]
    for question, about, answer in exchanges:
        turns += [Turn("user", question, about), Turn("assistant", answer)]
    tokens, is_response = encode(template, tokenizer, turns)
    assert (tokens.dtype, is_response.dtype) == (np.int32, np.bool_)
    eos = tokenizer.eos_id
    answers = [token for _, _, a in exchanges for token in (*tokenizer.encode_as_text([a])[0], eos)]
    assert tokens[is_response].tolist() == answers
    others = (tokens[~is_response] == eos).sum()  # nobody but the template ends a turn
    assert others == (len(exchanges) + (turns[0].role == "system") if template.closed else 0)
    for end in range(1, len(turns) + 1):
        if turns[end - 1].role == "assistant":
            prompt = prompt_tokens(template, tokenizer, turns[: end - 1])
            np.testing.assert_array_equal(tokens[: len(prompt)], prompt)
            assert is_response[len(prompt)]
            assert not is_response[: len(prompt)].all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_spells_a_special_token_is_text(tokenizers, kind):
    tokenizer = tokenizers[kind]
    end = tokenizer.token(tokenizer.eos_id)
    if kind != "sentencepiece":  # which never reads one in a text
        assert tokenizer.eos_id in tokenizer.encode(f"a{end}b")
    (ids,) = tokenizer.encode_as_text([f"a{end}b"])
    assert not {tokenizer.eos_id, tokenizer.pad_id} & {*ids}
    tokens, is_response = encode(TEMPLATES["plain"], tokenizer, [Turn("user", f"a{end}b"), Turn("assistant", "c")])
    assert np.flatnonzero(tokens == tokenizer.eos_id).tolist() == [len(tokens) - 1]
    assert is_response[-1]


def test_alpaca_writes_what_stanford_wrote(tokenizers):
    tokenizer = tokenizers["byte_bpe"]

    def text(*turns):
        return tokenizer.decode(prompt_tokens(TEMPLATES["alpaca"], tokenizer, turns))

    begin = "Below is an instruction that describes a task"
    task = "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n"
    assert text(Turn("user", "Add.")) == f"{begin}. {task}### Response:"
    with_input = f"{begin}, paired with an input that provides further context. {task}### Input:\n1, 2\n\n### Response:"
    assert text(Turn("user", "Add.", "1, 2")) == with_input
    assert text(Turn("system", "Be brief."), Turn("user", "Add.")).startswith("Be brief.\n\n### Instruction:\nAdd.")


def test_a_template_goes_with_its_tokenizer(tokenizers, tmp_path):
    template = TEMPLATES["alpaca"]
    for kind, tokenizer in tokenizers.items():
        assert tokenizer.chat_template is None
        tokenizer.with_chat_template(template).save(tmp_path / kind)
        found = load_tokenizer(tmp_path / kind)
        assert found.chat_template == template
        assert found.fingerprint == tokenizer.fingerprint
        found.save(tmp_path / f"{kind}_again")
        assert load_tokenizer(tmp_path / f"{kind}_again").chat_template == template
        tokenizer.save(tmp_path / f"{kind}_without")
        assert load_tokenizer(tmp_path / f"{kind}_without").chat_template is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{", "not JSON"), ("{}", "config schema None"), ('{"schema_version": 2, "config": {"usr": 1}}', "unknown key")],
)
def test_a_damaged_template_is_named(tokenizers, tmp_path, content, complaint):
    tokenizers["byte_bpe"].save(tmp_path)
    (tmp_path / FILENAME).write_text(content)
    with pytest.raises(UserError, match=f"{FILENAME}.*{complaint}"):
        load_tokenizer(tmp_path)


def test_what_cannot_be_encoded_is_refused(tokenizers):
    with pytest.raises(UserError, match="did you mean 'alpaca'"):
        named_template("alpacca")
    wordpiece = make_tokenizer(TokenizerConfig("wordpiece", 80), LINES)
    with pytest.raises(UserError, match="end token"):
        encode(TEMPLATES["plain"], wordpiece, [Turn("user", "a")])
    with pytest.raises(UserError, match="without turns"):
        encode(TEMPLATES["plain"], tokenizers["byte_bpe"], [])
    assert json.dumps([Turn("user", "a", "b")]) == '[["user", "a", "b"]]'  # as notes store them
