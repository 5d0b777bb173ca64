"""The study of transfer: it goes on where it stopped, and its tables and pictures are made of its runs' results."""

import contextlib
import json
import zipfile
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import pytest

from benchmarks.transfer import __main__ as transfer
from benchmarks.transfer import corpus, recipes, registry, results
from lmjax.errors import UserError
from lmjax.evals.results import measured, peers
from lmjax.finetuning import FinetuneConfig
from lmjax.run import RunConfig

MACHINE = {"device": "cpu", "processor": "Abacus", "threads": 2, "jax": "0.0"}
SCORES = {"pretrained": 0.75, "from scratch": 0.5}


class Trained:
    """Stands for training: writes what a run leaves behind, and notes which runs it was asked for.

    `stop_after`: the run that is killed. `end_before`: the run that ends before its last step, as a signal makes it.
    """

    def __init__(self, stop_after: int = 0, end_before: int = 0):
        self.asked: list[str] = []
        self._stop_after, self._end_before = stop_after, end_before

    def pretrain(self, cfg: RunConfig) -> None:
        self._note(cfg.directory)
        steps, directory = cfg.stages[-1].until_step, Path(cfg.directory)
        if len(self.asked) == self._end_before:
            steps //= 2
        (directory / "checkpoints" / str(steps)).mkdir(parents=True, exist_ok=True)
        lines = [
            {"step": steps // 2, "split": "train", "time": {"seconds_per_step": 0.5}},
            {"step": steps, "split": "train", "time": {"seconds_per_step": 0.1}},
            {"step": steps, "split": "heldout", "mlm_accuracy": 0.25},
        ]
        (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (directory / "environment.json").write_text(json.dumps(MACHINE))
        (directory / "baselines.json").write_text(json.dumps({"mlm_accuracy": {"unigram": 0.125}}))

    def finetune(self, cfg: FinetuneConfig) -> dict[str, float]:
        self._note(cfg.directory)
        directory = Path(cfg.directory)
        if len(self.asked) == self._end_before:
            return {}
        directory.mkdir(parents=True)
        score = SCORES.get(directory.parent.name.replace("_", " "), 0.25) + cfg.seed / 100
        figures = {"f1": score, "precision": 1.0}
        result = {"headline": "f1", "larger_is_better": True, "figures": figures}
        (directory / "baselines.json").write_text(json.dumps({"f1": {"majority": 0.125}}))
        (directory / "environment.json").write_text(json.dumps(MACHINE))
        (directory / "result.json").write_text(json.dumps(result))
        return figures

    def _note(self, directory: str) -> None:
        self.asked.append(directory)
        if len(self.asked) == self._stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("benchmarks.transfer.__main__.looks", lambda root, cfg: iter(()))
    monkeypatch.setattr("lmjax.study.resolve", lambda cfg: cfg)  # there is no model to ask what a recipe means
    file = tmp_path / "page.md"
    file.write_text(f"# Before\n\n{results.BEGIN}\nold\n{results.END}\n\nAfter\n")
    return file


def trained_in(monkeypatch: pytest.MonkeyPatch, root: Path, page: Path, seeds: int, stop_after: int = 0) -> list[str]:
    """The runs that the study asked for, until it was done or stopped; its results are in the page's folder."""
    trained, folder, written = Trained(stop_after), page.parent / "results", []
    monkeypatch.setattr("benchmarks.transfer.__main__.pretrain", trained.pretrain)
    monkeypatch.setattr("lmjax.study.finetune", trained.finetune)
    with pytest.raises(KeyboardInterrupt) if stop_after else contextlib.nullcontext():
        transfer.run(root, folder, seeds, lambda: written.append(len(trained.asked)))
    if stop_after:
        assert written == list(range(1, stop_after))  # after each job
    results.write(root, folder, page)
    return trained.asked


def test_the_study_goes_on_where_it_stopped_and_its_tables_say_what_came_out(
    tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = tmp_path / "runs", tmp_path / "results"
    asked: list[str] = []
    for stop_after in (4, 20, 0):
        *done, last = trained_in(monkeypatch, root, page, 2, stop_after)
        asked += done if stop_after else [*done, last]  # who was stopped is asked again
        if stop_after:
            found = json.loads((folder / "results.json").read_text())
            assert len(found["cells"]) + len(found["pretraining"]) == len(asked)
    cells = recipes.cells(root)
    runs = [f"{cell.recipe.directory}/seed={seed}" for cell in cells for seed in (0, 1)]
    assert sorted(asked) == sorted([*runs, *(cfg.directory for cfg in recipes.pretrainings(root))])  # each once
    firsts = [name for name in asked if name.endswith("=0")]
    assert len(firsts) == len(cells)
    assert asked.index(firsts[-1]) < min(i for i, name in enumerate(asked) if name.endswith("=1"))
    text = page.read_text()
    assert text.startswith("# Before\n\n<!--")
    assert text.endswith("-->\n\nAfter\n")
    assert "old" not in text
    assert "| sst2 | f1 | 12.5 | 75.5 ± 0.7 | 50.5 ± 0.7 | 2 |" in text
    assert "mlm_accuracy 0.250 (unigram 0.125)" in text
    assert "| 2 threads of Abacus, jax 0.0 |" in text
    assert {file.name for file in folder.iterdir()} == {"results.json", "transfer.png", "masked_or_causal.png"}


def test_what_is_known_is_not_run_again_on_another_machine(
    tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the runs, and with the data elsewhere; but for what has another recipe now, and what that begins with."""
    monkeypatch.setenv("LMJAX_DATA", "here")
    trained_in(monkeypatch, tmp_path / "first", page, 1)
    before = (tmp_path / "results/results.json").read_text()
    monkeypatch.setenv("LMJAX_DATA", "./there")
    assert trained_in(monkeypatch, tmp_path / "second", page, 1) == []
    assert (tmp_path / "results/results.json").read_text() == before
    monkeypatch.setitem(recipes.LENGTHS, "msra_ner", 96)
    third = str(tmp_path / "third")
    tagged = [
        f"finetuned/ernie/msra_ner/{name}/seed=0" for name in ("entities_masked", "characters_masked", "from_scratch")
    ]
    asked = trained_in(monkeypatch, tmp_path / "third", page, 1)
    assert asked == [f"{third}/{name}" for name in ("ernie_entity", "ernie_character", *tagged)]
    assert len(json.loads((tmp_path / "results/results.json").read_text())["cells"]) == len(recipes.cells(tmp_path))


def test_what_papers_have_too_stands_beside_them_without_the_runs(
    tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_in(monkeypatch, tmp_path / "runs", page, 2)
    found = [(name, one) for name, some in registry.measured(tmp_path / "gone", tmp_path / "results") for one in some]
    assert {(name.split()[0], one.task, one.setting) for name, one in found} == {
        ("BERT", "mrpc", "fine-tuned"),
        ("BERT", "conll2003", "fine-tuned"),
        ("BERT", "squad2", "fine-tuned"),
        ("ELMo", "conll2003", "features mix"),
        ("ERNIE", "msra_ner", "fine-tuned"),
    }  # of these there are f1s
    (tagger,) = [one for name, one in found if name.startswith("ELMo")]
    assert (tagger.rows, tagger.shape, tagger.hardware) == (recipes.LIMIT, (64, 2, 256), "2 threads of Abacus")
    assert tagger.detail == "layer norm, biLSTM 100"
    assert [len(one.values) for _, one in found] == [2] * len(found)
    assert all(value > 1 for _, one in found for value in one.values)  # per cent


def test_the_recorded_figures_are_of_the_recipes_here() -> None:
    """All of the study, by three seeds a cell; and in README's table what its results say."""
    root = Path("runs/transfer")
    folder = Path(transfer.__file__).parents[2] / "benchmarks/results/transfer"
    found = json.loads((folder / "results.json").read_text())
    asked = {results.digest(root, cell.recipe) for cell in recipes.cells(root)}
    seeds = {one["recipe"]: len(one["figures"][one["metric"]]) for one in found["cells"]}
    assert seeds == dict.fromkeys(asked, 3)
    assert {one["recipe"] for one in found["pretraining"].values()} == {
        results.digest(root, cfg) for cfg in recipes.pretrainings(root)
    }
    figures = [replace(one, name=name) for name, some in registry.measured(root, folder) for one in some if peers(one)]
    names = {name for columns in registry.RECORDED.values() for name in columns.values()}
    by_key = attrgetter("name", "task", "metric")
    assert sorted((one for one in measured() if one.name in names), key=by_key) == sorted(figures, key=by_key)


@pytest.mark.parametrize("number", [1, 2])  # the pretraining, the first fine-tuning
def test_a_run_that_ends_early_ends_the_study_and_is_no_result(
    tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    root, trained = tmp_path / "runs", Trained(end_before=number)
    monkeypatch.setattr("benchmarks.transfer.__main__.pretrain", trained.pretrain)
    monkeypatch.setattr("lmjax.study.finetune", trained.finetune)
    with pytest.raises(SystemExit, match="the same command goes on"):
        transfer.run(root, tmp_path / "results", 1, lambda: None)
    first = recipes.transfer_cells(root)[0].recipe.directory
    assert trained.asked == [f"{root}/bert", f"{first}/seed=0"][:number]
    assert results.known(root, tmp_path / "results")["cells"] == []
    assert trained_in(monkeypatch, root, page, 1)[0] == trained.asked[-1]


@pytest.mark.parametrize("changed", ["pretrained_bert", "transfer_cells"])
def test_what_another_recipe_left_is_no_result(
    tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Nor, where the pretraining is another, what the same fine-tuning gave behind it."""
    root = tmp_path / "runs"
    trained_in(monkeypatch, root, page, 1)
    if changed == "pretrained_bert":
        now = partial(recipes.pretrained_bert, steps=4000)
        monkeypatch.setattr(recipes, "pretrained_bert", now)
    else:
        monkeypatch.setitem(recipes.EPOCHS, "squad2", 1.0)
    (tmp_path / "results/results.json").unlink()
    found = results.known(root, tmp_path / "results")
    assert ("bert" in found["pretraining"]) == (changed == "transfer_cells")
    kept = {one["row"] for one in found["cells"] if one["part"] == "transfer"}
    assert kept == (set() if changed == "pretrained_bert" else {"sst2", "mrpc", "cola", "stsb", "conll2003"})
    with pytest.raises(UserError, match="holds what another recipe gave; remove it"):
        transfer.run(root, tmp_path / "results", 1, lambda: None)


def test_minutes_and_work_of_pretraining(tmp_path: Path) -> None:
    """Half of the steps took 0.5 s and half 0.1 s; a step works on 16 rows, forwards and, twice as much, backwards."""
    cfg = recipes.pretrained_bert(tmp_path)
    assert results.pretraining_facts(cfg) == {}
    Trained().pretrain(cfg)
    facts = results.pretraining_facts(cfg)
    assert facts["training_minutes"] == pytest.approx(cfg.stages[-1].until_step / 2 * 0.6 / 60)
    weights = 4 * 12 * 128 * 128 * 128 + 38 * (128 * 128 + 128 * 8192)
    attention = 4 * 2 * 128 * 128 * 128
    assert facts["flops_per_step"] == pytest.approx(3 * 16 * 2 * (weights + attention), rel=1e-3)


def test_equal_compute_is_equal(tmp_path: Path) -> None:
    """The masked model's last checkpoint lies where the causal one has worked as much (within 2%)."""
    work = []
    for cfg in (recipes.masked(tmp_path), recipes.causal(tmp_path)):
        Trained().pretrain(cfg)
        work.append(results.pretraining_facts(cfg)["flops_per_step"])
    masked, causal = recipes.MASKED, recipes.CAUSAL
    assert set(causal) <= set(masked)
    assert masked[-1] * work[0] == pytest.approx(causal[-1] * work[1], rel=0.02)


def test_the_corpus_is_plain_text(tmp_path: Path) -> None:
    """Brown's tags go, and WikiText's marks inside words close up; documents stand apart."""
    (tmp_path / "brown_corpus").mkdir()
    with zipfile.ZipFile(tmp_path / "brown_corpus/brown.zip", "w") as archive:
        archive.writestr("brown/ca01", "``/`` 1/2/cd Atlanta's/np$ ''/'' ./.")
        archive.writestr("brown/cr09", "Second/od".encode("utf-16-le")[::2])
        archive.writestr("brown/README", "no text")
    assert corpus.brown(tmp_path) == ['" 1/2 Atlanta\'s " .', "Second"]
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2/wiki.valid.raw").write_text(
        " \n = One = \n a @-@ b 1 @,@ 000\n = = Part = = \n = Two = \n c"
    )
    assert corpus.wikitext(tmp_path) == [" = One = \n a-b 1,000\n = = Part = = \n", " = Two = \n c"]
