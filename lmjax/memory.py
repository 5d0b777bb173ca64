"""The memory of a CPU run: what a step frees is kept for the next one.

A training step on a CPU takes gigabytes for its inner values and frees them at its end. glibc gives blocks of that size
back to the kernel at once, and each step then fetches them anew: 800,000 page faults of 4 KiB in one step of GPT-2
small (8 rows of 128 tokens), about a fifth of its time (benchmarks/train_step.py).
"""

import ctypes
import importlib.util
from importlib.metadata import entry_points

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed, where JAX has no accelerator to run on; elsewhere, and with another C library,
    nothing changes.

    For entry points, first thing: it holds for threads that start later. The process stays as large as it ever was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu"):
        return
    mallopt(M_ARENA_MAX, 1)  # only the first arena holds large blocks, and lends from one heap
    mallopt(M_MMAP_MAX, 0)  # no block has a mapping of its own, which would end with it
    mallopt(M_TRIM_THRESHOLD, -1)  # the heap never shrinks
    mallopt(M_TOP_PAD, 2**30)  # and grows in large pieces, so that freed ones lie side by side
