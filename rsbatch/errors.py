"""The one error tree and its map to exit codes.

Rule: every error that a user can cause, or that the world can cause, ends up as one of these, with a sentence
that names the place and the remedy. Anything else that reaches `main` is a bug in rsbatch (exit 70).

    RsbatchError
    ├── UsageError            2   wrong options, no key, a task that is not in the manifest
    │   └── ManifestError     2   every problem of a manifest, with places
    ├── StoppedError          3   the run cannot go on now; run again
    ├── StoreError            4   the ledger or the output cannot be read or written
    │   └── LedgerDamaged     4   with the line number
    ├── LedgerBusy           75   another run holds the ledger
    └── Interrupted     128 + n   a signal came before anything was begun
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the `rsbatch` command."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    STOPPED = 3
    STORE = 4
    BUG = 70
    BUSY = 75
    SIGHUP = 129
    SIGINT = 130
    SIGTERM = 143


class RsbatchError(Exception):
    """Base of all errors that rsbatch reports by a sentence instead of a traceback."""

    exit_code: Exit = Exit.SOME_FAILED


class UsageError(RsbatchError):
    """The command line, the environment or a name given by the user is wrong; nothing was submitted."""

    exit_code = Exit.USAGE


class StoppedError(RsbatchError):
    """The run cannot go on now, for a reason outside of rsbatch; running again continues it."""

    exit_code = Exit.STOPPED


class StoreError(RsbatchError):
    """The ledger or the output folder cannot be read or written, or does not belong to this manifest."""

    exit_code = Exit.STORE


class LedgerDamaged(StoreError):
    """The ledger has a line that cannot be trusted, elsewhere than in a torn tail.

    `line` is the 1-based number of the first such line.
    """

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(
            f"{path}, line {line}: {reason}. The ledger is damaged; nothing was submitted. "
            f"`rsbatch repair MANIFEST` keeps the damaged file and makes the ledger usable again"
        )
        self.line = line
        self.reason = reason


class LedgerBusy(RsbatchError):
    """Another run holds the ledger's lock."""

    exit_code = Exit.BUSY


class Interrupted(RsbatchError):
    """Signal `number` came while the manifest was being checked; nothing was submitted."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted while the manifest was checked; nothing was submitted by this run")
        self.exit_code = Exit(128 + number)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a manifest or in a file it names.

    `file` is as the user would name it; `line` and `column` are 1-based, 0 where unknown; `path` is the key's
    path such as `tasks[2].quality`, empty for the whole document.
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}"
            if self.column:
                place += f":{self.column}"
        return f"{place}: {self.path + ': ' if self.path else ''}{self.message}"


class ManifestError(UsageError):
    """A manifest that cannot be used, with every problem found in it (at least one); `note` is said below them."""

    def __init__(self, problems: Sequence[Problem], note: str = "") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(
            "\n".join([f"{head}; nothing was submitted", *(f"  {p}" for p in self.problems), *([note] if note else [])])
        )
