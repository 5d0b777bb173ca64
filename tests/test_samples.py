"""Samples of a model with random parameters: they are the store's own held-out sentences, and what the model says."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmjax.data.chat_template import TEMPLATES, Turn
from lmjax.data.examples import open_examples
from lmjax.data.store import Store
from lmjax.finetuning import finetune, resolve
from lmjax.generate import Sampling
from lmjax.interop import LanguageModel, load
from lmjax.models import architecture_of
from lmjax.run import prepare_data
from lmjax.samples import continuations, filled_masks, guesses_of_both_directions, heldout_sentences, samples
from lmjax.tasks import make_task
from tests.end_to_end import tiny
from tests.models.tiny import noisy
from tests.models.tiny import tiny as tiny_model
from tests.tiny_runs import tiny_tokenizer


@pytest.mark.parametrize("name", ["bert", "gpt2", "transformer", "elmo"])
def test_a_model_shows_five_held_out_sentences(name: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        tiny.write_text(tmp_path, seed)
    cfg = tiny.config(name, tmp_path)
    prepare_data(cfg)
    store = Store.open(cfg.data[0].data.store)
    heads = make_task(cfg.task).heads_of(architecture_of(cfg.model))
    lm = LanguageModel(cfg.model, heads, noisy(cfg.model, heads), store.tokenizer)
    sample = samples(lm, store)
    assert len(sample["rows"]) == 5
    sentences = heldout_sentences(store, 5) if name != "transformer" else pairs(store, "heldout")
    for ids, row in zip(sentences, sample["rows"], strict=name != "transformer"):
        CHECKS[name](lm, ids, *row)
    if name == "transformer":
        shown = {row[0] for row in sample["rows"]}
        sources = [{lm.tokenizer.decode(ids).strip() for ids in pairs(store, side)} for side in ("heldout", "train")]
        assert shown <= sources[0]
        assert not shown & sources[1]


@pytest.mark.parametrize("show", [continuations, filled_masks, guesses_of_both_directions])
def test_nothing_to_show_is_no_row(show: Callable[..., dict[str, Any]]) -> None:
    """As where no held-out sentence is of moderate length."""
    lm = LanguageModel(tiny_model("gpt2", vocab_size=200), ("clm",), {}, tiny_tokenizer("byte_bpe"))
    assert show(lm, [])["rows"] == []


def test_sentences_longer_than_the_model_are_not_shown(tmp_path: Path) -> None:
    tiny.write_text(tmp_path)
    cfg = tiny.config("bert", tmp_path)
    prepare_data(cfg)
    store = Store.open(cfg.data[0].data.store)
    model = replace(cfg.model, max_position_embeddings=12)
    lm = LanguageModel(model, ("mlm",), noisy(model, ("mlm",)), store.tokenizer)
    assert any(len(ids) > 10 for ids in heldout_sentences(store, 5))
    assert len(samples(lm, store)["rows"]) == sum(len(ids) <= 10 for ids in heldout_sentences(store, 5))


def test_a_tuned_run_shows_held_out_questions(tmp_path: Path) -> None:
    """What its best state says to them, with the template that it was tuned in, which its directory holds."""
    tiny.write_text(tmp_path)
    cfg = replace(tiny.sft(tmp_path), epochs=0.25, micro_batches=1)
    figures = finetune(cfg)
    assert figures["response_perplexity"] == pytest.approx(np.exp(figures["response_loss"]))
    (sample,) = json.loads((Path(cfg.directory) / "samples.json").read_text())
    assert sample["title"] in (Path(cfg.directory) / "report.html").read_text().replace("&#x27;", "'")
    lm = load(Path(cfg.directory) / "best")
    assert lm.chat_template == TEMPLATES["plain"]
    notes = open_examples(Store.open(resolve(cfg).data[0].data.store))["heldout"].notes
    shown = [[Turn(*turn) for turn in turns] for turns in notes if turns[-1][1] in [row[2] for row in sample["rows"]]]
    assert 1 < len(shown) == len(sample["rows"]) <= 5
    assert [row[0] for row in sample["rows"]] == [turns[-2].text for turns in shown]
    answers = lm.answer([turns[:-1] for turns in shown], Sampling(lm.longest // 4, temperature=0.7))
    assert [row[1] for row in sample["rows"]] == answers


def pairs(store: Store, side: str) -> list[np.ndarray]:
    """The source of each pair, token ids."""
    split = store.split(side)
    starts = split.sentence_starts[:]
    return [split.tokens[starts[i] : starts[i + 1]] for i in split.document_starts[:-1]]


def guesses(lm: LanguageModel, logits: np.ndarray) -> str:
    """The three likeliest tokens as a sample shows them."""
    shares = np.exp(logits.astype(np.float64))
    best = sorted(range(lm.tokenizer.vocab_size), key=lambda i: -logits[i])[:3]
    return ", ".join(f"{lm.tokenizer.token(i)} {shares[i] / shares.sum():.0%}" for i in best)


def check_bert(lm: LanguageModel, ids: list[int], text: str, word: str, shown: str) -> None:
    """What the model says at the place of the mask, of all its logits, without seeing the word."""
    tokenizer, found = lm.tokenizer, set()
    assert text.count("[MASK]") == 1
    assert text.replace("[MASK]", word.removeprefix("##")).replace(" ", "") == tokenizer.decode(ids).replace(" ", "")
    for place in (i for i, token in enumerate(ids) if tokenizer.token(token) == word):
        masked = [*ids[:place], tokenizer.mask_id, *ids[place + 1 :]]
        logits = lm(tokens=np.array([[tokenizer.cls_id, *masked, tokenizer.sep_id]], np.int32))["logits"]
        found.add(guesses(lm, np.asarray(logits[0, place + 1])))
    assert shown in found


def check_gpt2(lm: LanguageModel, ids: list[int], beginning: str, continuation: str) -> None:
    assert beginning == lm.tokenizer.decode(ids[: len(ids) // 2])
    assert continuation


def check_transformer(lm: LanguageModel, ids: list[int], source: str, translation: str, reference: str) -> None:
    assert reference == source[::-1].title()  # as the text was made up
    assert translation != reference


def check_elmo(lm: LanguageModel, ids: list[int], text: str, word: str, forward: str, backward: str) -> None:
    """Either direction sees nothing but its own side of the word."""
    words = text.split()
    middle = words.index("____")
    assert [*words[:middle], word, *words[middle + 1 :]] == [lm.tokenizer.token(i) for i in ids if i != 1]
    before, after = (lm(**lm.encode(" ".join(side))) for side in (words[:middle], words[middle + 1 :]))
    assert forward == guesses(lm, np.asarray(before["forward_logits"][0, middle]))
    assert backward == guesses(lm, np.asarray(after["backward_logits"][0, 1]))


CHECKS = {"bert": check_bert, "gpt2": check_gpt2, "transformer": check_transformer, "elmo": check_elmo}


def test_held_out_sentences_are_whole_and_of_moderate_length(tmp_path: Path) -> None:
    tiny.write_text(tmp_path)
    cfg = tiny.config("bert", tmp_path)
    prepare_data(cfg)
    store = Store.open(cfg.data[0].data.store)
    split = store.split("heldout")
    starts = {
        int(s): int(n) for s, n in zip(split.sentence_starts[:-1], np.diff(split.sentence_starts[:]), strict=True)
    }
    tokens = np.asarray(split.tokens[:]).tolist()
    for ids in heldout_sentences(store, 5):
        assert 8 <= len(ids) <= 40
        assert any(tokens[s : s + n] == ids for s, n in starts.items())
