import contextlib
import json
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from lmjax.errors import UserError
from lmjax.train.environment import environment
from lmjax.train.log import Log, LogConfig, cut_back


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def events(run_dir: Path) -> list:
    """The events of all files, in order of writing, by the record format itself: length, its sum, data, its sum."""
    found = []
    for file in sorted((run_dir / "tensorboard").iterdir(), key=lambda f: f.stat().st_mtime):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def logged(run_dir: Path, steps: range, restored: int | None, cfg: LogConfig = LogConfig()) -> None:  # noqa: B008
    run_dir.mkdir(exist_ok=True)
    log = Log(run_dir, cfg, restored, 100)
    for step in steps:
        log.tick(step)
        norms = {"all": jnp.float32(step), "layers": jnp.float32(0.5)}
        log.train(step, {"loss": jnp.float32(1 / step), "norm": norms, "skipped": jnp.int32(0)}, {"seconds": 0.1})
        if step % 4 == 0:
            log.heldout(step, {"loss": jnp.float32(jnp.nan), "accuracy": 0.25})
    log.close()


def test_a_line_holds_plain_values_and_time_apart(tmp_path, capfd):
    logged(tmp_path, range(1, 5), None)
    train, heldout = lines(tmp_path)[-2:]
    expected = {"step": 4, "split": "train", "loss": 0.25, "norm": {"all": 4.0, "layers": 0.5}, "skipped": 0}
    assert train == {**expected, "time": {"seconds": 0.1}}
    assert heldout == {"step": 4, "split": "heldout", "loss": None, "accuracy": 0.25}
    err = capfd.readouterr().err
    assert re.search(r"step 1/100  loss 1.000  [\d.]+ step/s  [\d:]+ left\n", err)
    assert "step 4  held-out  accuracy 0.25  loss nan\n" in err
    assert "\r" not in err  # not a terminal
    with contextlib.closing(Log(tmp_path, LogConfig(), None, 1)) as log:
        log.train(1, {"loss": 0.5, "score": 1.25, "kl": 0.1, "eos_share": 1.0}, {})
    assert "step 1/1  score 1.250  kl 0.100  eos_share 1.000  " in capfd.readouterr().err


def test_a_resumed_log_equals_an_untouched_one(tmp_path):
    logged(tmp_path / "a", range(1, 13), None)
    logged(tmp_path / "b", range(1, 10), None)
    logged(tmp_path / "b", range(5, 11), 4)
    logged(tmp_path / "b", range(9, 13), 8)
    assert lines(tmp_path / "b") == lines(tmp_path / "a")
    logged(tmp_path / "b", range(1, 3), None)  # no checkpoint was made: from the start
    assert [line["step"] for line in lines(tmp_path / "b")] == [1, 2]


def test_torn_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1}\n{"step": 2}\n'
    for torn in (b'{"step": 2, "lo', b"\x00\x00\xff\n", b"3", b""):
        path.write_bytes(whole + torn)
        cut_back(path, 2)
        assert path.read_bytes() == whole
    cut_back(path, 1)
    assert path.read_bytes() == b'{"step": 1}\n'
    cut_back(tmp_path / "none.jsonl", 1)
    assert not (tmp_path / "none.jsonl").exists()


def test_tensorboard_shows_each_scalar_and_forgets_what_was_cut(tmp_path):
    logged(tmp_path, range(1, 4), None)
    logged(tmp_path, range(2, 4), 1)
    found = events(tmp_path)
    scalars = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    assert (2, "train/loss", 0.5) in scalars
    assert (3, "train/norm/all", 3.0) in scalars
    assert any(tag == "train/time/seconds" for _, tag, _ in scalars)
    begun = [e.step for e in found if e.session_log.status == event_pb2.SessionLog.START]
    assert begun[-1] == 2


def test_without_tensorboard_no_events(tmp_path):
    logged(tmp_path, range(1, 2), None, LogConfig(tensorboard=False))
    assert not (tmp_path / "tensorboard").exists()


def test_a_profile_of_some_steps(tmp_path, capfd):
    logged(tmp_path, range(1, 6), None, LogConfig(tensorboard=False, profile_steps=(2, 4)))
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    assert "profile written" in capfd.readouterr().err


@pytest.mark.parametrize("bad", [{"every": 0}, {"profile_steps": (1, 5)}, {"profile_steps": (5, 5)}])
def test_a_log_that_cannot_be(bad):
    with pytest.raises(UserError, match=f"log.{next(iter(bad))}"):
        LogConfig(**bad)


def test_a_resume_elsewhere_says_so(tmp_path, capfd):
    logged(tmp_path, range(1, 2), None)
    logged(tmp_path, range(2, 3), 1)
    assert "not bitwise" not in capfd.readouterr().err
    (tmp_path / "environment.json").write_text(json.dumps(environment() | {"jax": "0.1"}))
    logged(tmp_path, range(3, 4), 2)
    assert "continues, not bitwise: jax 0.1 -> 0." in capfd.readouterr().err
    assert json.loads((tmp_path / "environment.json").read_text()) == environment()


@pytest.mark.parametrize(
    "name", ["python", "jax", "device", "devices", "processes", "threads", "XLA_FLAGS", "generator"]
)
def test_the_environment_names_what_bits_depend_on(name):
    assert name in environment()
