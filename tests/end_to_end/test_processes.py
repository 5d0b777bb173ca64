"""Two processes train one run, are killed and resume: log and state have the bits of one process on the same mesh, and
the run directory is written once."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmjax.config import from_stored
from lmjax.run import RunConfig
from lmjax.train.checkpoint import read_config
from lmjax.verify import fingerprint
from tests.end_to_end import tiny
from tests.end_to_end.test_resume import log_without_times
from tests.flags import QUICKLY
from tests.rlhf import mdp

ROOT = Path(__file__).parents[2]
LIMIT = 120  # seconds that a run may take
CONFIG = """
from dataclasses import replace
from pathlib import Path

from lmjax.data.schedule import Stage
from lmjax.parallel import MeshConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from tests.end_to_end.tiny import config as tiny

def config():
    cfg = tiny("bert", Path("{root}"))
    return replace(
        cfg,
        model=replace(cfg.model, num_hidden_layers=1),
        stages=(Stage(until_step=8, batch_size=16, length=32, micro_batches=2, ramp_from=8),),
        skips=(),
        mesh=MeshConfig(data=1, fsdp=2),
        evaluation=EvalConfig(every=4, rows=24),
        checkpoint=CheckpointConfig(every=3, keep=2),
    )
"""


PPO = """
from dataclasses import replace
from pathlib import Path

from lmjax.parallel import MeshConfig
from tests.rlhf import mdp

def config():
    root = Path("{root}")
    cfg = mdp.config(root, reward_model="{root}/judge", iterations=1, batch_size=8, epochs=1)
    return replace(cfg, mesh=MeshConfig(data=2), log=replace(cfg.log, every=1))
"""


def start(
    root: Path, run: Path, processes: int, script: str = "run_pretrain", config: str = CONFIG
) -> list[subprocess.Popen[bytes]]:
    """What a user types, in each process; two devices in all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (root / "config.py").write_text(config.format(root=root))
    command = [sys.executable, str(ROOT / f"{script}.py"), str(root / "config.py"), "--directory", str(run)]
    flags = f"{QUICKLY} --xla_force_host_platform_device_count={2 // processes}"
    started = []
    for index in range(processes):
        cluster = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(index),
        }
        environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)} | (cluster if processes > 1 else {})
        with (root / f"out{index}").open("ab") as out, (root / f"err{index}").open("ab") as err:
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err))
    return started


def finish(root: Path, run: Path, processes: int, *what: str) -> list[int]:
    return [process.wait(LIMIT) for process in start(root, run, processes, *what)]


def said(root: Path) -> str:
    return "".join(path.read_text() for path in sorted(root.glob("err[01]")))


def test_two_processes_killed_and_resumed_train_as_one(tmp_path: Path) -> None:
    """One comparison for all of it: whoever trains, and however often, leaves the same log, state and files."""
    tiny.write_text(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish(tmp_path, one, 1) == [0], said(tmp_path)

    processes = start(tmp_path, two, 2)
    while all(process.poll() is None for process in processes) and not (two / "checkpoints/3").exists():
        time.sleep(0.001)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert [process.wait() for process in processes] == 2 * [-signal.SIGKILL], said(tmp_path)
    assert finish(tmp_path, two, 2) == [0, 0], said(tmp_path)

    assert re.search(r"resumes at step [346] of 8", (tmp_path / "err0").read_text())
    assert (tmp_path / "err1").read_text() == ""  # process 0 speaks for both
    assert "held-out" not in (tmp_path / "out1").read_text()
    assert log_without_times(two) == log_without_times(one)
    assert fingerprint(two) == fingerprint(one)
    assert fingerprint(two)[0] == 8
    for file in ("baselines.json", "samples.json"):
        assert (two / file).read_text() == (one / file).read_text()
    assert "report.html" in {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert {path.name for path in (two / "checkpoints").iterdir()} == {"6", "8"}
    assert json.loads((two / "environment.json").read_text())["processes"] == 2
    assert from_stored(RunConfig, read_config(two), "").mesh.fsdp == 2


def test_two_processes_reinforce(tmp_path: Path) -> None:
    """By the command, against a reward model: each has its share of the prompts, and together they do what one does."""
    mdp.write_world(tmp_path)
    mdp.write_reward_model(tmp_path, tmp_path / "judge")
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "{word}"}}\n' for word in mdp.WORDS[2:]))
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish(tmp_path, one, 1, "run_finetune", PPO) == [0], said(tmp_path)
    assert finish(tmp_path, two, 2, "run_finetune", PPO) == [0, 0], said(tmp_path)
    assert log_without_times(two) == log_without_times(one)
    assert fingerprint(two) == fingerprint(one)
    (line,) = log_without_times(two)
    assert line["first_log_ratio"] == 0
    assert line["sampler_difference"] < 1e-5
    assert (two / "samples.json").read_text() == (one / "samples.json").read_text()
    (samples,) = json.loads((two / "samples.json").read_text())
    assert [row[0] for row in samples["rows"]] == list(mdp.WORDS[2:])
    assert all(re.fullmatch(r"([\w</>]+ ?)*\n\[-?[\d.]+\]", cell) for row in samples["rows"] for cell in row[1:])
    assert (two / "report.html").exists()


