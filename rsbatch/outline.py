"""A plan in lines for people: by entry of the manifest, readable for a dozen tasks and for a hundred thousand.

Rule: pure, and one task at a time: an entry holds at most `LISTED` lines and one count for each kind of task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby

from rsbatch.ledger.state import LedgerState
from rsbatch.model import Selection
from rsbatch.planning import Action, Differs, Planned
from rsbatch.units import format_money

LISTED = 20
"""Tasks of an entry that are shown one by one; of more, each kind is a line."""
SHOWN = 200
"""Lines after which no further entry is shown, but counted."""
_EXAMPLES = 3

_WORDS = {
    "new": "not submitted yet",
    "changed": "another request than before",
    "not_submitted": "no job came of the last attempt",
    "submitted": "the job is out",
    "parked": "the job is out",
    "generated": "the job is done, its image is not saved",
    "downloaded": "the job is done, its image is not saved",
    "submitting": "in doubt",
    "held": "in doubt",
}
_REBOUGHT = "saved files are gone, and are bought again where the job no longer answers (--rebuy-missing)"


@dataclass(slots=True)
class Sum:
    """How many tasks of one kind there are, what submitting them costs in US dollars, and the first ids."""

    count: int = 0
    usd: Decimal = Decimal(0)
    unpriced: int = 0
    ids: list[str] = field(default_factory=list)

    def add(self, task: str, usd: Decimal | None) -> None:
        """Count one task."""
        self.count += 1
        if usd is None:
            self.unpriced += 1
        else:
            self.usd += usd
        if len(self.ids) < _EXAMPLES:
            self.ids.append(task)

    @property
    def money(self) -> str:
        """Such as `$1.20`, `$1.20 and 3 without a known price`; empty if there is nothing to pay."""
        if not self.usd and not self.unpriced:
            return ""
        if self.unpriced == self.count:
            return "price unknown"
        return format_money(self.usd) + (f" and {self.unpriced:,} without a known price" if self.unpriced else "")


@dataclass(slots=True)
class Totals:
    """What a plan adds up to. `again` are submissions of what may have been paid before, by the reason."""

    actions: dict[Action, Sum] = field(default_factory=lambda: {action: Sum() for action in Action})
    again: dict[str, Sum] = field(default_factory=dict)
    rebought: Sum = field(default_factory=Sum)

    def add(self, planned: Planned, state: LedgerState, selection: Selection) -> None:
        """Count one task."""
        self.actions[planned.action].add(planned.task.id, planned.usd)
        if (why := paid_again(planned, state)) is not None:
            self.again.setdefault(why, Sum()).add(planned.task.id, planned.usd)
        if planned.differs is Differs.MISSING and selection.rebuy_missing:
            self.rebought.add(planned.task.id, planned.task.usd)

    @property
    def count(self) -> int:
        """All tasks."""
        return sum(one.count for one in self.actions.values())

    @property
    def submissions(self) -> Sum:
        """What would be submitted."""
        return self.actions[Action.SUBMIT]


def paid_again(planned: Planned, state: LedgerState) -> str | None:
    """Say why a task that may have been paid before would be paid again; None if it would not."""
    if planned.action is not Action.SUBMIT:
        return None
    if planned.history is None:
        paid = any(h.bucket is not None for h in state.of_id(planned.task.id))
        return "with another request than before" if paid else None
    if planned.history.bucket is None:
        return None
    return "failed and retried (--retry-failed)" if planned.state == "failed" else "in doubt and resubmitted"


def outline(tasks: Iterable[Planned], title: Callable[[int], str], totals: Totals) -> Iterator[str]:
    """Give the lines for tasks in the manifest's order; `title` names an entry by its index.

    `totals` counts the tasks as they come: the last line tells of how many some were not shown.
    """
    shown = hidden = 0
    for entry, group in groupby(tasks, key=lambda planned: planned.task.origin.entry):
        if shown >= SHOWN:
            hidden += sum(1 for _ in group)
            continue
        listed: list[Planned] = []
        kinds: dict[tuple[Action, str], Sum] = {}
        count = 0
        for planned in group:
            count += 1
            kinds.setdefault((planned.action, _kind(planned)), Sum()).add(planned.task.id, planned.usd)
            if count <= LISTED:
                listed.append(planned)
        width = max(len(planned.task.id) for planned in listed)
        lines = [_task_line(planned, width) for planned in listed]
        if count > LISTED:
            lines = [_kind_line(action, kind, one) for (action, kind), one in kinds.items()]
        if count > 1:
            lines = [f"{title(entry)}: {_head(kinds, count)}", *(f"  {line}" for line in lines)]
        shown += len(lines)
        yield from lines
    if hidden:
        yield f"… and {hidden:,} more of the {totals.count:,} tasks (--json prints all)"


def _task_line(planned: Planned, width: int) -> str:
    price = ""
    if planned.action is Action.SUBMIT:
        price = "price unknown  " if planned.usd is None else f"{format_money(planned.usd)}  "
    return f"{planned.action.value:<9}{planned.task.id:<{width}}  {price}{planned.reason}"


def _kind_line(action: Action, kind: str, one: Sum) -> str:
    examples = ", ".join(one.ids) + (", …" if one.count > len(one.ids) else "")
    money = f"{one.money}  " if action is Action.SUBMIT and one.money else ""
    return f"{action.value:<9}{one.count:,}  {money}{kind}: {examples}"


def _head(kinds: dict[tuple[Action, str], Sum], seen: int) -> str:
    actions: dict[Action, Sum] = {}
    for (action, _), one in kinds.items():
        whole = actions.setdefault(action, Sum())
        whole.count += one.count
        whole.usd += one.usd
        whole.unpriced += one.unpriced
    if len(actions) == 1:
        parts = [f"{seen:,} tasks to {next(iter(actions))}"]
    else:
        parts = [f"{seen:,} tasks", *(f"{one.count:,} to {action}" for action, one in actions.items())]
    submitted = actions.get(Action.SUBMIT, Sum()).money
    return ", ".join([*parts, submitted] if submitted else parts)


def _kind(planned: Planned) -> str:
    """Say what tasks have in common that differ in job ids, files and messages."""
    for reason in ("not selected", "beyond --limit"):
        if planned.reason.startswith(reason):
            return reason
    if planned.differs is Differs.MISSING:
        return "saved, its file is gone; fetched again if the job still answers"
    if planned.differs is Differs.ALTERED:
        return "saved, its file has another size now; left alone"
    if planned.state == "failed" and planned.history is not None:
        return f"failed: {planned.history.code}"
    return _WORDS.get(planned.state, planned.state)


def total_lines(totals: Totals) -> Iterator[str]:
    """Give what a plan adds up to: tasks, cost, and what of it is paid again."""
    counts = ", ".join(f"{one.count:,} to {action.value}" for action, one in totals.actions.items() if one.count)
    yield f"{totals.count:,} tasks: {counts or 'nothing'}"
    if totals.submissions.count:
        one = totals.submissions
        cost = "unknown" if one.unpriced == one.count else format_money(one.usd)
        if one.unpriced:
            cost += ": " if one.unpriced == one.count else ", and "
            cost += f"{one.unpriced:,} submissions without a known price (`prices` in the manifest gives it)"
        yield f"cost: {cost}"
    for why, one in totals.again.items():
        yield f"paid again: {one.count:,} {why}" + (f", {one.money} of the cost" if one.money else "")
    if totals.rebought.count:
        one = totals.rebought
        yield f"may be paid again: {one.count:,} {_REBOUGHT}" + (f", up to {one.money}" if one.money else "")
