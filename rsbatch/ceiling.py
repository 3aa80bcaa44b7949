"""How many jobs to have at the service at once: found out from what it accepts, refuses, and makes wait.

Rule: pure. Never more than the user's `in_flight`. Two things are told apart: how many jobs the service *holds*
(past that it refuses) and how many it *runs* (past that they wait there). Where jobs were seen to wait, a few more
than it runs are submitted, so that the service itself refills a slot the moment it is free.

What we believe to be out is more than what is: jobs end before we ask. So a submission past the ceiling may go
through because a job had just ended; only if no such job turns up soon after does it count as a higher ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

CONFIRM_SECONDS = 5.0
"""A refusal below what was held before is tried again after this: was it the ceiling, the rate, or chance?"""
_SURE = 2
"""Refused so often, and once more where it is far below what was held before, it is the ceiling. (Once only would do,
but what is given up by mistake comes back by probes, which are rare.)"""
CONFIRM_WITHIN = 75.0
"""Far below what was held before, it is tried for so long, later each time: many quotas are of a minute."""
_RELAPSE = 3
"""Refused again after fewer acceptances, it was the ceiling all the same: a job had just ended."""
LONG_PAUSE = 30.0
"""Seconds. Where the service wants no more for longer, a refusal is tried again once only."""
PAUSE_SHARE = 30.0
"""And the next probe comes so many times later: what probes cost in time is bounded by that, too."""
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
        """Take in that one was accepted and `held` are out now; True if an earlier refusal was of no ceiling.

        It was then of the rate, or came by chance.
        """
        ...

    def refused(self, held: int, now: float, pause: float = 0.0) -> None:
        """Take in that one was refused for the service's rate or concurrency while `held` others were out.

        `pause` is for how long the service wants no more, in seconds.
        """
        ...

    def ended(self, alive_at: float, now: float) -> None:
        """Take in that a job was found to have ended `now` that was last known to go on at `alive_at`."""
        ...

    def seen(self, *, waiting: bool, rank: int, running: int) -> None:
        """Take in the state of the `rank`-th oldest job out, while `running` others were last seen to run."""
        ...


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Refusals of what went through before, the last while `held` were out: is that the ceiling, or something else.

    They are `below` what was held before, and came first at `since`; `relapsed` where they had just been over.
    """

    held: int
    below: int
    since: float
    relapsed: bool
    refusals: int = 1
    pause: float = 0.0
    try_at: float = float("inf")

    def after_a_refusal(self, now: float) -> _Doubt | None:
        """Give it with the time of the next try, None if it is the ceiling."""
        at = now + CONFIRM_SECONDS * 2.0 ** min(self.refusals - 1, 3)
        far = self.below - self.held > max(1, self.below // _FALL)
        if _is_long(self.pause):
            again = self.refusals == 1
        else:
            again = self.refusals <= _SURE + far or (far and not self.relapsed and at <= self.since + CONFIRM_WITHIN)
        return replace(self, try_at=at) if again else None

    def after_an_acceptance(self, now: float) -> _Doubt:
        """It takes some again: soon it shows how many."""
        return replace(self, try_at=min(self.try_at, now + CONFIRM_SECONDS * self.refusals))


class Ceiling:
    """The in-flight limit. `most` is the user's, `learned` what an earlier run's `as_json` gave."""

    def __init__(self, most: int, learned: object = None) -> None:
        learned = learned if isinstance(learned, Mapping) else {}
        self._most = most
        self._earlier = _count(learned.get("holds"))
        self._holds = min(most, self._earlier or most)
        self._runs = _count(learned.get("runs"))
        self._refusals = 0  # in a row
        self._doubt: _Doubt | None = None  # whether a refusal was of the ceiling
        self._before = self._holds
        self._shown = True  # whether anything went through since it fell from there
        self._fell_at = 0  # how many were out then
        self._restored = _RELAPSE  # acceptances since a refusal turned out to be none of the ceiling
        self._gap = PROBE_FIRST
        self._since = 0
        self._probed_at: float | None = None
        self._probe_from = float("-inf")
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
        holds = self._before if self._doubt is not None or self._outage else self._holds
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
        if self._doubt is not None:
            return self._doubt.try_at
        if self._since >= self._gap:
            return self._probe_from
        return float("inf") if self._probed_at is None else max(self._probe_from, self._probed_at + PROBE_SECONDS)

    # what happened

    @property
    def _outage(self) -> bool:
        """Whether nothing went through since a fall though jobs ended: a ceiling takes others in their place."""
        return not self._shown and self._holds < self._fell_at

    def accepted(self, held: int, now: float) -> bool:
        """See `InFlightLimit`.

        A refusal was of no ceiling if the same number goes through a moment later, or after an outage.
        """
        self._refusals = 0
        self._since += 1
        self._restored += 1
        went_through = self._doubt is not None and held > self._doubt.held
        over = self._doubt is None and self._outage
        self._shown = True
        if went_through or over:
            self._doubt = None
            self._holds = self._before
            self._restored = 0
            return went_through
        if self._doubt is not None:
            self._doubt = self._doubt.after_an_acceptance(now)
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

    def refused(self, held: int, now: float, pause: float = 0.0) -> None:
        """See `InFlightLimit`."""
        if held < 1:  # no ceiling is as low as that
            return
        self._refusals += 1
        self._settle(now)
        doubt = self._doubt
        if doubt is not None:
            again = replace(doubt, held=held, refusals=doubt.refusals + 1, pause=max(doubt.pause, pause))
            self._doubt = again.after_a_refusal(now)
        elif held < self._holds:
            if self._shown:
                self._before, self._shown, self._fell_at = self._holds, False, held
            first = _Doubt(held, self._before, now, relapsed=self._restored < _RELAPSE, pause=pause)
            self._doubt = first.after_a_refusal(now)
        if held < self._holds:
            self._fall(held)
        else:
            self._closed = True
        if self._trial is None:
            self._step = 0
        if self._doubt is None:  # refusals by chance must not keep the next probe off
            most = PROBE_MOST if doubt is None else 4 * self._holds  # with few slots 16 submissions take for ever
            self._gap = min(PROBE_MOST, self._gap * 2, most)
            self._since, self._probed_at = 0, now
            self._probe_from = now + PAUSE_SHARE * pause if _is_long(pause) else float("-inf")

    def _fall(self, held: int) -> None:
        self._trial = None
        self._holds = held
        beyond = self._refusals - _SURE
        if beyond > 0:
            self._holds -= min(2 ** (beyond - 1), max(1, held // _FALL))
            self._gap = PROBE_FIRST
        self._holds = max(1, self._holds)

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


def _is_long(pause: float) -> bool:
    return pause > LONG_PAUSE


def _count(value: object) -> int | None:
    """A number of jobs as a ledger has it; anything else is None."""
    return value if type(value) is int and value >= 1 else None
