"""Loading, calling, encoding and saving models."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import lmjax
from lmjax.beam import Beam
from lmjax.errors import UserError
from lmjax.models import MODELS
from lmjax.train.checkpoint import Checkpoints
from tests.models.tiny import forward
from tests.tiny_runs import SENTENCES, TEXTS, same_outputs, tiny_tokenizer, write_run

PEER = Path(__file__).with_name("golden") / "auto_load.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run directory of each family."""
    folder = tmp_path_factory.mktemp("runs")
    for family in MODELS:
        write_run(family, folder / family)
    return folder


@pytest.fixture(scope="module")
def saved(runs, tmp_path_factory):
    """The same as Hugging Face directories, ELMo's as it was released."""
    folder = tmp_path_factory.mktemp("saved")
    for family in MODELS:
        lmjax.load(runs / family).save_hf(folder / family)
    return folder


@pytest.mark.parametrize("family", MODELS)
def test_a_run_its_checkpoints_and_best(runs, family):
    newest, best = lmjax.load(runs / family), lmjax.load(runs / family / "best")
    same_outputs(newest, lmjax.load(runs / family / "checkpoints" / "2"))
    same_outputs(best, lmjax.load(str(runs / family / "checkpoints" / "1")))
    for a, b in zip(jax.tree.leaves(newest.params), jax.tree.leaves(best.params), strict=True):
        np.testing.assert_array_equal(a, 1.5 * b)


@pytest.mark.parametrize(("family", "names"), [("bert", {"pooled", "next_sentence_logits"}), ("gpt2", set())])
def test_outputs_and_their_shapes(runs, family, names):
    lm = lmjax.load(runs / family)
    outputs = lm(**lm.encode(TEXTS), collect=("hidden_states",))
    rows, length = lm.encode(TEXTS)["tokens"].shape
    assert set(outputs) == {"hidden", "logits", "hidden_states"} | names
    assert outputs["logits"].shape == (rows, length, lm.config.vocab_size)
    assert outputs["logits"].dtype == np.float32
    assert outputs["hidden_states"].shape == (3, rows, length, 32)
    assert lm.num_params == sum(x.size for x in jax.tree.leaves(lm.params)) - sum(
        (lm.config.padded_vocab_size - lm.config.vocab_size) * width
        for width in ((32, 1) if family == "bert" else (32,))
    )


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(runs, family, side):
    lm = lmjax.load(runs / family)
    alone = lm.encode(TEXTS[1])
    padding = [(0, 0), (5, 0) if side == "left" else (0, 5), (0, 0)]
    wide = {k: np.pad(v, padding[: v.ndim]) for k, v in alone.items()}
    real = np.s_[:, 5:] if side == "left" else np.s_[:, :-5]
    if family == "bert" and side == "left":
        wide["positions"] = np.maximum(np.arange(wide["tokens"].shape[1])[None] - 5, 0)
    padded, plain = lm(**wide), lm(**alone)
    for name in (name for name in plain if name.endswith("logits") and plain[name].ndim == 3):
        np.testing.assert_allclose(padded[name][real], plain[name], rtol=1e-4, atol=1e-4)


def test_bert_is_what_the_module_says(runs):
    lm = lmjax.load(runs / "bert")
    features = lm.encode(TEXTS)
    expected = forward(lm.config, lm.heads)(
        lm.params, tokens=features["tokens"], segment_ids=features["attention_mask"]
    )
    for name, value in lm(**features).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def test_bert_encodes_pairs_with_special_tokens(runs):
    lm = lmjax.load(runs / "bert")
    tokenizer = lm.tokenizer
    a, b = tokenizer.encode("the dog"), tokenizer.encode("ran away .")
    features = lm.encode([("the dog", "ran away ."), "the dog"])
    frame = [tokenizer.cls_id, *a, tokenizer.sep_id]
    assert features["tokens"][0].tolist() == [*frame, *b, tokenizer.sep_id]
    assert features["token_type_ids"][0].tolist() == [0] * len(frame) + [1] * (len(b) + 1)
    assert features["tokens"][1].tolist() == frame + [tokenizer.pad_id] * (len(b) + 1)
    assert features["attention_mask"][1].tolist() == [1] * len(frame) + [0] * (len(b) + 1)


def test_gpt_encodes_plain_text(runs):
    lm = lmjax.load(runs / "gpt2")
    features = lm.encode(TEXTS, multiple_of=32)
    assert set(features) == {"tokens", "attention_mask"}
    assert features["tokens"].shape[1] % 32 == 0
    for text, row, mask in zip(TEXTS, features["tokens"], features["attention_mask"], strict=True):
        assert lm.tokenizer.decode(row[: mask.sum()]) == text


