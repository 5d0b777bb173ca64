"""Real vocabularies against the ids of the original implementations; trained ones against their own promises."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import tokenizer_training as training
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer, train_tokenizer
from lmjax.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizers.json").read_text())
SENTENCES = [
    f"{who} {verb} the {what} {where}, unbelievably slowly."
    for who in ("The old miller", "A young heiress", "Nobody", "My uncle")
    for verb in ("carried", "was carrying", "forgets", "had forgotten")
    for what in ("lantern", "lanterns", "naïve painting", "café table")
    for where in ("home", "to the harbour", "into 東京 station", "at 10 o'clock")
]
KINDS = ("wordpiece", "byte_bpe", "roberta_bpe", "sentencepiece")
SIZES = {"wordpiece": 110, "byte_bpe": 330, "roberta_bpe": 334, "bpe": 110, "sentencepiece": 60}


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {kind: train_tokenizer(TokenizerConfig(kind, size), SENTENCES) for kind, size in SIZES.items()}


def real(path: Path, lowercase: bool = True) -> Tokenizer:
    return make_tokenizer(TokenizerConfig("file", path=str(path), lowercase=lowercase), ())


@pytest.mark.core
@pytest.mark.parametrize(("name", "lowercase"), [("uncased", True), ("cased", False), ("chinese", True)])
def test_wordpiece_equals_transformers(shared_data, name, lowercase):
    tokenizer = real(shared_data(f"tokenizers/bert-base-{name}-vocab.txt"), lowercase)
    assert tokenizer.encode_batch(GOLDEN["texts"]) == GOLDEN["ids"][f"bert-base-{name}"]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.eos_id) == (0, 100, None)
    assert tokenizer.special_ids == (0, 100, 101, 102, 103)


@pytest.mark.core
@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_byte_bpe_equals_transformers(shared_data, tmp_path, names):
    for source, name in zip(("gpt2-encoder.json", "gpt2-vocab.bpe"), names, strict=True):
        shutil.copy(shared_data(f"tokenizers/{source}"), tmp_path / name)
    tokenizer = real(tmp_path)
    assert tokenizer.encode_batch(GOLDEN["texts"]) == GOLDEN["ids"]["gpt2"]
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (50257, 50256, None)
    decoded = [tokenizer.decode(ids) for ids in GOLDEN["ids"]["gpt2"]]
    assert decoded == [text.replace("<|endoftext|>", "") for text in GOLDEN["texts"]]
    for name in names:
        assert real(tmp_path / name).fingerprint == tokenizer.fingerprint


@pytest.mark.core
@pytest.mark.parametrize("names", [("encoder_bpe_40000.json", "vocab_40000.bpe"), ("vocab.json", "merges.txt")])
def test_gpt1_s_bpe_equals_transformers(shared_data, tmp_path, names):
    """Under OpenAI's names and Hugging Face's, which are those of GPT-2 too: the vocabulary tells."""
    for source, name in zip(("gpt1-encoder_bpe_40000.json", "gpt1-vocab_40000.bpe"), names, strict=True):
        shutil.copy(shared_data(f"tokenizers/{source}"), tmp_path / name)
    tokenizer = real(tmp_path)
    assert tokenizer.encode_batch(GOLDEN["texts"]) == GOLDEN["ids"]["gpt1"]
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.eos_id, tokenizer.pad_id) == (40478, 0, None, None)
    assert tokenizer.decode(tokenizer.encode("The old Miller's café.")) == "the old miller ' s cafe ."
    assert real(tmp_path / names[0]).fingerprint == real(tmp_path / names[1]).fingerprint == tokenizer.fingerprint


def test_a_trained_bpe_of_words(trained):
    tokenizer = trained["bpe"]
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.special_ids) == (SIZES["bpe"], 0, (0,))
    assert len({tokenizer.token(i) for i in range(SIZES["bpe"])}) == SIZES["bpe"]
    ids = tokenizer.encode("The old MILLER forgets the lanterns, unbelievably slowly.")
    assert 0 not in ids
    assert tokenizer.decode(ids) == "the old miller forgets the lanterns , unbelievably slowly ."
    assert "".join(tokenizer.token(i) for i in tokenizer.encode("Lanterns home")) == "lanterns</w>home</w>"
    assert len(tokenizer.encode("lanterns")) < len("lanterns")
    assert tokenizer.encode("the %") == [*tokenizer.encode("the"), 0]  # outside the alphabet


def test_robertas_ids_are_fairseqs(shared_data, tmp_path):
    """GPT-2's tokens in the order of dict.txt between <s> <pad> </s> <unk> and <mask>, three fillers among them."""
    shutil.copy(shared_data("tokenizers/gpt2-encoder.json"), tmp_path / "encoder.json")
    shutil.copy(shared_data("tokenizers/gpt2-vocab.bpe"), tmp_path / "vocab.bpe")
    gpt2, order = real(tmp_path), np.random.default_rng(0).permutation(50257)
    lines = [*(f"{i} 7" for i in order), *(f"madeupword000{i} 0" for i in range(3))]
    (tmp_path / "dict.txt").write_text("\n".join(lines) + "\n")
    tokenizer, place = real(tmp_path), np.argsort(order)
    assert tokenizer.vocab_size == 50265
    assert [tokenizer.token(i) for i in (0, 1, 2, 3, 50261, 50264)] == [
        *("<s>", "<pad>", "</s>", "<unk>"),
        "madeupword0000",
        "<mask>",
    ]
    roles = ("cls_id", "pad_id", "sep_id", "unk_id", "mask_id", "eos_id")
    assert [getattr(tokenizer, role) for role in roles] == [0, 1, 2, 3, 50264, 2]
    for text in GOLDEN["texts"]:
        if "<" not in text:  # special tokens written out
            assert tokenizer.encode(text) == [4 + place[i] for i in gpt2.encode(text)]
    # Hugging Face's form of the same: the ids in the vocabulary itself.
    made = json.loads(tokenizer.data)["model"]["vocab"]
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps(made))
    shutil.copy(tmp_path / "vocab.bpe", tmp_path / "hf" / "merges.txt")
    assert real(tmp_path / "hf").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("name", ["spiece", "sentencepiece_test_model", "transformers_test_sentencepiece_bpe"])
