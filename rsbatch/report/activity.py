"""What the ledger's records say of time: when jobs were out, how long they took.

Rule: pure; a fold over decoded records, which a replay has found to be sound. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsbatch.ledger.records import event_of, seconds_of
from rsbatch.lifecycle import Event
from rsbatch.report.cards import Seen

_IN = frozenset((Event.SUBMITTED, Event.ATTACHED))
_OUT = frozenset((Event.GENERATED, Event.PARKED, Event.FAILED_FINAL, Event.NOT_SENT, Event.RESUBMIT))


@dataclass(slots=True)
class RunSlots:
    """One run: how many jobs the service held, as (time, count) at each change.

    `ended` is the time of its last record; `whole` says if that is its end, or it goes on or was cut off.
    """

    run: str
    started: float
    ended: float
    points: list[tuple[float, int]]
    whole: bool = False
    submitted: int = 0

    @property
    def peak(self) -> int:
        """The most jobs that were out at once."""
        return max(count for _, count in self.points)


@dataclass(slots=True)
class Activity:
    """Everything about time in a ledger: its runs, and what was seen of each (task, key)."""

    runs: list[RunSlots] = field(default_factory=list)
    _waited: dict[tuple[str, str], float] = field(default_factory=dict)
    _saved: dict[tuple[str, str], str] = field(default_factory=dict)
    _out: set[tuple[str, str]] = field(default_factory=set)

    def take(self, value: Mapping[str, Any]) -> None:
        """Take in the next record."""
        kind = value["type"]
        at = seconds_of(value["ts"])
        if kind == "run_started":
            self.runs.append(RunSlots(value["run"], at, at, [(at, len(self._out))]))
        run = self.runs[-1] if self.runs and self.runs[-1].run == value["run"] else None
        if run is not None:
            run.ended = max(at, run.ended)
            run.whole = kind == "run_ended"
        if kind == "renamed":
            self._rename(str(value["from"]), value["task"], value["key"])
        elif (event := event_of(value)) is not None:
            self._step(event, value, at, run)

    def _step(self, event: Event, value: Mapping[str, Any], at: float, run: RunSlots | None) -> None:
        name = value["task"], value["key"]
        before = len(self._out)
        if event in _IN:
            self._out.add(name)
            if run is not None:
                run.submitted += 1
        elif event in _OUT:
            self._out.discard(name)
        if event is Event.GENERATED and value.get("waited_s"):
            self._waited[name] = float(value["waited_s"])
        elif event is Event.SAVED:
            self._saved[name] = value["ts"]
        if run is not None and len(self._out) != before:
            run.points.append((max(at, run.points[-1][0]), len(self._out)))

    def _rename(self, old: str, new: str, key: str) -> None:
        if (old, key) in self._waited:
            self._waited[new, key] = self._waited.pop((old, key))
        if (old, key) in self._saved:
            self._saved[new, key] = self._saved.pop((old, key))
        if (old, key) in self._out:
            self._out.remove((old, key))
            self._out.add((new, key))

    def of(self, task: str, key: str) -> Seen:
        """Give what was seen of one history."""
        return Seen(self._waited.get((task, key)), self._saved.get((task, key), ""))
