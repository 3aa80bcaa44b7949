"""What a run tells while it goes on, and to whom: an observer that is silent by default.

Rule: the runner reports plain numbers and knows no terminal; an observer decides what is shown, and never
stops or slows a run. Calls are synchronous, cheap, and `update` comes ten times a second at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a run is. Counts are tasks, those settled before this run included; times in seconds.

    `saved`, `failed`, `held` and `parked` are settled for this run; `out` are jobs at the service,
    `downloading` are generated and not saved yet, `pending` wait to be submitted. `spent` is US dollars as
    recorded, None where no prices are known at all; `usd_known` is False if some spent tasks have no known
    price. `elapsed` is since the run began, `eta` till its end or None if unknown. `paused` says why nothing
    is submitted, or downloaded, at the moment.
    """

    total: int
    saved: int = 0
    failed: int = 0
    held: int = 0
    parked: int = 0
    out: int = 0
    downloading: int = 0
    pending: int = 0
    spent: Decimal | None = None
    usd_known: bool = True
    elapsed: float = 0.0
    eta: float | None = None
    paused: str | None = None

    @property
    def settled(self) -> int:
        """How many tasks this run has nothing more to do for."""
        return self.saved + self.failed + self.held + self.parked


class Observer(Protocol):
    """Someone who is told how a run goes. `begin` comes first and once, `close` last and always."""

    def begin(self, total: int, already: int) -> None:
        """`total` tasks are selected, `already` of them are settled by earlier runs."""

    def update(self, snapshot: Snapshot) -> None:
        """Things have changed, or time has passed."""

    def note(self, text: str) -> None:
        """Tell a line worth telling, such as a warning. May come before `begin`; any text is safe."""

    def close(self) -> None:
        """Finish: the run is over, or broken off. May be called twice."""


class Silent:
    """The default observer: tells nobody."""

    def begin(self, total: int, already: int) -> None:
        """Ignore it."""

    def update(self, snapshot: Snapshot) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Nothing to close."""
