"""Layer probes: what the readers take from files, whose vectors are taken, what a probe learns, and the command."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmjax import commands
from lmjax.errors import UserError
from lmjax.evals import probe as probing
from lmjax.evals.probe import ProbeConfig, probe, span_vectors, table
from lmjax.evals.probe_tasks import PROBES, Sentence, Target, check_tasks, read_probe
from lmjax.interop import LanguageModel, load
from tests.tiny_runs import SENTENCES, write_run

TRAIN = """-DOCSTART- -X- O O

U.N. NNP I-NP I-ORG
official NN I-NP O
Ekeus NNP I-NP I-PER
Rolf NNP I-NP B-PER
heads VBZ I-VP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""
TREE = """# sent_id = 1
# text = The dogs
1	The	the	DET	DT	_	2	det:def	_	_
2-3	dogs'	_	_	_	_	_	_	_	_
2	dogs	dog	NOUN	NNS	_	3	nsubj	_	_
2.1	x	x	X	X	_	_	_	_	_
3	bark	bark	VERB	VBP	_	0	root	_	_
"""
GAP = (
    "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL\n"
    "d-1\tZoe met (Ann Lee); she ran.\tshe\t19\tZoe\t0\tFALSE\tAnn Lee\t9\tTRUE\tu\n"
)


def write_files(folder: Path) -> None:
    for name in ("conll2003", "conll2000", "ud_english_ewt", "gap_coreference"):
        (folder / name).mkdir(parents=True)
    for name in ("eng.train", "eng.testa"):
        (folder / "conll2003" / name).write_text(TRAIN)
    with zipfile.ZipFile(folder / "conll2000/conll2000.zip", "w") as archive:
        for name in ("train", "test"):
            archive.writestr(f"conll2000/{name}.txt", "Confidence NN B-NP\nin IN B-PP\n# # O\n\n")
    with gzip.open(folder / "ud_english_ewt/en_ewt-ud-dev.conllu.gz", "wt") as file:
        file.write(f"{TREE}\n" * 6)
    for name in ("development", "validation"):
        (folder / "gap_coreference" / f"gap-{name}.tsv").write_text(GAP)


def test_readers(tmp_path: Path) -> None:
    write_files(tmp_path)
    found = {name: read_probe(name, str(tmp_path), 100, 0) for name in ("pos", "chunks", "entities", "dependency")}
    first = next(s for s in found["entities"]["train"] if s.words[0] == "U.N.")
    assert first.targets == [Target(((0, 1),), "ORG"), Target(((2, 3),), "PER"), Target(((3, 4),), "PER")]
    assert Target(((0, 2),), "PER") in next(s for s in found["entities"]["train"] if s.words[0] == "Peter").targets
    assert found["pos"]["train"][0].targets[0] == Target(((0, 1),), "NNP")
    assert found["chunks"]["heldout"][0].targets[1:] == [
        Target(((1, 2),), "B-PP"),
        Target(((2, 3),), "O"),
    ]  # "#" is a word
    assert (len(found["dependency"]["train"]), len(found["dependency"]["heldout"])) == (4, 2)
    tree = found["dependency"]["train"][0]
    assert tree.words == ["The", "dogs", "bark"]
    assert tree.targets == [Target(((0, 1), (1, 2)), "det"), Target(((1, 2), (2, 3)), "nsubj")]
    text = read_probe("coreference", str(tmp_path), 100, 0)["train"][0]
    assert text.words == ["Zoe", "met", "(", "Ann", "Lee", ")", ";", "she", "ran", "."]
    assert text.targets == [Target(((7, 8), (0, 1)), "FALSE"), Target(((7, 8), (3, 5)), "TRUE")]
    assert sum(len(s.targets) for s in read_probe("pos", str(tmp_path), 3, 0)["train"]) == 3


def test_real_files_are_read(shared_data: Callable[[str], Path]) -> None:
    """Each task has many labels or two, and more than one held-out sentence."""
    for name, task in PROBES.items():
        folder = str(shared_data(next(iter(task.files.values())).split("/")[0]).parent)
        check_tasks([name], folder)
        splits = read_probe(name, folder, 400, 0)
        labels = {target.label for sentence in splits["train"] for target in sentence.targets}
        assert len(labels) >= (2 if name in ("coreference", "sentiment", "acceptability") else 4), name
        assert len(splits["heldout"]) > 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    root = tmp_path_factory.mktemp("runs")
    for family in ("bert", "gpt2", "elmo"):
        write_run(family, root / family)
    return {family: load(root / family) for family in ("bert", "gpt2", "elmo")}


@pytest.mark.parametrize("family", ["bert", "gpt2", "elmo"])
def test_vectors_are_those_of_the_words_tokens(family: str, models: dict[str, LanguageModel]) -> None:
    """The last layer's are `hidden`; in a batch, padded, as alone."""
    lm = models[family]
    words = [text.split() for text in SENTENCES[:2]]
    sentences = [
        Sentence(w, [Target(((1, 2), (0, 3)), "x"), Target(((len(w) - 1, len(w)), (0, 1)), "y")]) for w in words
    ]
    found = span_vectors(lm, sentences, batch_size=4)
    features, (bounds,) = lm.encode_words(words[:1])
    plain = lm.encode(" ".join(words[0]))
    np.testing.assert_array_equal(features["tokens"], plain["tokens"])
    outputs = lm(**plain, collect=("hidden_states",))
    hidden = np.asarray(outputs["hidden"])[0]
    assert found.shape == (4, 2, 3, hidden.shape[-1])
    np.testing.assert_allclose(found[0, 0, -1], hidden[bounds[1, 0] : bounds[1, 1]].mean(0), atol=1e-5)
    np.testing.assert_allclose(found[0, 1, -1], hidden[bounds[0, 0] : bounds[2, 1]].mean(0), atol=1e-5)
    embedded = np.asarray(outputs["hidden_states"])[0, 0]
    np.testing.assert_allclose(found[0, 0, 0], embedded[bounds[1, 0] : bounds[1, 1]].mean(0), atol=1e-5)
    if family != "elmo":
        assert lm.tokenizer.decode(plain["tokens"][0, bounds[1, 0] : bounds[1, 1]].tolist()).strip().lower() == "dog"
    np.testing.assert_allclose(found[2:], span_vectors(lm, sentences[1:], batch_size=1), atol=1e-5)


