"""Where a run runs: the versions and the hardware on which its bits depend."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow", "tensorflow-cpu")


def environment() -> dict[str, Any]:
    """What a bitwise resume needs to find unchanged: versions, devices, processes, threads, flags and generator."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name: version for name in LIBRARIES if (version := _version(name))},
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "generator": str(jax.random.key_impl(jax.random.key(0))),
    }


def hardware_of(stored: Mapping[str, Any]) -> str:
    """The hardware of an `environment` in a few words."""
    if stored["device"].lower() == "cpu":
        threads = stored["threads"]
        return f"{threads} thread{'s' * (threads > 1)} of {stored['processor']}"
    return f"{stored['devices']} x {stored['device']}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
