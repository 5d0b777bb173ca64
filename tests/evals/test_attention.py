"""Attention probabilities against transformers' own, and the page and the pictures made of them."""

import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lmjax import commands
from lmjax.errors import UserError
from lmjax.evals import attention
from lmjax.evals.attention import View, attention_views, page, write_attention
from lmjax.interop import LanguageModel, load
from lmjax.models import MODELS, weights
from lmjax.models.architecture import abstract_params
from tests.models.tiny import RECIPES, noisy, tiny
from tests.tiny_runs import tiny_tokenizer, write_run

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = {  # ours: transformers'
    "bert": {"attentions": "attentions"},
    "gpt2": {"attentions": "attentions"},
    "marian": {f"{side}attentions": f"{side or 'decoder_'}attentions" for side in ("", "encoder_", "cross_")},
}


def assert_attentions(lm, family, batch, found):
    """Where a real token looks; padding looks at padding here, and elsewhere in transformers."""
    inputs = {"tokens": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    inputs |= {k: batch[k] for k in ("token_type_ids",) if k in batch}
    real = {"": batch["attention_mask"] == 1}
    if family == "marian":
        labels = batch["labels"]
        start = np.full((len(labels), 1), lm.config.decoder_start_token_id)
        inputs = {
            "encoder_tokens": batch["input_ids"],
            "encoder_segment_ids": batch["attention_mask"],
            "tokens": np.concatenate([start, np.maximum(labels[:, :-1], 0)], 1),
        }
        real = {"encoder_": real[""], "": labels >= 0, "cross_": labels >= 0}
    outputs = lm(**inputs, collect=tuple(NAMES[family]))
    for ours, theirs in NAMES[family].items():
        looks = real[ours.removesuffix("attentions")]
        ours_NQHS, theirs_NQHS = (
            np.moveaxis(np.asarray(x), 3, 2)[:, looks] for x in (outputs[ours], found[f"{family}/{theirs}"])
        )
        difference = np.abs(ours_NQHS - theirs_NQHS).max()
        print(f"{family}: {ours} differ by at most {difference:.1e}")
        assert difference <= 1e-5


@pytest.mark.parametrize("family", NAMES)
def test_attentions_are_those_of_the_golden_models(family):
    with np.load(GOLDEN / f"{family}.npz", allow_pickle=False) as file:
        record = dict(file)
    with np.load(GOLDEN / "attentions.npz", allow_pickle=False) as file:
        found = dict(file)
    architecture, heads = MODELS[family], RECIPES[family][0]
    cfg = architecture.from_hf(json.loads(str(record["config"])))
    tensors = {k.removeprefix("weights/"): v for k, v in record.items() if k.startswith("weights/")}
    params = weights.from_hf(
        architecture.weights(cfg), tensors, abstract_params(architecture, cfg, heads), cfg.vocab_size
    )
    batch = {k.removeprefix("batches/"): v[0] for k, v in record.items() if k.startswith("batches/")}
    assert_attentions(LanguageModel(cfg, heads, params, None), family, batch, found)


@pytest.mark.parity
def test_attentions_are_those_of_transformers(run_peer, tmp_path):
    seed = int.from_bytes(os.urandom(2))
    print(f"seed {seed}")
    found = run_peer(GOLDEN / "attentions.py", {"seed": np.array(seed)}, str(tmp_path))
    for family in NAMES:
        prefix = f"{family}/batch/"
        batch = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
        assert_attentions(load(tmp_path / family), family, batch, found)


def model(family, kind):
    tokenizer, heads = tiny_tokenizer(kind), RECIPES[family][0]
    cfg = tiny(family, vocab_size=tokenizer.vocab_size, max_position_embeddings=64)
    return LanguageModel(cfg, heads, noisy(cfg, heads), tokenizer)


def test_views_of_an_encoder_and_a_decoder():
    (view,) = attention_views(model("bert", "wordpiece"), "The dog ran")
    assert view.name == "encoder"
    assert view.queries == view.keys
    assert (view.queries[0], view.queries[-1]) == ("[CLS]", "[SEP]")
    assert view.weights.shape == (2, 4, len(view.queries), len(view.keys))
    np.testing.assert_allclose(view.weights.sum(-1), 1, atol=1e-5)
    (view,) = attention_views(model("gpt2", "byte_bpe"), "The dog 狗")
    assert view.name == "decoder"
    assert "".join(view.queries[:2]).startswith("The")
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(view.queries)
    assert (np.triu(view.weights, 1) == 0).all()


def test_views_of_a_model_that_translates():
    lm = model("marian", "sentencepiece")
    encoder, decoder, cross = attention_views(lm, source="The dog ran", target="the old postman")
    assert [encoder.name, decoder.name, cross.name] == ["encoder", "decoder", "cross"]
    assert encoder.keys == cross.keys
    assert decoder.keys == cross.queries
    assert cross.weights.shape == (2, 4, len(decoder.keys), len(encoder.keys))
    np.testing.assert_allclose(cross.weights.sum(-1), 1, atol=1e-5)


class Page(HTMLParser):
    """Its tags, what stands in the element of id "data", and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.text, self.inside = [], "", "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = dict(attrs).get("id")
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, text):
        if self.inside == "data":
            self.data += text
        else:
            self.text += text


HOSTILE = '</script><script>alert("x")</script> & @data@ <b>'


def test_the_page_holds_the_weights_and_text_stays_text():
    given = np.random.default_rng(0).random((2, 3, 2, 4)).astype(np.float32)
    text = page([View("cross", ["[CLS]", HOSTILE], ["a", "狗", HOSTILE, "d"], given)], HOSTILE)
    parsed = Page(text)
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    assert "b" not in {tag for tag, _ in parsed.tags}
    (view,) = json.loads(parsed.data)
    assert view["keys"] == ["a", "狗", HOSTILE, "d"]
    assert [view[k] for k in ("name", "layers", "heads", "queries")] == ["cross", 2, 3, ["[CLS]", HOSTILE]]
    stored = np.frombuffer(base64.b64decode(view["weights"]), np.uint8).reshape(given.shape)
    np.testing.assert_allclose(stored / 255, given, atol=0.5 / 255 + 1e-6)
    assert HOSTILE in parsed.text  # the title
    # No address anywhere but the name of SVG's namespace, which the page takes from its own <svg>; none is loaded.
    assert not re.findall(r"https?:|src=|@import|url\(", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("tokens", [["The", "$5$", "_^"], ["狗", "𐎠", "x"], [str(i) for i in range(40)]])
def test_pictures_are_drawn_whatever_the_tokens(tokens, tmp_path):
    """Formulas, characters that no font has, more tokens than can be written."""
    weights = np.full((1, 2, len(tokens), len(tokens)), 1 / len(tokens), np.float32)
    assert write_attention([View("encoder", tokens, tokens, weights)], "t", str(tmp_path / "out")) == [
        "attention.html",
        "encoder.png",
    ]
    assert (tmp_path / "out/encoder.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_says_where_it_has_numbers_for_tokens(monkeypatch):
    monkeypatch.setattr(attention, "FONTS", ("DejaVu Sans",))
    for tokens, numbered in ((["a", "$b$"], False), (["a", "𐎠"], True)):
        figure = attention._picture(View("encoder", tokens, tokens, np.full((1, 1, 2, 2), 0.5, np.float32)))
        assert ("tokens by their numbers" in figure.get_suptitle()) == numbered


def test_the_verb(tmp_path, capsys, monkeypatch):
    """The translation is the model's own where none is given."""
    write_run("marian", tmp_path / "run")
    monkeypatch.setattr(LanguageModel, "translate", lambda self, text: [f"the old {text}"])
    commands.run(["attention", str(tmp_path / "run"), "--source", "dog", "--out", str(tmp_path / "out")])
    names = "attention.html, cross.png, decoder.png, encoder.png"
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: {names}\n"
    (_, decoder, _) = json.loads(Page((tmp_path / "out/attention.html").read_text()).data)
    assert "old" in "".join(decoder["queries"])
    with pytest.raises(UserError, match="out exists already"):
        commands.run(["attention", str(tmp_path / "run"), "--source", "x", "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("family", "kind", "texts", "complaint"),
    [
        ("elmo", "words", {"text": "dog"}, "recurrent and has no attention"),
        ("bert", "wordpiece", {"text": " "}, "takes a text by --text, which must not be empty"),
        ("bert", "wordpiece", {"source": "dog"}, "takes a text by --text"),
        ("bert", "wordpiece", {"text": "dog", "target": "x"}, "takes a text by --text, .* and nothing else"),
        ("marian", "sentencepiece", {"text": "dog"}, r"takes a text by --source \(and --target\)"),
        ("marian", "sentencepiece", {"source": "dog " * 200, "target": "x"}, "tokens; 128 can be shown"),
    ],
)
def test_what_has_no_view(family, kind, texts, complaint):
    lm = LanguageModel(tiny(family, vocab_size=200), (), {}, tiny_tokenizer(kind))
    with pytest.raises(UserError, match=complaint):
        attention_views(lm, **texts)