def test_long_texts_are_cut_with_a_warning(runs):
    lm = lmjax.load(runs / "bert")
    with pytest.warns(UserWarning, match="1 of 2 texts were cut to the model's 64 positions"):
        features = lm.encode([("dog " * 200, "the postman"), "dog"])
    assert features["tokens"].shape == (2, 64)
    assert features["tokens"][0, -1] == lm.tokenizer.sep_id
    assert lm.tokenizer.decode(features["tokens"][0][features["token_type_ids"][0] == 1]) == "the postman"


@pytest.mark.parametrize(
    ("features", "complaint"),
    [
        ({"token": [[1]]}, "no 'token'; did you mean 'tokens'"),
        ({"attention_mask": [[1]]}, "tokens are missing"),
        ({"tokens": [[5000]]}, "tokens holds 5000 to 5000; possible is 0 to"),
        ({"tokens": [[-1]]}, "tokens holds -1"),
        ({"tokens": [[1, 2]], "attention_mask": [[1]]}, r"attention_mask must be integers.*found int64 \(1, 1\)"),
        ({"tokens": [[1.5]]}, "tokens must be integers"),
        ({"tokens": np.ones((1, 65), int)}, "length 65 exceeds the position table"),
        ({"tokens": [[1]], "attention_mask": [[1]], "segment_ids": [[1]]}, "not both"),
        ({"tokens": [[1]], "positions": [[600]]}, "positions holds 600 to 600; possible is 0 to 63"),
        ({"tokens": [[1, 2]], "mlm_positions": [[2]]}, "mlm_positions holds 2 to 2; possible is 0 to 1"),
        ({"tokens": [[1, 2]], "mlm_positions": [[1], [1]]}, r"mlm_positions must be integers.*found int64 \(2, 1\)"),
        ({"tokens": [[1]], "collect": "hidden_states"}, "collect 'hidden_states' is no list of hidden_states"),
        ({"tokens": [[1]], "collect": ("hiden_states",)}, "is no list of hidden_states"),
    ],
)
def test_bad_features_are_named(runs, features, complaint):
    with pytest.raises(UserError, match=complaint):
        lmjax.load(runs / "bert")(**features)


def test_gpt_knows_no_token_types(runs):
    with pytest.raises(UserError, match="no 'token_type_ids'"):
        lmjax.load(runs / "gpt2")(tokens=[[1]], token_type_ids=[[0]])


@pytest.mark.parametrize("family", MODELS)
def test_there_and_back(runs, saved, family):
    lm, back = lmjax.load(runs / family), lmjax.load(saved / family)
    assert (back.config, back.tokenizer.fingerprint != "") == (lm.config, True)
    same_outputs(lm, back)
    if (file := saved / family / "model.safetensors").exists():
        assert not MODELS[family].hf_tied.keys() & load_file(file).keys()


def test_a_transformer_reads_pairs_and_translates(runs, saved):
    lm, texts = lmjax.load(runs / "marian"), SENTENCES[:2]
    features = lm.encode([(texts[0], texts[1]), (texts[1], "The")], multiple_of=8)
    source, target = (lm.tokenizer.encode(text) for text in texts)
    assert features["encoder_tokens"][0, : len(source) + 1].tolist() == [*source, 3]
    assert features["tokens"][0, : len(target) + 1].tolist() == [0, *target]
    assert features["attention_mask"].sum(1).tolist() == [len(target) + 1, len(lm.tokenizer.encode("The")) + 1]
    outputs = lm(**features)
    assert set(outputs) == {"hidden", "encoder_hidden", "logits"}
    alone = lm(**lm.encode([(texts[0], texts[1])]))["logits"][0]
    np.testing.assert_allclose(outputs["logits"][0, : len(target) + 1], alone, rtol=1e-4, atol=1e-4)
    found = lm.translate(texts, Beam(max_extra=4))
    assert found == lmjax.load(saved / "marian").translate(texts, Beam(max_extra=4))
    assert lm.translate(texts[0], Beam(max_extra=4)) == found[:1]
    with pytest.raises(UserError, match="encoder_tokens are missing"):
        lm(tokens=[[0]])