def test_sentencepiece_equals_the_library(shared_data, name):
    path = shared_data(f"tokenizers/{name}.model")
    tokenizer, processor = real(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tokenizer.encode_batch(GOLDEN["texts"]) == GOLDEN["ids"][name] == processor.encode(GOLDEN["texts"])
    assert tokenizer.vocab_size == processor.vocab_size()


def test_wordpiece_is_the_library_s_bert_pipeline(trained):
    """No real vocabulary needed: a trained one in the pipeline that `tokenizers` itself ships for BERT."""
    vocab = {trained["wordpiece"].token(i): i for i in range(trained["wordpiece"].vocab_size)}
    reference = hf.BertWordPieceTokenizer(vocab)
    texts = GOLDEN["texts"] + SENTENCES
    expected = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    assert trained["wordpiece"].encode_batch(texts) == expected


@given(text=st.text(max_size=40).filter(lambda text: "<|endoftext|>" not in text))
@settings(max_examples=50, deadline=None)
def test_byte_bpe_gives_any_text_back(trained, text):
    assert trained["byte_bpe"].decode(trained["byte_bpe"].encode(text)) == text


def test_special_ids_of_trained_vocabularies(trained):
    ids = {
        kind: [getattr(t, f"{r}_id") for r in ("pad", "unk", "cls", "sep", "mask", "eos")]
        for kind, t in trained.items()
    }
    assert ids["wordpiece"] == [0, 1, 2, 3, 4, None]
    assert ids["byte_bpe"] == [None, None, None, None, None, 0]
    assert ids["roberta_bpe"] == [1, 3, 0, 2, 333, 2]
    assert ids["sentencepiece"] == [0, 1, 2, 3, 4, 3]
    assert [trained["wordpiece"].token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [trained["sentencepiece"].token(i) for i in range(5)] == ["<pad>", "<unk>", "<s>", "</s>", "[MASK]"]
    assert trained["byte_bpe"].token(0) == "<|endoftext|>"
    assert {kind: t.special_ids for kind, t in trained.items()} == {
        "wordpiece": (0, 1, 2, 3, 4),
        "byte_bpe": (0,),
        "bpe": (0,),
        "roberta_bpe": (0, 1, 2, 3, 333),
        "sentencepiece": (0, 1, 2, 3, 4),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_encoding(trained, kind):
    tokenizer = trained[kind]
    assert tokenizer.vocab_size == SIZES[kind]
    batch = tokenizer.encode_batch(SENTENCES)
    assert batch == [tokenizer.encode(sentence) for sentence in SENTENCES]
    assert not {*tokenizer.special_ids} & {i for ids in batch for i in ids}  # none added, nothing unknown
    assert tokenizer.encode("") == []
    assert tokenizer.encode_batch([]) == []
    same = str.lower if kind == "wordpiece" else str
    text = "The old miller carried the lanterns home, unbelievably slowly."
    assert tokenizer.decode(tokenizer.encode(text)) == same(text)
    assert [tokenizer.id(tokenizer.token(i)) for i in range(tokenizer.vocab_size)] == list(range(tokenizer.vocab_size))
    assert tokenizer.id("no such token") is None


@pytest.mark.parametrize(
    ("kind", "mask"), [("wordpiece", "[MASK]"), ("sentencepiece", "[MASK]"), ("roberta_bpe", "<mask>")]
)
def test_a_written_mask_is_the_mask(trained, kind, mask):
    tokenizer = trained[kind]
    ids = tokenizer.encode(f"the {mask} lantern")
    assert ids.count(tokenizer.mask_id) == 1
    assert mask not in tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_word_begins(trained, kind):
    tokenizer = trained[kind]
    text = " lanterns unbelievably slowly"
    ids = tokenizer.encode(text)
    assert len(ids) > 3  # or there is nothing to tell
    assert tokenizer.word_begins.shape == (tokenizer.vocab_size,)
    words = "".join(
        f"|{t}" if b else t for t, b in zip(map(tokenizer.token, ids), tokenizer.word_begins[ids], strict=True)
    )
    plain = words.replace("##", "").replace("Ġ", "").replace("▁", "")
    assert plain == "|lanterns|unbelievably|slowly"
    assert tokenizer.word_begins[list(tokenizer.special_ids)].all()


def test_a_line_end_begins_a_word(trained):
    tokenizer = trained["byte_bpe"]
    assert tokenizer.word_begins[tokenizer.encode("\nmiller")].tolist()[:1] == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(trained, kind, tmp_path):
    tokenizer = trained[kind]
    tokenizer.save(tmp_path)
    (file,) = tmp_path.iterdir()
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.special_ids == tokenizer.special_ids
    assert again.encode_batch(SENTENCES + GOLDEN["texts"]) == tokenizer.encode_batch(SENTENCES + GOLDEN["texts"])
    if kind == "sentencepiece":
        library = sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(SENTENCES)
    else:
        library = [hf.Tokenizer.from_file(str(file)).encode(s, add_special_tokens=False).ids for s in SENTENCES]
    assert library == tokenizer.encode_batch(SENTENCES)


def test_saved_wordpiece_frames_its_text_for_hugging_face(trained, tmp_path):
    trained["wordpiece"].save(tmp_path)
    encoding = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("home", "home")
    assert [encoding.tokens[i] for i in (0, -1)] == ["[CLS]", "[SEP]"]
    assert {*encoding.type_ids} == {0, 1}


def test_padding_and_truncation_of_a_file_are_ignored(trained, tmp_path):
    library = hf.Tokenizer.from_buffer(trained["wordpiece"].data)
    library.enable_padding(length=64)
    library.enable_truncation(4)
    library.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode(SENTENCES[0]) == trained["wordpiece"].encode(SENTENCES[0])


TRAIN = """
import sys
from tests.data.test_tokenizers import SENTENCES, SIZES
from lmjax.data.tokenizers import TokenizerConfig, train_tokenizer
for kind, size in SIZES.items():
    print(train_tokenizer(TokenizerConfig(kind, size), iter(SENTENCES)).fingerprint)
"""


@pytest.mark.parametrize("threads", ["1", "3"])
def test_training_is_the_same_in_every_process(trained, threads):
    """Hash seeds, Rust's among them, differ from process to process."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    done = subprocess.run([sys.executable, "-c", TRAIN], cwd=root, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [trained[kind].fingerprint for kind in SIZES], done.stderr
    assert done.stderr == ""  # nor any noise


def test_rare_characters_stay_outside_the_alphabet():
    begins, insides = training.alphabet(["abab ab" * 1000, "aé b"])
    assert (begins, insides) == (["a", "b"], ["a", "b"])
    assert training.alphabet(["ab"])[1] == ["b"]


def test_the_file_says_whether_it_is_cased(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nHome\nhome\n")
    assert load_tokenizer(tmp_path).encode("Home") == [6]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path).encode("Home") == [5]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("", "", "without a path"),
        ("absent.txt", None, "no vocabulary at"),
        ("", None, "holds no vocabulary"),
        ("vocab.pkl", "x", "is no vocabulary"),
        ("vocab.txt", "[PAD]\nhome\n", "lacks [UNK], [CLS], [SEP], [MASK]"),
        ("tokenizer.json", "{}", "cannot read a vocabulary from"),
        ("spiece.model", "nonsense", "cannot read a vocabulary from"),
        ("vocab.bpe", "#version\na b\n", "cannot read a vocabulary from"),
    ],
)
def test_bad_vocabularies(tmp_path, name, content, complaint):
    if name and content is not None:
        (tmp_path / name).write_text(content)
    path = "" if (name, content) == ("", "") else str(tmp_path / name)
    with pytest.raises(UserError) as caught:
        make_tokenizer(TokenizerConfig("file", path=path), ())
    assert complaint in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "size", "texts", "complaint"),
    [
        *((kind, 300, ["", " \n"], "corpus is empty") for kind in KINDS),
        ("wordpiece", 20, SENTENCES, "vocab_size 20 is too small"),
        ("byte_bpe", 256, SENTENCES, "vocab_size 256 is too small"),
        ("bpe", 20, SENTENCES, "vocab_size 20 is too small"),
        ("roberta_bpe", 260, SENTENCES, "vocab_size 260 is too small"),
        ("sentencepiece", 20, SENTENCES, "vocab_size 20"),
    ],
)
def test_bad_trainings(kind, size, texts, complaint):
    with pytest.raises(UserError, match=complaint):
        train_tokenizer(TokenizerConfig(kind, size), texts)
