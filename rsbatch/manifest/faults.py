"""What is wrong with one value, on its way to becoming a Problem with a place.

Rule: whoever finds a fault says what to change; whoever knows the place adds it; nobody formats the two together
before the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from rsbatch.errors import Problem


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands; `line` and `column` are 1-based, 0 unknown; `path` is the key's path."""

    file: str
    line: int
    column: int
    path: str

    def problem(self, message: str) -> Problem:
        """Say what is wrong here."""
        return Problem(self.file, self.line, self.column, self.path, message)


class Fault(ValueError):
    """A value that cannot be used; `place` is None where only the caller knows it."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
