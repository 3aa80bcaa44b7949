"""The jobs that are out, in the order of their submission, and which of them are presumed to wait.

Rule: pure. A service runs jobs in the order in which it got them. So a job's place among those that are out tells
whether it waits, and the end of one tells that the first that waited has begun.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Place:
    """One job's place. Times are the event loop's, in seconds.

    `kind` is its class of durations, `number` counts submissions; `alive` is when the job was last known to go on,
    `asked` when it was last asked for, `began` when its work is presumed to have begun, None while it waits;
    `running` that the service said so; `not_before` when to ask for it at the earliest.
    """

    kind: str
    number: int
    alive: float
    asked: float
    began: float | None
    running: bool = False
    not_before: float = float("-inf")

    @property
    def age(self) -> float:
        """Seconds that the job is known to have been worked on; 0 while it waits."""
        return 0.0 if self.began is None else max(0.0, self.alive - self.began)


class Line:
    """The places that are taken."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._waiting: list[Place] = []
        self._count = 0
        self.running = 0
        """How many were last said to run."""

    def enter(self, kind: str, now: float, began: float) -> Place:
        """Take the last place for a job that is known to be out at `now`."""
        self._count += 1
        self._numbers.append(self._count)
        return Place(kind, self._count, now, now, began)

    def rank(self, place: Place) -> int:
        """Give its place among all that are out, from 1."""
        return bisect_left(self._numbers, place.number) + 1

    def wait(self, place: Place) -> None:
        """Take in that a job waits."""
        self._run(place, False)
        if place.began is not None:
            place.began = None
            insort(self._waiting, place, key=_number)

    def run(self, place: Place, now: float) -> None:
        """Take in that a job runs, and so do all that came before it: those thought to wait began meanwhile."""
        self._run(place, True)
        while self._waiting and self._waiting[0].number <= place.number:
            first = self._waiting.pop(0)
            first.began = (first.alive + now) / 2

    def leave(self, place: Place, now: float) -> Place | None:
        """Free the place of a job that ended between its `alive` and `now`; give the one whose work began then."""
        self._run(place, False)
        del self._numbers[bisect_left(self._numbers, place.number)]
        if place.began is None:
            self._waiting.remove(place)
            return None
        if not self._waiting:
            return None
        first = self._waiting.pop(0)
        first.began = max(first.alive, (max(place.alive, place.began) + now) / 2)
        return first

    def _run(self, place: Place, running: bool) -> None:
        self.running += running - place.running
        place.running = running


def _number(place: Place) -> int:
    return place.number
