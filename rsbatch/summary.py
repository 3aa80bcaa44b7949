"""The end of a run in numbers and words: the `--json` summary, the exit code, and what to do next.

Rule: pure. The order of exit codes when several hold: 4, then signals, then 3, then 1; a signal after which
everything still got saved is 0.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsbatch.errors import Exit
from rsbatch.ledger.state import Bucket, Spend
from rsbatch.planning import Category
from rsbatch.scheduler import Halt
from rsbatch.units import format_money


@dataclass(slots=True)
class ThisRun:
    """What one run did: counts of tasks and requests; `submitted` are those that were accepted or are in doubt."""

    submitted: int = 0
    queries: int = 0
    saved: int = 0
    failed: int = 0


@dataclass(slots=True)
class Differing:
    """Saved tasks whose files are not as recorded, by id; `gone` could not be fetched again."""

    altered: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    `tasks` counts all tasks of the manifest by category, `selected` those that `--select` and `--limit` let through;
    `seconds` is how long it took, `message` says why it stopped early, empty if it did not; `undelivered` failed
    tasks have a paid job whose image could not be downloaded.
    """

    manifest: str
    run: str
    ledger: str
    output: str
    tasks: Mapping[Category, int]
    selected: Mapping[Category, int]
    orphaned: int
    this_run: ThisRun
    seconds: float
    spend: Spend
    differing: Differing
    halted: Halt | None = None
    message: str = ""
    signal: int | None = None
    undelivered: int = 0

    @property
    def exit_code(self) -> Exit:
        """What the process exits with."""
        unsaved = sum(n for c, n in self.selected.items() if c is not Category.SAVED)
        if self.halted is Halt.STORE:
            return Exit.STORE
        if self.signal is not None and unsaved:
            return Exit(128 + self.signal)
        stopped = self.halted is not None and self.halted is not Halt.SIGNAL and (unsaved or self.halted in _SERVICE)
        if stopped or self.selected[Category.PARKED] or self.selected[Category.PENDING]:
            return Exit.STOPPED
        if unsaved or self.differing.altered or self.differing.gone:
            return Exit.SOME_FAILED
        return Exit.OK

    @property
    def reason(self) -> str:
        """One word for the exit code: `done`, `failed`, `parked`, or why the run stopped."""
        code = self.exit_code
        if code is Exit.OK:
            return "done"
        if code is Exit.SOME_FAILED:
            return "failed"
        if code > Exit.BUSY:
            return Halt.SIGNAL.value
        if self.halted is not None:
            return self.halted.value
        return "parked" if self.selected[Category.PARKED] else "pending"

    def as_json(self) -> dict[str, Any]:
        """Give the `--json` object; money as text, so that it stays exact."""
        return {
            "manifest": self.manifest,
            "run": self.run,
            "exit_code": int(self.exit_code),
            "reason": self.reason,
            "tasks": {
                "total": sum(self.tasks.values()),
                **{c.value: self.tasks[c] for c in Category},
                "orphaned": self.orphaned,
            },
            "this_run": {
                "submitted": self.this_run.submitted,
                "queries": self.this_run.queries,
                "saved": self.this_run.saved,
                "failed": self.this_run.failed,
                "seconds": round(self.seconds, 3),
            },
            "spend": spend_json(self.spend),
            "ledger": self.ledger,
            "output": self.output,
        }


_SERVICE = {Halt.KEY, Halt.BALANCE, Halt.ADDRESS}
"""These are trouble whether or not something is left unsaved."""


def spend_json(spend: Spend) -> dict[str, Any]:
    """Give the `spend` object of summaries: US dollars as text by bucket."""
    return {bucket.value: f"{spend.usd[bucket].normalize():f}" for bucket in Bucket} | {"usd_known": spend.known}


