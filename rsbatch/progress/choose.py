"""Picks the observer that fits a stream.

Rule: a bar only on a terminal that can move its cursor; a log anywhere else.
"""

from __future__ import annotations

import os
from typing import Literal, TextIO

from rsbatch.progress.interface import Observer, Silent, Snapshot
from rsbatch.progress.log import Log

Mode = Literal["auto", "bar", "log", "none"]


def choose(mode: Mode, stream: TextIO, quiet: bool = False) -> Observer:
    """Give an observer that writes to `stream` (standard error).

    `none` shows no progress, but notes as lines; `quiet` shows nothing at all. `bar` draws one even where
    `auto` would not.
    """
    if quiet:
        return Silent()
    if mode == "none":
        return Log(stream, quiet=True)
    if mode == "bar" or (mode == "auto" and stream.isatty() and os.environ.get("TERM") != "dumb"):
        from rsbatch.progress.bar import Bar

        return Bar(stream)
    return Log(stream)


class Both:
    """Two observers told the same."""

    def __init__(self, first: Observer, second: Observer) -> None:
        self._both = first, second

    def begin(self, total: int, already: int) -> None:
        """See `Observer`."""
        for one in self._both:
            one.begin(total, already)

    def update(self, snapshot: Snapshot) -> None:
        """See `Observer`."""
        for one in self._both:
            one.update(snapshot)

    def note(self, text: str) -> None:
        """See `Observer`."""
        for one in self._both:
            one.note(text)

    def close(self) -> None:
        """See `Observer`."""
        for one in self._both:
            one.close()
