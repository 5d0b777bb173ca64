"""One mesh for every run: axes `data`, `fsdp` and `tensor`, with the batch cut over the first two.

Parameters are placed by rules that stand beside each model: pairs of a path regex and a PartitionSpec. A rule names the
axes of one layer; a leaf under `layers` carries a leading layer axis, which is never cut.
"""

import itertools
import json
import math
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # its client has no public name
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.errors import UserError
from lmjax.types import Array

BATCH_AXES = ("data", "fsdp")
CLUSTER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")  # the first is JAX's own
WEEK = 7 * 24 * 3600 * 1000  # in milliseconds
_CALLS = itertools.count()
Rules = Sequence[tuple[str, P]]


def initialize_distributed() -> None:
    """Joins the processes that CLUSTER names or that JAX detects (TPU pods, SLURM, Kubernetes, Open MPI), or makes this
    process a cluster of one: notices of preemption need that. For entry points, first thing; never for library code.

    Raises:
      UserError: CLUSTER is set in part, or to what cannot be.
    """
    given = {name: value for name in CLUSTER if (value := os.environ.get(name))}
    try:
        address, *numbers = (given.get(name) for name in CLUSTER)
        if address and not re.fullmatch(r".+:\d+", address):
            raise ValueError("the address is HOST:PORT of process 0.")
        processes, process = (int(number) if number else None for number in numbers)
        jax.distributed.initialize(address, processes, process)
    except ValueError as error:
        if given:
            values = " ".join(f"{name}={value}" for name, value in given.items())
            raise UserError(f"{values}: {error} Set {', '.join(CLUSTER)}, or none of them") from None
        with socket.socket() as free:  # no cluster found
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        jax.config.update("jax_cpu_collectives_implementation", None)  # gloo, the default, prints to stdout
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=1, process_id=0)


