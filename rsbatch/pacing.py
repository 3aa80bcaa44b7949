"""How fast submissions and queries may follow each other.

Rule: pure; `now` is the event loop's time in seconds and comes in as an argument.
"""

from __future__ import annotations

from math import exp

_CATCH_UP = 0.05
"""Seconds of lateness that a gate makes good: timers fire a little late, and the rate is meant on average."""
_WINDOW = 60.0
"""Seconds over which is counted what goes through: a service's limits are of so many a minute."""
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
