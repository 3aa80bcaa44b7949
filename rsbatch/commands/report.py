"""`rsbatch report`: the images in a page. Reads without the lock, also while a run goes on.

Rule: writes the page and its small pictures, and nothing else; no file that is not such a page is replaced.
"""

from __future__ import annotations

import argparse
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Final

from rsbatch.commands.common import add_manifest_arguments, command_words, project_of, say
from rsbatch.errors import StoreError, UsageError
from rsbatch.ledger.local import NAME, stamp_of
from rsbatch.session import Project

PAGE: Final = "report.html"
STAMP: Final = "stamp.svg"
PAUSE: Final = 2.0
"""Seconds between two looks at the ledger while watching."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch report`."""
    add_manifest_arguments(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"where to (default: {PAGE} in the output folder)")
    parser.add_argument(
        "--watch", action="store_true", help="write it again whenever the ledger changes, until Ctrl-C; it shows so"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and print where it is; gives the exit code."""
    project = project_of(args)
    out = args.out if args.out is not None else project.folder / PAGE
    writer = Writer(project, out, command_words(args, project.manifest))
    count = writer.write()
    if not (project.folder / NAME).exists():
        sys.stderr.write(f"there is no ledger in {project.folder} yet: the page shows what the manifest asks for\n")
    say(f"{count} tasks: {writer.out}")
    sys.stdout.flush()
    if args.watch:
        sys.stderr.write("watching; Ctrl-C ends it\n")
        with suppress(KeyboardInterrupt):
            watch(writer, time.sleep)
        writer.write()
    return 0


def check_place(out: Path) -> None:
    """Refuse to put a page in the place of something else; raises UsageError or StoreError."""
    from rsbatch.report.page import GENERATOR

    try:
        if not stat.S_ISREG(out.stat().st_mode):
            raise StoreError(f"cannot write {out}: it is a folder, a pipe or a device; name a file with --out")
        with out.open("rb") as file:
            head = file.read(500)  # nothing at all is what a power cut leaves of a page
            if head and GENERATOR.encode() not in head:
                raise UsageError(f"{out} is there and is not a report of rsbatch; name another file with --out")
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise StoreError(f"cannot write {out}: {exc.strerror or exc}") from exc


class Writer:
    """Writes one page, once or again and again. `command` finds the ledger again, quoted for a shell."""

    def __init__(self, project: Project, out: Path, command: str) -> None:
        from rsbatch.report.thumbnails import Thumbnails

        self.project = project
        self.out = out.resolve()  # a link stays one
        self._command = command
        self._thumbnails = Thumbnails(self.out)

    def write(self, number: int | None = None) -> int:
        """Write the page; gives how many tasks it shows. With a number, it shows when a newer one is there."""
        from rsbatch.report.gather import gather
        from rsbatch.report.page import Assets, render
        from rsbatch.report.thumbnails import write_whole

        check_place(self.out)  # each time: it may be somebody's by now
        gathered = gather(self.project, self.out, self._command, time.time(), live=number is not None)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            urls = self._thumbnails.urls(gathered.originals)
            stamp = self._thumbnails.folder / STAMP
            address = f"./{self._thumbnails.folder.name}/{STAMP}"
            report = replace(gathered.report, thumbnails=urls, stamp=None if number is None else (number, address))
            package = files("rsbatch.report")
            page = render(
                report, Assets(*((package / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js")))
            )
            write_whole(self.out, page.encode())
            if number is not None:
                self._thumbnails.folder.mkdir(exist_ok=True)
                svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{number}" height="1"/>'
                write_whole(stamp, svg.encode())
        except OSError as exc:
            raise StoreError(f"cannot write {exc.filename or self.out}: {exc.strerror or exc}") from exc
        return len(report.cards)


def watch(writer: Writer, sleep: Callable[[float], None]) -> None:
    """Write the page whenever the ledger has changed; ends by what `sleep` raises."""
    number, known = 0, None
    while True:
        found = stamp_of(writer.project.folder)
        took = 0.0
        if number == 0 or found != known:
            known, number = found, number % 10_000 + 1
            began = time.monotonic()
            writer.write(number)
            took = time.monotonic() - began
        sleep(max(PAUSE, 3 * took))  # a large ledger must not be read all the time
