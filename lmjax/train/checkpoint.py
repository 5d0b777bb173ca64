"""Checkpoints that keep their promise: Orbax writes them asynchronously, a manifest of checksums proves them.

A run directory holds `config.json`, `.lock` and `checkpoints/STEP/`, each with a `config.json` and a `manifest.json`.
Orbax alone restores flipped bits silently, casts dtypes silently and never steps back past a damaged checkpoint. So
each one is sealed (every file hashed and synced to disk) before Orbax renames it into place: whatever bears its final
name has a manifest, whenever the process is killed, and what has none, or fails it, is set aside and never loaded.
"""

import contextlib
import itertools
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lmjax import config
from lmjax.errors import UserError
from lmjax.parallel import on_first_process, path_of
from lmjax.train.files import absolute, damage, locked, seal, sync, write_atomically
from lmjax.types import Params, TrainState

# Orbax logs the whole traceback of each error that it raises as well, and warns of metadata that nobody asked for.
for _logger in ("absl", "asyncio"):
    logging.getLogger(_logger).addFilter(lambda record: "orbax" not in record.pathname + record.getMessage())


@dataclass(frozen=True)
class CheckpointConfig:
    """A checkpoint each `every` steps; the last `keep` stay, and those at multiples of `keep_period` (0 = none)."""

    every: int = 1000
    keep: int = 3
    keep_period: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1 or self.keep_period < 0:
            raise UserError(f"{self}: every and keep must be at least 1, keep_period at least 0")


class Checkpoints:
    """The checkpoints of one run, held by this process until `close`.

    The state of the lowest held-out loss stays too: `state.extra["best"]["step"]` names it, where there is one. Because
    that number is part of the state, a killed and resumed run makes the same choices.
    """

    def __init__(self, run_dir: epath.PathLike, cfg: CheckpointConfig, run_config: Any):
        """Takes the directory for `run_config` (the whole run's dataclass), and stores it there.

        Raises:
          UserError: another process holds the directory, or it belongs to a run of another meaning.
        """
        self._cfg, self._run_config = cfg, run_config
        run_dir = absolute(run_dir)
        self._dir = run_dir / "checkpoints"
        self._saving = self._best = -1
        with contextlib.ExitStack() as stack:

            def take() -> None:
                run_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(run_dir))

            on_first_process(take)
            check_same_run(run_dir, run_config)
            if jax.process_index() == 0:
                write_atomically(run_dir / "config.json", json.dumps(config.stored(run_config), indent=2))
            options = ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                lightweight_initialize=True,  # a damaged checkpoint must not stop us here
                preservation_policy=self,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            )
            self._manager = ocp.CheckpointManager(self._dir, options=options)
            stack.callback(self._manager.close)
            self._closing = stack.pop_all()

    def save(self, state: TrainState, *, wait: bool = False) -> None:
        """Starts to write `state`, or returns at once when its step is there already. `wait` until it is on disk.

        Raises:
          UserError: this save, or the one before it, failed.
        """
        step = int(state.step)
        with self._failing():
            self._manager.wait_until_finished()
            if step not in self._manager.all_steps():
                self._saving = step
                self._best = int(state.extra["best"]["step"]) if "best" in state.extra else -1
                arrays = {k: jax.random.key_data(v) if _is_key(v) else v for k, v in _leaves(state).items()}
                self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(arrays)), force=True)
            if wait:
                self._manager.wait_until_finished()
                sync(self._dir)

    def check(self) -> None:
        """Raises UserError if a save in the background has failed; never waits for one. To be called at each log step.

        Orbax's own `check_for_errors` would take the error away from the thread that deletes old checkpoints, which
        would then delete the last sound one.
        """
        with self._failing():
            if not any(thread.name == "save_finalize" for thread in threading.enumerate()):
                self._manager.wait_until_finished()

    def restore_latest_valid(self, abstract_state: TrainState) -> TrainState | None:
        """The newest state whose checksums hold, placed as `abstract_state` says; None where none was ever made.

        A damaged checkpoint is renamed to STEP.bad, with a line on stderr, and the one before it is tried.

        Raises:
          UserError: checkpoints exist but none is sound, or one does not fit `abstract_state`.
        """
        if not (step := on_first_process(self._newest_sound)):
            return None
        self._manager.reload()
        return _load(self._dir / step, abstract_state)

    def close(self) -> None:
        """Waits for the last save and gives the directory back. Raises UserError if that save failed."""
        with self._failing(), self._closing:
            self._manager.wait_until_finished()
            sync(self._dir)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        with contextlib.suppress(UserError) if kind else contextlib.nullcontext():  # the first error is the one to see
            self.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's preservation policy: one answer for each checkpoint, in order of steps."""
        latest = {c.step for c in checkpoints[-self._cfg.keep :]} | {self._best}
        period = self._cfg.keep_period
        return [c.step in latest or (period > 0 and c.step % period == 0) for c in checkpoints]

    def _newest_sound(self) -> str:
        """The newest step whose checksums hold, "" where none was ever made; sets the damaged ones above it aside."""
        for step in reversed(steps_of(self._dir.parent)):
            directory = self._dir / str(step)
            if not (problem := damage(directory)):
                return str(step)
            names = (self._dir / f"{step}.bad{n or ''}" for n in itertools.count())
            aside = directory.rename(next(name for name in names if not name.exists()))
            print(f"lmjax: checkpoint {step} is damaged ({problem}); set aside as {aside}", file=sys.stderr)
        if list(self._dir.glob("*.bad*")):
            raise UserError(
                f"{self._dir}: checkpoints exist but none is sound, and a run never starts over on top of them; "
                "bring back a sound copy as checkpoints/STEP, or choose another run directory"
            )
        return ""

    def _seal(self) -> None:
        """Adds config and manifest. Orbax calls it on process 0 when all arrays are written, before the commit."""
        unfinished = list(self._dir.glob(f"{self._saving}.orbax-checkpoint-tmp*"))
        directory = unfinished[0] if unfinished else self._dir / str(self._saving)  # object stores commit by a marker
        (directory / "config.json").write_text(json.dumps(config.stored(self._run_config), indent=2))
        seal(directory)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self._dir / str(self._saving)} was not written: {error}; free the cause (a full disk?) and run the "
                "same command again: it resumes from the checkpoint before"
            ) from error


