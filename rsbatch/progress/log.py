"""Progress for logs and pipes: a sober line now and then.

Rule: whole lines with a time, no control characters, and few: at the first settled task, at each further
tenth, else at most every 30 s, and every 5 min where nothing changes. Time is the snapshot's, so tests need
no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from rsbatch.progress.interface import Snapshot
from rsbatch.progress.words import pieces
from rsbatch.text import printable

INTERVAL = 30.0
"""Seconds between two lines while things change."""

HEARTBEAT = 300.0
"""Seconds between two lines while nothing does: so that a log shows a run that waits from one that hangs."""


def now_utc() -> datetime:
    """Give the time of day."""
    return datetime.now(UTC)


class Log:
    """Writes lines to a stream; see `Observer`. With `quiet` only notes."""

    def __init__(self, stream: TextIO, *, quiet: bool = False, now: Callable[[], datetime] = now_utc) -> None:
        self._stream = stream
        self._quiet = quiet
        self._now = now
        self._already = 0
        self._told: Snapshot | None = None
        self._latest: Snapshot | None = None

    def begin(self, total: int, already: int) -> None:
        """See `Observer`."""
        self._already = already
        if not self._quiet:
            self._line(f"{total:,} tasks" + (f", {already:,} of them settled before" if already else ""))
            self._told = Snapshot(total, saved=already, pending=total - already)

    def update(self, snapshot: Snapshot) -> None:
        """See `Observer`."""
        self._latest = snapshot
        if not self._quiet and self._worth_telling(snapshot):
            self._tell(snapshot)

    def note(self, text: str) -> None:
        """See `Observer`."""
        self._line(printable(text))

    def close(self) -> None:
        """Tell how it ended, if that is not told yet."""
        latest, self._latest = self._latest, None
        if not self._quiet and latest is not None and latest != self._told:
            self._tell(latest)

    def _worth_telling(self, snapshot: Snapshot) -> bool:
        told = self._told or Snapshot(snapshot.total)
        if snapshot.settled > told.settled and (told.settled <= self._already or _tenth(snapshot) > _tenth(told)):
            return True
        waited = snapshot.elapsed - told.elapsed
        return waited >= HEARTBEAT or (waited >= INTERVAL and _counts(snapshot) != _counts(told))

    def _tell(self, snapshot: Snapshot) -> None:
        self._told = snapshot
        share = 100 * snapshot.saved // snapshot.total if snapshot.total else 100
        said = [f"{snapshot.saved:,} of {snapshot.total:,} saved ({share}%)", *pieces(snapshot)]
        self._line(", ".join(said))

    def _line(self, text: str) -> None:
        self._stream.write(f"{self._now():%Y-%m-%dT%H:%M:%SZ} {text}\n")
        self._stream.flush()


def _tenth(snapshot: Snapshot) -> int:
    return 10 * snapshot.settled // snapshot.total if snapshot.total else 0


def _counts(snapshot: Snapshot) -> tuple[object, ...]:
    return (snapshot.settled, snapshot.out, snapshot.downloading, snapshot.pending, snapshot.paused)
