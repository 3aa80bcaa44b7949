"""How fast submissions and queries may follow each other.

Rule: pure; `now` is the event loop's time in seconds and comes in as an argument.
"""

from __future__ import annotations

_CATCH_UP = 0.05
"""Seconds of lateness that a gate makes good: timers fire a little late, and the rate is meant on average."""
SLOWEST = 30.0
"""Seconds between two events at most: a service that wants less says `Retry-After`."""


class RateGate:
    """Lets at most `per_second` events through, evenly spaced, and fewer for a while where they were too many."""

    def __init__(self, per_second: float, slowest: float = SLOWEST) -> None:
        self._gap = self._least_gap = 1.0 / per_second
        self._slowest = slowest
        self._next = float("-inf")

    @property
    def per_second(self) -> float:
        """How many events it lets through each second now."""
        return 1.0 / self._gap

    def opens_at(self) -> float:
        """Give the time of the next allowed event."""
        return self._next

    def take(self, now: float) -> None:
        """Count one event, at `now`."""
        self._next = (
            max(self._next + self._gap, now + self._gap - _CATCH_UP) if self._next > now - 1 else now + self._gap
        )

    def slower(self) -> None:
        """Halve the rate, down to one in `slowest` seconds."""
        self._gap = max(self._least_gap, min(self._slowest, self._gap * 2))

    def faster(self) -> None:
        """Raise the rate by a fiftieth, up to `per_second`: a limit found is come near to in tens of events."""
        self._gap = max(self._least_gap, self._gap * 0.98)
