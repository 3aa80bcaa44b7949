"""Long work that is no run, such as reading a large ledger: a bar on a terminal once it has taken a second.

Rule: silent unless the command line has named a stream (`show_on`), so that a program that uses rsbatch as a library
sees nothing. Elsewhere than on a terminal a line tells of work that takes half a minute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

AFTER = 1.0
"""Seconds before anything is shown on a terminal."""
LINE_EVERY = 30.0
"""Seconds between two lines elsewhere."""

_TOLD_BYTES = 256 * 1024
"""A ledger's lines are many and short: they are told together."""

_stream: ContextVar[TextIO | None] = ContextVar("stream", default=None)
Tick = Callable[[int], None]
"""Is told how many more are done."""


def show_on(stream: TextIO | None) -> None:
    """Name the stream for all work of this command from now on; None for silence."""
    _stream.set(stream)


@contextmanager
def working(
    what: str, unit: str, total: int | None = None, monotonic: Callable[[], float] = time.monotonic
) -> Iterator[Tick]:
    """Show how `what` goes on; call what is given with the number of `unit` that are done since the last call."""
    stream = _stream.get()
    if stream is None:
        yield lambda count: None
        return
    work = _Work(stream, what, unit, total, monotonic)
    try:
        yield work.tick
    finally:
        work.end()


@contextmanager
def reading(file: IO[bytes], what: str) -> Iterator[Any]:
    """Give `file` such that it is shown how far it is read."""
    if _stream.get() is None:
        yield file
        return
    with working(what, "B", os.fstat(file.fileno()).st_size) as tick:
        yield _Counted(file, tick)


class _Counted:
    def __init__(self, file: IO[bytes], tick: Tick) -> None:
        self._file, self._tick = file, tick

    def readlines(self, hint: int = -1) -> list[bytes]:
        lines = self._file.readlines(hint)
        self._tick(sum(map(len, lines)))
        return lines

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        for line in self._file:
            done += len(line)
            if done >= _TOLD_BYTES:
                self._tick(done)
                done = 0
            yield line
        self._tick(done)


class _Work:
    def __init__(self, stream: TextIO, what: str, unit: str, total: int | None, monotonic: Callable[[], float]) -> None:
        self._stream, self._what, self._unit, self._total, self._monotonic = stream, what, unit, total, monotonic
        self._terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._due = monotonic() + (AFTER if self._terminal else LINE_EVERY)
        self._done = 0
        self._bar: tqdm[Any] | None = None

    def tick(self, count: int) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._monotonic() >= self._due:
            self._tell()

    def _tell(self) -> None:
        if not self._terminal:
            of = f" of {self._total:,}" if self._total is not None else ""
            self._stream.write(f"{self._what}: {self._done:,}{of} {self._unit}\n")
            self._stream.flush()
            self._due = self._monotonic() + LINE_EVERY
            return
        from rsbatch.progress.bar import make_bar

        scale = {"unit": "B", "unit_scale": True} if self._unit == "B" else {"unit": f" {self._unit}"}
        self._bar = make_bar(
            self._total, self._done, self._stream, desc=self._what, leave=False, dynamic_ncols=True, **scale
        )

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
