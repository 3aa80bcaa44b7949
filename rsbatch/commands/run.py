"""`rsbatch run`: do what is left.

Rule: options and streams only; `rsbatch.session` puts the run together.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress
from typing import TextIO

from rsbatch.commands import plan as plan_command
from rsbatch.commands.common import (
    add_manifest_arguments,
    add_run_arguments,
    command_words,
    duration,
    print_json,
    project_of,
    run_words,
)
from rsbatch.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch run`."""
    add_manifest_arguments(parser)
    add_run_arguments(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="the same as `rsbatch plan`: submit nothing, write nothing")
    add("--grace", metavar="DUR", type=duration, help="after a signal, harvest for at most this long (default: 30s)")
    add("--quiet", action="store_true", help="say nothing unless there is trouble (for cron)")
    add(
        "--progress",
        choices=("auto", "bar", "log", "none"),
        default="auto",
        help="how to show progress (default: auto)",
    )
    add("--json", action="store_true", help="the summary as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Run it; gives the exit code."""
    if args.dry_run:
        args.requests = False
        return plan_command.run(args)
    import anyio

    from rsbatch.notices import yesterday
    from rsbatch.progress.choose import choose
    from rsbatch.session import Project
    from rsbatch.session import run as run_project
    from rsbatch.summary import Result, in_words

    project = project_of(args)
    observer = choose("none" if args.quiet else args.progress, sys.stderr)
    words = command_words(args)
    if (notice := yesterday(project, args.manifest)) is not None:
        observer.note(notice)

    async def main(project: Project) -> Result:
        with anyio.open_signal_receiver(*_signals()) as signals:
            return await run_project(project, observer, signals)

    try:
        result = anyio.run(main, project)
    finally:
        observer.close()
    with suppress(BrokenPipeError):  # nobody reads it: the exit code still says how the run ended
        if args.json:
            print_json(result.as_json())
        if not args.quiet or result.exit_code:
            lines = [*in_words(result, words, run_words(args)), f"images: {project.folder}"]
            if args.simulate:
                lines.append("simulated: no key was used and nothing was charged")
            _tell(lines, sys.stderr if args.json else sys.stdout)
    return result.exit_code


def _tell(lines: list[str], stream: TextIO) -> None:
    for line in lines:
        stream.write(printable(line) + "\n")


def _signals() -> list[signal.Signals]:
    """Give the signals to take: those that whoever started us has not set to be ignored (nohup does for SIGHUP)."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [s for s in wanted if signal.getsignal(s) is not signal.SIG_IGN]
