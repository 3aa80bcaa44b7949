"""How many jobs to have at the service at once: found out from what it accepts, refuses, and makes wait.

Rule: pure. Never more than the user's `in_flight`. Two things are told apart: how many jobs the service *holds*
(past that it refuses) and how many it *runs* (past that they wait there). Where jobs were seen to wait, a few more
than it runs are submitted, so that the service itself refills a slot the moment it is free.

What we believe to be out is more than what is: jobs end before we ask. So a submission past the ceiling may go
through because a job had just ended; only if no such job turns up soon after does it count as a higher ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

CONFIRM_SECONDS = 5.0
"""A refusal below what was held before is tried again after this: was it the ceiling, the rate, or chance?"""
_SURE = 2
"""And once more, for a fall that was none is made up for by probes alone, which are rare; what is refused then, too, is
taken for a ceiling, or for one that falls further."""
CONFIRM_WITHIN = 75.0
"""Far below what was held before, it is tried for so long, later each time: many quotas are of a minute."""
_RELAPSE = 3
"""Refused again after fewer acceptances, it was the ceiling all the same: a job had just ended."""
SETTLE_SECONDS = 5.0
"""How long after a probe went through an older end may turn up: about two queries of a job that is nearly done."""
PROBE_FIRST = 16
PROBE_MOST = 48
"""Submissions between two probes of a higher ceiling, the first time and at most: what probes cost in 429s is
bounded by what gets done meanwhile, 1/48 of it, however many slots and whatever a job takes."""
PROBE_SECONDS = 1800.0
"""A probe is due after this all the same, where jobs take long and slots are few."""
_FALL = 8
"""A ceiling that fell is followed down in growing steps, but by no more than this part of what is out."""


def buffer(runs: int) -> int:
    """How many jobs to have waiting at a service that runs `runs`: those that end between two looks, and some."""
    return max(3, -(-runs // 4))


class InFlightLimit(Protocol):
    """Decides how many jobs the service may hold at once. `held` is how many it holds, as far as we know."""

    @property
    def covered(self) -> bool:
        """True where jobs of ours wait at the service, so that a slot does not idle until we notice its end."""
        ...

    def queued(self, rank: int) -> bool:
        """Tell if the job that is the `rank`-th oldest of those out (1-based) is presumed to wait."""
        ...

    def opens_at(self, held: int) -> float | None:
        """Give the time from which one more may be submitted past `held`, None for not before one ends."""
        ...

    def accepted(self, held: int, now: float) -> bool:
        """Take in that one was accepted and `held` are out now; True if an earlier refusal was thus of the rate."""
        ...

    def refused(self, held: int, now: float) -> None:
        """Take in that one was refused for the service's rate or concurrency while `held` others were out."""
        ...

    def ended(self, alive_at: float, now: float) -> None:
        """Take in that a job was found to have ended `now` that was last known to go on at `alive_at`."""
        ...

    def seen(self, *, waiting: bool, rank: int, running: int) -> None:
        """Take in the state of the `rank`-th oldest job out, while `running` others were last seen to run."""
        ...


