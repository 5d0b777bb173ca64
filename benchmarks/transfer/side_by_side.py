"""Commands side by side, each on a core of its own: small models hardly gain by a second one."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue

PATIENCE = 300  # seconds between two looks at what is there


def side_by_side(commands: Mapping[Path, Sequence[str]], look: Callable[[], None]) -> list[int]:
    """Their exit codes, in order; a command's output goes to the file that it is given under. As many run at once as
    this process has cores, each told by a last argument, `--core N`, to which it is to keep; `look` is called every few
    minutes, and when all are done."""
    free: SimpleQueue[int] = SimpleQueue()
    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        free.put(core)

    def run(log: Path, command: Sequence[str]) -> int:
        core = free.get()
        try:
            with log.open("a") as output:
                kept = [*command, "--core", str(core)]
                return subprocess.run(kept, stdout=output, stderr=output, check=False).returncode
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        found = [pool.submit(run, *one) for one in commands.items()]
        while wait(found, PATIENCE).not_done:
            look()
    look()
    return [one.result() for one in found]