def test_spans_out_of_reach_have_no_vector(models: dict[str, LanguageModel]) -> None:
    words = ["dog"] * 70  # the model has 64 positions
    last = Target(((69, 70),), "x")
    found = span_vectors(models["bert"], [Sentence(words, [Target(((0, 1),), "x"), last])], batch_size=1)
    assert np.isnan(found).all((1, 2, 3)).tolist() == [False, True]


@pytest.mark.parametrize("spans", [1, 2])
def test_the_layer_that_knows_is_found(spans: int) -> None:
    """Layer 2 of four tells the label, at a tenth of the others' size: alone or, of pairs, by a product."""
    rng = np.random.default_rng(0)
    vectors = 10 * rng.normal(size=(600, spans, 4, 6)).astype(np.float32)
    signs = rng.choice([-1.0, 1.0], (600, spans))
    vectors[:, :, 2] = 0.1 * rng.normal(size=(600, spans, 6)) + signs[..., None] + 3
    labels = ["yes" if value > 0 else "no" for value in signs.prod(1)]
    targets = [Target(((0, 1),) * spans, label) for label in labels]
    splits = {"train": [Sentence(["a"], targets[:400])], "heldout": [Sentence(["a"], targets[400:])]}
    found = probing._figures(vectors, splits, ProbeConfig(steps=200, peak_lr=3e-2))
    assert found["accuracy"][2] > 0.97
    assert found["mix"] > 0.95
    assert max(found["accuracy"][layer] for layer in (0, 1, 3)) < 0.65
    assert found["best_layer"] == 2
    assert found["weights"][2] > 0.6
    assert found["expected_layer"] == pytest.approx(np.dot(found["weights"], range(4)))
    assert (found["train"], found["heldout"], found["labels"]) == (400, 200, 2)
    assert found["majority"] == np.mean(
        [label == max(set(labels[:400]), key=labels[:400].count) for label in labels[400:]]
    )


def test_the_command(models: dict[str, LanguageModel], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Vectors are computed once; a bad word on the command line is one line."""
    write_files(tmp_path / "data")
    monkeypatch.setattr("lmjax.interop.load", lambda path: models["bert"])
    arguments = ["runs/bert", "--tasks", "pos", "coreference", "--steps", "3", "--data", str(tmp_path / "data")]
    commands.run(["probe", *arguments, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["majority", "0", "1", "2", "mix", "expected", "layer"]
    assert [line.split()[0] for line in lines[1:3]] == ["pos", "coreference"]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert len(results["tasks"]["pos"]["accuracy"]) == 3
    assert (tmp_path / "out/layers.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out/vectors").iterdir())) == 2
    monkeypatch.setattr("lmjax.evals.probe.span_vectors", None)
    again = dict(
        probe(models["bert"], "runs/bert", ["pos"], str(tmp_path / "data"), str(tmp_path / "out"), ProbeConfig(steps=3))
    )
    assert again["pos"] == results["tasks"]["pos"]
    assert "pos" in table(again)


def test_refusals(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    write_files(tmp_path)
    with pytest.raises(UserError, match="unknown probing task 'poss'; did you mean 'pos'"):
        check_tasks(["poss"], str(tmp_path))
    with pytest.raises(UserError, match=r"no glue/CoLA/train\.tsv in .*which acceptability reads; --data"):
        check_tasks(["acceptability"], str(tmp_path))
    (tmp_path / "conll2003/eng.train").write_text("a NN I-NP O\nb NN\n")
    with pytest.raises(UserError, match=r"eng\.train, line 2: 2 columns, expected 4"):
        read_probe("pos", str(tmp_path), 10, 0)
    (tmp_path / "gap_coreference/gap-development.tsv").write_text("ID\tText\nd\tx\n")
    with pytest.raises(UserError, match=r"gap-development\.tsv, line 2: not a row of GAP"):
        read_probe("coreference", str(tmp_path), 10, 0)
    for old, new, said in (
        ("\t9\tTRUE", "\t9\tYES", "'YES' is neither TRUE nor FALSE"),
        ("\t9\tTRUE", "\t90\tTRUE", "not a row of GAP"),
    ):
        (tmp_path / "gap_coreference/gap-development.tsv").write_text(GAP.replace(old, new))
        with pytest.raises(UserError, match=rf"gap-development\.tsv, line 2: {said}"):
            read_probe("coreference", str(tmp_path), 10, 0)
    cfg = ProbeConfig(limit=0, steps=1, batch_size=0)
    with pytest.raises(UserError, match="limit 0, steps 1 and batch_size 0 must be positive"):
        next(probe(models["bert"], "m", ["pos"], str(tmp_path), str(tmp_path / "o"), cfg))
