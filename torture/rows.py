"""What a row is, and the list of them.

Rule: a row is a module with `run(params) -> Figure`; it takes its counts from `params.scale(full, short)` and all its
chance from seeds, so that `--seed N` alone replays one case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

ROWS = {
    "crashes": "crash states of the file system, and broken protocols that must be caught",
    "faults": "every I/O operation fails in every way, in a run and in its recovery",
    "kills": "real SIGKILLs of real runs",
    "power": "real power cuts on ext4, with a control that must lose",
    "cancel": "cancellation at every step of the scheduler",
    "nights": "whole nights simulated from seeds",
    "fuzz": "hostile answers, mutated ledgers, mutated manifests",
    "overlap": "overlapping processes on one ledger",
    "mutants": "branch coverage and mutation of the core",
    "defences": "every defence taken out by itself, each of which a test must notice",
    "canary": "the key is found nowhere",
}
"""Every row by name; its module is `torture.<name>`."""


@dataclass(frozen=True, slots=True)
class Params:
    """How much to do. `seed` replays one case alone; `short` is the form that `make test` runs."""

    short: bool = False
    seed: int | None = None

    def scale(self, full: int, short: int) -> int:
        """Pick a count."""
        return short if self.short else full


@dataclass(frozen=True, slots=True)
class Figure:
    """What a row found.

    `figure` and `goal` are texts for the table; `failures` name what went wrong, each with the command that replays
    it; `skipped` says why (a part of) the row could not be tried here: such a row is no pass. `seconds` it took.
    """

    figure: str
    goal: str
    failures: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """True only for a row that was tried whole and found nothing."""
        return not self.failures and not self.skipped


def load(name: str) -> ModuleType:
    """Import the module of a row."""
    return import_module(f"torture.{name}")
