"""Ledgers made by hand: records put one by one, and the shortest way to every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from rsbatch.ledger import records
from rsbatch.ledger.records import Record, encode
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.model import EXT, Origin, SavedFile, Task

NOW = 1_780_000_000.0
quick = settings(max_examples=100, deadline=None)


def key_of(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]


def task(name: str = "cat", *, usd: str | None = "0.05", key: str | None = None, path: str | None = None) -> Task:
    return Task(
        id=name,
        key=key or key_of(name),
        sample=1,
        body={"prompt": name},
        path=path or f"{name}.{EXT}",
        usd=None if usd is None else Decimal(usd),
        origin=Origin(0, 1),
    )


def saved_file(path: str = "cat.png", size: int = 100) -> SavedFile:
    return SavedFile(path, size, "ab" * 32, "png", 10, 20)


class Book:
    """A ledger in memory: its lines and its state."""

    def __init__(self) -> None:
        self.state = LedgerState()
        self.lines: list[bytes] = []

    @property
    def data(self) -> bytes:
        return b"".join(self.lines)

    def put(self, *new: Record, run: str = "r1") -> Book:
        for record in new:
            line, value = encode(record, seq=self.state.seq + 1, ts=NOW + self.state.seq, run=run)
            self.state.apply(value, len(self.data))
            self.lines.append(line)
        return self

    def the(self, name: str = "cat", key: str | None = None) -> History:
        history = self.state.get(name, key or key_of(name))
        assert history is not None
        return history


def started(**more: Any) -> Record:
    fields = {"service": "s", "name": "n", "manifest": "m", "manifest_sha256": "0", "version": "1", "tasks": 1}
    return records.run_started(**{**fields, **more})


class Steps:
    """The records of one task, by their names."""

    def __init__(self, name: str = "cat", key: str | None = None, usd: str | None = "0.05", job: str = "") -> None:
        self.name, self.key = name, key or key_of(name)
        self.usd = None if usd is None else Decimal(usd)
        self.job = job or f"job-{name}"

    def submitting(self, attempt: int = 1, request: object = None) -> Record:
        path = f"{self.name}.{EXT}"
        return records.submitting(self.name, self.key, attempt=attempt, request=request, usd=self.usd, path=path)

    def submitted(self, attempt: int = 1, job: str = "") -> Record:
        job_id = job or self.job
        return records.submitted(self.name, self.key, attempt=attempt, job_id=job_id, request_id="req")

    def not_submitted(self, attempt: int = 1, reason: str = "no", status: int | None = 429) -> Record:
        return records.not_submitted(self.name, self.key, attempt=attempt, reason=reason, status=status)

    def in_doubt(self, attempt: int = 1, reason: str = "reset") -> Record:
        return records.in_doubt(self.name, self.key, attempt=attempt, reason=reason)

    def generated(self, job: str = "") -> Record:
        return records.generated(self.name, self.key, job_id=job or self.job, images=1, waited_s=1, queries=1)

    def downloaded(self, *files: SavedFile) -> Record:
        return records.downloaded(self.name, self.key, job_id=self.job, files=files or [saved_file()])

    def saved(self, *files: SavedFile) -> Record:
        return records.saved(self.name, self.key, job_id=self.job, files=files or [saved_file()])

    def failed(self, stage: records.Stage = "generate", *, final: bool = True, code: str = "fail") -> Record:
        return records.failed(self.name, self.key, stage=stage, final=final, code=code, message="why")

    def parked(self) -> Record:
        return records.parked(self.name, self.key, job_id=self.job, waited_s=9)

    def resolved(self, how: records.How, job: str | None = None) -> Record:
        return records.resolved(self.name, self.key, how=how, job_id=job)

    def renamed(self, from_: str) -> Record:
        return records.renamed(self.name, self.key, from_=from_)

    def moved(self, from_: str, to: str) -> Record:
        return records.moved(self.name, self.key, from_=from_, to=to)

    def to(self, state: State) -> list[Record]:
        """The shortest way from nothing to `state`."""
        submitted = [self.submitting(), self.submitted()]
        generated = [*submitted, self.generated()]
        refused = [self.submitting(), self.not_submitted()]
        return {
            State.SUBMITTING: [self.submitting()],
            State.NOT_SUBMITTED: refused,
            State.SUBMITTED: submitted,
            State.GENERATED: generated,
            State.DOWNLOADED: [*generated, self.downloaded()],
            State.SAVED: [*generated, self.downloaded(), self.saved()],
            State.FAILED_SUBMIT: [*refused, self.failed("submit", final=False)],
            State.FAILED_DOWNLOAD: [*generated, self.failed("download", final=False)],
            State.FAILED_FINAL: [*submitted, self.failed()],
            State.HELD: [self.submitting(), self.in_doubt()],
            State.PARKED: [*submitted, self.parked()],
            State.RELEASED: [self.submitting(), self.in_doubt(), self.resolved("resubmit")],
        }[state]


def at(state: State | None, name: str = "cat", **more: Any) -> Book:
    """A ledger with one task, in `state`."""
    return Book().put(started(), *(Steps(name, **more).to(state) if state is not None else []))


FIELDS = [field.name for field in fields(History)]


def snapshot(state: LedgerState) -> Any:
    """All that a state says, for comparing."""
    histories = [{name: getattr(h, name) for name in FIELDS} for h in state.histories()]
    spend = (dict(state.spend.usd), dict(state.spend.unpriced))
    names = (state.service, state.name, state.runs, state.ended)
    jobs = {job: (h.task, h.key) for job, h in state.jobs().items()}
    owners = {path: (h.task, h.key) for path, h in state._owners.items()}
    index = {h.key: [other.task for other in state.of_key(h.key)] for h in state.histories()}
    ids = {h.task: [other.key for other in state.of_id(h.task)] for h in state.histories()}
    return state.seq, names, histories, spend, jobs, owners, index, ids


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _json(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | numbers | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )


JSON = _json(st.floats(allow_nan=False))
FINITE_JSON = _json(st.floats(allow_nan=False, allow_infinity=False))
Maker = Callable[[], Record]