def in_words(result: Result, command: str, again: str) -> list[str]:
    """Give the lines a person reads at the end.

    For remedies, `command` is the manifest with the options that find its ledger, `again` the command that goes on with
    what was asked for: `run` or `redo` with all its options.
    """
    tasks = result.tasks
    counts = [f"{tasks[Category.SAVED]} of {sum(tasks.values())} saved"]
    counts += [f"{tasks[c]} {c.value}" for c in Category if c is not Category.SAVED and tasks[c]]
    if result.orphaned:
        counts.append(f"{result.orphaned} orphaned")
    run = result.this_run
    lines = [
        ", ".join(counts) + f"; this run submitted {run.submitted} and saved {run.saved} in {result.seconds:.0f} s"
    ]
    lines.append(spend_words(result.spend))
    if result.message:
        complete = result.exit_code is Exit.OK
        lines.append(f"{result.message}, and all is saved" if complete else f"stopped early: {result.message}")
    lines += remedies(result, command, again)
    return lines


def spend_words(spend: Spend) -> str:
    """Say what was spent, by bucket."""
    if not spend.total and not spend.known:
        return "spent: unknown (the manifest gives no prices)"
    parts = [f"{format_money(spend.usd[b])} {_BUCKET_WORDS[b]}" for b in Bucket if spend.usd[b]]
    text = f"spent: {format_money(spend.total)}" + (f" ({', '.join(parts)})" if parts else "")
    unpriced = sum(spend.unpriced.values())
    return text if not unpriced else f"{text}, and {unpriced} submissions without a known price"


_BUCKET_WORDS = {
    Bucket.DELIVERED: "delivered",
    Bucket.FAILED: "for jobs that failed",
    Bucket.UNKNOWN: "unknown",
    Bucket.OUT: "for jobs still out",
}


def remedies(result: Result, command: str, again: str) -> list[str]:
    """For each kind of trouble, say the command that settles it."""
    tasks, lines = result.tasks, []
    if result.halted in _REMEDY:
        lines.append(_REMEDY[result.halted].format(command=again))
    elif result.exit_code in {Exit.STOPPED, Exit.SIGHUP, Exit.SIGINT, Exit.SIGTERM}:
        lines.append(f"nothing is lost; to go on: rsbatch {again}")
    if tasks[Category.HELD]:
        lines.append(
            f"{tasks[Category.HELD]} held: they may have been charged, so they are not sent again unasked. "
            f"See them with `rsbatch status {command}`; settle one with "
            f"`rsbatch resolve {command} TASK --attach JOB_ID`, "
            f"`--not-sent` or `--resubmit`, all at once with `rsbatch {again} --in-doubt resubmit`"
        )
    if result.undelivered:
        lines.append(undelivered_words(result.undelivered, command, again))
    if final := tasks[Category.FAILED] - result.undelivered:
        lines.append(
            f"{final} failed: `rsbatch status {command}` says why; "
            f"`rsbatch {again} --retry-failed` submits final failures again (at a cost)"
        )
    if result.differing.altered:
        lines.append(
            f"{len(result.differing.altered)} saved files differ from what was saved and were left alone: "
            f"`rsbatch verify {command}` lists them, `--fix` fetches the originals again beside them"
        )
    if result.differing.gone:
        lines.append(
            f"{len(result.differing.gone)} saved files are gone and their jobs no longer answer: "
            f"`rsbatch {again} --rebuy-missing` buys them again (at a cost)"
        )
    return lines


def undelivered_words(count: int, command: str, again: str) -> str:
    """Say what to do about jobs that were paid and whose images cannot be downloaded."""
    return (
        f"{count} not downloaded, though paid: every `rsbatch {again}` tries again while the job answers. "
        f"Give an image up, and order another at its price, with `rsbatch resolve {command} TASK --resubmit`"
    )


_REMEDY = {
    Halt.BUDGET: "raise run.budget (or --budget) and run again: rsbatch {command}",
    Halt.KEY: "check the key in the environment or .env, then: rsbatch {command}",
    Halt.BALANCE: "top up the account, then: rsbatch {command}",
    Halt.ADDRESS: "check api.base_url, then: rsbatch {command}",
    Halt.STORE: "make room or mend the disk, then: rsbatch {command} (paid jobs are fetched, not bought again)",
}


def quoted(parts: list[str]) -> str:
    """Join a command's words for a shell."""
    return shlex.join(parts)
