"""What the commands share: options with one meaning everywhere, and the way from them to a project.

Rule: every command with MANIFEST takes the same options that decide which ledger is meant, so that all of them
find the one `run` writes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from rsbatch.errors import UsageError
from rsbatch.manifest.expand import Manifest
from rsbatch.model import Selection
from rsbatch.session import Options, Project, open_project
from rsbatch.text import printable
from rsbatch.units import parse_duration, parse_money

T = TypeVar("T")


def add_manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add MANIFEST and the options that decide which ledger is meant."""
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest, a YAML file")
    parser.add_argument("--simulate", action="store_true", help="against the built-in simulator: no key, no cost")
    parser.add_argument("--output", metavar="DIR", type=Path, help="output folder (relative to the working directory)")
    parser.add_argument("--var", metavar="K=V", action="append", default=[], type=_pair, help="set a template variable")
    parser.add_argument("--date", metavar="D", help="run.date in templates, YYYY-MM-DD (default: today, UTC)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` and `plan` share: what may be submitted, and how much of it."""
    add = parser.add_argument
    add(
        "--select",
        metavar="PATTERN",
        action="append",
        default=[],
        help="submit only ids that match this glob (repeatable)",
    )
    add(
        "--limit",
        metavar="N",
        type=_checked(_count, "a number of tasks"),
        help="submit only the first N of what is left",
    )
    add_term_arguments(parser)


def add_term_arguments(parser: argparse.ArgumentParser) -> None:
    """Add on what terms tasks may be submitted, of `redo` too."""
    add = parser.add_argument
    add("--retry-failed", action="store_true", help="submit finally failed tasks again; they cost again")
    add(
        "--rebuy-missing",
        action="store_true",
        help="submit saved tasks again whose files are gone and whose jobs no longer answer",
    )
    add("--in-doubt", choices=("hold", "resubmit"), help="what to do with held tasks (default: hold)")
    add(
        "--in-flight",
        metavar="N",
        type=_checked(_positive, "a number from 1"),
        help="jobs the service holds at once, at most",
    )
    add(
        "--budget",
        metavar="USD",
        type=_checked(parse_money, "US dollars"),
        help="US dollars this ledger may spend in all",
    )
    add(
        "--stop-after",
        metavar="DUR",
        type=_checked(parse_duration, "a duration"),
        help="stop submitting after this time, such as 6h",
    )


def duration(text: str) -> float:
    """Read a duration option, in seconds."""
    return _checked(parse_duration, "a duration")(text)


def options_of(args: argparse.Namespace) -> Options:
    """Turn parsed options into values."""
    given = vars(args)
    selection = Selection(
        patterns=tuple(given.get("select") or ()),
        limit=given.get("limit"),
        retry_failed=bool(given.get("retry_failed")),
        rebuy_missing=bool(given.get("rebuy_missing")),
    )
    limits = {"in_flight": given.get("in_flight")}
    rules = {name: given.get(name) for name in ("in_doubt", "budget", "stop_after")}
    return Options(
        simulate=args.simulate,
        output=args.output,
        variables=dict(args.var),
        date=args.date,
        selection=selection,
        limits={name: value for name, value in limits.items() if value is not None},
        rules={name: value for name, value in rules.items() if value is not None},
        grace=30.0 if given.get("grace") is None else given["grace"],
    )


def project_of(args: argparse.Namespace) -> Project:
    """Load the manifest that the options name; raises UsageError for places whose names are no text."""
    for path in (args.manifest, args.output, getattr(args, "out", None)):
        name = os.path.abspath(path or "")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name!a}: the name is not UTF-8; rename it. Nothing was submitted") from None
    return open_project(args.manifest, options_of(args))


def command_words(args: argparse.Namespace, manifest: Manifest) -> str:
    """Give MANIFEST and the options that find the same ledger and tasks again, on another day too; for a shell."""
    import shlex

    words = [str(args.manifest)]
    words += ["--simulate"] if args.simulate else []
    words += ["--output", str(args.output)] if args.output else []
    words += [word for name, value in args.var for word in ("--var", f"{name}={value}")]
    words += ["--date", manifest.run_date] if args.date or manifest.dated else []
    return shlex.join(words)


def run_words(args: argparse.Namespace, manifest: Manifest, submitted: int) -> str:
    """Give the command that goes on with this one: what `command_words` gives, and what is left of what it may do.

    What buys the same again is left out: to go on must not pay once more for what failed once more. `submitted` of
    its `--limit` are used up.
    """
    import shlex

    words = ["--from", str(args.rejects)] if args.command == "redo" else []
    if getattr(args, "limit", None) is not None:  # redo has none
        words += ["--limit", str(max(0, args.limit - submitted))]
    for name in ("in_flight", "budget"):
        value = getattr(args, name, None)
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    words += ["--in-doubt", "hold"] if args.in_doubt == "hold" else []
    words += [word for pattern in args.select for word in ("--select", pattern)]
    return " ".join([args.command, command_words(args, manifest), *([shlex.join(words)] if words else [])])


def print_json(value: Any) -> None:
    """Print one object on a line of standard output; money comes as text already."""
    ascii_only = "utf" not in (sys.stdout.encoding or "utf-8").lower()
    sys.stdout.write(json.dumps(value, ensure_ascii=ascii_only, default=_json_default) + "\n")


def say(text: str) -> None:
    """Print a line of results; nothing in it can steer the terminal."""
    sys.stdout.write(printable(text) + "\n")


def _json_default(value: object) -> str:
    if isinstance(value, Decimal | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError(f"{text!r} is not a number of tasks, 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise ValueError(f"{text!r} is not a number from 1")
    return int(text)


def _checked(convert: Callable[[str], T], name: str) -> Callable[[str], T]:
    """Make an argparse type of a converter whose ValueError is meant for people."""

    def converted(text: str) -> T:
        try:
            return convert(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    converted.__name__ = name
    return converted
