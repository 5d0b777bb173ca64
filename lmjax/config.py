"""Configs are frozen dataclasses: to JSON and back, overridden on the command line, compared by meaning.

A dataclass is stored as its class name and its fields. Nothing is executed by reading one: the class must be the
field's declared type or one of its subclasses.
"""

import dataclasses
import importlib.util
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lmjax.errors import UserError, did_you_mean

SCHEMA_VERSION = 2  # raised whenever a stored config would be read differently

T = TypeVar("T")


def operational(default: Any) -> Any:
    """A field that is not part of a run's meaning (mesh, cadence, logging): a resumed run may change it."""
    return dataclasses.field(default_factory=lambda: default, metadata={"operational": True})


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and scalars as plain JSON values; each dataclass carries its class name under "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return value


def from_json(declared: type[T], data: Any, where: str = "config") -> T:
    """The inverse of `to_json`.

    Raises:
      UserError: an unknown class or key, a missing key, or a value of the wrong type, named by its dotted path.
    """
    origin, args = typing.get_origin(declared), typing.get_args(declared)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in args:
            return None  # type: ignore[return-value]
        (inner,) = [a for a in args if a is not type(None)]
        return from_json(inner, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise UserError(f"{where}: expected a list, found {data!r}")
        inner = [args[0]] * len(data) if len(args) == 2 and args[1] is ... else args
        if len(inner) != len(data):
            raise UserError(f"{where}: expected {len(inner)} values, found {data!r}")
        values = zip(inner, data, strict=True)
        return tuple(from_json(a, v, f"{where}.{i}") for i, (a, v) in enumerate(values))  # type: ignore[return-value]
    if origin is typing.Literal:
        if data not in args:
            raise UserError(f"{where}: {data!r} is none of {', '.join(map(repr, args))}")
        return data
    if dataclasses.is_dataclass(declared):
        return _dataclass_from_json(declared, data, where)
    if declared is float and type(data) is int:
        return float(data)  # type: ignore[return-value]
    if type(data) is not declared:
        raise UserError(f"{where}: expected {getattr(declared, '__name__', declared)}, found {data!r}")
    return data


def _dataclass_from_json(declared: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object, found {data!r}")
    classes = {c.__name__: c for c in [declared, *_subclasses(declared)]}
    name = str(data.get("type", declared.__name__))
    if name not in classes:
        raise UserError(f"{where}: unknown type '{name}'{did_you_mean(name, classes)}")
    cls = classes[name]
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    for key in data:
        if key not in names and key != "type":
            raise UserError(f"{where}: unknown key '{key}'{did_you_mean(key, names)}")
    values = {k: from_json(hints[k], v, f"{where}.{k}") for k, v in data.items() if k in names}
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None


def _subclasses(cls: type) -> list[type]:
    return [s for c in cls.__subclasses__() for s in [c, *_subclasses(c)]]


def stored(cfg: Any) -> dict[str, Any]:
    """A config as it lies in a run and in each checkpoint: its JSON and the schema's version."""
    return {"schema_version": SCHEMA_VERSION, "config": to_json(cfg)}


def from_stored(declared: type[T], data: Any, where: str) -> T:
    """Reads what `stored` made. Raises UserError on another schema version."""
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        mend = "use the lmjax that wrote it, or start anew"
        raise UserError(f"{where}: config schema {version}, this lmjax reads {SCHEMA_VERSION}; {mend}")
    return from_json(declared, data["config"], where)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Dotted names of the fields whose change alters the meaning of a run (operational fields are passed over)."""
    if dataclasses.is_dataclass(old) and type(old) is type(new):
        fields = [f for f in dataclasses.fields(old) if not f.metadata.get("operational")]
        return [d for f in fields for d in differences(getattr(old, f.name), getattr(new, f.name), f"{where}.{f.name}")]
    if isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{where}.{i}")]
    return [] if old == new else [f"{where.lstrip('.')} ({_short(old)} -> {_short(new)})"]


def _short(value: Any) -> str:
    return type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)


def load_config(path: str, *declared: type[T]) -> T:
    """Calls `config()` of a Python config file, which returns one of the declared. Raises UserError naming the file."""
    file, names = Path(path), " or ".join(one.__name__ for one in declared)
    if not file.is_file():
        raise UserError(f"no config file {path}; the ready ones are under configs/")
    if file.suffix != ".py":
        raise UserError(f"{path} is no Python file; a config is a .py file that defines config() -> {names}")
    spec = importlib.util.spec_from_file_location(f"lmjax_config_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "config", None)):
        raise UserError(f"{path} defines no function config() -> {names}")
    cfg = module.config()
    if not isinstance(cfg, declared):
        raise UserError(f"{path}: config() returned {type(cfg).__name__}, not {names}")
    return cfg


def override(cfg: T, arguments: Sequence[str], prog: str) -> T:
    """Applies dotted overrides, `--optim.peak-lr 1e-4`. Help, or an error with the nearest name, ends the process."""
    import tyro  # 0.1 s, and only entry points need it

    return tyro.cli(type(cfg), default=cfg, args=arguments, prog=prog, config=(tyro.conf.AvoidSubcommands,))


def load_and_override(arguments: Sequence[str], prog: str, *declared: type[T]) -> T:
    """A command line `CONFIG.py [--field value ...]` as a config. Raises UserError without a config file."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"usage: {prog} CONFIG.py [--field value ...]; CONFIG.py --help lists the fields")
    return override(load_config(arguments[0], *declared), arguments[1:], f"{prog} {arguments[0]}")