def on_first_process(work: Callable[[], str | None]) -> str:
    """What `work` returns on process 0 ("" for None), on every process; the others wait for it, however long it takes.

    Every process must call it. It goes over the coordination service: a collective of devices would give up waiting
    (on CPUs after 30 s).

    Raises:
      UserError: `work` raised it; on the other processes for any other error, too.
    """
    if jax.process_count() == 1:
        return work() or ""
    client, key = distributed.global_state.client, f"lmjax/{next(_CALLS)}"
    assert client
    if jax.process_index() > 0:
        failed, said = json.loads(client.blocking_key_value_get(key, WEEK))
        if failed:
            raise UserError(said)
        return said
    try:
        said = work() or ""
    except Exception as error:
        client.key_value_set(key, json.dumps((True, str(error))))
        raise
    client.key_value_set(key, json.dumps((False, said)))
    return said


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 means the rest (at most one axis)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices (or the given ones). Raises UserError where the sizes do not multiply to their number."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = [cfg.data, cfg.fsdp, cfg.tensor]
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise UserError(f"mesh {tuple(sizes)}: sizes are positive, and at most one is -1 (the rest)")
    known = math.prod(s for s in sizes if s > 0)
    sizes = [len(devices) // known if s == -1 else s for s in sizes]
    if math.prod(sizes) != len(devices):
        raise UserError(f"mesh data={cfg.data} fsdp={cfg.fsdp} tensor={cfg.tensor} does not fit {len(devices)} devices")
    # Auto: the default, Explicit, makes with_sharding_constraint an assertion, and Linen's layers pass no out_sharding.
    return jax.make_mesh(tuple(sizes), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=devices)


def current_mesh() -> Any | None:
    """The mesh that `jax.set_mesh` put in force, or None. Works under tracing."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def constrain(x: Array, *axes: Any) -> Array:
    """Pins the placement of an activation; does nothing without a mesh, so that models run bare."""
    return x if current_mesh() is None else jax.lax.with_sharding_constraint(x, P(*axes))


def path_of(key_path: Sequence[Any]) -> str:
    """`layers/attention/query/kernel` for a path as `jax.tree_util` gives it."""
    return jax.tree_util.keystr(tuple(key_path), simple=True, separator="/")


def spec_for(rules: Rules, path: str) -> P:
    """The PartitionSpec of the one rule whose regex matches the whole path. Raises UserError unless just one does."""
    found = [spec for regex, spec in rules if re.fullmatch(regex, path)]
    if len(found) != 1:
        raise UserError(f"parameter {path} matches {len(found)} sharding rules; it must match exactly one")
    return P(None, *found[0]) if is_stacked(path) else found[0]


def is_stacked(path: str) -> bool:
    """Whether a parameter holds all layers of a stack, along its first axis: it stands under `layers`."""
    return "layers" in path.split("/")


def shardings(rules: Rules, params: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of `params` (arrays or ShapeDtypeStructs).

    Raises:
      UserError: an unmatched parameter, or an axis that the mesh does not divide.
    """

    def place(key_path: Sequence[Any], leaf: Any) -> NamedSharding:
        path = path_of(key_path)
        spec = spec_for(rules, path)
        for axis, names in enumerate(spec):
            parts = math.prod(mesh.shape[n] for n in ([names] if isinstance(names, str) else names or ()))
            if leaf.shape[axis] % parts:
                raise UserError(
                    f"{path}: axis {axis} of shape {leaf.shape} is not divisible by mesh axes {names} = {parts}; "
                    "choose other mesh sizes"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, params)


def like_params(tree: Any, params: Any, param_shardings: Any, mesh: Mesh) -> Any:
    """Shardings for optimizer state: a leaf whose path ends in a parameter's path, with its shape, lies as that
    parameter does; every other leaf (counts, factored moments) is replicated."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    placed = {path_of(p): (x.shape, s) for (p, x), s in zip(flat, jax.tree.leaves(param_shardings), strict=True)}

    def place(key_path: Sequence[Any], leaf: Any) -> NamedSharding:
        parts = path_of(key_path).split("/")
        for start in range(len(parts)):
            shape, sharding = placed.get("/".join(parts[start:]), (None, None))
            if sharding is not None and shape == leaf.shape:
                return sharding
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_sharding(mesh: Mesh, micro_batched: bool = True) -> Callable[[Any], NamedSharding]:
    """How a feature lies: rows over (data, fsdp), behind a micro-batch axis if `micro_batched`; scalars whole."""

    def place(leaf: Any) -> NamedSharding:
        if np.ndim(leaf) == 0:
            return NamedSharding(mesh, P())
        return NamedSharding(mesh, P(None, BATCH_AXES) if micro_batched else P(BATCH_AXES))

    return place


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """Which of how many shares of a batch's rows this process gives: (index, count). Processes whose devices hold the
    same rows, as those along `tensor` do, have one share together.

    Raises:
      UserError: two processes have some rows in common and others not.
    """
    parts, held = math.prod(mesh.shape[axis] for axis in BATCH_AXES), {}
    for device, (rows,) in NamedSharding(mesh, P(BATCH_AXES)).devices_indices_map((parts,)).items():
        held.setdefault(device.process_index, set()).add(rows.start or 0)
    shares = sorted({tuple(sorted(places)) for places in held.values()})
    if len({place for share in shares for place in share}) != sum(map(len, shares)) or len(set(map(len, shares))) > 1:
        sizes = " ".join(f"{name}={size}" for name, size in mesh.shape.items())
        raise UserError(
            f"mesh {sizes}: processes have some of a batch's rows in common, and others not; let tensor divide the "
            "devices of a process, or be a multiple of them"
        )
    return shares.index(tuple(sorted(held[jax.process_index()]))), len(shares)


def global_batch(local: Mapping[str, np.ndarray], mesh: Mesh, micro_batched: bool = True) -> dict[str, Array]:
    """Joins each process's rows into global arrays on the mesh."""
    place = batch_sharding(mesh, micro_batched)
    return {k: jax.make_array_from_process_local_data(place(v), v) for k, v in local.items()}


def check_rows(rows: int, mesh: Mesh, what: str = "") -> None:
    """Raises UserError unless the mesh divides so many rows: a micro-batch's, or the field `what`."""
    parts = math.prod(mesh.shape[a] for a in BATCH_AXES)
    if rows % parts:
        name = f"{what} {rows}" if what else f"a micro-batch of {rows} rows"
        mend = f"change {what or 'batch_size, micro_batches'} or mesh"
        raise UserError(f"{name} is not divisible by data x fsdp = {parts}; {mend}")
