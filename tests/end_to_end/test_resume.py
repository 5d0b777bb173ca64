"""A run that is killed again and again ends in the same bits, and in the same log, as one that nobody touched."""

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from lmjax.interop import load
from lmjax.models.weights import flatten
from lmjax.predictions import predict_file
from lmjax.train.checkpoint import find, read_arrays
from lmjax.verify import fingerprint
from tests.end_to_end import tiny
from tests.flags import QUICKLY

KILLS = 10
# Processes that are forked from one that has imported everything: a start costs a second instead of seven.
PROCESSES = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    PROCESSES.set_forkserver_preload(["tests.end_to_end.tiny", "tensorflow"])
    with pytest.MonkeyPatch.context() as environment:
        # One device: their count is not what is tested here.
        environment.setenv("XLA_FLAGS", QUICKLY)
        environment.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        forkserver.ensure_running()


def run(name: str, root: Path, directory: Path) -> None:
    """In a process of its own, whose stderr is kept."""
    os.dup2(os.open(root / "stderr", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    tiny.run(name, root, "--directory", str(directory))


def start(name: str, root: Path, directory: Path) -> BaseProcess:
    process = PROCESSES.Process(target=run, args=(name, root, directory))
    process.start()
    return process


def finish(name: str, root: Path, run: Path) -> None:
    process = start(name, root, run)
    process.join()
    assert process.exitcode == 0, (root / "stderr").read_text()


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
        while process.is_alive() and last_logged(run) < target:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.2)  # in a step, between two, in a save
        process.kill()
        process.join()
    finish(name, tmp_path, run)

    assert fingerprint(run) == fingerprint(tmp_path / "untouched"), f"kill moments drawn from seed {seed}"
    assert log_without_times(run) == log_without_times(tmp_path / "untouched")
    assert fingerprint(run)[0] == 60


ONCE = ["gpt1", "gpt3", "transformer", "elmo", "elmo_stateless", "ernie", "roberta", *tiny.FINETUNING, "ppo"]


@pytest.mark.parametrize("name", ONCE)
def test_killed_once_in_twelve_steps(name: str, tmp_path: Path) -> None:
    if name == "ernie":
        pytest.importorskip("jieba")
    tiny.write_text(tmp_path)
    finish(name, tmp_path, tmp_path / "untouched")
    run = tmp_path / "killed"
    process = start(name, tmp_path, run)
    while process.is_alive() and not (run / "checkpoints" / "5").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finish(name, tmp_path, run)
    said = (tmp_path / "stderr").read_text()
    assert "resumes at step 5 of 12" in said or "resumes at step 10 of 12" in said  # and not from the beginning
    assert fingerprint(run) == fingerprint(tmp_path / "untouched")
    assert fingerprint(run)[0] == 12
    log = log_without_times(run)
    assert log == log_without_times(tmp_path / "untouched")
    if name == "gpt3":  # the ramp: 2, 2, 2, 4, 4, 6, 6, 8 and then 8 rows of 16 tokens
        seen = [line["tokens"] for line in log if "tokens" in line]
        assert seen == [32, 64, 96, 160, 224, 320, 416, 544, 672, 800, 928, 1056]
    if name == "ernie":  # two stages, which mask tokens and then entities
        assert [line["masking_level"] for line in log if line["split"] == "train"] == [0] * 6 + [3] * 6
    if name == "finetune":
        check_predictions(tmp_path, run, log)
    if name in ("finetune", "features"):
        said = predict_file(run, tmp_path / "test.tsv")
        assert said == {"RTE.tsv": (run / "predictions/test/RTE.tsv").read_text()}
    if name == "features":
        check_frozen(tmp_path, run)


def check_frozen(root: Path, run: Path) -> None:
    """The backbone is what it was, bit for bit, and has no optimizer state; what stands on it has learned."""
    before = flatten(load(root / "elmo").params)
    for path, leaf in flatten(load(run).params).items():
        np.testing.assert_array_equal(leaf, before[path])
    arrays = read_arrays(find(run), lambda name: True)
    assert np.any(arrays["params/mix/weight"] != 0)
    moments = {name.partition("/mu/")[2].split("/")[0] for name in arrays if "/mu/" in name}
    assert moments == {"mix", "bilstm_0", "classifier"}


def check_predictions(root: Path, run: Path, log: list[dict]) -> None:
    """Of the best state, in the official format; the run is a model for further tasks."""
    heldout = {line["step"]: line["accuracy"] for line in log if line["split"] == "heldout"}
    result = json.loads((run / "result.json").read_text())
    best = max(heldout.values())
    assert result["step"] == min(step for step, value in heldout.items() if value == best)
    assert result["figures"] == {"accuracy": best}
    assert list(heldout) == [4, 8, 12]
    found = {split: (run / "predictions" / split / "RTE.tsv").read_text() for split in ("heldout", "test")}
    assert found["heldout"].startswith("index\tprediction\n0\t")
    assert found["test"].count("\n") == 4
    labels = [line.split("\t")[-1] for line in (root / "dev.tsv").read_text().splitlines()[1:]]
    answers = [line.split("\t")[-1] for line in found["heldout"].splitlines()[1:]]
    assert best == sum(a == b for a, b in zip(labels, answers, strict=True)) / len(labels)
    assert (run / "report.html").exists()
    assert load(run).heads == ("pooler",)
