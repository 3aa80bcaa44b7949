"""What a row is, and the list of them.

Rule: a row is a module with `run(quick: bool) -> list[Figure]`. Both sides of a ratio are measured in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from types import ModuleType

ROWS = {
    "cpu": "CPU a task, against two scripts that people would write",
    "load": "many jobs in flight",
    "ledger": "the ledger, written and read",
    "manifest": "large manifests",
    "schedule": "how near a run comes to the best there is, in virtual time",
    "makespan": "how long a batch takes, in real time",
    "nights": "a whole run of many tasks, killed and resumed",
    "startup": "how long the command takes to start",
}
"""Every row by name; its module is `benchmarks.<name>`."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and its goal.

    `rounds` has the value of each round, in `unit` (empty for a ratio); the figure is their median. The goal is the
    most it may be, with `at_least` the least. `note` says what the numbers are of, such as the times behind a ratio.
    A figure that could not be measured here has no rounds, and `note` says why. `limit` has what one comes to, in the
    same rounds, who does only what has to be done, by the simplest means: the best that is to be had.
    """

    name: str
    goal: float
    rounds: Sequence[float]
    unit: str = ""
    at_least: bool = False
    note: str = ""
    limit: Sequence[float] = ()

    @property
    def value(self) -> float | None:
        """The median of the rounds, None if there are none."""
        return median(self.rounds) if self.rounds else None

    @property
    def verdict(self) -> str:
        """Whether the goal is reached, in a few words."""
        if self.value is None:
            return "not measured"
        if self._reaches(self.value):
            return "reached"
        return "OUT OF REACH" if self.limit and not self._reaches(median(self.limit)) else "FALLS SHORT"

    def _reaches(self, value: float) -> bool:
        return value >= self.goal if self.at_least else value <= self.goal

    @property
    def shown_note(self) -> str:
        """The note, with the best that is to be had."""
        if not self.limit:
            return self.note
        return f"at best {brief(median(self.limit))} is to be had; {self.note}"

    @property
    def shown(self) -> str:
        """The figure with its spread."""
        if self.value is None:
            return "–"
        unit = f" {self.unit}" if self.unit else ""
        if len(self.rounds) == 1:
            return f"{brief(self.value)}{unit}"
        return f"{brief(self.value)}{unit} ({brief(min(self.rounds))}–{brief(max(self.rounds))})"

    @property
    def shown_goal(self) -> str:
        """The goal with its direction."""
        return f"{'≥' if self.at_least else '≤'} {brief(self.goal)}{f' {self.unit}' if self.unit else ''}"


def brief(value: float) -> str:
    """Three significant digits, no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1g}"


def in_turns(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Measure each side once a round, in turns; every other round the other way round. Gives each side's values."""
    values: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        order = list(enumerate(sides))
        for index, side in order if number % 2 == 0 else reversed(order):
            values[index].append(side())
    return values


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def load(name: str) -> ModuleType:
    """Import the module of a row."""
    return import_module(f"benchmarks.{name}")
