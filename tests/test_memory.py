"""Freed memory is kept: what is taken again costs no page fault."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from unittest import mock
import numpy as np
from lmjax import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
found = [faults()]
with mock.patch.object(memory, "entry_points", lambda group: [group]):
    memory.keep_freed_memory()
found.append(faults())
memory.keep_freed_memory()
faults()
print(*found, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_arrays_cost_page_faults_until_freed_memory_is_kept():
    """64 MiB, which would otherwise be a mapping of their own; an accelerator's host is left as it is."""
    made = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, beside_an_accelerator, kept = map(int, made.stdout.split())
    assert min(plain, beside_an_accelerator) > 25  # 32 where numpy is given huge pages
    assert kept < 10
