"""A package, since a dependency installs one of this name, which would hide `python -m benchmarks.NAME`."""