def test_an_average_is_the_mean_of_the_last_checkpoints(runs, saved):
    """Of steps 1 and 2, whose parameters are p and 1.5 p."""
    average, first = lmjax.load(runs / "gpt2", average=2), lmjax.load(runs / "gpt2" / "checkpoints" / "1")
    for a, b in zip(jax.tree.leaves(average.params), jax.tree.leaves(first.params), strict=True):
        np.testing.assert_allclose(a, 1.25 * b, rtol=1e-6)
    for path, count, complaint in (
        (runs, 3, "holds 2 checkpoints, not 3"),
        (runs, 0, "not 0"),
        (saved, 2, "one model"),
    ):
        with pytest.raises(UserError, match=complaint):
            lmjax.load(path / "gpt2", average=count)


def test_a_hub_id_names_the_download(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, folder in {"bert-base-uncased": "bert-base-uncased", "openai-community/gpt2": "gpt2"}.items():
        with pytest.raises(UserError, match=f"no directory.*`hf download {name} --local-dir {folder}`"):
            lmjax.load(name)
    with pytest.raises(UserError, match="holds no checkpoint"):
        lmjax.load(tmp_path)


def test_a_tokenizer_of_another_model(saved, runs, tmp_path):
    mixed = shutil.copytree(saved / "bert", tmp_path / "mixed")
    shutil.copy(runs / "gpt2" / "tokenizer" / "tokenizer.json", mixed / "tokenizer.json")
    with pytest.raises(UserError, match="do not belong together"):
        lmjax.load(mixed)
    (mixed / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        lmjax.load(mixed).encode("the dog")


def test_an_older_schema_and_another_class(runs, tmp_path):
    shutil.copytree(runs / "gpt2" / "checkpoints" / "2", tmp_path / "2")
    file = tmp_path / "2" / "config.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data | {"schema_version": 0}))
    with pytest.raises(UserError, match="config schema 0"):
        lmjax.load(tmp_path / "2")
    data["config"]["model"]["type"] = "GtpConfig"
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match="unknown type 'GtpConfig'; did you mean 'GptConfig'"):
        lmjax.load(tmp_path / "2")


def test_save_hf_never_overwrites_and_leaves_nothing_half(runs, tmp_path):
    lm = lmjax.load(runs / "bert")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        lm.save_hf(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    lm.save_hf(tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()
    write_run("bert", tmp_path / "concat", position_combine="concat")
    with pytest.raises(UserError, match="cannot be converted"):
        lmjax.load(tmp_path / "concat").save_hf(tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["concat", "empty", "full"]


def test_how_it_was_trained_does_not_bind_its_use(tmp_path):
    cfg = write_run("gpt2", tmp_path / "run", attention="cudnn", remat="full")
    assert cfg.model.attention == "cudnn"
    lm = lmjax.load(tmp_path / "run")
    assert (lm.config.attention, lm.config.remat) == ("xla", "none")
    assert np.isfinite(lm(**lm.encode("The dog"))["logits"]).all()


def test_a_run_is_still_being_written(tmp_path):
    cfg = write_run("gpt2", tmp_path / "run")
    with Checkpoints(tmp_path / "run", cfg.checkpoint, cfg):  # its lock does not keep readers out
        assert lmjax.load(tmp_path / "run").heads == ("clm",)


@pytest.mark.parity
def test_transformers_loads_what_is_saved(runs, saved, tmp_path, run_peer):
    lm = lmjax.load(runs / "bert")
    vocabulary = tiny_tokenizer("sentencepiece")  # the table has rows to spare
    dataclasses.replace(lm, vocabulary=vocabulary).save_hf(tmp_path / "bert")
    folders = [saved / "bert", saved / "gpt2", saved / "openai-gpt", tmp_path / "bert"]
    closed = json.loads((saved / "marian" / "tokenizer.json").read_text())["post_processor"]["single"]
    assert [*closed[0], *closed[1]] == ["Sequence", "SpecialToken"]
    found = run_peer(PEER, {"texts": np.array(TEXTS)}, *map(str, folders))
    for i, folder in enumerate(folders):
        lm = lmjax.load(folder)
        features = lm.encode(TEXTS)
        real = features["attention_mask"] == 1
        np.testing.assert_array_equal(features["attention_mask"], found[f"{i}/mask"])
        np.testing.assert_array_equal(features["tokens"][real], found[f"{i}/ids"][real])
        for name in ("hidden", "logits"):
            difference = np.abs(lm(**features)[name][real] - found[f"{i}/{name}"][real]).max()
            assert difference < 1e-5 * max(1, np.abs(found[f"{i}/{name}"]).max()), (folder, name)
