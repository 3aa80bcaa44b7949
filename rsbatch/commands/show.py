"""`rsbatch show`: one task's history, every record.

Rule: reads the ledger's lines as they are, without the lock.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from rsbatch.commands.common import add_manifest_arguments, print_json, project_of, say
from rsbatch.errors import UsageError
from rsbatch.ledger.local import NAME
from rsbatch.ledger.replay import records
from rsbatch.session import Project

_COMMON = {"v", "seq", "ts", "run", "type", "task", "key", "crc"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch show`."""
    add_manifest_arguments(parser)
    parser.add_argument("task", metavar="TASK", help="the task's id")
    parser.add_argument("--json", action="store_true", help="the records as they are, one a line")


def run(args: argparse.Namespace) -> int:
    """Print the records; gives the exit code."""
    project = project_of(args)
    project.read_state()
    found = False
    for record in _history(project, args.task):
        if args.json:
            print_json(record)
        else:
            if not found:
                say(f"{record['task']}  key {record['key']}")
            say(f"{record['ts']}  {record['type']:<14}{_fields(record)}")
        found = True
    if not found:
        raise UsageError(f"the ledger has no task {args.task}; `rsbatch plan` lists the manifest's tasks")
    return 0


def _history(project: Project, task: str) -> Iterator[dict[str, Any]]:
    """Give the records of a task, those under ids that it had before included."""
    path = project.folder / NAME
    names = _names(project, task)
    try:
        with path.open("rb") as file:
            for record in records(file, str(path)):
                if (record.get("task"), record.get("key")) in names:
                    yield record
    except FileNotFoundError:
        return


def _names(project: Project, task: str) -> set[tuple[str, str]]:
    path = project.folder / NAME
    names: set[tuple[str, str]] = set()
    renames: list[tuple[str, str, str]] = []
    if not path.exists():
        return names
    with path.open("rb") as file:
        for record in records(file, str(path)):
            if record.get("task") == task:
                names.add((task, record["key"]))
            if record["type"] == "renamed":
                renames.append((record["from"], record["task"], record["key"]))
    for old, new, key in reversed(renames):
        if (new, key) in names:
            names.add((old, key))
    return names


def _fields(record: dict[str, Any]) -> str:
    fields = {name: value for name, value in record.items() if name not in _COMMON}
    return "  ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
