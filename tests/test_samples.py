"""Samples of a model that has learned nothing: their form, and that they are the store's own held-out sentences."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmjax.data.schedule import Stage
from lmjax.data.store import Store
from lmjax.run import prepare_data
from lmjax.samples import heldout_sentences, write_samples
from lmjax.train.loop import train
from tests.end_to_end import tiny


@pytest.mark.parametrize("name", ["bert", "gpt2", "transformer"])
def test_a_run_shows_five_held_out_sentences(name: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        tiny.write_text(tmp_path, seed)
    cfg = replace(
        tiny.config(name, tmp_path),
        stages=(Stage(until_step=1, batch_size=8, length=64 if name == "transformer" else 32),),
        skips=(),
    )
    prepare_data(cfg)
    train(cfg)
    (sample,) = write_samples(cfg)
    assert len(sample["rows"]) == 5
    text = "".join((tmp_path / name).read_text() for name in ("text0.txt", "text1.txt", "target0.txt"))
    for beginning, *rest in sample["rows"]:
        if name == "bert":
            word, guesses = rest
            assert beginning.count("[MASK]") == 1
            assert guesses.count("%") == 3
            whole = beginning.replace("[MASK]", word.removeprefix("##")).replace(" ", "")
            assert whole in text.replace(" ", "")
        elif name == "transformer":
            assert beginning in text
            assert rest[1] in text
        else:
            assert beginning.strip() in text
            assert rest[0]


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
