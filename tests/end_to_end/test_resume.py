"""A run that is killed again and again ends in the same bits, and in the same log, as one that nobody touched."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmjax.verify import fingerprint
from tests.end_to_end import tiny

SCRIPT = Path(tiny.__file__)
KILLS = 10


def start(name: str, root: Path, run: Path) -> subprocess.Popen[bytes]:
    # One device: each start costs seconds, and the count of devices is not what is tested here.
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), name, str(root), "--directory", str(run)]
    with (root / "stderr").open("ab") as stderr:
        return subprocess.Popen(command, env=environment, stderr=stderr)


def finish(name: str, root: Path, run: Path) -> None:
    assert start(name, root, run).wait() == 0, (root / "stderr").read_text()


def last_logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return json.loads(lines[-1])["step"] if lines else 0
    except ValueError:
        return 0  # a line being written


def log_without_times(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_killed_and_resumed_is_bitwise_the_same(name: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        tiny.write_text(tmp_path, seed)
    finish(name, tmp_path, tmp_path / "untouched")
    seed = int.from_bytes(os.urandom(4), "big")
    rng, run = random.Random(seed), tmp_path / "killed"
    for target in sorted(rng.randrange(60) for _ in range(KILLS)):
        process = start(name, tmp_path, run)
        while process.poll() is None and last_logged(run) < target:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.2)  # in a step, between two, in a save
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(name, tmp_path, run)

    assert fingerprint(run) == fingerprint(tmp_path / "untouched"), f"kill moments drawn from seed {seed}"
    assert log_without_times(run) == log_without_times(tmp_path / "untouched")
    assert fingerprint(run)[0] == 60


@pytest.mark.parametrize("name", ["ernie", "roberta"])
def test_killed_once_and_resumed_is_bitwise_the_same(name: str, tmp_path: Path) -> None:
    """Twelve steps, for what a family does to its data; ERNIE's log tells which unit each of them masked."""
    if name == "ernie":
        pytest.importorskip("jieba")
    tiny.write_text(tmp_path)
    finish(name, tmp_path, tmp_path / "untouched")
    process, run = start(name, tmp_path, tmp_path / "killed"), tmp_path / "killed"
    while process.poll() is None and last_logged(run) < 7:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last_logged(run) < 12
    finish(name, tmp_path, run)
    assert fingerprint(run) == fingerprint(tmp_path / "untouched")
    assert log_without_times(run) == log_without_times(tmp_path / "untouched")
    if name == "ernie":
        levels = [line["masking_level"] for line in log_without_times(run) if line["split"] == "train"]
        assert levels == [0] * 6 + [3] * 6
