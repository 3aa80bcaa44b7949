"""The `rsbatch` command: parses, calls one command, owns the exit code.

Rule: this module imports no command before its name is known, and little else, so that `--help` and `--version` stay
quick (`typing` and `dataclasses` would double what they take); it is the only place that catches everything. No
traceback reaches a user without `--debug`.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from contextvars import copy_context
from io import StringIO

from rsbatch import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import Any, TextIO

COMMANDS = {
    "run": "do what is left: submit, poll, download, record; also resumes",
    "plan": "what run would do with each task, and what it would cost; writes nothing",
    "status": "counts, spend, the commonest errors, jobs still out",
    "show": "one task's history, every record",
    "report": "the images in a page, with filters, axes, problems, money and time",
    "redo": "buy new samples of the images that were rejected in the report",
    "verify": "compare the saved files with the ledger; --fix fetches them again",
    "resolve": "settle a held, parked or failed task by hand",
    "repair": "make a damaged or lost ledger usable again",
    "init": "write a commented manifest to start from",
    "schema": "print the manifest's JSON Schema, for editors",
    "completion": "print a script for bash, zsh or fish that completes commands and options",
    "simulate": "the service on loopback, for trying things out and for tests",
}
"""Every command with its one line of help; each lives in the module of its name in `rsbatch.commands`."""

_ABOUT = "Runs batches of image tasks through RouteScope: a manifest in, images and a resumable ledger out."
_EPILOG = """\
first steps:
  rsbatch init                            write a commented manifest.yaml
  rsbatch run manifest.yaml --simulate    try it: no key, no cost, real image files
  rsbatch plan manifest.yaml              see what it would submit and cost
  rsbatch run manifest.yaml               do it; run it again to go on after anything

exit codes: 0 all saved, 1 some failed or held, 2 wrong usage or manifest, 3 stopped early (run again),
4 ledger or output, 70 a bug, 75 another run holds the ledger, 129/130/143 interrupted
"""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; options are added to the command `only`, to all of them without it."""
    import argparse

    def plain(prog: str) -> argparse.HelpFormatter:
        return argparse.HelpFormatter(prog, width=_columns() - 2)

    parser = argparse.ArgumentParser(
        prog="rsbatch",
        description=_ABOUT,
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=_columns() - 2),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rsbatch {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands", prog="rsbatch"
    )
    for name, text in COMMANDS.items():
        meant = only in (None, name)
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=plain,
            add_help=meant,
            allow_abbrev=False,
        )
        if meant:
            _module(name).add_arguments(sub)
    return parser


_ROOMY = 60
"""Columns from which on only the commands' texts have to be wrapped."""


def overview(columns: int) -> str:
    """Give what argparse says of `--help` on `_ROOMY` columns or more; it would take a third as long again."""
    lines = [
        "usage: rsbatch [-h] [--version] COMMAND ...",
        f"\n{_ABOUT}\n\noptions:",
        "  -h, --help  show this help message and exit",
        "  --version   show program's version number and exit",
        "\ncommands:\n  COMMAND",
    ]
    indent = " " * 14
    for name, text in COMMANDS.items():
        rows = [f"    {name:10}"] if len(name) <= 8 else [f"    {name}", indent]
        for word in text.split():
            if len(rows[-1]) + len(word) > columns - 2:
                rows.append(indent)
            rows[-1] += f"{word} "
        lines += [row.rstrip() for row in rows]
    return "\n".join([*lines, "", _EPILOG])


