"""The time of day, as an interface.

Rule: nothing else in rsbatch reads the wall clock. Intervals and deadlines use the event loop's own clock
(`anyio.current_time`), which virtual time can replace.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time of day."""

    def wall(self) -> float:
        """Seconds since 1970, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def wall(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()
