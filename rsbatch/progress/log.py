"""Progress for logs and pipes: a sober line now and then.

Rule: whole lines with a time, no control characters, and few: at the first settled task, at each further
tenth, else at most every 30 s, and every 5 min where nothing changes. Time is the snapshot's, so tests need
no clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from rsbatch.errors import Exit
from rsbatch.progress.interface import Snapshot
from rsbatch.progress.words import pieces
from rsbatch.summary import Result
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
            self._told = Snapshot(total, saved=already, pending=total - already)
            text = f"{total:,} task{'' if total == 1 else 's'}" + (
                f", {already:,} of them settled before" if already else ""
            )
            self._line("begin", text, self._told)

    def update(self, snapshot: Snapshot) -> None:
        """See `Observer`."""
        self._latest = snapshot
        if not self._quiet and self._worth_telling(snapshot):
            self._tell(snapshot)

    def note(self, text: str) -> None:
        """See `Observer`."""
        self._line("note", text)

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
        self._line("progress", ", ".join(said), snapshot)

    def _line(self, event: str, text: str, snapshot: Snapshot | None = None) -> None:
        self._stream.write(f"{self._now():%Y-%m-%dT%H:%M:%SZ} {printable(text)}\n")
        self._stream.flush()


class JsonLog(Log):
    """The same as `Log`, each line an object for a collector; `manifest` is the manifest's name."""

    def __init__(
        self, stream: TextIO, manifest: str, *, quiet: bool = False, now: Callable[[], datetime] = now_utc
    ) -> None:
        super().__init__(stream, quiet=quiet, now=now)
        self._manifest = manifest

    def ended(self, result: Result, lines: list[str]) -> None:
        """Say how the run ended: `lines` for people, and the summary."""
        level = "info" if not result.exit_code else "error" if result.exit_code is Exit.STORE else "warning"
        more = {"manifest": self._manifest, "summary": result.as_json()}
        write_json(self._stream, self._now(), level, "end", "\n".join(lines), **more)

    def _line(self, event: str, text: str, snapshot: Snapshot | None = None) -> None:
        level = "warning" if event == "note" else "info"
        more = {"manifest": self._manifest} | ({} if snapshot is None else _figures(snapshot))
        write_json(self._stream, self._now(), level, event, text, **more)


def write_json(stream: TextIO, now: datetime, level: str, event: str, message: str, **more: Any) -> None:
    """Write one object on a line, in ASCII: whatever the message, the line stays one line."""
    moment = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    value = {"ts": moment, "level": level, "event": event, "message": message, **more}
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def _figures(snapshot: Snapshot) -> dict[str, Any]:
    value = asdict(snapshot) | {"spent": None if snapshot.spent is None else f"{snapshot.spent:f}"}
    return {name: round(v, 3) if isinstance(v, float) else v for name, v in value.items()}


def _tenth(snapshot: Snapshot) -> int:
    return 10 * snapshot.settled // snapshot.total if snapshot.total else 0


def _counts(snapshot: Snapshot) -> tuple[object, ...]:
    return (snapshot.settled, snapshot.out, snapshot.downloading, snapshot.pending, snapshot.paused)
