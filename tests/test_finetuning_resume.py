"""Kinds of labelled tasks: a run that was stopped and goes on ends in the bits, and the predictions, of one that was
not. Classification and features are killed in tests/end_to_end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from lmjax.finetuning import FinetuneConfig, resolve, write_results
from lmjax.interop import LanguageModel, load
from lmjax.predictions import predict_file
from lmjax.run import RunConfig
from lmjax.tasks.choice import ChoiceConfig
from lmjax.tasks.classification import ClassificationConfig
from lmjax.tasks.spans import SpanConfig
from lmjax.tasks.tagging import TaggingConfig
from lmjax.tasks.task import FilesConfig
from lmjax.train.assemble import assemble
from lmjax.train.checkpoint import find, read_arrays
from lmjax.train.loop import is_over, train
from lmjax.verify import fingerprint
from tests.end_to_end import tiny
from tests.models.tiny import noisy
from tests.models.tiny import tiny as tiny_model
from tests.tiny_runs import on_one_device, tiny_tokenizer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """Of which runs of four steps are made, evaluated and kept at 2 and 4."""
    folder = tmp_path_factory.mktemp("resume")
    tiny.write_text(folder)
    cfg = tiny.finetuning(folder)
    return replace(cfg, positions="keep", length=24)


def questions(folder: Path, lines: list[str]) -> FilesConfig:
    """One answer does not stand at its offset: it is counted, and the run goes on. The test file tells none."""
    for split, chosen in (("train", lines[:13]), ("dev", lines[13:19]), ("test", lines[19:25])):
        asked = []
        for i, line in enumerate(chosen):
            answers = [] if i % 3 == 0 else [{"text": line.split()[0], "answer_start": int(i == 1)}]
            question = {"id": f"{split}{i}", "question": line.split()[-1]}
            told = {"answers": answers, "is_impossible": not answers} if split != "test" else {}
            asked.append({"context": line, "qas": [question | told]})
        (folder / f"{split}-v2.0.json").write_text(json.dumps({"data": [{"paragraphs": asked}]}))
    return SpanConfig(data="squad2", folder=str(folder), stride=8, query_length=4)


def endings(folder: Path, lines: list[str]) -> FilesConfig:
    for split, first, count in (("train", 0, 16), ("dev", 20, 6)):
        rows = [[f"c\t{lines[first + i]}", *(lines[first + i + k].split()[0] for k in range(4)), str(i % 4)]
                for i in range(count)]  # fmt: skip
        (folder / f"{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return ChoiceConfig(data="codah", folder=str(folder))


def tagged(folder: Path, lines: list[str]) -> FilesConfig:
    for split, chosen in (("train", lines[:16]), ("testa", lines[16:22])):
        sentences = (
            "".join(f"{word} N N {'I-PER' if len(word) > 5 else 'O'}\n" for word in line.split()) for line in chosen
        )
        (folder / f"eng.{split}").write_text("\n".join(sentences))
    return TaggingConfig(data="conll2003", folder=str(folder))


def alike(folder: Path, lines: list[str]) -> FilesConfig:
    for split, first, count in (("train", 0, 16), ("dev", 20, 6)):
        rows = [f"{i % 2}\t{i}\t{i}\t{lines[first + i]}\t{lines[first + i + i % 2]}\n" for i in range(count)]
        (folder / f"{split}.tsv").write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + "".join(rows))
    return ClassificationConfig(data="mrpc", folder=str(folder), train="train.tsv", heldout="dev.tsv")


def lines_of(recipe: FinetuneConfig) -> list[str]:
    return [line for line in Path(recipe.task.folder, "text0.txt").read_text().split("\n") if line]  # type: ignore[attr-defined]


def untouched_and_stopped(run: RunConfig, folder: Path) -> tuple[list[RunConfig], dict[str, float], dict[str, str]]:
    """Two runs that end alike, their figures, and the files that they write."""
    run = replace(run, stages=(replace(run.stages[0], until_step=4),), evaluation=replace(run.evaluation, every=2))
    runs = [replace(run, directory=str(folder / name)) for name in ("untouched", "stopped")]
    program, written, figures = assemble(run), [], {}
    assert is_over(runs[0], train(runs[0], program))
    assert not is_over(runs[1], train(replace(runs[1], stop_at=3), program))  # behind what is kept on the way
    assert is_over(runs[1], train(runs[1], program))
    assert fingerprint(runs[0].directory) == fingerprint(runs[1].directory)
    assert fingerprint(runs[0].directory).step == 4
    for one in runs:
        figures = write_results(one, program)
        assert np.isfinite([*figures.values()]).all()
        files = [Path(one.directory) / "result.json", *(Path(one.directory) / "predictions/heldout").iterdir()]
        written.append({file.name: file.read_text() for file in files})
    assert written[0] == written[1]
    return runs, figures, written[0]


UNSEEN = {  # a split, and its file
    questions: ("test", "test-v2.0.json"),
    endings: ("heldout", "dev.tsv"),
    tagged: ("heldout", "eng.testa"),
}


@pytest.mark.parametrize(
    ("kind", "layer", "files"),
    [
        (questions, "qa_outputs", {"predictions.json", "nbest_predictions.json", "null_odds.json"}),
        (endings, "classifier", {"codah.tsv"}),
        (tagged, "classifier", {"predictions.txt"}),
    ],
)
def test_a_run_that_was_stopped_goes_on(
    kind: Any,
    layer: str,
    files: set[str],
    recipe: FinetuneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And both are models with the task's layer, which transformers' classes have too."""
    on_one_device(monkeypatch)
    cfg = replace(recipe, task=kind(tmp_path, lines_of(recipe)), stores=str(tmp_path / "stores"))
    run = resolve(cfg)
    assert ("1 of 8 answers are not at their offset" in capsys.readouterr().out) == (kind is questions)
    runs, figures, written = untouched_and_stopped(run, tmp_path)
    assert "resumes at step 3 of 4" in capsys.readouterr().err
    assert set(written) == {"result.json", *files}
    if kind is questions:  # where the answers are not told, the odds of the held-out questions decide
        told = Path(runs[1].directory) / "predictions/test"
        given, odds = (json.loads((told / f"{x}.json").read_text()) for x in ("predictions", "null_odds"))
        assert {name: not text for name, text in given.items()} == {
            name: odd > figures["null_threshold"] for name, odd in odds.items()
        }
    split, rows = UNSEEN[kind]
    written_then = epath.Path(runs[0].directory) / "predictions" / split
    said = predict_file(runs[0].directory, tmp_path / rows)
    assert said == {file: (written_then / file).read_text() for file in files}
    load(runs[0].directory).save_hf(tmp_path / "hf")
    tensors, trained = load_file(tmp_path / "hf/model.safetensors"), read_arrays(find(epath.Path(runs[0].directory)))
    np.testing.assert_array_equal(tensors[f"{layer}.weight"].T, trained[f"params/{layer}/kernel"])


