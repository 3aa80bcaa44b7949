"""How long what is left will take: from durations and a ceiling that were measured, or not at all.

Rule: pure. Nothing is guessed: where nothing has been measured yet, the time is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsbatch.asking import LearnedTimes
from rsbatch.ceiling import Ceiling
from rsbatch.pacing import Quota
from rsbatch.units import format_duration, format_rate


def learned_by(run_ended: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Give what a `run_ended` record says that its run found out about the service; empty if it says nothing."""
    learned = (run_ended or {}).get("learned")
    return learned if isinstance(learned, Mapping) else {}


def seconds_left(waiting: int, out: int, mean: float | None, slots: int, to_submit: float = 0.0) -> float | None:
    """Seconds until `waiting` tasks and the `out` jobs under way have ended, `slots` at a time; None if unknown.

    `mean` is what a job takes on average; one that is under way is half done. The last task may be submitted in
    `to_submit` seconds.
    """
    if mean is None:
        return None
    last = mean if waiting else mean / 2 if out else 0.0
    return max(mean * (waiting + out / 2) / max(1, slots), to_submit + last)


def seconds_left_of_downloads(images: int, saved: int, elapsed: float) -> float | None:
    """Seconds until `images` more are here at the pace of the `saved` ones in `elapsed` seconds; None if unknown.

    For where images wait in line to be downloaded: how long jobs take says nothing of the end then.
    """
    return elapsed * images / saved if saved else None


@dataclass(slots=True)
class Estimate:
    """Adds up what a plan takes; `slots` jobs at a time, `measured` if a run has seen that many at once be the most.

    `per_minute` submissions are taken, None for any number.
    """

    times: LearnedTimes
    slots: int
    measured: bool
    per_minute: int | None = None
    jobs: int = 0
    work: float = 0.0
    longest: float = 0.0
    unknown: int = 0
    kinds: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, run_ended: Mapping[str, Any] | None, in_flight: int) -> Estimate:
        """Begin with what the newest run that ended has learned, and the user's limit."""
        learned = learned_by(run_ended)
        slots = Ceiling(in_flight, learned.get("ceiling")).slots
        times, quota = LearnedTimes(learned.get("times")), Quota(learned.get("per_minute"))
        return cls(times, min(in_flight, slots or in_flight), slots is not None, quota.per_minute)

    def add(self, kind: str) -> None:
        """Count one job of a class."""
        mean = self.times.mean(kind)
        self.jobs += 1
        if mean is None:
            self.unknown += 1
            self.kinds.add(kind)
        else:
            self.work += mean
            self.longest = max(self.longest, self.times.longest(kind))

    @property
    def seconds(self) -> tuple[float, float] | None:
        """The least and the most to expect in seconds; None where a class has not been measured.

        The least is without one idle slot, and with all of a minute's submissions at its begin. The most is with them
        spread over the minute, and that of any order (Graham, "Bounds on multiprocessing timing anomalies", 1969): the
        longest that was seen comes last.
        """
        if self.unknown:
            return None
        busy, last = self.work / self.slots, self.longest * (1 - 1 / self.slots)
        bursts = 60.0 * ((self.jobs - 1) // self.per_minute) if self.per_minute else 0.0
        return max(busy, bursts), max(busy, self._spread) + last

    @property
    def _spread(self) -> float:
        return (self.jobs - 1) * 60.0 / self.per_minute if self.per_minute else 0.0

    def in_words(self) -> str:
        """Say it in a line."""
        if self.seconds is None:
            if not self.work:
                if self.times.overall() is None:
                    return "time: unknown, as nothing has been measured yet"
                return "time: unknown, as too few jobs like these have been measured yet"
            which = ", ".join(sorted(self.kinds)[:3]) + (", …" if len(self.kinds) > 3 else "")
            return f"time: unknown for {self.unknown} of them ({which}), of which too few have been measured yet"
        least, most = (format_duration(round(s)) for s in self.seconds)
        if self._spread > self.work / self.slots:
            return f"time: about {least} to {most}, by earlier runs, {format_rate(self.per_minute)}"
        if self.measured:
            return f"time: about {least} to {most}, by earlier runs, {self.slots} at a time"
        return f"time: about {least} to {most}, by earlier runs, if the account runs {self.slots} at a time"
