"""Fine-tuning as its user meets it: the command, several runs in one table, and how it refuses."""

import json
import runpy
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmjax.config import stored
from lmjax.errors import UserError
from lmjax.finetuning import FinetuneConfig, finetune, resolve
from lmjax.interop import LanguageModel
from lmjax.predictions import predict_file
from lmjax.study import one_run, study, summary, table
from lmjax.tasks.classification import ClassificationConfig
from lmjax.tasks.dpo import DpoConfig
from lmjax.tasks.instruction import InstructionConfig
from lmjax.train.assemble import assemble, open_data
from lmjax.train.checkpoint import steps_of
from lmjax.train.loop import is_over
from lmjax.train.optim import OptimConfig
from lmjax.types import TrainState
from tests.end_to_end import tiny
from tests.models import tiny as models
from tests.rlhf import mdp
from tests.tiny_runs import on_one_device, tiny_tokenizer, write_run

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


def test_a_table_of_words_is_as_long_as_the_pretrained_one(
    recipe: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may have rows that the tokenizer does not use; GPT's new tokens may be among them."""
    on_one_device(monkeypatch)
    tokenizer = tiny_tokenizer("byte_bpe")
    used = tokenizer.vocab_size
    for rows, wanted in ((used, used + 3), (used + 2, used + 3), (used + 200, used + 200)):
        cfg = models.tiny("gpt2", vocab_size=rows, max_position_embeddings=32)
        LanguageModel(cfg, ("clm",), models.noisy(cfg, ("clm",)), tokenizer).save_hf(tmp_path / f"{rows}")
        run = resolve(replace(recipe, init_from=str(tmp_path / f"{rows}")))
        assert run.model.vocab_size == wanted
    program = assemble(run)
    assert open_data(run, program).tokenizer.vocab_size == used
    table = program.init_state().params["word_embeddings"]["embedding"]
    trained = models.noisy(cfg, ("clm",))["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(table[:wanted], trained[:wanted])


def test_a_study_goes_on_where_it_stopped(
    recipe: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has a result is passed over; a run that was stopped on the way ends the command. A result of another recipe
    is refused."""
    done: list[str] = []

    def finetune(cfg: FinetuneConfig) -> dict[str, float]:
        if len(done) == 2:
            done.append("stopped")
            return {}
        done.append(Path(cfg.directory).name)
        Path(cfg.directory).mkdir(parents=True)
        result = {"headline": "f1", "larger_is_better": True, "figures": {"f1": cfg.seed / 4 + cfg.optim.peak_lr}}
        (Path(cfg.directory) / "result.json").write_text(json.dumps(result))
        (Path(cfg.directory) / "config.json").write_text(json.dumps(stored(resolve(cfg))))
        return result["figures"]  # type: ignore[return-value]

    monkeypatch.setattr("lmjax.study.finetune", finetune)
    cfg = replace(recipe, directory=str(tmp_path / "study"), seeds=(0, 1), grid=("optim.peak_lr=0.25,0.5",))
    study(cfg)
    assert capsys.readouterr().out.count("f1") == 0
    study(cfg)
    names = [f"optim.peak_lr={rate}_seed={seed}" for rate in (0.25, 0.5) for seed in (0, 1)]
    assert done == [*names[:2], "stopped", *names[2:]]
    found = json.loads((tmp_path / "study/study.json").read_text())
    assert [one["figures"]["f1"]["values"] for one in found.values()] == [[0.25, 0.5], [0.5, 0.75]]
    assert [run for one in found.values() for run in one["runs"]] == names
    assert "optim.peak_lr=0.5   " in capsys.readouterr().out
    for entry in ("batch_size=16,0", "optim.peak_lr=0.75,-1"):  # before anything is trained
        with pytest.raises(UserError, match=r"must be positive|peak_lr"):
            study(replace(cfg, grid=(entry,)))
    assert len(done) == 5
    shutil.copytree(recipe.init_from, tmp_path / "other")
    with pytest.raises(UserError, match=r"seed=0 holds a run of another config: init_from .*; choose another"):
        study(replace(cfg, init_from=str(tmp_path / "other")))


def test_a_study_is_of_one_model_and_of_the_same_rows(recipe: FinetuneConfig, tmp_path: Path) -> None:
    """Also where the model was trained further, or a file edited, under the same name."""
    shutil.copytree(recipe.init_from, tmp_path / "model")
    for file in ("train.tsv", "dev.tsv", "test.tsv"):
        shutil.copy(Path(recipe.task.folder) / file, tmp_path)  # type: ignore[attr-defined]
    task = replace(recipe.task, folder=str(tmp_path))  # type: ignore[call-arg]
    cfg = replace(recipe, directory=str(tmp_path / "study"), seeds=(0,), init_from=str(tmp_path / "model"), task=task)
    run = tmp_path / "study/seed=0"
    run.mkdir(parents=True)
    result = {"headline": "accuracy", "larger_is_better": True, "figures": {"accuracy": 0.5}}
    (run / "result.json").write_text(json.dumps(result))
    (run / "config.json").write_text(json.dumps(stored(resolve(one_run(cfg, (), 0)))))
    study(cfg)
    train, model = tmp_path / "train.tsv", tmp_path / "model/model.safetensors"
    rows, weights = train.read_text(), model.read_bytes()
    train.write_text(rows.replace("not_entailment", "entailment"))
    with pytest.raises(UserError, match=r"another config: data\.0\.data\.tokenizer\.path .*rte-32-"):
        study(cfg)
    train.write_text(rows)
    model.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UserError, match=r"another config: init_digest"):
        study(cfg)


def test_patience_ends_a_run_and_a_resumed_one_at_the_same_step(
    recipe: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of 0 never gets better: the first evaluation, after 4 of 12 steps, stays the best."""
    on_one_device(monkeypatch)
    still = replace(recipe.optim, peak_lr=0.0)
    cfg = replace(recipe, directory=str(tmp_path / "run"), patience=1, optim=still, dropout=0.0)
    assert finetune(replace(cfg, stop_at=5)) == {}
    assert finetune(cfg)
    assert "ended at step 8 of 12: 1 evaluations without a better figure" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/result.json").read_text())["step"] == 4
    assert steps_of(tmp_path / "run")[-1] == 8
    finetune(cfg)
    assert steps_of(tmp_path / "run")[-1] == 8


def test_patience_ends_a_run_by_its_state_alone(recipe: FinetuneConfig) -> None:
    run = resolve(replace(recipe, patience=2))  # 12 steps, evaluated each 4
    over = {
        (best, step): is_over(run, TrainState(np.int32(step), {}, {}, np.zeros(0), {"best": {"step": np.int32(best)}}))  # type: ignore[arg-type]
        for best, step in ((-1, 4), (-1, 7), (-1, 8), (4, 8), (4, 11), (4, 12), (8, 11))
    }
    assert [key for key, value in over.items() if value] == [(-1, 8), (4, 12)]


def test_a_grid_sets_fields_by_name(recipe: FinetuneConfig) -> None:
    run = one_run(recipe, ("optim.peak_lr=3e-5", "batch_size=16"), 7)
    assert (run.optim.peak_lr, run.batch_size, run.seed, run.seeds, run.grid) == (3e-5, 16, 7, (), ())
    assert Path(run.directory).name == "optim.peak_lr=3e-5_batch_size=16_seed=7"
    for value in (True, False):
        switched = one_run(recipe, (f"task.features.layer_norm={value}",), 0)
        assert switched.task.features.layer_norm is value
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


def test_best_is_the_run_that_is_best_on_dev() -> None:
    """Of a test file's figures too, which choose nothing."""
    figures = [{"f1": 0.5, "test_f1": 0.9}, {"f1": 0.6, "test_f1": 0.4}]
    found = summary([{"headline": "f1", "larger_is_better": True, "figures": one} for one in figures])["figures"]
    assert {name: one["best"] for name, one in found.items()} == {"f1": 0.6, "test_f1": 0.4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 0}, "batch_size 0 must be positive"),
        ({"epochs": -3.0}, "epochs -3 must be positive"),
        ({"evaluate_each": 0.0}, "evaluate_each 0 must be positive"),
        ({"warmup": 500.0}, "warmup 500 is a share of all steps, 0 to 1"),
        ({"optim": OptimConfig(warmup=5)}, "optim.warmup, total and unit follow from the recipe's"),
        ({"optim": OptimConfig(total=5)}, "optim.warmup, total and unit follow from the recipe's"),
    ],
)
def test_numbers_that_cannot_be_meant(recipe: FinetuneConfig, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(recipe, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limit": -1}, r"limit -1 must be 0 \(all\) or more"),
        ({"heldout_share": 1.0}, "0 <= heldout_share 1 < 1"),
        ({"heldout": "dev.tsv", "heldout_share": 0.1}, "heldout names a file, 'dev.tsv', and heldout_share 0.1 cuts"),
    ],
)
def test_examples_that_cannot_be_meant(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ClassificationConfig(data="rte", **changes)


def test_tfds_has_splits_of_its_own(recipe: FinetuneConfig) -> None:
    task = ClassificationConfig(data="rte", source="tfds", heldout_share=0.1)
    with pytest.raises(UserError, match="TensorFlow Datasets has splits of its own; train, heldout, heldout_share"):
        resolve(replace(recipe, task=task))


def test_a_language_model_is_not_tuned_from_a_reward_model(recipe: FinetuneConfig, tmp_path: Path) -> None:
    """Whose output layer nobody has trained on; what brings a layer of its own begins with any backbone."""
    mdp.write_world(tmp_path)
    mdp.write_reward_model(tmp_path, tmp_path / "judge")
    cfg = replace(recipe, init_from=str(tmp_path / "judge"))
    for task in (InstructionConfig(data="chat", template="plain"), DpoConfig(data="rankings")):
        with pytest.raises(UserError, match=r"judge is no causal language model \(its heads: none\); take a GPT"):
            resolve(replace(cfg, task=task))
    assert resolve(cfg).init_from == cfg.init_from


def test_refusals(recipe: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--init-from takes a run or a Hugging Face directory"):
        finetune(replace(recipe, init_from=""))
    with pytest.raises(UserError, match=r"task.alone is a file to predict"):
        finetune(replace(recipe, task=replace(recipe.task, alone="x")))  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"no result\.json; predict takes a finished fine-tuning run"):
        predict_file(tmp_path, "x")
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


SQUAD = '{"data": [{"paragraphs": [{"context": "%s", "qas": [{"id": "q", "question": "%s", "answers": %s}]}]}]}'
BAD = [  # a config, its training file, the family of the model, what is said
    ("rte", "h\ta\tb", "bert", "train.tsv, line 1: 3 columns, not 4 (index, sentence1, sentence2, label)"),
    ("rte", "0\ta\tb\tperhaps", "bert", "train.tsv, line 1: label 'perhaps' is none of entailment, not_entailment"),
    ("rte", "0\ta\t \tentailment", "bert", "train.tsv, line 1: column 'sentence2' is empty"),
    ("codah", "c\tWho?\ta\tb\tc\t0", "bert", "train.tsv, line 1: 6 columns, not 7"),
    ("conll2003", "-DOCSTART- -X- O O\n\nEU NNP I-ORG", "bert", "eng.train, line 3: 3 columns, not 4"),
    ("conll2003", "EU NNP I-NP I-COMPANY", "bert", "eng.train, line 1: tag 'I-COMPANY' is none of O, B-PER, I-PER"),
    ("squad1", SQUAD % ("A dog.", " ", "[]"), "bert", "train-v1.1.json, question q: its question is empty"),
    ("squad1", SQUAD % ("A dog.", "Who?", "[]"), "bert", "train-v1.1.json, question q: it has no answers"),
    ("squad1", "", "gpt2", "squad1: a causal model knows no token's right side; this task takes an encoder"),
    ("squad1", "", "elmo", "squad1: a model of whole words finds no part of a text; this task takes BERT or its kin"),
    ("conll2003", "", "gpt2", "conll2003: a causal model knows no word's right side; this task takes an encoder"),
    ("rte", "", "marian", "marian is a Transformer; this task takes an encoder or a decoder of tokens"),
    ("rte", "", "elmo", "elmo is a Elmo; this task takes it as features: --task.features.layers mix"),
]


@pytest.mark.parametrize(("config", "content", "family", "said"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    config: str, content: str, family: str, said: str, root: Path, tmp_path: Path, recipe: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of the command itself."""
    model = Path(recipe.init_from) if family == "bert" else root / "models" / family
    if not model.exists():
        write_run(family, model)
    names = {"rte": "train.tsv", "codah": "train.tsv", "conll2003": "eng.train", "squad1": "train-v1.1.json"}
    (tmp_path / names[config]).write_text(content + "\n")
    command = [f"{ROOT}/configs/finetune/{config}.py", "--init-from", str(model), "--task.folder", str(tmp_path)]
    command += ["--task.train", names[config], "--length", "24", "--stores", str(tmp_path / "stores")]
    command += ["--task.features.layers", "mix"] if (config, family) == ("squad1", "elmo") else []
    monkeypatch.setattr("sys.argv", ["run_finetune.py", *command])
    monkeypatch.setattr("warnings.formatwarning", warnings.formatwarning)  # the command sets its own
    monkeypatch.setattr("lmjax.parallel.initialize_distributed", lambda: None)  # this process has begun already
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(ROOT / "run_finetune.py"), run_name="__main__")
    assert exited.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lmjax: ")
    assert said in line
    assert not (tmp_path / "stores").exists()
