"""What a manifest names on disk: tables, globs and prompt files, relative to its folder.

Rule: tables of csv, tsv and jsonl are streamed, a row at a time; every fault names the file and, where there is
one, the line. Only regular files are read.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from rsbatch.errors import ManifestError
from rsbatch.manifest.faults import Fault, Place
from rsbatch.manifest.nodes import misread_below, misread_message, path_text
from rsbatch.manifest.sandbox import Row
from rsbatch.manifest.yaml import read_yaml

MAX_PROMPT_BYTES: Final = 1024 * 1024
MAX_TABLE_BYTES: Final = 64 * 1024 * 1024
"""For json and yaml tables, which are held in memory; the others may have any size."""


@dataclass(frozen=True, slots=True)
class Item:
    """One row or file: its 1-based number, how a message calls it, and its value in templates."""

    number: int
    label: str
    value: Mapping[str, Any]


def rows(folder: Path, name: str) -> Iterator[Item]:
    """Stream the rows of a table.

    Raises Fault (with a place in the table where there is one) if it cannot be read or has no rows.
    """
    reader = _READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise Fault(f"{name!r} is no table that rsbatch reads: csv, tsv, jsonl, json or yaml")
    path = regular_file(folder, name)
    number = 0
    try:
        for line, row in reader(path, name):
            number += 1
            label = f"row {number}" + (f", {name}:{line}" if line else f" of {name}")
            yield Item(number, label, row)
    except OSError as error:
        raise Fault(f"{name!r} cannot be read: {error.strerror or error}") from error
    if not number:
        raise Fault(f"the table {name!r} has no rows")


def files(folder: Path, pattern: str) -> list[Item]:
    """List the regular files that a glob matches, sorted by path. Raises Fault if there are none."""
    if not pattern:
        raise Fault("the pattern is empty")
    plain = re.sub(r"(\*\*/)+", "**/", pattern)  # each further ** would go through all folders again
    try:
        found = sorted(Path(match).as_posix() for match in glob.iglob(plain, root_dir=folder, recursive=True))
    except (ValueError, RecursionError, OSError) as error:
        raise Fault(f"the pattern {pattern!r} cannot be used: {error}") from error
    paths = [path for path in dict.fromkeys(found) if (folder / path).is_file()]
    if not paths:
        raise Fault(f"no file matches {pattern!r} in {folder}")
    for path in paths:
        if not path.isprintable():
            raise Fault(f"the file name {path!r} has characters in it that are no text")
    made = []
    for number, path in enumerate(paths, 1):
        pure = Path(path)
        made.append(Item(number, f"file {path}", {"path": path, "name": pure.name, "stem": pure.stem}))
    return made


def read_prompt(folder: Path, name: str) -> str:
    """Read a prompt file: UTF-8 text, at most 1 MiB, as it is but for a byte order mark. Raises Fault."""
    path = regular_file(folder, name)
    try:
        if path.stat().st_size > MAX_PROMPT_BYTES:
            raise Fault(f"{name!r} is larger than 1 MiB; that is no prompt")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault(f"{name!r} is not UTF-8 text") from error
    except OSError as error:
        raise Fault(f"{name!r} cannot be read: {error.strerror or error}") from error


def regular_file(folder: Path, name: str) -> Path:
    """Find a file relative to the manifest's folder. Raises Fault unless it is a regular file."""
    if not name or "\0" in name:
        raise Fault("the file's name is empty" if not name else "the file's name has a NUL in it")
    path = folder / name
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Fault(f"there is no file {name!r} in {folder}") from error
    except (OSError, ValueError) as error:
        raise Fault(f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise Fault(f"{name!r} is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
    return path


_Lines = Iterator[tuple[int, Row]]


def _csv(path: Path, name: str, delimiter: str) -> _Lines:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from _csv_rows(stream, name, delimiter)


def _csv_rows(stream: TextIO, name: str, delimiter: str) -> _Lines:
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    columns: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not cells:
                line = reader.line_num + 1
                continue
            if not columns:
                columns = _header(cells, name, line)
            elif len(cells) != len(columns):
                message = f"has {len(cells)} cells, the header {len(columns)}; quote cells that have {delimiter!r}"
                raise Fault(message, Place(name, line, 0, ""))
            else:
                yield line, Row(zip(columns, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise Fault(f"is not a table here: {error}", Place(name, line, 0, "")) from error
    except UnicodeDecodeError as error:
        raise Fault("is not UTF-8 text at or after this line; save it as UTF-8", Place(name, line, 0, "")) from error
    if not columns:
        raise Fault("is empty; its first line must name the columns", Place(name, 0, 0, ""))


def _header(cells: list[str], name: str, line: int) -> list[str]:
    columns = [cell.strip() for cell in cells]
    for index, column in enumerate(columns):
        if not column:
            raise Fault(f"column {index + 1} has no name", Place(name, line, 0, ""))
        if column in columns[:index]:
            raise Fault(f"the column {column!r} is there twice", Place(name, line, 0, ""))
    return columns


def _jsonl(path: Path, name: str) -> _Lines:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            data = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if data.strip():
                yield number, _row(parse_json(data, Place(name, number, 0, "")), Place(name, number, 0, ""))


def _json(path: Path, name: str) -> _Lines:
    place = Place(name, 0, 0, "")
    items = parse_json(_bounded(path, name).removeprefix(b"\xef\xbb\xbf"), place)
    if not isinstance(items, list):
        raise Fault("must be a list of objects", place)
    for index, item in enumerate(items):
        yield 0, _row(item, Place(name, 0, 0, f"[{index}]"))


def _yaml(path: Path, name: str) -> _Lines:
    try:
        root, problems = read_yaml(_bounded(path, name), name)
    except ManifestError as error:
        problem = error.problems[0]
        raise Fault(problem.message, Place(name, problem.line, problem.column, problem.path)) from error
    if problems:
        first = problems[0]
        raise Fault(first.message, Place(name, first.line, first.column, first.path))
    if root is None or not isinstance(root.value, list):
        raise Fault("must be a list of mappings", Place(name, 1, 1, ""))
    for steps, node in misread_below(root, [], exact=True):
        raise Fault(misread_message(node), Place(name, node.line, node.column, path_text(steps)))
    for index, node in (root.items or {}).items():
        yield node.line, _row(node.value, Place(name, node.line, node.column, f"[{index}]"))


def _bounded(path: Path, name: str) -> bytes:
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise Fault(f"{name!r} is larger than 64 MiB; write it as jsonl or csv, which are streamed")
    return path.read_bytes()


def _row(value: object, place: Place) -> Row:
    if not isinstance(value, dict):
        raise Fault("a row must be an object of columns and values", place)
    return Row(value)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def parse_json(data: bytes | str, place: Place | None) -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN. Raises Fault at `place`."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Fault("is not UTF-8 text; save it as UTF-8", place) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise Fault(f"is not JSON: {reason}", place) from error


_READERS: Final[dict[str, Callable[[Path, str], _Lines]]] = {
    ".csv": lambda path, name: _csv(path, name, ","),
    ".tsv": lambda path, name: _csv(path, name, "\t"),
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
}
