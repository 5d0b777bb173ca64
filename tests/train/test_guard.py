import subprocess
import sys
from pathlib import Path

from lmjax.train.guard import EXIT_HUNG, reached_preemption

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


def python(script: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_hang_ends_with_every_stack_and_exit_75():
    done = python(HANG)
    assert done.stdout == "so far so good\n"
    assert done.returncode == EXIT_HUNG == 75
    assert "no step for 0 s" in done.stderr
    assert "waits_for_a_peer" in done.stderr


def test_slow_steps_are_no_hang():
    done = python(SLOW)
    assert done.returncode == 0, done.stderr


def test_a_notice_of_preemption_reaches_the_step():
    done = python(PREEMPTED)
    assert done.stdout == "preempted True\n", done.stderr


def test_without_jax_distributed_there_is_no_preemption():
    assert not reached_preemption(1)
