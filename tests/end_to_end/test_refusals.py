"""What a run refuses to begin with: one line that names what, where and the mend; nothing written."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from lmjax.config import SCHEMA_VERSION, override, stored
from lmjax.data.schedule import Stage
from lmjax.errors import UserError
from lmjax.parallel import MeshConfig
from lmjax.run import RunConfig, prepare_data
from lmjax.tasks.bilm import BilmConfig
from lmjax.train.assemble import assemble
from lmjax.train.evaluate import EvalConfig
from lmjax.train.loop import give_up_if_stuck, train
from tests.end_to_end import tiny


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("refusals")
    tiny.write_text(root)
    cfg = replace(tiny.config("bert", root), stages=(Stage(until_step=2, batch_size=8, length=32),), skips=())
    prepare_data(cfg)
    return cfg


def refused(message: str, cfg: RunConfig, **changes: Any) -> None:
    cfg = replace(cfg, **changes)
    with pytest.raises(UserError, match=message) as error:
        train(cfg)
    assert "\n" not in str(error.value)
    assert not Path(cfg.directory).exists()


def test_a_mesh_that_does_not_fit(prepared: RunConfig) -> None:
    refused("mesh data=3 fsdp=1 tensor=1 does not fit 8 devices", prepared, mesh=MeshConfig(3, 1, 1))
    refused(r"attention/key/bias: axis 1 .* not divisible by mesh axes tensor = 8", prepared, mesh=MeshConfig(1, 1, 8))
    stage = Stage(until_step=2, batch_size=6, length=32)
    refused("6 rows is not divisible by data x fsdp = 8", prepared, stages=(stage,))


def test_rows_longer_than_the_position_table(prepared: RunConfig) -> None:
    stage = Stage(until_step=2, batch_size=8, length=33)
    refused(r"length 33 exceeds the position table \(32 rows\)", prepared, stages=(stage,))


def test_a_vocabulary_that_is_not_the_stores(prepared: RunConfig) -> None:
    model = replace(prepared.model, vocab_size=301)
    refused("vocab_size is 301, but the tokenizer of .* has 300 entries", prepared, model=model)


def test_a_run_that_came_to_nothing_holds_no_directory(prepared: RunConfig, tmp_path: Path) -> None:
    """What is found after the directory was taken is mended, and the same command goes on."""
    many = replace(prepared, directory=str(tmp_path / "run"), stages=(Stage(until_step=2, batch_size=4096, length=32),))
    with pytest.raises(UserError, match="fewer than one batch of 4096"):
        train(many)
    with pytest.raises(UserError, match="fewer than one batch of 2048"):  # and not: a run of another config
        train(replace(many, stages=(Stage(until_step=2, batch_size=2048, length=32),)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: {"evaluation": EvalConfig(every=0)}, "every 0 must be at least 1"),
        (lambda: {"evaluation": EvalConfig(rows=-1)}, "rows -1"),
        (lambda: {"seed": -1}, "seed -1 and stop_at 0 are not negative"),
        (lambda: {"stop_at": -5}, "stop_at -5 are not negative"),
    ],
)
def test_numbers_that_cannot_be_meant(prepared: RunConfig, change: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(prepared, **change())


def test_a_store_that_was_never_made(prepared: RunConfig, tmp_path: Path) -> None:
    data = (replace(prepared.data[0], data=replace(prepared.data[0].data, store=str(tmp_path / "none"))),)
    refused("none", prepared, data=data)


def test_data_that_does_not_belong_together(prepared: RunConfig, tmp_path: Path) -> None:
    (first,), (stage,) = prepared.data, prepared.stages
    other = replace(first.data, store=str(tmp_path / "other"), tokenizer=replace(first.data.tokenizer, vocab_size=290))
    mixture = (first, replace(first, data=other))
    prepare_data(replace(prepared, data=mixture))
    refused("stores were made with different tokenizers; prepare them with one", prepared, data=mixture)
    stages = (replace(stage, data=(1,)),)
    refused(r"stages.0.data \(1,\): the run has data entries 0 to 0", prepared, stages=stages)
    model = replace(prepared.model, type_vocab_size=1)
    refused("have 2 token types, the model 1; raise model.type_vocab_size", prepared, model=model)


def test_special_tokens_that_are_not_the_tokenizers(tmp_path: Path) -> None:
    tiny.write_text(tmp_path)
    cfg = replace(tiny.config("transformer", tmp_path), stages=(Stage(until_step=2, batch_size=8, length=64),))
    prepare_data(cfg)
    for field in ("eos_token_id", "decoder_start_token_id"):
        refused(f"model.{field} is 7, but the tokenizer's is", cfg, model=replace(cfg.model, **{field: 7}))


def test_ten_bad_steps_in_a_row_end_a_run(prepared: RunConfig) -> None:
    for skipped in ([1] * 9, [1] * 9 + [0], [0] + [1] * 9):
        give_up_if_stuck(deque(skipped), 11, prepared.directory)
    with pytest.raises(UserError, match="the last 10 steps up to 11 had no finite gradient and changed nothing; lower"):
        give_up_if_stuck(deque(map(jnp.int32, [1] * 10)), 11, prepared.directory)


def test_a_directory_of_another_run_or_schema(prepared: RunConfig, tmp_path: Path) -> None:
    cfg = replace(prepared, directory=str(tmp_path / "run"))
    train(cfg)
    with pytest.raises(UserError, match=r"run of another config: optim.peak_lr \(0.003 -> 1.0\), seed \(0 -> 1\)"):
        train(replace(cfg, seed=1, optim=replace(cfg.optim, peak_lr=1.0)))
    written = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(written | {"schema_version": 0}))
    with pytest.raises(UserError, match=f"config schema 0, this lmjax reads {SCHEMA_VERSION}"):
        train(cfg)


def test_a_task_of_another_model(prepared: RunConfig) -> None:
    refused("BilmConfig needs a model with head bilm, which BertConfig lacks", prepared, task=BilmConfig())


def test_carried_states_and_another_batch_size(tmp_path: Path) -> None:
    """On resume, and within a run. States lie where their rows do."""
    cfg = replace(tiny.config("elmo", tmp_path), mesh=MeshConfig(2, 2, 2), skips=())
    assert assemble(cfg).abstract_state.extra["carry"]["cell"].sharding.spec == P(None, ("data", "fsdp"))
    (stage,) = cfg.stages
    more = replace(stage, until_step=20, batch_size=16)
    refused("one batch_size and micro_batches in all stages, and no ramp", cfg, stages=(stage, more))
    (Path(cfg.directory) / "checkpoints/1").mkdir(parents=True)
    (Path(cfg.directory) / "config.json").write_text(json.dumps(stored(cfg)))
    for change in ({"batch_size": 16}, {"micro_batches": 1}):
        with pytest.raises(UserError, match=f"run of another config: stages.0.{next(iter(change))}") as error:
            train(replace(cfg, stages=(replace(stage, **change),)))
        assert "\n" not in str(error.value)


def test_a_mistyped_field_names_the_nearest(prepared: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        override(prepared, ["--evaluation.rowz", "3"], "run_pretrain.py")
    assert stop.value.code == 2
    assert "--evaluation.rows" in capsys.readouterr().err


def test_the_step_is_checked_before_data_is_touched(prepared: RunConfig) -> None:
    nowhere = replace(prepared.data[0], data=replace(prepared.data[0].data, store="/nowhere"))
    assert assemble(replace(prepared, data=(nowhere,))).schedule.steps == 2
