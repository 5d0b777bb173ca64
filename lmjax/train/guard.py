"""Guards of a long run: a watchdog for the hang that no heartbeat notices, and notice of a coming preemption."""

import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator

from jax.experimental import multihost_utils

EXIT_HUNG = 75  # EX_TEMPFAIL: a supervisor may start the same command again


class Watchdog:
    """Ends the process when no step has finished for `factor` medians of the recent steps, at least `minimum` seconds.

    A peer whose main thread hangs still answers heartbeats, and a collective waits for it for ever. The watch begins
    with the second `beat`, which tells how long a step takes; compilation may take its time. Every thread's stack goes
    to stderr, and the exit code is 75.
    """

    def __init__(self, factor: float = 20, minimum: float = 120):
        """Starts the watching thread. `minimum` in seconds."""
        self._factor, self._minimum = factor, minimum
        self._durations: deque[float] = deque(maxlen=100)
        self._last = 0.0
        self._watching, self._closed = False, threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """A step has finished."""
        now = time.monotonic()
        if self._watching:
            self._durations.append(now - self._last)
        self._last, self._watching = now, True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For what may rightly take long: compiling, evaluating, waiting for a checkpoint."""
        self._watching = False
        yield  # the next beat watches again

    def close(self) -> None:
        """Stops watching; without it, an error that ends the steps but not the process would end the process later."""
        self._closed.set()

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _limit(self) -> float:
        if not self._durations:
            return float("inf")
        return max(self._minimum, self._factor * statistics.median(self._durations))

    def _watch(self) -> None:
        while not self._closed.wait(min(1, self._minimum / 4)):
            if self._watching and time.monotonic() - self._last > (limit := self._limit()):
                print(f"lmjax: no step for {limit:.0f} s, a peer or device hangs; exit {EXIT_HUNG}", file=sys.stderr)
                faulthandler.dump_traceback(sys.__stderr__ or 2)
                os._exit(EXIT_HUNG)  # atexit handlers would wait for the peer that hangs


def reached_preemption(step: int) -> bool:
    """Whether all processes should save at this step and exit (SIGTERM or a scheduler's notice reached one of them).

    Each process must ask at every step. Always False where `jax.distributed` was not initialised.
    """
    return multihost_utils.reached_preemption_sync_point(step)