def test_bad_input_ends_every_process_with_one_line(tmp_path: Path) -> None:
    """What only process 0 finds: the text is not there."""
    assert finish(tmp_path, tmp_path / "run", 2) == [2, 2], said(tmp_path)
    for index in (0, 1):
        line = (tmp_path / f"err{index}").read_text()
        assert line.count("\n") == 1
        assert f"no file {tmp_path / 'text0.txt'}" in line


CASES = [("host:1", "", ""), ("", "2", "0"), ("host", "2", "0"), ("host:1", "two", "0"), ("host:1", "2", "2")]
REFUSED = """
import os, sys
from lmjax.errors import UserError
from lmjax.parallel import CLUSTER, initialize_distributed
for case in {cases}:
    for name, value in zip(CLUSTER, case):
        os.environ.pop(name, None)
        os.environ.update({{name: value}} if value else {{}})
    try:
        initialize_distributed()
    except UserError as error:
        print(error)
"""


def test_a_cluster_that_is_named_in_part_is_refused() -> None:
    """And is never taken for a cluster of one."""
    command = [sys.executable, "-c", REFUSED.format(cases=CASES)]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(CASES)
    assert lines[0] == (
        "JAX_COORDINATOR_ADDRESS=host:1: Number of processes must be defined. "
        "Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID, or none of them"
    )
    for line, what in zip(lines[1:], ("coordinator_address", "HOST:PORT", "two", "process_id"), strict=True):
        assert what in line


SHARED = """
from dataclasses import replace
from pathlib import Path

from lmjax.data.schedule import Stage
from lmjax.parallel import MeshConfig
from lmjax.train.evaluate import EvalConfig
from tests.end_to_end.tiny import config as tiny

def config():
    cfg = tiny("bert", Path("{root}"))
    stages, model = (Stage(until_step=2, batch_size=8, length=32),), replace(cfg.model, num_hidden_layers=1)
    log, evaluation = replace(cfg.log, every=1), EvalConfig(every=2, rows=8)
    mesh = MeshConfig(data=1, tensor=2)
    return replace(cfg, model=model, stages=stages, skips=(), mesh=mesh, evaluation=evaluation, log=log)
"""


def test_processes_along_the_tensor_axis_hold_the_same_rows(tmp_path: Path) -> None:
    """A part of the model each: what they train on is one batch."""
    tiny.write_text(tmp_path)
    runs = [tmp_path / name for name in ("one", "two")]
    for count, run in enumerate(runs, 1):
        assert finish(tmp_path, run, count, "run_pretrain", SHARED) == [0] * count, said(tmp_path)
    logs = [log_without_times(run) for run in runs]
    for ours, theirs in zip(*logs, strict=True):
        assert (ours["step"], ours["split"]) == (theirs["step"], theirs["split"])
        assert ours["mlm"] == pytest.approx(theirs["mlm"], rel=1e-5)
