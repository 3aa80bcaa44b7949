"""`rsbatch status`: what the ledger says, at a glance. Reads without the lock, also while a run goes on.

Rule: imports neither httpx nor Pillow, and tqdm only to watch on a terminal.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rsbatch.commands.common import add_manifest_arguments, command_words, print_json, project_of, say
from rsbatch.ledger.local import NAME, stamp_of
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.planning import Category, category
from rsbatch.progress.interface import Snapshot
from rsbatch.session import Project, match, with_redos
from rsbatch.summary import spend_json, spend_words, undelivered_words

SHOWN = 10
LOOK_SECONDS = 2.0
"""Between two looks of `--watch`; more where a look takes long, so that watching costs a fifth of a core at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch status`."""
    add_manifest_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="go on until the run ends, then exit with its exit code; Ctrl-C stops watching, not the run",
    )


def run(args: argparse.Namespace) -> int:
    """Print the status; gives the exit code."""
    project = project_of(args)
    if args.watch:
        return _watch(args, project)
    look = Look.at(project)
    if args.json:
        print_json(look.as_json(project))
    else:
        for line in look.lines(project, command_words(args, project.manifest)):
            say(line)
    return 0


@dataclass(frozen=True, slots=True)
class Look:
    """What a ledger says at one moment, about the tasks of the manifest."""

    state: LedgerState
    total: int
    orphaned: int
    counts: Counter[Category]
    errors: list[tuple[tuple[str, str], int]]
    undelivered: int
    held: list[History]
    out: list[History]

    @classmethod
    def at(cls, project: Project, *, live: bool = False) -> Look:
        """Read the ledger, and the manifest's tasks. With `live` a run is taken to go on if it has not ended."""
        state = project.read_state()
        matcher, _ = match(with_redos(project, state), state, buying=False)
        live = live and not state.ended
        counts: Counter[Category] = Counter()
        errors: Counter[tuple[str, str]] = Counter()
        held, undelivered, mine = [], 0, 0
        for history in state.histories():  # a million may not be held at once
            if not matcher.owns(history):
                continue
            mine += 1
            sending = live and history.state is State.SUBMITTING
            kind = Category.PENDING if sending else category(history.state)
            counts[kind] += 1
            if kind is Category.FAILED:
                errors[history.code, history.message] += 1
            elif kind is Category.HELD:
                held.append(history)
            undelivered += history.state is State.FAILED_DOWNLOAD
        counts[Category.PENDING] += matcher.total - mine
        return cls(
            state=state,
            total=matcher.total,
            orphaned=len(state) - mine,
            counts=counts,
            errors=errors.most_common(SHOWN),
            undelivered=undelivered,
            held=held,
            out=list(state.jobs_out()),
        )

    @property
    def over(self) -> bool:
        """True where there was a run, and the newest came to its end; else it goes on or was cut off, nobody knows."""
        return bool(self.state.runs) and self.state.ended

    def as_json(self, project: Project) -> dict[str, Any]:
        """Give the object of `--json`."""
        return {
            "manifest": str(project.manifest.path),
            "tasks": {"total": self.total, **{c.value: self.counts[c] for c in Category}, "orphaned": self.orphaned},
            "spend": spend_json(self.state.spend),
            "errors": [{"code": code, "message": text, "tasks": n} for (code, text), n in self.errors],
            "held": [_brief(h) for h in self.held],
            "out": [_brief(h) for h in self.out],
            "runs": self.state.runs,
            "running_or_cut_off": not self.state.ended,
            "ledger": str(project.folder / NAME),
            "output": str(project.folder),
        }

    def lines(self, project: Project, command: str) -> Iterator[str]:
        """Give the lines for people."""
        words = [f"{self.counts[c]} {c.value}" for c in Category if self.counts[c]]
        yield f"{self.total} tasks: {', '.join(words)}" + (f", {self.orphaned} orphaned" if self.orphaned else "")
        yield spend_words(self.state.spend)
        yield from _listed("jobs still out", self.out, lambda h: f"{h.task}  job {h.job_id}  {state_word(h)}")
        sending = "being sent now, or a crash came before the answer"
        yield from _listed("held", self.held, lambda h: f"{h.task}  {h.message or sending}")
        for (code, message), count in self.errors:
            yield f"{count} failed: {code}: {message}"
        if self.held:
            yield f"settle a held task: rsbatch resolve {command} TASK --attach JOB_ID | --not-sent | --resubmit"
        if self.undelivered:
            yield undelivered_words(self.undelivered, command, f"run {command}")
        if not self.state.ended:
            yield f"the newest run goes on, or was cut off; in that case nothing is lost: rsbatch run {command}"
        yield f"ledger: {project.folder / NAME}"

    def snapshot(self, now: float) -> Snapshot:
        """Give the numbers that progress is shown of; `now` in seconds since 1970."""
        counts, spend = self.counts, self.state.spend
        waiting = sum(category(h.state) is Category.PENDING for h in self.out)
        return Snapshot(
            total=self.total,
            saved=counts[Category.SAVED],
            failed=counts[Category.FAILED],
            held=counts[Category.HELD],
            parked=counts[Category.PARKED],
            out=waiting,
            pending=max(0, counts[Category.PENDING] - waiting),
            spent=spend.total if spend.total or spend.known else None,
            usd_known=spend.known,
            elapsed=max(0.0, now - self.state.began) if self.state.runs else 0.0,
        )


def _watch(args: argparse.Namespace, project: Project) -> int:
    """Look again whenever the ledger has changed, until the newest run has ended; gives its exit code."""
    show = _shower(args, project)
    seen: object = None
    pause = LOOK_SECONDS
    look = None
    while True:
        stamp = stamp_of(project.folder)
        if look is None or stamp != seen:
            began = time.monotonic()
            look, seen = Look.at(project, live=True), stamp
            pause = max(LOOK_SECONDS, 5 * (time.monotonic() - began))
        show(look)
        if look.over:
            code = (look.state.last_run_ended or {}).get("exit_code")
            return code if isinstance(code, int) else 0
        time.sleep(pause)


def _shower(args: argparse.Namespace, project: Project) -> Callable[[Look], None]:
    """Choose how looks are shown: drawn anew on a terminal, a line now and then elsewhere, or objects."""
    if args.json:
        shown: list[dict[str, Any]] = []

        def as_json(look: Look) -> None:
            value = look.as_json(project)
            if shown != [value]:
                shown[:] = [value]
                print_json(value)
                sys.stdout.flush()

        return as_json
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        from rsbatch.progress.log import Log

        log = Log(sys.stdout)

        def as_log(look: Look) -> None:
            log.update(look.snapshot(time.time()))
            if look.over:
                log.close()

        return as_log
    from rsbatch.progress.screen import Screen, safe

    screen, command = Screen(sys.stdout), command_words(args, project.manifest)

    def on_screen(look: Look) -> None:
        lines = safe([*look.lines(project, command)])
        if look.over:
            screen.draw(lines, last=True)  # what is to be done must not be cut
        else:
            snapshot = look.snapshot(time.time())
            head = screen.bar(snapshot) if look.state.runs else "no run yet"
            screen.draw([head, *lines, "Ctrl-C stops watching, not the run"])

    return on_screen


def state_word(history: History) -> str:
    """Give a state as people read it."""
    return "" if history.state is None else history.state.value.replace("_", " ")


def _brief(history: History) -> dict[str, object]:
    return {
        "task": history.task,
        "key": history.key,
        "state": history.state.value if history.state is not None else None,
        "job_id": history.job_id,
        "reason": history.message,
    }


def _listed(title: str, histories: Iterable[History], line: Callable[[History], str]) -> Iterator[str]:
    listed = list(histories)
    if listed:
        yield f"{title}: {len(listed)}"
        for history in listed[:SHOWN]:
            yield "  " + line(history)
        if len(listed) > SHOWN:
            yield f"  … and {len(listed) - SHOWN} more (--json prints all)"