class Ceiling:
    """The in-flight limit. `most` is the user's, `learned` what an earlier run's `as_json` gave."""

    def __init__(self, most: int, learned: object = None) -> None:
        learned = learned if isinstance(learned, Mapping) else {}
        self._most = most
        self._earlier = _count(learned.get("holds"))
        self._holds = min(most, self._earlier or most)
        self._runs = _count(learned.get("runs"))
        self._refusals = 0  # in a row
        self._refused_at: int | None = None  # where one refusal has still to be confirmed
        self._before = most
        self._confirm_at = float("inf")
        self._doubts = 0  # refusals since the first of those
        self._doubted_at = 0.0
        self._restored = _RELAPSE  # acceptances since a refusal turned out to be none of the ceiling
        self._relapsed = False
        self._gap = PROBE_FIRST
        self._since = 0
        self._probed_at: float | None = None
        self._step = 0
        self._trial: float | None = None
        self._trial_held = 0
        self._doubtful = 0
        self._closed = False

    @property
    def holds(self) -> int:
        """The most jobs that the service holds, as far as is known; the user's limit if it never refused."""
        return self._holds

    @property
    def runs(self) -> int | None:
        """How many jobs the service runs at once, None where none was seen to wait."""
        return self._runs

    @property
    def slots(self) -> int | None:
        """How many jobs are worked on at once, None where nothing has shown it yet."""
        known = self._holds if self._holds < self._most else None
        return known if self._runs is None else min(self._runs, self._holds)

    @property
    def covered(self) -> bool:
        """See `InFlightLimit`."""
        return self._runs is not None and self._holds > self._runs

    def queued(self, rank: int) -> bool:
        """See `InFlightLimit`."""
        return self._runs is not None and rank > self._runs

    def as_json(self) -> dict[str, Any]:
        """Give what a later run may start from."""
        untried = self._earlier if self._earlier is not None and self._earlier >= self._most else None
        doubted = self._refused_at is not None and self._before < self._most
        holds = self._before if doubted else self._holds
        return {"holds": holds if holds < self._most else untried, "runs": self._runs}

    # what may be done

    def opens_at(self, held: int) -> float | None:
        """See `InFlightLimit`: past what is known to be held, the time of the next probe."""
        if held >= self._most or (self._runs is not None and held >= self._runs + buffer(self._runs)):
            return None
        if held < self._holds:
            return float("-inf")
        if self._trial is not None:
            if self._closed:
                return None
            return float("-inf") if held < self._holds + self._step else self._trial + SETTLE_SECONDS
        return self._probe_time() if held == self._holds else None

    def _probe_time(self) -> float:
        if self._refused_at is not None:
            return self._confirm_at
        if self._since >= self._gap:
            return float("-inf")
        return float("inf") if self._probed_at is None else self._probed_at + PROBE_SECONDS

    # what happened

    def accepted(self, held: int, now: float) -> bool:
        """See `InFlightLimit`.

        A refusal was of the rate if the same number goes through a moment later.
        """
        self._refusals = 0
        self._since += 1
        self._restored += 1
        if self._refused_at is not None and held > self._refused_at:
            self._refused_at, self._confirm_at = None, float("inf")
            self._holds = self._before
            self._restored = 0
            return True
        if self._refused_at is not None:  # it takes some again: soon it shows how many
            self._confirm_at = min(self._confirm_at, now + CONFIRM_SECONDS * self._doubts)
        self._settle(now)
        if held > self._holds:
            self._tried(held, now)
        return False

    def _settle(self, now: float) -> None:
        """Conclude a trial: as many were out as went through, less those that may have ended before."""
        if self._trial is None or now < self._trial + SETTLE_SECONDS:
            return
        self._holds = max(self._holds, self._trial_held - self._doubtful)
        self._trial = None
        if self._closed:
            self._step = 0

    def _tried(self, held: int, now: float) -> None:
        if self._trial is None:
            self._step = 2 * self._step or 1 + self._holds // _FALL
            self._trial, self._doubtful, self._closed = now, 0, False
        self._trial_held = held
        self._since = 0
        self._probed_at = now

    def refused(self, held: int, now: float) -> None:
        """See `InFlightLimit`."""
        self._refusals += 1
        pending = self._refused_at is not None
        if not pending:
            self._doubts, self._doubted_at = 0, now
            self._relapsed = self._restored < _RELAPSE
        self._doubts += 1
        self._settle(now)
        if held < self._holds:
            if not pending:
                self._before = self._holds
            self._fall(held)
            self._confirm(held, now)
        else:
            self._closed = True
            if pending:
                self._confirm(held, now)
            if self._refused_at is None:  # a probe's end, or the last confirmation
                self._gap = min(PROBE_MOST, self._gap * 2)
        if self._trial is None:
            self._step = 0
        if self._refused_at is None:  # refusals by chance must not keep the next probe off
            self._since, self._probed_at = 0, now

    def _fall(self, held: int) -> None:
        self._trial = None
        self._holds = held
        beyond = self._refusals - _SURE
        if beyond > 0:
            self._holds -= min(2 ** (beyond - 1), max(1, held // _FALL))
            self._gap = PROBE_FIRST
        self._holds = max(1, self._holds)

    def _confirm(self, held: int, now: float) -> None:
        """Have a refusal while `held` were out tried again, unless it was often enough."""
        at = now + CONFIRM_SECONDS * 2.0 ** min(self._doubts - 1, 3)
        far = self._before - held > max(1, self._before // _FALL)
        again = self._doubts <= _SURE + far or (far and not self._relapsed and at <= self._doubted_at + CONFIRM_WITHIN)
        self._refused_at = held if again else None
        self._confirm_at = at if again else float("inf")

    def ended(self, alive_at: float, now: float) -> None:
        """See `InFlightLimit`."""
        self._settle(now)
        if self._trial is None or alive_at >= self._trial:
            return
        self._doubtful += 1
        if self._trial_held - self._doubtful <= self._holds:
            if not self._closed:  # it cost nothing: the next may come sooner
                self._since = self._gap // 2
            self._trial, self._step = None, 0

    def seen(self, *, waiting: bool, rank: int, running: int) -> None:
        """See `InFlightLimit`."""
        if waiting and running:
            bound = max(rank - 1, running)
            self._runs = bound if self._runs is None else min(self._runs, bound)
        elif not waiting and self._runs is not None:
            self._runs = max(self._runs, rank)


def _count(value: object) -> int | None:
    """A number of jobs as a ledger has it; anything else is None."""
    return value if type(value) is int and value >= 1 else None
