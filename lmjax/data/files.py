"""Files of text: found by paths and globs, on disk or on gs://, and read line by line, plain or .gz."""

import codecs
import contextlib
import csv
import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from lmjax.errors import UserError

CHUNK = 1 << 20  # bytes read at once


def data_folder(*parts: str) -> str:
    """A folder of the data, under $LMJAX_DATA or ../shared/data."""
    return os.path.join(os.environ.get("LMJAX_DATA", "../shared/data"), *parts)


def find_files(patterns: tuple[str, ...]) -> list[tuple[str, epath.Path]]:
    """Each file once, in order, with its name below the part of its pattern that has no wildcard.

    Raises:
      UserError: a pattern that no file matches.
    """
    if isinstance(patterns, str):
        raise UserError(f"paths is a tuple: write paths=({patterns!r},)")
    found: dict[epath.Path, str] = {}
    for pattern in patterns:
        path = epath.Path(pattern).expanduser()
        parts = path.parts
        wild = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        if wild == len(parts) or path.exists():
            root, matches = path.parent, [path]
        else:
            root = epath.Path(*parts[:wild])
            matches = _glob(root, "/".join(parts[wild:]))
        files = [match for match in matches if match.is_file()]
        if not files:
            mend = f"it is a directory; write {path}/*.txt" if path.is_dir() else "give an existing file, or a glob"
            raise UserError(f"no file {pattern}: {mend}")
        found |= {file: file.relative_to(root).as_posix() for file in files if file not in found}
    return [(name, file) for file, name in found.items()]


def _glob(root: epath.Path, wild: str) -> list[epath.Path]:
    if "://" not in os.fspath(root):  # epath's own glob knows no "**"
        return [root / found for found in sorted(glob.glob(wild, root_dir=root, recursive=True))]
    try:
        return sorted(root.glob(wild))
    except NotImplementedError:
        raise UserError(f"{root}/{wild}: ** works on local paths only; name each level with its own *") from None


def json_rows(path: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a file of JSON lines, blank ones passed over. Raises UserError for others."""
    for number, line in enumerate(read_lines(path, "utf-8"), 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line.rstrip("\n"))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg}, column {error.colno})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object")
        if "\\ud" in line.lower():
            check_encodable(row, f"{path}, line {number}")
        yield number, row


def check_encodable(row: Any, where: str) -> None:
    r"""Raises UserError for half a character (\ud800), which JSON may spell and no text file can hold."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise UserError(f"{where}: {half!r} is half of a character (a lone surrogate); mend or drop it") from None


def csv_rows(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """(line number of its end, cells) of comma-separated rows in UTF-8, whose quoted cells may have line ends; without
    blank ones. Raises UserError for a quote that is never closed, or closed amid a cell."""
    reader, begin = csv.reader(read_lines(path, "utf-8"), strict=True), 1
    try:
        for row in reader:
            begin = reader.line_num + 1
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {begin}: a quote does not end with its cell ({error})") from None


def read_lines(path: epath.Path, encoding: str) -> Iterator[str]:
    """Lines with their "\\n", whatever line ends the file has, without holding the file in memory.

    Raises:
      UserError: an unknown encoding, bytes that are none of it (naming the first), or a file that cannot be read.
    """
    codec = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        with _open(path) as data, io.TextIOWrapper(data, codec) as file:
            yield from file
    except LookupError:
        raise UserError(f"unknown encoding '{encoding}'; it is one of Python's: utf-8, latin-1, gb18030 ...") from None
    except UnicodeDecodeError as error:
        where = f"{path}: not {encoding} at byte {_bad_byte(path, encoding)}"
        raise UserError(f"{where} ({error.reason}); state its encoding, or mend it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from None


@contextlib.contextmanager
def _open(path: epath.Path) -> Iterator[Any]:
    with path.open("rb") as file:
        yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file


def _bad_byte(path: epath.Path, encoding: str) -> int:
    """Offset of the first byte (of the unpacked data, for .gz) that `encoding` cannot read."""
    decoder, offset = codecs.getincrementaldecoder(encoding)(), 0
    with _open(path) as data:
        while True:
            chunk, pending = data.read(CHUNK), len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return offset - pending + error.start
            if not chunk:
                return offset
            offset += len(chunk)