def test_a_decoder_that_was_stopped_goes_on(
    recipe: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On texts in both orders, with three new tokens and the language-model loss beside."""
    on_one_device(monkeypatch)
    tokenizer = tiny_tokenizer("byte_bpe")
    model = tiny_model("gpt2", vocab_size=tokenizer.vocab_size, max_position_embeddings=24)
    LanguageModel(model, ("clm",), noisy(model, ("clm",)), tokenizer).save_hf(tmp_path / "gpt2")
    task = alike(tmp_path, lines_of(recipe))
    cfg = replace(recipe, init_from=str(tmp_path / "gpt2"), task=task, stores=str(tmp_path / "stores"))
    runs, figures, written = untouched_and_stopped(resolve(cfg), tmp_path)
    assert {"f1", "accuracy"} <= set(figures)
    assert predict_file(runs[0].directory, tmp_path / "dev.tsv") == {"MRPC.tsv": written["MRPC.tsv"]}


def test_a_tagger_on_a_frozen_elmo_goes_on(
    recipe: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_one_device(monkeypatch)
    elmo = tiny.features(Path(recipe.task.folder))  # type: ignore[attr-defined]
    task = replace(tagged(tmp_path, lines_of(recipe)), features=elmo.task.features)
    runs, _, written = untouched_and_stopped(
        resolve(replace(elmo, task=task, dropout=None, stores=str(tmp_path / "stores"))), tmp_path
    )
    assert predict_file(runs[0].directory, tmp_path / "eng.testa") == {"predictions.txt": written["predictions.txt"]}
