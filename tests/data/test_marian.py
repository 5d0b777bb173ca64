"""The tokenizer of Marian's published models, against its parts and against transformers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from lmjax.data import tokenizer_training as training
from lmjax.data.huggingface import hf_tokenizer
from lmjax.data.prepare import DataConfig, prepare
from lmjax.data.sources import ParallelText
from lmjax.data.tokenizers import TokenizerConfig, load_tokenizer
from lmjax.errors import UserError
from tests.tiny_runs import SENTENCES

PEER = Path(__file__).parents[1] / "golden" / "marian_tokenizer.py"
TARGETS = [sentence.swapcase().replace("the", "zhe") for sentence in SENTENCES]
TEXTS = [
    "",
    "The dog  barked.",
    ">>fra<< the river",
    ">>fra<<the river",
    ">>deu<< a dog",
    "a >>fra<< dog",
    "Ärger 東京",
    "x<<",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As opus-mt has it: the end first, padding last, and most pieces of either language in one table of ids."""
    folder = tmp_path_factory.mktemp("marian")
    pieces = {}
    for name, texts in (("source.spm", SENTENCES), ("target.spm", TARGETS)):
        (folder / name).write_bytes(training.unigram(texts * 3, 80))
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        pieces |= dict.fromkeys(processor.id_to_piece(i) for i in range(5, processor.vocab_size()))
    kept = [piece for i, piece in enumerate(pieces) if i % 5 or len(piece) < 3]
    tokens = ["</s>", "<unk>", *kept, ">>fra<<", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "config.json").write_text('{"model_type": "marian"}')
    return folder


def by_parts(folder, side, text):
    """The pieces of that side's model, by the table."""
    ids = json.loads((folder / "vocab.json").read_text())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
    return [ids.get(piece, ids["<unk>"]) for piece in processor.encode(text, out_type=str)]


def test_either_language_is_cut_by_its_own_model_and_both_share_ids(folder):
    tokenizer = load_tokenizer(folder)
    size = tokenizer.vocab_size
    assert (tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id, tokenizer.cls_id) == (0, 1, size - 1, None)
    assert tokenizer.special_ids == (0, 1, size - 1)
    sources, targets = tokenizer.encode_batch(SENTENCES), tokenizer.encode_targets(SENTENCES)
    assert sources == [by_parts(folder, "source", text) for text in SENTENCES]
    assert targets == [by_parts(folder, "target", text) for text in SENTENCES]
    assert sources != targets
    assert tokenizer.encode_batch([]) == tokenizer.encode_targets([]) == []
    assert tokenizer.unk_id in tokenizer.encode("Ärger 東京")
    assert tokenizer.decode([*tokenizer.encode_targets(["HE DOG RAN"])[0], 0, size - 1]) == "HE DOG RAN"
    assert [tokenizer.id(tokenizer.token(i)) for i in range(size)] == list(range(size))
    assert hf_tokenizer(tokenizer) is None


def test_the_language_that_is_asked_for_is_one_token(folder):
    tokenizer = load_tokenizer(folder)
    code = tokenizer.id(">>fra<<")
    for text in (">>fra<< the river", ">>fra<<the river"):
        assert tokenizer.encode(text) == [code, *by_parts(folder, "source", "the river")]
    assert tokenizer.encode(">>deu<< a dog")[0] == tokenizer.unk_id
    assert code not in tokenizer.encode("a >>fra<< dog")
    assert tokenizer.encode_targets([">>fra<< the river"])[0][0] == code  # as in transformers


def test_what_is_saved_is_what_was_read(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.spm", "target.spm", "vocab.json"]
    again = load_tokenizer(tmp_path / "source.spm")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


@pytest.mark.parametrize("missing", ["source.spm", "target.spm", "vocab.json"])
def test_a_missing_file_is_named(folder, tmp_path, missing):
    load_tokenizer(folder).save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=rf"lacks {missing}; a Marian's tokenizer is source.spm, target.spm, "):
        load_tokenizer(tmp_path)


def test_other_tables_and_stores_are_refused(folder, tmp_path):
    for side in ("source", "target"):
        (tmp_path / f"{side}.txt").write_text("\n".join(SENTENCES * 10))
    source = ParallelText(str(tmp_path / "source.txt"), str(tmp_path / "target.txt"))
    cfg = DataConfig(str(tmp_path / "store"), source, TokenizerConfig("file", path=str(folder)), heldout=0.3)
    with pytest.raises(UserError, match="one vocabulary for both languages"):
        prepare(cfg, [], seed=0)
    load_tokenizer(folder).save(tmp_path / "copy")
    (tmp_path / "copy/vocab.json").write_text('{"</s>": 0}')
    with pytest.raises(UserError, match="lacks <unk>, <pad>"):
        load_tokenizer(tmp_path / "copy")


@pytest.mark.parity
def test_ids_and_texts_are_those_of_transformers(folder, run_peer):
    tokenizer = load_tokenizer(folder)
    seed = int(os.environ.get("LMJAX_PARITY_SEED", int.from_bytes(os.urandom(3))))
    print(f"LMJAX_PARITY_SEED={seed} repeats this")
    rng = np.random.default_rng(seed)
    characters = list("".join(SENTENCES) + "  éß東.>>")
    drawn = ["".join(rng.choice(characters, rng.integers(1, 30))).strip() for _ in range(50)]
    texts = [*TEXTS, *SENTENCES, *TARGETS, *drawn]
    found = {k: json.loads(str(v)) for k, v in run_peer(PEER, {"texts": np.array(texts)}, str(folder)).items()}
    assert tokenizer.encode_batch(texts) == found["sources"]
    assert tokenizer.encode_targets(texts) == found["targets"]
    assert [tokenizer.decode(ids).strip() for ids in found["targets"]] == [text.strip() for text in found["decoded"]]
