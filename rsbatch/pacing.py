"""How fast submissions and queries may follow each other.

Rule: pure; `now` is the event loop's time in seconds and comes in as an argument.
"""

from __future__ import annotations

from collections import deque
from math import exp

_CATCH_UP = 0.05
"""Seconds of lateness that a gate makes good: timers fire a little late, and the rate is meant on average."""
_WINDOW = 60.0
"""Seconds over which is counted what goes through: a service's limits are of so many a minute."""
_SURELY = 57.0
"""Seconds in which a quota of a minute surely lets no more through: between an acceptance and its answer some go by."""
_SURE = 2
"""Refusals in a row that look like a quota's before it is taken for one: a single one may come by chance."""
_STALE = 180.0
"""Seconds after which the most that went through says nothing more: a quota may allow for a burst, or become less."""
_TELLING_PAUSE = 20.0
"""Seconds. Where the service wants no more for longer, one refusal will do: what comes after the pause goes through."""
_TRUST = 60.0, 960.0
"""Seconds for which a quota is kept to before one more is tried: at first, and at most, twice as long each time."""
_AGAIN = 5.0, 40.0
"""The same where that one was refused while nothing told it from a ceiling: until a job ended, in all likelihood."""
_MOST = 10**6
"""No limit of submissions a minute is as high as that."""
SLOWEST = 30.0
"""Seconds between two events at most: a service that wants less says `Retry-After`."""


class RateGate:
    """Lets at most `per_second` events through, evenly spaced, and fewer for a while where they were too many.

    A refusal now and then that has nothing to do with the rate must not bring it down step by step: so it falls no
    further than to what goes through.
    """

    def __init__(self, per_second: float, slowest: float = SLOWEST) -> None:
        self._gap = self._least_gap = 1.0 / per_second
        self._slowest = slowest
        self._next = float("-inf")
        self._average, self._average_at = 0.0, 0.0
        self.passed_since = 0
        """How many went through since the rate was last lowered."""

    @property
    def per_second(self) -> float:
        """How many events it lets through each second now."""
        return 1.0 / self._gap

    def opens_at(self) -> float:
        """Give the time of the next allowed event."""
        return self._next

    def take(self, now: float) -> bool:
        """Count one event, at `now`; True if it came about as soon after the one before as the rate allows."""
        pressed = now < self._next + self._gap
        self._next = (
            max(self._next + self._gap, now + self._gap - _CATCH_UP) if self._next > now - 1 else now + self._gap
        )
        return pressed

    def slower(self, now: float, at_least: float = 0.0) -> None:
        """Halve the rate, down to what went through of late, to `at_least`, or to one in `slowest` seconds."""
        floor = max(self._lately(now), at_least, 1.0 / self._slowest)
        self._gap = max(self._gap, min(self._gap * 2, 1.0 / floor))
        self.passed_since = 0

    def passed(self, now: float) -> None:
        """One went through: raise the rate by a fiftieth, up to `per_second`: a limit is come near to slowly."""
        self._average, self._average_at = self._lately(now) + 1.0 / _WINDOW, now
        self._gap = max(self._least_gap, self._gap * 0.98)
        self.passed_since += 1

    def _lately(self, now: float) -> float:
        """How many went through each second, the latest of them counted most."""
        return self._average * exp((self._average_at - now) / _WINDOW)


class Quota:
    """Tells an account's limit of so many submissions a minute from its other limits, and keeps to it.

    It refuses where as many went through within a minute as did at most of late, though the service held more jobs
    within that minute; a ceiling of jobs takes another for each that ends. An acceptance past it refutes it, and is
    tried for again and again: jobs that are let go together once a minute fill few slots, and look like a quota, too.
    `learned` is what an earlier run's `per_minute` was, `now` when this one begins.
    """

    def __init__(self, learned: object = None, now: float = 0.0) -> None:
        self._passed: deque[tuple[float, int]] = deque()  # when, and how many jobs were out then
        self._most = learned if type(learned) is int and 1 <= learned < _MOST else 0
        self._known = self._most > 0
        self._most_at = now
        self._refusals = 0  # in a row that look like its own
        self._trust, self._again = _TRUST[0], _AGAIN[0]
        self._until = float("-inf")

    @property
    def per_minute(self) -> int | None:
        """How many submissions a minute go through, None where nothing shows that their number is limited."""
        return self._most if self._known else None

    def opens_at(self, others: int) -> float:
        """Give the time from which one more may be sent while `others` are under way."""
        left = self._most - others
        if not self._known or len(self._passed) < left:
            return float("-inf")
        return min(self._until, self._passed[-left][0] + _WINDOW) if left > 0 else self._until

    def last_at(self, count: int, now: float) -> float:
        """Give the time from which the last of `count` more may be sent, if nothing else holds them up."""
        self._forget(now)
        later = count - max(0, self._most - len(self._passed))
        if not self._known or later <= 0:
            return now
        minutes, place = divmod(later - 1, self._most)
        return (self._passed[place][0] if place < len(self._passed) else now) + (minutes + 1) * _WINDOW

    def passed(self, held: int, now: float) -> None:
        """Take in that one was accepted, with which `held` jobs are out."""
        self._passed.append((now, held))
        self._forget(now)
        self._refusals = 0
        if len(self._passed) > self._most and self._passed[-self._most - 1][0] > now - _SURELY:
            self._most, self._known = self._most + 1, False
            self._trust, self._again = _TRUST[0], _AGAIN[0]
        if len(self._passed) >= self._most:
            self._most_at = now

    def refused(self, held: int, others: int, now: float, pause: float = 0.0) -> bool:
        """Take in a refusal while `held` jobs and `others` submissions were out; True if the quota is the reason.

        `pause` is for how long the service wants no more, in seconds.
        """
        self._forget(now)
        if self._passed and now > self._most_at + _STALE:
            self._most, self._most_at, self._known = len(self._passed), now, False
        full = 0 < self._most <= len(self._passed) + others
        held_more = any(before > held for _, before in self._passed)
        if not full or not (self._known or held_more):
            self._refusals = 0
            return False
        self._refusals += 1
        if not self._known and self._refusals < _SURE and pause < _TELLING_PAUSE:
            return False
        if not self._known:
            self._until = now + self._trust
        elif now >= self._until and held_more:
            self._trust, self._again = min(2 * self._trust, _TRUST[1]), _AGAIN[0]
            self._until = now + self._trust
        elif now >= self._until:
            self._until, self._again = now + self._again, min(2 * self._again, _AGAIN[1])
        self._known = True
        return True

    def _forget(self, now: float) -> None:
        while self._passed and self._passed[0][0] <= now - _WINDOW:
            self._passed.popleft()