def _columns() -> int:
    """How wide the terminal is; as `shutil.get_terminal_size`, the import of which takes a tenth of `--help`."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", "0"))) > 0:
            return columns
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def _module(command: str) -> Any:
    from importlib import import_module

    return import_module(f"rsbatch.commands.{command}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    with _safe_streams():
        try:
            return copy_context().run(_main, argv)
        except KeyboardInterrupt:
            return 130  # as Exit.SIGINT, which may be what is being imported


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        sys.stdout.write(f"rsbatch {__version__}\n")
        return 0
    if words in (["--help"], ["-h"]) and (columns := _columns()) >= _ROOMY:
        sys.stdout.write(overview(columns))
        return 0
    command = next((word for word in words if word in COMMANDS), "")
    args = _parsed(build_parser(only=command), words)
    if isinstance(args, int):
        return args
    code = 0
    try:
        _check_working_directory()
        _show_work(args)
        code = int(_module(args.command).run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        return code  # nobody reads on: not an error, and no success either where the command had another end
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        as_json = getattr(args, "log_format", "text") == "json"
        return _report(exc, debug=getattr(args, "debug", False), as_json=as_json)
    return code


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace | int:
    """Parse the command line; gives the exit code where that is the end of it."""
    plain, said = sys.stderr, StringIO()
    as_json = "--log-format=json" in words or "--log-format json" in " ".join(words)
    if as_json:  # argparse writes lines of its own
        sys.stderr = said
    try:
        return parser.parse_args(words)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 2
    finally:
        sys.stderr = plain
    if text := said.getvalue().strip():
        from rsbatch.progress.log import now_utc, write_json

        write_json(sys.stderr, now_utc(), "error", "error", text, exit_code=code)
    return code


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as exc:
        from rsbatch.errors import UsageError

        raise UsageError(
            f'the working directory is gone ({exc.strerror}); go to one that is there: cd "$HOME"'
        ) from exc


def _show_work(args: argparse.Namespace) -> None:
    """Let long work tell how far it is, unless the command is to be silent, or to say things in its own way."""
    from rsbatch.progress.work import show_on

    given = {"quiet": False, "progress": "auto", "log_format": "text", "watch": False} | vars(args)
    silent = given["quiet"] or given["watch"] or given["progress"] == "none" or given["log_format"] == "json"
    show_on(None if silent else sys.stderr)


@contextmanager
def _safe_streams() -> Iterator[None]:
    """Make the standard streams fit to be written to, whatever they are: a run must not end by what it says.

    A closed one leads nowhere, and its number is taken, so that it cannot become the ledger's. What cannot be said
    on standard error (its reader or its terminal is gone, its disk full) is left unsaid. Results that cannot be
    written are a StoreError. What an encoding lacks is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _point_nowhere(number)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = _Results(before[0] or nowhere)
        sys.stderr = _Remarks(before[1] or nowhere)
        try:
            yield
        finally:
            for stream, number in zip(before, (1, 2), strict=True):
                try:
                    if stream is not None:
                        stream.flush()
                except (OSError, ValueError):
                    _point_nowhere(number)  # or the interpreter fails at it once more, and exits with 120
            sys.stdout, sys.stderr = before


def _point_nowhere(number: int) -> None:
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


class _Stream:
    """A text stream with everything that it has."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Remarks(_Stream):
    """Standard error: a write that fails is let go."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class _Results(_Stream):
    """Standard output: a write that fails is a StoreError, unless nobody reads on."""

    def write(self, text: str) -> int:
        with _told():
            return self._stream.write(text)

    def flush(self) -> None:
        with _told():
            self._stream.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        if exc.errno == errno.EIO:  # the terminal is gone
            raise BrokenPipeError(exc.errno, exc.strerror) from exc
        from rsbatch.errors import StoreError

        raise StoreError(
            f"cannot write to standard output: {exc.strerror}; what is recorded is safe, `rsbatch status` tells it"
        ) from exc


def _report(exc: BaseException, *, debug: bool, as_json: bool) -> int:
    """Say what went wrong on standard error; gives the exit code."""
    from rsbatch.errors import Exit, RsbatchError
    from rsbatch.text import printable, redact

    trace = ""
    if debug:
        import traceback

        trace = redact("".join(traceback.format_exception(exc)), _secrets())
    known = next((e for e in _leaves(exc) if isinstance(e, RsbatchError)), None)
    if known is not None:
        code, text = known.exit_code, redact(str(known), _secrets())
    else:
        leaf = next(_leaves(exc))
        code = Exit.BUG
        text = (
            f"a bug in rsbatch: {type(leaf).__name__}: {printable(redact(str(leaf), _secrets()), 500)}\n"
            f"Nothing recorded is lost. Please report it with the output of the same command with --debug added "
            f"(version {__version__}, Python {sys.version.split()[0]}, {sys.platform})."
        )
    if as_json:
        from rsbatch.progress.log import now_utc, write_json

        more = {"traceback": trace} if trace else {}
        write_json(sys.stderr, now_utc(), "error", "error", text, exit_code=int(code), **more)
    else:
        sys.stderr.write(trace + "rsbatch: " + "\n".join(printable(line) for line in text.split("\n")) + "\n")
    return code


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _secrets() -> list[str]:
    from pathlib import Path

    from rsbatch.keys import secrets

    return secrets(os.environ, Path())


if __name__ == "__main__":
    sys.exit(main())