def check_same_run(run_dir: epath.PathLike, run_config: Any) -> None:
    """`check_same_meaning` where there is a checkpoint: a run that came to none has left nothing to go on with."""
    if steps_of(run_dir):
        check_same_meaning(run_dir, run_config)


def check_same_meaning(run_dir: epath.PathLike, run_config: Any) -> None:
    """Raises UserError, naming the keys, where `run_dir` holds a run whose config has another meaning."""
    if not (epath.Path(run_dir) / "config.json").exists():
        return
    old = config.from_stored(type(run_config), read_config(run_dir), f"{run_dir}/config.json")
    if changed := config.differences(old, run_config):
        raise UserError(
            f"{run_dir} holds a run of another config: {', '.join(changed)}; "
            "choose another run directory, or undo the change"
        )


def read_config(path: epath.PathLike) -> dict[str, Any]:
    """The stored config (see `config.stored`) of a run directory, of RUN/best or of one checkpoint."""
    file = epath.Path(path) / "config.json"
    if not file.exists():
        file = find(path) / "config.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no readable config: {error}; each checkpoint holds a copy of it") from None


def find(path: epath.PathLike) -> epath.Path:
    """The checkpoint that `path` means: itself, the newest of a run, or the one of lowest held-out loss (RUN/best).

    Raises:
      UserError: there is none.
    """
    path = absolute(path)
    if (path / "state").is_dir():
        return path
    if path.name == "best" and not path.exists():
        step = read_arrays(find(path.parent), lambda name: name == "extra/best/step").get("extra/best/step", -1)
        if step < 0:
            raise UserError(f"{path}: this run has no best checkpoint; it was never evaluated on held-out data")
        return path.parent / "checkpoints" / str(step)
    if not (steps := steps_of(path)):
        raise UserError(f"{path} holds no checkpoint: neither checkpoints/STEP nor state/ is there")
    return path / "checkpoints" / str(steps[-1])


