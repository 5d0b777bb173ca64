"""The papers' figures on record, runs beside them, and README's table."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmjax import commands
from lmjax.config import stored
from lmjax.errors import UserError
from lmjax.evals import results
from lmjax.evals.fewshot import TASKS
from lmjax.evals.results import (
    Measured,
    comparison,
    in_readme,
    measure,
    measured,
    peers,
    published,
    readme_table,
    record,
    spread,
)
from lmjax.models import MODELS, preset
from lmjax.models.bert import BertConfig
from lmjax.models.features import FeatureConfig
from lmjax.run import RunConfig
from lmjax.tasks.classification import ClassificationConfig
from tests.tiny_runs import write_run

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"device": "cpu", "devices": 1, "threads": 2, "processor": "AMD EPYC"}


def write_result(
    directory: Path, value: float, model: Any = None, layers: Any = "none", init_from: str = "model", limit: int = 0
) -> Path:
    directory.mkdir(parents=True)
    task = ClassificationConfig(data="mrpc", features=FeatureConfig(layers), limit=limit)
    model = model or preset("bert-base-uncased")
    cfg = RunConfig(model=model, task=task, data=(), stages=(), init_from=init_from)
    (directory / "config.json").write_text(json.dumps(stored(cfg)))
    (directory / "environment.json").write_text(json.dumps(ENVIRONMENT))
    result = {"step": 1, "headline": "f1", "figures": {"f1": value, "accuracy": 0.5}, "larger_is_better": True}
    (directory / "result.json").write_text(json.dumps(result))
    return directory


def test_every_published_figure_is_of_a_known_model_and_stands_once() -> None:
    figures = published()
    assert len({(p.preset, p.task, p.metric, p.split, p.setting, p.source) for p in figures}) == len(figures) > 200
    for p in figures:
        assert p.preset in MODELS[p.family].presets
        assert 0 < p.value <= 100 or "perplexity" in p.metric
        assert "shot" not in p.setting or p.task in TASKS
    found = {p.split: p.value for p in figures if (p.preset, p.task, p.metric) == ("bert-base-uncased", "mrpc", "f1")}
    assert found == {"GLUE test": 88.9}
    small = [p for p in figures if (p.preset, p.task, p.setting) == ("gpt3-175b", "piqa", "few-shot")]
    assert [p.value for p in small] == [82.3]
    sums = [p.value for p in figures if (p.preset, p.task) == ("gpt3-175b", "add_3_digits")]
    assert sums == [80.4]
    similar = {(p.preset, p.metric): p.value for p in figures if p.task == "stsb" and p.family != "bert"}
    assert similar == {
        ("roberta-base", "pearson"): 91.2,
        ("roberta-large", "pearson"): 92.4,
        ("openai-gpt", "pearson"): 82.0,
        ("openai-gpt", "spearman"): 80.0,
    }


def test_a_run_beside_its_paper(tmp_path: Path) -> None:
    f1, accuracy = measure(write_result(tmp_path / "run", 0.875))
    assert (f1.family, f1.shape, f1.task, f1.metric, f1.values) == ("bert", (768, 12, 3072), "mrpc", "f1", (87.5,))
    assert (f1.setting, f1.hardware) == ("fine-tuned", "2 threads of AMD EPYC")
    assert [(p.preset, p.value) for p in peers(f1)] == [("bert-base-uncased", 88.9), ("bert-large-uncased", 89.3)]
    assert [p.split for p in peers(accuracy)] == ["dev"]
    lines = comparison([f1]).splitlines()
    assert lines[0].startswith("mrpc f1: 87.50 (1 seed)  fine-tuned, bert of 109,482,240 parameters")
    assert lines[1] == "    88.9  bert-base-uncased, GLUE test (Devlin et al. 2019, Table 1)"
    assert lines[2].endswith("(Devlin et al. 2019, Table 1); another size")
    (frozen, _) = measure(write_result(tmp_path / "frozen", 0.8, layers="mix"))
    assert frozen.setting == "features mix"
    assert comparison([frozen]).splitlines()[-1].startswith("no paper's figure")
    settings = [measure(write_result(tmp_path / x, 0.8, None, x, "")).pop().setting for x in ("none", "last")]
    assert settings == ["from scratch", "features last, from scratch"]
    (few, _) = measure(write_result(tmp_path / "few", 0.8, limit=2000))
    assert comparison([few]).startswith("mrpc f1: 80.00 (1 seed)  fine-tuned on 2000 rows, bert")
    assert "fine-tuned on 2000 rows | mrpc, f1 |" in readme_table([few])


def test_figures_of_a_test_split_are_beside_those_of_test_splits() -> None:
    """The papers': CoNLL-2003 has dev and test; and a threshold is no share."""
    one = Measured("m", "bert", (768, 12, 3072), 1, "conll2003", "test_f1", "fine-tuned", (90.0,), "2 threads")
    assert [(p.preset, p.split, p.value) for p in peers(one)] == [
        ("bert-base-cased", "test", 92.4),
        ("bert-large-cased", "test", 92.8),
    ]
    assert results.scaled("null_threshold", [-1.5]) == (-1.5,)


