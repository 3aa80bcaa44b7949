"""`rsbatch run`: do what is left.

Rule: options and streams only; `rsbatch.session` puts the run together.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

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
from rsbatch.errors import RsbatchError, UsageError
from rsbatch.text import printable

if TYPE_CHECKING:
    from rsbatch.progress.interface import Observer
    from rsbatch.progress.metrics import Metrics
    from rsbatch.session import Project
    from rsbatch.summary import Result


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
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: every line on standard error is an object, for log collectors (default: text)",
    )
    add("--metrics", metavar="FILE", type=Path, help="keep figures in this file, for Prometheus' node exporter")
    add("--report", action="store_true", help="write the images into a page at the end, as `rsbatch report` does")
    add("--json", action="store_true", help="the summary as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Run it; gives the exit code."""
    if args.dry_run:
        args.requests = False
        return plan_command.run(args)
    return execute(args, project_of(args))


def execute(args: argparse.Namespace, project: Project, pending: str = "") -> int:
    """Run a project to its end, with signals, progress and a summary; gives the exit code.

    `pending` is what else to say where selected tasks are still to come.
    """
    import anyio

    from rsbatch.notices import yesterday
    from rsbatch.planning import Category
    from rsbatch.progress.choose import Both
    from rsbatch.session import run as run_project
    from rsbatch.summary import in_words

    log = _log(args, project.manifest.name)
    metrics = _metrics(args, project.manifest.name, log.note)
    observer = log if metrics is None else Both(log, metrics)
    if (notice := yesterday(project, args.manifest)) is not None:
        observer.note(notice)

    async def main(project: Project) -> Result:
        with anyio.open_signal_receiver(*_signals()) as signals:
            return await run_project(project, observer, signals)

    try:
        result = anyio.run(main, project)
    finally:
        observer.close()
    if metrics is not None:
        metrics.ended(result)
    words = run_words(args, project.manifest, result.this_run.submitted)
    lines = in_words(result, command_words(args, project.manifest), words)
    if pending and result.selected[Category.PENDING]:
        lines.append(pending)
    lines.append(f"images: {project.folder}")
    if args.report:
        lines.append(_report(args, project))
    if args.simulate:
        lines.append("simulated: no key was used and nothing was charged")
    with suppress(BrokenPipeError):  # nobody reads it: the exit code still says how the run ended
        _tell(args, result, lines, log)
    return result.exit_code


def _log(args: argparse.Namespace, manifest: str) -> Observer:
    from rsbatch.progress.choose import Mode, choose
    from rsbatch.progress.log import JsonLog

    progress: Mode = "none" if args.quiet else args.progress
    if args.log_format == "text":
        return choose(progress, sys.stderr)
    if progress == "bar":
        raise UsageError("--progress bar and --log-format json exclude each other; nothing was submitted")
    return JsonLog(sys.stderr, manifest, quiet=progress == "none")


def _metrics(args: argparse.Namespace, manifest: str, say: Callable[[str], None]) -> Metrics | None:
    if args.metrics is None:
        return None
    from rsbatch.progress.metrics import Metrics

    return Metrics(args.metrics, manifest, say)


def _report(args: argparse.Namespace, project: Project) -> str:
    """Write the report; says where it is, or why there is none: the run has ended as it has."""
    from rsbatch.commands.report import PAGE, Writer

    out = project.folder / PAGE
    try:
        Writer(project, out, command_words(args, project.manifest)).write()
    except RsbatchError as exc:
        return f"no report: {exc}"
    except KeyboardInterrupt:  # its signals are no longer the run's
        return f"no report: interrupted; to write it: rsbatch report {command_words(args, project.manifest)}"
    return f"report: {out}"


def _tell(args: argparse.Namespace, result: Result, lines: list[str], log: Observer) -> None:
    from rsbatch.progress.log import JsonLog

    if args.json:
        print_json(result.as_json())
    if args.quiet and not result.exit_code:
        return
    if isinstance(log, JsonLog):
        log.ended(result, lines)
    else:
        stream = sys.stderr if args.json else sys.stdout
        for line in lines:  # not `writelines`: only `write` knows what to do when nobody reads on
            stream.write(printable(line) + "\n")


def _signals() -> list[signal.Signals]:
    """Give the signals to take: those that whoever started us has not set to be ignored (nohup does for SIGHUP)."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [s for s in wanted if signal.getsignal(s) is not signal.SIG_IGN]