def last_checkpoints(run_dir: epath.PathLike, count: int) -> list[epath.Path]:
    """A run's last `count` checkpoints, oldest first. Raises UserError where it holds fewer."""
    run_dir, steps = absolute(run_dir), steps_of(absolute(run_dir))
    if not 1 <= count <= len(steps):
        raise UserError(f"{run_dir} holds {len(steps)} checkpoints, not {count}; checkpoint.keep says how many stay")
    return [run_dir / "checkpoints" / str(step) for step in steps[-count:]]


def steps_of(run_dir: epath.PathLike) -> list[int]:
    """The steps of a run's checkpoints, ascending; none where there is no run."""
    directory = epath.Path(run_dir) / "checkpoints"
    return sorted(ocp.utils.checkpoint_steps(directory)) if directory.exists() else []


def restore_params(path: epath.PathLike, abstract_params: Params) -> Params:
    """The parameters alone, of a run directory, RUN/best or a checkpoint, placed as `abstract_params` says.

    Raises:
      UserError: no checkpoint, a damaged one, or one that does not fit.
    """
    return _load(sound(find(path)), {"params": abstract_params}, partial=True)["params"]


def sound(directory: epath.Path) -> epath.Path:
    """The directory itself. Raises UserError where its checksums do not hold."""
    if problem := damage(directory):
        raise UserError(f"checkpoint {directory} is damaged ({problem}); name another one of the run's checkpoints")
    return directory


def read_arrays(directory: epath.Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The stored leaves as numpy arrays by path (`params/...`, `opt_state/...`, `step`; `key` as key data)."""
    item = {k: v for k, v in _stored(directory).items() if wanted(k)}
    as_numpy = dict.fromkeys(item, ocp.RestoreArgs(restore_type=np.ndarray))
    return _read(directory, item, as_numpy) if item else {}


def _load(directory: epath.Path, abstract: Any, partial: bool = False) -> Any:
    leaves = _leaves(abstract)
    raw = {k: jax.eval_shape(jax.random.key_data, v) if _is_key(v) else v for k, v in leaves.items()}
    stored = _stored(directory)
    described = [{k: f"{np.dtype(v.dtype)}{tuple(v.shape)}" for k, v in tree.items()} for tree in (stored, raw)]
    names = sorted(described[1] if partial else {*described[0], *described[1]})
    have, want = ([tree.get(k, "nothing") for k in names] for tree in described)
    if wrong := [f"{k} is {h}, expected {w}" for k, h, w in zip(names, have, want, strict=True) if h != w]:
        raise UserError(f"checkpoint {directory} does not fit this model: {wrong[0]} ({len(wrong)} leaves differ)")
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    args = {
        k: ocp.ArrayRestoreArgs(sharding=getattr(v, "sharding", None) or default, dtype=raw[k].dtype)
        for k, v in leaves.items()
    }
    try:
        arrays = _read(directory, raw, args)
    except (ValueError, OSError) as error:
        raise UserError(f"checkpoint {directory} has the right checksums but does not load: {error}") from error
    typed = {k: jax.random.wrap_key_data(arrays[k], impl=_key_impl(v)) for k, v in leaves.items() if _is_key(v)}
    return jax.tree.unflatten(jax.tree.structure(abstract), [typed.get(k, arrays[k]) for k in leaves])


def _stored(directory: epath.Path) -> dict[str, Any]:
    return dict(ocp.PyTreeCheckpointHandler().metadata(directory / "state").tree)


def _read(directory: epath.Path, item: dict[str, Any], restore_args: dict[str, Any]) -> dict[str, Any]:
    args = ocp.args.PyTreeRestore(item, restore_args, partial_restore=True)
    return ocp.PyTreeCheckpointHandler().restore(directory / "state", args=args)


def _leaves(tree: Any) -> dict[str, Any]:
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> Any:
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)  # an abstract key is not asked directly
    return found[0]
