"""Progress on a terminal: one bar at the bottom, notes above it.

Rule: tqdm draws, this says what. The line is made anew for the terminal's width at each drawing, so that it
is readable from 40 columns on and survives a resize. Drawn at most ten times a second, whatever the runner
does.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TextIO
from weakref import WeakSet

from rsbatch.progress.interface import Snapshot
from rsbatch.progress.words import fitting, pieces, troubles
from rsbatch.text import printable

if TYPE_CHECKING:
    from tqdm import tqdm

REDRAW = 0.1
"""Seconds between two drawings at least."""

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"
_SHORTEST_BAR, _LONGEST_BAR = 10, 40


class Bar:
    """A bar on a terminal; see `Observer`. `color` and `columns` are found out unless given."""

    def __init__(
        self,
        stream: TextIO,
        *,
        color: bool | None = None,
        columns: Callable[[], int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._color = wants_color() if color is None else color
        self._columns = columns or (lambda: columns_of(stream))
        self._monotonic = monotonic
        self._bar: tqdm[Any] | None = None
        self._drawn = float("-inf")
        self._latest: Snapshot | None = None
        self._width = 0

    def begin(self, total: int, already: int) -> None:
        """See `Observer`."""
        self._latest = Snapshot(total, saved=already, pending=total - already)
        # Drawn by us alone: `mininterval` and `delay` keep the constructor from drawing its own line first.
        self._bar = make_bar(total, already, self._stream, mininterval=float("inf"), delay=1e-9)
        self._draw()

    def update(self, snapshot: Snapshot) -> None:
        """See `Observer`."""
        self._latest = snapshot
        if self._monotonic() - self._drawn >= REDRAW:
            self._draw()

    def note(self, text: str) -> None:
        """See `Observer`."""
        line = printable(text)
        if self._bar is None:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        else:
            self._bar.write(line, file=self._stream)

    def close(self) -> None:
        """Leave the bar standing as it was last."""
        if self._bar is not None:
            self._draw()
            self._bar.close()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None or self._latest is None:
            return
        self._drawn = self._monotonic()
        columns = self._columns()
        if self._width not in (0, columns):
            # Resized: tqdm would blank out the old line by spaces, which wrap now.
            self._stream.write("\r\x1b[J")
            self._bar.sp = self._bar.status_printer(self._bar.fp)
        self._width = columns
        self._bar.ncols = columns
        self._bar.n = self._latest.settled
        self._bar.bar_format = bar_format(self._latest, columns, self._color)
        self._bar.refresh()


def bar_format(snapshot: Snapshot, columns: int, color: bool = False) -> str:
    """Make tqdm's format for one line of at most `columns` characters, the bar itself as `{bar:N}`."""
    share = 100 * snapshot.settled // snapshot.total if snapshot.total else 100
    # One column is left free: many terminals wrap a line that fills the last one.
    room = columns - 1
    head = f"{share:3}% {snapshot.settled:,}/{snapshot.total:,}"
    room -= len(head)
    # Below 60 columns words are worth more than a picture of them.
    bar = min(_LONGEST_BAR, max(_SHORTEST_BAR, columns // 5)) if columns >= 60 else 0
    if bar:
        room -= bar + 3
    # What went wrong, and the time left, are to be seen beside the reason for a pause.
    reason = min(60, room - 1 - len(", ".join([*troubles(snapshot), "paused: , 1:04:10 left"])))
    tail = fitting(pieces(snapshot, reason), room - 1)
    tail = tail.replace("{", "{{").replace("}", "}}")
    if color:
        for trouble in troubles(snapshot):
            tail = tail.replace(trouble, f"{_RED}{trouble}{_PLAIN}", 1)
    return f"{head}{f' |{{bar:{bar}}}|' if bar else ''}{' ' if tail else ''}{tail}"


def columns_of(stream: TextIO) -> int:
    """Width of the terminal behind `stream`; 80 if it has none to tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def wants_color() -> bool:
    """Tell if colors are welcome: not with NO_COLOR (no-color.org), nor on a dumb terminal."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def make_bar(total: int | None, already: int, stream: TextIO, **options: Any) -> tqdm[Any]:
    """Give a bar of tqdm's that does as little as can be behind its caller's back."""
    from tqdm import tqdm

    class _Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no watching thread of tqdm's: the runner's ticks do
        _instances: ClassVar[WeakSet[Any]] = (
            WeakSet()
        )  # a bar of the program that calls us must not push ours a line down

    # tqdm's own default makes a multiprocessing lock, which on macOS starts a process.
    _Bar.set_lock(threading.RLock())
    return _Bar(total=total, initial=already, file=stream, **options)
