"""The forms in which Hugging Face's weights are found, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lmjax
from lmjax.errors import UserError
from tests.tiny_runs import TEXTS, same_outputs, write_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory of BERT and one of GPT-2."""
    folder = tmp_path_factory.mktemp("saved")
    for family in ("bert", "gpt2"):
        write_run(family, folder / "run" / family)
        lmjax.load(folder / "run" / family).save_hf(folder / family)
    return folder


def rewritten(source, target, change, **config):
    """A copy of a Hugging Face directory whose tensors went through `change` and whose config has other values."""
    shutil.copytree(source, target)
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors")
    data = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(data | config))
    return target


def without_prefix(prefix, heads):
    return lambda tensors: {k.removeprefix(prefix): v for k, v in tensors.items() if not k.startswith(heads)}


FORMS = {
    "the backbone alone": ("bert", without_prefix("bert.", "cls."), ["hidden", "pooled"]),
    "gamma and beta": (
        "bert",
        lambda t: {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in t.items()},
        None,
    ),
    "masked words only": (
        "bert",
        lambda t: {k: v for k, v in t.items() if "pooler" not in k and "seq_relationship" not in k},
        ["hidden", "logits"],
    ),
    "tied tensors twice": (
        "bert",
        lambda t: (
            t
            | {
                "cls.predictions.decoder.weight": t["bert.embeddings.word_embeddings.weight"],
                "cls.predictions.decoder.bias": t["cls.predictions.bias"],
                "bert.embeddings.position_ids": np.arange(64)[None],
            }
        ),
        None,
    ),
    "the GPT-2 of the Hub": (
        "gpt2",
        lambda t: (
            {k.removeprefix("transformer."): v for k, v in t.items()}
            | {"h.0.attn.bias": np.ones((1, 1, 64, 64), np.float32), "h.1.attn.masked_bias": np.float32([-1e4])}
        ),
        None,
    ),
    "a head tied to its table": ("gpt2", lambda t: t | {"lm_head.weight": t["transformer.wte.weight"]}, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_the_same_weights(saved, tmp_path, form):
    family, change, names = FORMS[form]
    lm = lmjax.load(rewritten(saved / family, tmp_path / "form", change))
    same_outputs(lmjax.load(saved / family), lm, names)
    assert names is None or set(lm(**lm.encode(TEXTS))) == set(names)


def test_shards_and_half_precision(saved, tmp_path):
    shutil.copytree(saved / "bert", tmp_path / "bert")
    tensors = {k: v.astype(np.float16) for k, v in load_file(saved / "bert" / "model.safetensors").items()}
    (tmp_path / "bert" / "model.safetensors").unlink()
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({k: v for k, v in tensors.items() if shards[k] == shard}, tmp_path / "bert" / shard)
    (tmp_path / "bert" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    lm, exact = lmjax.load(tmp_path / "bert"), lmjax.load(saved / "bert")
    for a, b in zip(jax.tree.leaves(lm.params), jax.tree.leaves(exact.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    (tmp_path / "bert" / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors is missing or damaged"):
        lmjax.load(tmp_path / "bert")


def one_wrong(tensors):
    return tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1}


@pytest.mark.parametrize(
    ("family", "change", "config", "complaint"),
    [
        ("bert", lambda t: t | {"classifier.weight": np.ones(2, np.float32)}, {}, "unknown tensor .*classifier"),
        ("bert", lambda t: {k: v for k, v in t.items() if "LayerNorm" not in k}, {}, "LayerNorm.weight is missing"),
        ("bert", lambda t: t, {"hidden_size": 64}, "has shape"),
        ("bert", lambda t: t, {"hidden_size": "32"}, "config.hidden_size: expected int|hidden_size: expected int"),
        ("bert", lambda t: t, {"num_attention_heads": 5}, "not divisible by num_attention_heads"),
        ("bert", lambda t: t, {"model_type": "berd"}, "unknown model_type 'berd'; did you mean 'bert'"),
        ("bert", lambda t: t, {"is_decoder": True}, "is_decoder is True"),
        ("bert", lambda t: t, {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("gpt2", one_wrong, {}, "lm_head.weight differs from transformer.wte.weight"),
        ("gpt2", lambda t: t, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_what_does_not_fit_is_named(saved, tmp_path, family, change, config, complaint):
    with pytest.raises(UserError, match=complaint):
        lmjax.load(rewritten(saved / family, tmp_path / "bad", change, **config))


def test_damaged_and_pickled_weights(saved, tmp_path):
    bad = rewritten(saved / "bert", tmp_path / "bad", lambda t: t)
    (bad / "model.safetensors").write_bytes((bad / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="missing or damaged"):
        lmjax.load(bad)
    (bad / "model.safetensors").rename(bad / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle.*never opens"):
        lmjax.load(bad)
    (bad / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not readable JSON"):
        lmjax.load(bad)
