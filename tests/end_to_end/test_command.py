"""The command itself, in a process of its own: what it writes and prints, and how it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end import tiny
from tests.flags import QUICKLY

ROOT = Path(__file__).parents[2]
NOISE = re.compile(r"tensorflow|absl|xla|oneDNN|cuda|WARNING|^[WEI]\d{4} ", re.IGNORECASE | re.MULTILINE)
CONFIG = """
from pathlib import Path
from dataclasses import replace
from tests.end_to_end.tiny import config as tiny

def config():
    return tiny("bert", Path("{root}"))
"""


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (root / "config.py").write_text(CONFIG.format(root=root))
    quiet = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "XLA_", "JAX_NUMPY", "GLOG"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "run_pretrain.py"), str(root / "config.py"), *arguments],
        env=quiet | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICKLY},
        capture_output=True,
        text=True,
    )


@pytest.mark.core
def test_the_main_job_trains_reports_and_keeps_quiet(tmp_path: Path) -> None:
    tiny.write_text(tmp_path)
    done = command(tmp_path, "--stop-at", "20")
    assert done.returncode == 0, done.stderr
    assert not NOISE.search(done.stderr), done.stderr
    assert re.search(r"mlm_accuracy +[\d.]+ +\(unigram: [\d.]+\)", done.stdout)
    assert re.search(r"nsp_accuracy +[\d.]+ +\(majority: [\d.]+\)", done.stdout)
    assert done.stdout.count("[MASK]") >= 5
    run = tmp_path / "bert"
    assert str(run / "report.html") in done.stdout
    assert (run / "report.html").exists()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 21), 20]  # the last held-out


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    wrong_name = command(tmp_path, "--optim.peak-lrr", "1e-3")
    assert wrong_name.returncode == 2
    assert "--optim.peak-lr" in wrong_name.stderr
    no_text = command(tmp_path)
    assert no_text.returncode == 2
    assert no_text.stderr.count("\n") == 1, no_text.stderr
    assert str(tmp_path / "text0.txt") in no_text.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"config.py"}, "something half-written"
