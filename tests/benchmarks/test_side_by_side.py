"""Commands side by side, each on a core of its own."""

import os
import sys
from pathlib import Path

from benchmarks.transfer.side_by_side import side_by_side

# Waits for the other one, up to a minute, and says on which core it was to stay.
MEETS = """
import pathlib, sys, time
here, other, core = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[4]
here.write_text(core)
for _ in range(600):
    if other.exists():
        break
    time.sleep(0.1)
print("core", core)
sys.exit(not other.exists())
"""


def test_as_many_at_once_as_there_are_cores_and_each_on_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 7})
    looks: list[int] = []
    files = [str(tmp_path / name) for name in ("a", "b")]
    commands = {
        tmp_path / "a.log": [sys.executable, "-c", MEETS, *files],
        tmp_path / "b.log": [sys.executable, "-c", MEETS, *files[::-1]],
        tmp_path / "c.log": [sys.executable, "-c", "raise SystemExit(2)"],
    }
    assert side_by_side(commands, lambda: looks.append(1)) == [0, 0, 2]
    assert {(tmp_path / f"{name}.log").read_text() for name in "ab"} == {"core 3\n", "core 7\n"}
    assert looks == [1]
