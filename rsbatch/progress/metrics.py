"""A run's figures in a file that Prometheus' node exporter collects (its textfile collector).

Rule: the file is replaced as a whole, and one that cannot be written is a note, never more. Names follow
https://prometheus.io/docs/practices/naming/; every series carries the manifest's name, so that files of several
manifests can lie in one folder.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from rsbatch.errors import Exit, UsageError
from rsbatch.planning import Category
from rsbatch.progress.interface import Snapshot
from rsbatch.summary import Result

INTERVAL = 15.0
"""Seconds between two writings at least: Prometheus is rarely set to look more often."""

_SUCCESS = "rsbatch_run_last_success_timestamp_seconds"
GAUGES = {
    "rsbatch_run_in_progress": "1 while a run goes on, 0 when it has ended.",
    "rsbatch_run_start_timestamp_seconds": "When the newest run began.",
    "rsbatch_run_end_timestamp_seconds": "When the newest run ended; not there before.",
    "rsbatch_run_duration_seconds": "How long the newest run has taken so far.",
    "rsbatch_run_exit_code": "Exit code of the newest run; not there before its end.",
    _SUCCESS: "When a run last ended with exit code 0.",
    "rsbatch_jobs_in_flight": "Jobs at the service that the run waits for.",
    "rsbatch_spent_dollars": "US dollars spent by the ledger in all; not there where no price is known.",
}
_HEAD = b"# HELP rsbatch_"
TASKS = "rsbatch_tasks", "Tasks of the manifest by state, as in the summary of a run."


class Metrics:
    """Keeps a file of figures; see `Observer`. `now` gives seconds since 1970, `say` takes a line of trouble.

    Raises UsageError where the file's folder cannot be written to: before anything is submitted.
    """

    def __init__(
        self, path: Path, manifest: str, say: Callable[[str], None], now: Callable[[], float] = time.time
    ) -> None:
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(f"--metrics {path}: name a file in a folder that can be written to; nothing was submitted")
        self._path, self._manifest, self._say, self._now = path.resolve(), manifest, say, now
        if why := self._others():
            raise UsageError(f"--metrics {path}: {why}; name another file, nothing was submitted")
        self._values: dict[str, float] = {}
        self._tasks: dict[Category, int] = {}
        self._written = 0.0

    def begin(self, total: int, already: int) -> None:
        """See `Observer`."""
        self._values = {"rsbatch_run_in_progress": 1, "rsbatch_run_start_timestamp_seconds": self._now()}
        if (before := self._last_success()) is not None:
            self._values[_SUCCESS] = before
        self._take(Snapshot(total, saved=already, pending=total - already))
        self._write()

    def update(self, snapshot: Snapshot) -> None:
        """See `Observer`."""
        self._take(snapshot)
        if snapshot.elapsed - self._written >= INTERVAL:
            self._written = snapshot.elapsed
            self._write()

    def note(self, text: str) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Say that the run goes on no more; nothing is written for one that did not begin."""
        if self._values.get("rsbatch_run_in_progress"):
            self._values["rsbatch_run_in_progress"] = 0
            self._write()

    def ended(self, result: Result) -> None:
        """Say how the run ended."""
        now = self._now()
        self._values |= {
            "rsbatch_run_in_progress": 0,
            "rsbatch_run_end_timestamp_seconds": now,
            "rsbatch_run_duration_seconds": result.seconds,
            "rsbatch_run_exit_code": int(result.exit_code),
            "rsbatch_jobs_in_flight": 0,
        }
        if result.exit_code is Exit.OK:
            self._values[_SUCCESS] = now
        self._tasks = dict(result.tasks)
        self._write()

    def _take(self, snapshot: Snapshot) -> None:
        self._tasks = {
            Category.SAVED: snapshot.saved,
            Category.FAILED: snapshot.failed,
            Category.HELD: snapshot.held,
            Category.PARKED: snapshot.parked,
            Category.PENDING: snapshot.pending + snapshot.out + snapshot.downloading,
        }
        self._values |= {
            "rsbatch_run_duration_seconds": snapshot.elapsed,
            "rsbatch_jobs_in_flight": snapshot.out,
        }
        if snapshot.spent is not None:
            self._values["rsbatch_spent_dollars"] = float(snapshot.spent)

    def _write(self) -> None:
        registry = CollectorRegistry()
        for name, value in self._values.items():
            Gauge(name, GAUGES[name], ["manifest"], registry=registry).labels(self._manifest).set(value)
        tasks = Gauge(*TASKS, ["manifest", "state"], registry=registry)
        for category in Category:
            tasks.labels(self._manifest, category.value).set(self._tasks.get(category, 0))
        try:
            if why := self._others():  # somebody's by now
                self._say(f"the metrics could not be written to {self._path} ({why}); the run is not affected")
                return
            write_to_textfile(str(self._path), registry)
        except OSError as exc:
            self._say(f"the metrics could not be written to {self._path} ({exc.strerror}); the run is not affected")

    def _others(self) -> str:
        """Say why what stands there is not ours to replace; empty where it is, or nothing is there."""
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                return "it is a folder, a pipe or a device, not a file"
            with self._path.open("rb") as file:
                head = file.read(len(_HEAD))
        except FileNotFoundError:
            return ""
        except OSError as exc:
            return f"it cannot be read ({exc.strerror})"
        return "" if head in {b"", _HEAD} else "it is there and holds something else"

    def _last_success(self) -> float | None:
        try:
            families = list(text_string_to_metric_families(self._path.read_text("utf-8")))
        except (OSError, ValueError):  # not there yet, or not ours
            return None
        samples = (sample for family in families for sample in family.samples if sample.name == _SUCCESS)
        return next((s.value for s in samples if s.labels.get("manifest") == self._manifest), None)
