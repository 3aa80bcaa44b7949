"""What a run would do with each task, and why: pure, shared by `plan` and `run`.

Rule: the histories of the ledger are given to the tasks of the manifest once (`Matcher`), then each task is
judged by itself (`decide`). No IO: what is known of saved files comes in as sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase

from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.model import EXT, InDoubt, Selection, Task

_NEW = "new"
_CHANGED = "changed"
ORPHANED = "orphaned"


class Action(StrEnum):
    """What `run` does with a task."""

    SUBMIT = "submit"
    POLL = "poll"
    DOWNLOAD = "download"
    SKIP = "skip"
    HOLD = "hold"


class Differs(StrEnum):
    """How the files of a saved task are not as recorded."""

    MISSING = "missing"
    ALTERED = "altered"


@dataclass(frozen=True, slots=True)
class Planned:
    """One task with what `run` would do with it. `usd` is what a submission would cost by the manifest's prices."""

    task: Task
    history: History | None
    state: str
    action: Action
    reason: str
    differs: Differs | None = None

    @property
    def usd(self) -> Decimal | None:
        """US dollars that `run` would spend on the task now: 0 for all but submissions, None if unknown."""
        return self.task.usd if self.action is Action.SUBMIT else Decimal(0)


class _Numbers:
    """A set of numbers, of which there may be millions: a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> None:
        if number >> 3 >= len(self._bits):
            self._bits.extend(bytes((number >> 3) + 1 - len(self._bits)))
        self._bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] >> (number & 7) & 1)


class Matcher:
    """Gives each task of a manifest its history.

    First every task is shown to `visit`, then `settle` finds the renamed ones, then `of` answers. A task uses the
    history of its own id and key; else the oldest of the same key that no task of the manifest claims.

    `total` counts the manifest's tasks, `selected` those that the selection lets be submitted. `sought` has the tasks
    (id, key, path) whose key the ledger has by other ids alone; `settle` fills it.
    """

    def __init__(self, state: LedgerState, selection: Selection | None = None) -> None:
        self._state = state
        self._selection = selection or Selection()
        self._claimed = _Numbers()  # by `since`, of which no two histories have the same
        self._selected = _Numbers()  # those of them whose tasks are selected
        self._seeking: list[tuple[str, str, str]] = []
        self.sought: list[tuple[str, str, str]] = []
        self._paths: dict[History, str] = {}
        self._renames: dict[tuple[str, str], History] = {}
        self.total = self.selected = 0

    @classmethod
    def over(cls, state: LedgerState, tasks: Iterable[Task]) -> Matcher:
        """Show it all tasks of a manifest, and settle."""
        matcher = cls(state)
        for task in tasks:
            matcher.visit(task)
        matcher.settle()
        return matcher

    def visit(self, task: Task) -> bool:
        """Take in one task of the manifest; False where the ledger has no history of its key, by any id."""
        self.total += 1
        self.selected += selects(self._selection, task.id)
        found = self._state.find(task.id, task.key)
        if found is not None:
            since, out = found
            self._claim(since, task.id)
            history = self._state.get(task.id, task.key) if out else None
            if history is not None:
                self._paths[history] = task.path
        elif self._state.of_key(task.key):
            self._seeking.append((task.id, task.key, task.path))
        else:
            return False
        return True

    def settle(self) -> list[tuple[str, History]]:
        """Give histories to renamed tasks: pairs of the new id and the history, in the manifest's order.

        Asking again gives the same answer.
        """
        seeking, self._seeking = self._seeking, []
        for task, key, path in seeking:
            free = next((h for h in self._state.of_key(key) if h.since not in self._claimed), None)
            if free is not None:
                self._claim(free.since, task)
                self._renames[task, key] = free
                if free.out:
                    self._paths[free] = path
        self.sought += seeking
        return [(task, history) for (task, _), history in self._renames.items()]

    def of(self, task: Task) -> History | None:
        """Give the history of a task, under whatever id the ledger has it."""
        return self.named(task.id, task.key)

    def named(self, task: str, key: str) -> History | None:
        """Give the history of the task that has this id and key in the manifest, as `of` does."""
        return self._state.get(task, key) or self._renames.get((task, key))

    def owns(self, history: History) -> bool:
        """Tell if a task of the manifest has this history; if not it is orphaned."""
        return history.since in self._claimed

    def claims(self, since: int) -> tuple[bool, bool]:
        """Tell if a task of the manifest has the history that begins there, and if that task is selected."""
        return since in self._claimed, since in self._selected

    def adopt(self, history: History) -> None:
        """Take in that a new history is of a task of the manifest."""
        self._claim(history.since, history.task)

    def _claim(self, since: int, task: str) -> None:
        self._claimed.add(since)
        if selects(self._selection, task):
            self._selected.add(since)

    def path_of(self, history: History) -> str:
        """Where the image of a job that is out goes: by the manifest of today, else as recorded, else by its id."""
        return self._paths.get(history) or history.path or f"{history.task}.{EXT}"


def selects(selection: Selection, task_id: str) -> bool:
    """Tell if `--select` lets this id be submitted."""
    if selection.only is not None and task_id not in selection.only:
        return False
    return not selection.patterns or any(fnmatchcase(task_id, pattern) for pattern in selection.patterns)


@dataclass(frozen=True, slots=True)
class Terms:
    """What decides over a task besides its history."""

    selection: Selection
    in_doubt: InDoubt


def decide(
    task: Task, history: History | None, state: LedgerState, terms: Terms, sizes: Sequence[int | None] = ()
) -> Planned:
    """Judge one task. `sizes` are of the files of a saved history, in bytes, None for a file that is not there."""
    if history is None or history.state is None:
        planned = _decide_new(task, state)
    else:
        if history.state is State.SAVED:
            sizes = own_sizes(history, state, sizes)
        planned = _DECIDE[history.state](task, history, terms, sizes)
    if planned.action is Action.SUBMIT and not selects(terms.selection, task.id):
        return Planned(task, history, planned.state, Action.SKIP, f"not selected ({planned.reason})")
    return planned


def own_sizes(history: History, state: LedgerState, sizes: Sequence[int | None]) -> list[int | None]:
    """Leave out what stands at a path that another history took over: it is another image, whatever its size."""
    return [
        size if state.owner_of(file.path) in {None, history} else None
        for file, size in zip(history.files, sizes, strict=True)
    ]


def _decide_new(task: Task, state: LedgerState) -> Planned:
    if state.of_id(task.id):
        reason = "its request is another one than before; what the earlier one brought stays"
        return Planned(task, None, _CHANGED, Action.SUBMIT, reason)
    return Planned(task, None, _NEW, Action.SUBMIT, "not submitted yet")


def _submit(task: Task, history: History, terms: Terms, sizes: Sequence[int | None]) -> Planned:
    reason = f"no job came of the last attempt: {history.message}" if history.message else "no job came of it"
    return Planned(task, history, _name(history), Action.SUBMIT, reason)


def _released(task: Task, history: History, terms: Terms, sizes: Sequence[int | None]) -> Planned:
    return Planned(task, history, _name(history), Action.SUBMIT, "settled by hand: submit again")


def _doubtful(task: Task, history: History, terms: Terms, sizes: Sequence[int | None]) -> Planned:
    why = history.message or "a crash came between its submission and the answer"
    if terms.in_doubt == "resubmit":
        return Planned(task, history, _name(history), Action.SUBMIT, f"in doubt, resubmitted as asked: {why}")
    return Planned(task, history, _name(history), Action.HOLD, f"in doubt: {why}")


def _poll(task: Task, history: History, terms: Terms, sizes: Sequence[int | None]) -> Planned:
    return Planned(task, history, _name(history), Action.POLL, f"job {history.job_id} is out")


def _download(task: Task, history: History, terms: Terms, sizes: Sequence[int | None]) -> Planned:
    reason = f"job {history.job_id} is done, its image is not saved"
    if history.message:
        reason += f" ({history.message})"
    return Planned(task, history, _name(history), Action.DOWNLOAD, reason)


def _failed(task: Task, history: History, terms: Terms, sizes: Sequence[int | None]) -> Planned:
    why = f"failed: {history.code}: {history.message}"
    if terms.selection.retry_failed:
        return Planned(task, history, _name(history), Action.SUBMIT, f"{why}; retried as asked")
    return Planned(task, history, _name(history), Action.SKIP, why)


def _saved(task: Task, history: History, terms: Terms, sizes: Sequence[int | None]) -> Planned:
    altered = [f.path for f, size in zip(history.files, sizes, strict=True) if size is not None and size != f.bytes]
    missing = [f.path for f, size in zip(history.files, sizes, strict=True) if size is None]
    if missing and task.replaced:  # who rejected an image may delete it
        reason = f"{', '.join(missing)} is gone; it was rejected, and a new sample asked for in its place"
        return Planned(task, history, _name(history), Action.SKIP, reason)
    if missing:
        reason = f"{', '.join(missing)} is gone; fetched again if the job still answers"
        return Planned(task, history, _name(history), Action.DOWNLOAD, reason, Differs.MISSING)
    if altered:
        reason = f"{', '.join(altered)} has another size than was saved; left alone"
        return Planned(task, history, _name(history), Action.SKIP, reason, Differs.ALTERED)
    return Planned(task, history, _name(history), Action.SKIP, "saved")


def _name(history: History) -> str:
    return "" if history.state is None else STATE_NAMES[history.state]


STATE_NAMES = {state: state.value for state in State} | {
    State.FAILED_SUBMIT: "failed",
    State.FAILED_DOWNLOAD: "failed",
    State.FAILED_FINAL: "failed",
    State.RELEASED: "held",
}
"""The states as commands print them."""

_DECIDE = {
    State.SUBMITTING: _doubtful,
    State.NOT_SUBMITTED: _submit,
    State.SUBMITTED: _poll,
    State.GENERATED: _download,
    State.DOWNLOADED: _download,
    State.SAVED: _saved,
    State.FAILED_SUBMIT: _submit,
    State.FAILED_DOWNLOAD: _download,
    State.FAILED_FINAL: _failed,
    State.HELD: _doubtful,
    State.PARKED: _poll,
    State.RELEASED: _released,
}


class Category(StrEnum):
    """How a task is counted in a summary."""

    SAVED = "saved"
    FAILED = "failed"
    HELD = "held"
    PARKED = "parked"
    PENDING = "pending"


_CATEGORY = {
    None: Category.PENDING,
    State.NOT_SUBMITTED: Category.PENDING,
    State.RELEASED: Category.PENDING,
    State.SUBMITTED: Category.PENDING,
    State.GENERATED: Category.PENDING,
    State.DOWNLOADED: Category.PENDING,
    State.SAVED: Category.SAVED,
    State.FAILED_SUBMIT: Category.FAILED,
    State.FAILED_DOWNLOAD: Category.FAILED,
    State.FAILED_FINAL: Category.FAILED,
    State.SUBMITTING: Category.HELD,
    State.HELD: Category.HELD,
    State.PARKED: Category.PARKED,
}


def category(state: State | None) -> Category:
    """Count a state; None is a task without history."""
    return _CATEGORY[state]


def unfinished(state: LedgerState) -> Iterator[History]:
    """Histories whose last record is an intent: a crash came before the answer was recorded."""
    return (h for h in state.unsettled() if h.state is State.SUBMITTING)
