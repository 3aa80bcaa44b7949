"""Taking in what a failing disk kept out of the ledger: the lines of `ledger.jsonl.rescue`.

Rule: pure. A line is in the rescue because its sync failed or was not tried, so nothing was done that waited for
it: an intent in the rescue was never sent, even where the ledger's file has it too. What is worth keeping is what
became of requests that were sent: `submitted`, `not_submitted`, `in_doubt`. No job id is given up that its task
can take. Taking the same lines in again changes nothing, so a crash at any point is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsbatch.ledger import records
from rsbatch.ledger.records import BadLine, Record, decode, encode, seconds_of
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State

NEVER_SENT = "its intent could not be recorded, so it was not sent"
ANSWERED = "its answer could not be recorded in the ledger and was rescued"

_DOUBT_FIRST = {None, State.SUBMITTING, State.NOT_SUBMITTED, State.FAILED_SUBMIT}
_ATTACHABLE = {State.HELD, State.RELEASED, State.FAILED_FINAL}


@dataclass(slots=True)
class Merged:
    """What came of a rescue: `lines` go to the end of the ledger, whose state has taken them in.

    `jobs` counts the job ids among them, `troubles` are sentences about lines that a person must look at.
    """

    lines: list[bytes] = field(default_factory=list)
    jobs: int = 0
    troubles: list[str] = field(default_factory=list)


def merge(state: LedgerState, rescued: bytes, at: int) -> Merged:
    """Fold the bytes of a rescue into `state`; `at` is the ledger's size in bytes."""
    merger = _Merger(state, at)
    for number, line in enumerate(rescued.split(b"\n"), 1):
        if line:
            merger.take(line, number)
    return merger.merged


class _Merger:
    def __init__(self, state: LedgerState, at: int) -> None:
        self.merged = Merged()
        self._state = state
        self._at = at

    def take(self, line: bytes, number: int) -> None:
        try:
            value = decode(line)
            seconds_of(value["ts"])
            if value["type"] == "submitted":
                self._submitted(value)
            elif value["type"] in {"submitting", "not_submitted"}:
                self._not_sent(value)
            elif value["type"] == "in_doubt":
                self._doubted(value)
        except (BadLine, KeyError, TypeError, ValueError) as exc:
            self.merged.troubles.append(f"line {number} of the rescued records cannot be used: {exc}")

    def _put(self, record: Record, value: Mapping[str, Any]) -> None:
        """Add a record with the time and the run of the rescued one."""
        stamp = seconds_of(value["ts"])
        line, new = encode(record, seq=self._state.seq + 1, ts=stamp, run=value["run"])
        self._state.apply(new, self._at)
        self._at += len(line)
        self.merged.lines.append(line)

    def _sender(self, value: Mapping[str, Any]) -> History | None:
        """Find the history whose newest intent is the very one that a rescued record belongs to."""
        state, task, key = self._state, value["task"], value["key"]
        run, attempt = value["run"], value["attempt"]
        found = [h for h in (state.get(task, key), *state.of_key(key)) if h is not None]
        return next((h for h in found if h.run == run and h.attempt == attempt), None)

    def _submitted(self, value: Mapping[str, Any]) -> None:
        job_id = value["job_id"]
        if not isinstance(job_id, str) or not job_id:
            raise BadLine("a job without an id")
        if self._state.of_job(job_id) is not None:
            return
        history = self._sender(value)
        if history is not None and history.state is State.SUBMITTING:
            fields = {name: value.get(name) for name in ("attempt", "job_id", "request_id")}
            self._put(Record("submitted", history.task, history.key, fields), value)
        else:
            self._attach(history or self._state.get(value["task"], value["key"]), job_id, value)
        self.merged.jobs += 1

    def _attach(self, history: History | None, job_id: str, value: Mapping[str, Any]) -> None:
        task, key = (history.task, history.key) if history is not None else (value["task"], value["key"])
        state = history.state if history is not None else None
        if state in _DOUBT_FIRST:
            self._put(records.in_doubt(task, key, attempt=value["attempt"], reason=ANSWERED), value)
        elif state not in _ATTACHABLE:
            raise BadLine(f"{task} has another job by now; job {job_id} was paid for, too")
        self._put(records.resolved(task, key, how="attached", job_id=job_id), value)

    def _not_sent(self, value: Mapping[str, Any]) -> None:
        """Free what certainly brought no job: a refusal whose record was rescued, or an intent that was."""
        history = self._sender(value)
        if history is None or history.state not in {State.SUBMITTING, State.HELD}:
            return
        if history.state is State.HELD:  # doubted meanwhile, by a run that did not have the rescue
            self._put(records.resolved(history.task, history.key, how="not_sent"), value)
            return
        reason, status = str(value.get("reason") or NEVER_SENT), value.get("status")
        record = records.not_submitted(history.task, history.key, attempt=history.attempt, reason=reason, status=status)
        self._put(record, value)

    def _doubted(self, value: Mapping[str, Any]) -> None:
        """Keep why it is in doubt: the reason may name the job."""
        history, reason = self._sender(value), str(value["reason"])
        if history is None or history.state not in {State.SUBMITTING, State.HELD} or history.message == reason:
            return
        self._put(records.in_doubt(history.task, history.key, attempt=history.attempt, reason=reason), value)
