r"""The simulator's own memory, so that its jobs survive a restart or a kill.

Rule: one JSON object a line, append-only; each record is handed to the operating system in one write before
the answer that depends on it is given. A torn last line (no `\n`) belongs to an answer that was never given
and is cut off. Times are epoch seconds, so a job goes on while the simulator is down, as the real service's
would.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rsbatch import __version__
from rsbatch.errors import StoreError, UsageError
from rsbatch.simulator.engine import Engine, Record
from rsbatch.simulator.settings import Settings


class Journal:
    """The state file at `path`. It is opened for each record only: nothing has to be closed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Add one record. Raises StoreError when it cannot be written."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.write(handle, line) != len(line):
                    raise OSError("short write")
            finally:
                os.close(handle)
        except OSError as exc:
            raise StoreError(f"{self.path}: the simulator cannot write its state: {exc}") from exc

    def load(self) -> Iterator[dict[str, Any]]:
        """Every record, oldest first; a torn last line is cut off the file. Raises StoreError for damage."""
        try:
            with self.path.open("rb") as lines:
                whole = 0
                for number, line in enumerate(lines, 1):
                    if not line.endswith(b"\n"):
                        os.truncate(self.path, whole)
                        return
                    yield self._parse(line, number)
                    whole += len(line)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StoreError(f"{self.path}: the simulator cannot read its state: {exc}") from exc

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise StoreError(
                f"{self.path}, line {number}: not a record of the simulator. "
                f"Move the file away to start with an empty simulator"
            )
        return record

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file for this process alone. Raises UsageError when another simulator has it."""
        self._make_folder()
        with self.path.open("ab") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise UsageError(f"{self.path} is in use by another simulator; give each its own --state") from exc
            yield

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"{self.path.parent}: the folder cannot be made: {exc}") from exc


def open_simulator(
    settings: Settings | None = None, state: Path | None = None, clock: Callable[[], float] = time.time
) -> Engine:
    """Return an engine that remembers its jobs in the file `state`.

    The file is made when missing; without one (None) the jobs are forgotten at the end.

    Raises StoreError when the file cannot be read, written or trusted.
    """
    if state is None:
        return Engine(settings)
    journal = Journal(state)
    journal._make_folder()
    engine = Engine(settings, keep=journal.append)
    for number, record in enumerate(journal.load(), 1):
        try:
            engine.restore(record)
        except (KeyError, TypeError, ValueError) as exc:
            raise StoreError(f"{state}, line {number}: not a record of this version's simulator: {exc!r}") from exc
    journal.append({"type": "opened", "at": clock(), "version": __version__})
    return engine
