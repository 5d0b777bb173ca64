"""Fine-tuning as its user meets it: the command, several runs in one table, and how it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.finetuning import FinetuneConfig, finetune, resolve
from lmjax.interop import load
from lmjax.study import one_run, study, summary, table
from lmjax.train.checkpoint import steps_of
from tests.end_to_end import tiny
from tests.tiny_runs import write_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuning")
    tiny.write_text(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(root: Path) -> FinetuneConfig:
    return tiny.finetuning(root)


def test_epochs_and_shares_become_steps(recipe: FinetuneConfig) -> None:
    run = resolve(recipe)
    assert (run.stages[0].until_step, run.evaluation.every, run.optim.warmup) == (12, 4, 1)
    assert (run.model.max_position_embeddings, run.model.hidden_dropout) == (32, 0.1)  # type: ignore[attr-defined]
    assert run.init_from == recipe.init_from
    assert resolve(replace(recipe, weights="fresh")).init_from == ""
    with pytest.raises(UserError, match=r"length 32 exceeds the 24 positions .* --positions extend"):
        resolve(replace(recipe, positions="keep"))


def test_the_best_state_is_kept_and_predicts(recipe: FinetuneConfig, root: Path) -> None:
    """Two seeds; the second time nothing is trained. The first one's files and its use as a model."""
    cfg = replace(recipe, directory=str(root / "study"), seeds=(0, 1), patience=1, micro_batches=1)
    study(cfg)
    found = json.loads((root / "study/study.json").read_text())["as configured"]
    figures = found["figures"]["accuracy"]
    assert figures["best"] == max(figures["values"])
    assert len(figures["values"]) == 2
    run = root / "study/seed=0"
    result = json.loads((run / "result.json").read_text())
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    heldout = {line["step"]: line["accuracy"] for line in logged if line["split"] == "heldout"}
    assert result["figures"]["accuracy"] == max(heldout.values()) == heldout[result["step"]]
    assert result["step"] == min(step for step, value in heldout.items() if value == max(heldout.values()))
    assert result["step"] in steps_of(run)
    last = max(heldout)  # patience: the first evaluation that is no better ends the run
    assert last == min(12, result["step"] + 4)
    for split, rows in (("heldout", 10), ("test", 3)):
        lines = (run / "predictions" / split / "RTE.tsv").read_text().splitlines()
        assert lines[0] == "index\tprediction"
        assert len(lines) == rows + 1
    labels = [line.split("\t")[-1] for line in (root / "dev.tsv").read_text().splitlines()[1:]]
    answers = [line.split("\t")[1] for line in (run / "predictions/heldout/RTE.tsv").read_text().splitlines()[1:]]
    assert np.mean([a == b for a, b in zip(labels, answers, strict=True)]) == result["figures"]["accuracy"]
    assert (run / "report.html").exists()
    lm = load(run)  # the backbone, for features and for further tasks
    assert lm.heads == ("pooler",)
    assert lm(**lm.encode("text"))["pooled"].shape == (1, 16)
    before = {path: path.stat().st_mtime_ns for path in root.glob("study/*/result.json")}
    study(cfg)
    assert {path: path.stat().st_mtime_ns for path in root.glob("study/*/result.json")} == before


def test_a_grid_sets_fields_by_name(recipe: FinetuneConfig) -> None:
    run = one_run(recipe, ("optim.peak_lr=3e-5", "batch_size=16"), 7)
    assert (run.optim.peak_lr, run.batch_size, run.seed, run.seeds, run.grid) == (3e-5, 16, 7, (), ())
    assert Path(run.directory).name == "optim.peak_lr=3e-5_batch_size=16_seed=7"
    with pytest.raises(UserError, match="grid entry 'peak_lr' is not FIELD=VALUE"):
        study(replace(recipe, grid=("peak_lr",)))


def test_the_table_has_the_best_median_first() -> None:
    def runs(*values: float) -> list[dict]:
        return [{"headline": "f1", "larger_is_better": True, "figures": {"f1": value}} for value in values]

    one = summary(runs(0.5, 0.9, 0.7))
    assert one["figures"]["f1"] == {"median": 0.7, "mean": pytest.approx(0.7), "sd": pytest.approx(0.2), "best": 0.9,
                                    "values": [0.5, 0.9, 0.7]}  # fmt: skip
    lines = table({"low": summary(runs(0.1)), "high": one}).splitlines()
    assert lines[1].split() == ["high", "0.7000", "0.7000", "0.2000", "0.9000", "3"]
    assert lines[2].split() == ["low", "0.1000", "0.1000", "-", "0.1000", "1"]


def test_refusals(recipe: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--init-from takes a run or a Hugging Face directory"):
        finetune(replace(recipe, init_from=""))
    with pytest.raises(UserError, match=r"no directory .*nowhere"):
        finetune(replace(recipe, init_from="/nowhere"))
    for family in ("marian", "elmo"):
        write_run(family, tmp_path / family)
        with pytest.raises(UserError, match=f"is a {'Transformer' if family == 'marian' else 'Elmo'}; this task takes"):
            finetune(replace(recipe, init_from=str(tmp_path / family)))
    (tmp_path / "train.tsv").write_text((Path(recipe.task.folder) / "train.tsv").read_text())  # type: ignore[attr-defined]
    task = replace(recipe.task, folder=str(tmp_path))
    with pytest.raises(UserError, match=r"no held-out file .*task\.heldout_share"):
        finetune(replace(recipe, task=task))
    assert resolve(replace(recipe, task=replace(task, heldout_share=0.25))).stages[0].until_step == 9


def test_a_bad_line_is_one_line_and_exit_code_2(recipe: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tperhaps\n")
    config = ROOT / "configs/finetune/rte.py"
    command = [sys.executable, str(ROOT / "run_finetune.py"), str(config), "--init-from", recipe.init_from]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--task.folder", str(tmp_path), "--length", "24"], env=environment, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr == f"lmjax: {tmp_path}/train.tsv, line 2: label 'perhaps' is none of entailment, not_entailment\n"
    )