def test_a_study_gives_the_values_and_the_model_of_its_best_combination(tmp_path: Path) -> None:
    small = BertConfig(
        vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    write_result(tmp_path / "lr=1_seed=0", 0.5)
    write_result(tmp_path / "lr=2_seed=0", 0.875, small, init_from="")
    figures = {"lr=1": [0.5, 0.5], "lr=2": [0.75, 0.875]}
    shared: dict[str, Any] = {"headline": "f1", "larger_is_better": True}
    study = {
        name: shared | {"runs": [f"{name}_seed=0"], "figures": {"f1": {"median": max(v), "values": v}}}
        for name, v in figures.items()
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    (one,) = measure(tmp_path)
    assert (one.values, one.shape, one.setting) == ((75.0, 87.5), (32, 2, 64), "from scratch")
    assert spread(one) == "81.25 ± 8.84"
    assert comparison([one]).startswith("mrpc f1: 81.25 ± 8.84 (2 seeds)")


def test_an_evaluation(tmp_path: Path) -> None:
    write_run("gpt2", tmp_path / "gpt2")
    tasks = {"lambada": {"metrics": {"accuracy": 0.25, "perplexity": 40.5}}, "nq": {"metrics": {"exact_match": 0.0}}}

    def measured_by(**protocol: Any) -> list[Measured]:
        protocol = {"shots": 0, "limit": 0, "rule": None, "beams": 0, "stride": 0, **protocol}
        found = {"model": str(tmp_path / "gpt2"), "protocol": protocol, "environment": ENVIRONMENT, "tasks": tasks}
        (tmp_path / "out.json").write_text(json.dumps(found))
        return measure(tmp_path / "out.json")

    accuracy, perplexity, _ = measured_by()
    assert (accuracy.values, perplexity.values, accuracy.setting) == ((25.0,), (40.5,), "zero-shot")
    assert {p.value for p in peers(perplexity)} >= {35.13, 8.63, 18.6, 3.0}
    part = measured_by(limit=5, rule="per_byte")[0]
    assert (part.setting, peers(part)) == ("zero-shot, limit 5, rule per_byte", [])
    few = measured_by(shots=8, beams=4, stride=256)[0]
    assert (accuracy.detail, few.setting, few.detail) == ("", "few-shot", "K=8, 4 beams, stride 256")
    assert comparison([few]).startswith("lambada accuracy: 25.00 (1 seed)  few-shot, K=8, 4 beams, stride 256, gpt2 of")


def test_recorded_figures_become_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Again under the same name they take the place of the old ones."""
    monkeypatch.setattr(results.record, "__defaults__", (tmp_path / "measured.json",))
    write_result(tmp_path / "run", 0.875)
    commands.run(["compare", str(tmp_path / "run"), "--record", "BERT-base"])
    assert capsys.readouterr().out.startswith("mrpc f1: 87.50")
    write_result(tmp_path / "again", 0.5)
    record(measure(tmp_path / "again"), "BERT-base", tmp_path / "measured.json")
    found = measured(tmp_path / "measured.json")
    assert [(one.metric, one.values) for one in found] == [("accuracy", (50.0,)), ("f1", (50.0,))]
    row = readme_table(found).splitlines()[-1]
    assert row.startswith("| BERT-base, 109.5M, fine-tuned | mrpc, f1 | 50.00 | 1 | 88.9 (bert-base-uncased, GLUE test")
    results.forget({"GPT"}, tmp_path / "measured.json")
    assert measured(tmp_path / "measured.json") == found
    page = f"a\n{results.BEGIN}\nold\n{results.END}\nb\n"
    assert in_readme(page, found) == f"a\n{results.BEGIN}\n\n{readme_table(found)}\n\n{results.END}\nb\n"
    results.forget({"BERT-base"}, tmp_path / "measured.json")
    assert measured(tmp_path / "measured.json") == []


def test_readme_is_up_to_date() -> None:
    page = (ROOT / "README.md").read_text()
    assert in_readme(page, measured()) == page, "make results writes the table anew"


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no result\.json or study\.json"):
        measure(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="not what evaluate --out writes"):
        measure(tmp_path / "x.json")
    with pytest.raises(UserError, match="between the lines"):
        in_readme("a page", [])
    odd = Measured("m", "bert", (32, 2, 64), 1, "mrpc", "loss", "fine-tuned", (1.0,), "2 threads")
    with pytest.raises(UserError, match="nothing to record"):
        record([odd], "m", tmp_path / "measured.json")
