"""XLA's flags under which the suite compiles: in a quarter of the time, the same operations."""

from importlib.metadata import version

from packaging.version import Version

QUICKLY = "--xla_backend_optimization_level=0"
if Version(version("jax")) < Version("0.12"):  # later ones know no other emitters
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
