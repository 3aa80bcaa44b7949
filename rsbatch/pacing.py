"""When the next submission or query may start: gates, the in-flight limit, the query schedule.

Rule: pure; `now` is the event loop's time in seconds and comes in as an argument. The two protocols are the places
where a cleverer limit or schedule goes in.
"""

from __future__ import annotations

from typing import Protocol

QUERY_INTERVAL = 3.0
"""Seconds between two queries of a job: a compromise between the 30 to 180 s that a job takes and idle slots."""

_CATCH_UP = 0.05
"""Seconds of lateness that a gate makes good: timers fire a little late, and the rate is meant on average."""


class RateGate:
    """Lets at most `per_second` events through, evenly spaced."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1.0 / per_second
        self._next = float("-inf")

    def opens_at(self) -> float:
        """Give the time of the next allowed event."""
        return self._next

    def take(self, now: float) -> None:
        """Count one event, at `now`."""
        self._next = (
            max(self._next + self._gap, now + self._gap - _CATCH_UP) if self._next > now - 1 else now + self._gap
        )


class QuerySchedule(Protocol):
    """Decides when a job is asked for next."""

    def delay(self, age: float, queries: int) -> float:
        """Seconds to wait before asking a job of `age` seconds that was asked for `queries` times."""
        ...


class FixedInterval:
    """Asks every `seconds`."""

    def __init__(self, seconds: float = QUERY_INTERVAL) -> None:
        self._seconds = seconds

    def delay(self, age: float, queries: int) -> float:
        """Seconds until the next query: always the same."""
        return self._seconds


class InFlightLimit(Protocol):
    """Decides how many jobs the service may hold at once."""

    def opens_at(self, in_flight: int) -> float | None:
        """Give the time from which one more may be submitted, None for not before one of the `in_flight` ends."""
        ...

    def accepted(self, in_flight: int, now: float) -> None:
        """Take in that the service accepted one and now holds `in_flight`."""
        ...

    def refused(self, in_flight: int, now: float) -> None:
        """Take in that the service refused one for its rate or concurrency while it held `in_flight`."""
        ...


class AdaptiveInFlight:
    """Starts at the most, goes down to what the service held when it refused, and probes its way up again.

    A probe that is refused doubles the time to the next one; probes that succeed double the step.
    """

    PROBE_FIRST = 10.0
    PROBE_MOST = 300.0

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most
        self._step = 1
        self._wait = self.PROBE_FIRST
        self._probe_at = float("-inf")

    @property
    def limit(self) -> int:
        """The limit found so far."""
        return self._limit

    def opens_at(self, in_flight: int) -> float | None:
        """Give the time from which one more may be submitted; past the limit found, that of the next probe."""
        if in_flight < self._limit:
            return float("-inf")
        return self._probe_at if in_flight < min(self._most, self._limit + self._step) else None

    def accepted(self, in_flight: int, now: float) -> None:
        """Raise the limit where a probe went through."""
        if in_flight > self._limit:
            self._limit = in_flight
            self._step *= 2
            self._wait = self.PROBE_FIRST

    def refused(self, in_flight: int, now: float) -> None:
        """Lower the limit to what was held, at least 1."""
        self._limit = max(1, min(self._limit, in_flight))
        self._step = 1
        if now >= self._probe_at:  # several that were under way together count once
            self._probe_at = now + self._wait
            self._wait = min(self.PROBE_MOST, self._wait * 2)
