import os
import subprocess
import sys
from pathlib import Path

from lmjax.train.guard import EXIT_HUNG, reached_preemption
from tests.flags import QUICKLY

ROOT = Path(__file__).parents[2]

HANG = """
import time
from lmjax.train.guard import Watchdog

def waits_for_a_peer():
    time.sleep(20)

watchdog = Watchdog(factor=3, minimum=0.4)
time.sleep(0.8)  # compiling: the watch has not begun
for _ in range(5):
    watchdog.beat()
    time.sleep(0.05)
with watchdog.paused():
    time.sleep(0.8)
watchdog.beat()
print("so far so good", flush=True)
waits_for_a_peer()
"""

SLOW = """
import time
from lmjax.train.guard import Watchdog
with Watchdog(factor=5, minimum=0.1) as watchdog:
    watchdog.beat()
    for seconds in (0.08, 0.08, 0.08, 0.2, 0.2):  # the later ones are longer than the minimum, not than 5 medians
        time.sleep(seconds)
        watchdog.beat()
time.sleep(0.6)  # no longer watched
"""

QUEUED = """
import sys
from dataclasses import replace
from pathlib import Path
import jax
import jax.numpy as jnp
from lmjax.run import prepare_data
from lmjax.train import loop
from lmjax.train.assemble import assemble
from tests.end_to_end import tiny

root = Path(sys.argv[1])
[tiny.write_text(root, seed) for seed in (0, 1)]
cfg = tiny.config("gpt2", root)
cfg = replace(cfg, stages=(replace(cfg.stages[0], until_step=16),), skips=(), log=replace(cfg.log, every=16))
prepare_data(cfg)
program = assemble(cfg)
late = jax.jit(lambda x: x + 0 * jax.lax.fori_loop(0, 300, lambda i, y: 0.5 * (y @ y), jnp.eye(256) + x)[0, 0])
results, behind = [], []

def slow(state, batch):  # dispatched at once, and done after a while
    state, metrics = program.train_step(state, batch)
    results.append(late(metrics["skipped"].astype(float)))
    return state, metrics | {"skipped": results[-1]}

class Watched(loop.Watchdog):
    def beat(self):
        behind.append(sum(not result.is_ready() for result in results))

loop.Watchdog = Watched
loop.train(cfg, replace(program, train_step=slow))
print(len(behind) > 9 and max(behind))
"""

PREEMPTED = """
import os, signal, socket, sys, time
import jax
from lmjax.train.guard import reached_preemption
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)
for step in range(200):
    if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    if reached_preemption(step):
        print("preempted", step >= 3)
        break
    time.sleep(0.05)
jax.distributed.shutdown()
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command, environment = [sys.executable, "-c", script, *arguments], os.environ | {"XLA_FLAGS": QUICKLY}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_a_hang_ends_with_every_stack_and_exit_75():
    done = python(HANG)
    assert done.stdout == "so far so good\n"
    assert done.returncode == EXIT_HUNG == 75
    assert "no step for 0 s" in done.stderr
    assert "waits_for_a_peer" in done.stderr


def test_slow_steps_are_no_hang():
    done = python(SLOW)
    assert done.returncode == 0, done.stderr


def test_a_heartbeat_is_a_step_that_is_done(tmp_path: Path):
    """Not one that is dispatched: of those there may be many before the loop waits for any."""
    done = python(QUEUED, str(tmp_path))
    assert done.stdout.splitlines()[-1] in ("0", "1", "2"), done.stderr


def test_a_notice_of_preemption_reaches_the_step():
    done = python(PREEMPTED)
    assert done.stdout == "preempted True\n", done.stderr


def test_without_jax_distributed_there_is_no_preemption():
    assert not reached_preemption(1)
