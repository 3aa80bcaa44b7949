"""What a ledger says: a pure fold over its records.

Rule: `LedgerState.apply` is the only place where a record changes what is known, for a replay and for a live run
alike. No IO. Money is Decimal, and each attempt's price stands in exactly one bucket or, freed, in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from rsbatch.ledger.records import BadLine, event_of, seconds_of
from rsbatch.lifecycle import OUT, Event, IllegalTransition, State, advance
from rsbatch.model import MOST_USD, SavedFile

JOB_NOT_FOUND = "job_not_found"
"""The code of a job that the service says it does not know: nobody can tell whether it was charged."""


class Bucket(StrEnum):
    """Where the price of an attempt is counted."""

    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    OUT = "out"


@dataclass(slots=True, eq=False)
class History:
    """What the ledger knows of one (id, key). Only the fold changes it.

    `since` is the `seq` of its first record, `usd`, `bucket` and `run` are of the newest attempt, `path` is as in
    `submitting`, `request_at` the place of the line that has the request body, `submitted_at` seconds since 1970.
    """

    task: str
    key: str
    since: int
    state: State | None = None
    attempt: int = 0
    run: str = ""
    job_id: str | None = None
    request_id: str | None = None
    path: str = ""
    usd: Decimal | None = None
    bucket: Bucket | None = None
    files: tuple[SavedFile, ...] = ()
    code: str = ""
    message: str = ""
    submitted_at: float = 0.0
    request_at: int | None = None
    was_saved: bool = False
    moves: tuple[tuple[str, str], ...] = ()

    @property
    def out(self) -> bool:
        """True while a job exists whose image is not saved."""
        return self.state in OUT


@dataclass(slots=True)
class Spend:
    """US dollars by bucket, and how many attempts in it have no known price."""

    usd: dict[Bucket, Decimal] = field(default_factory=lambda: dict.fromkeys(Bucket, Decimal(0)))
    unpriced: dict[Bucket, int] = field(default_factory=lambda: dict.fromkeys(Bucket, 0))

    @property
    def total(self) -> Decimal:
        """All that was spent or may have been: what a budget is held against."""
        return sum(self.usd.values(), Decimal(0))

    @property
    def known(self) -> bool:
        """False where some attempt that may have been charged has no price."""
        return not any(self.unpriced.values())

    def move(self, usd: Decimal | None, source: Bucket | None, target: Bucket | None) -> None:
        """Take an attempt's price out of `source` and into `target`; None is nowhere."""
        for bucket, sign in ((source, -1), (target, 1)):
            if bucket is not None and usd is None:
                self.unpriced[bucket] += sign
            elif bucket is not None and usd is not None:
                self.usd[bucket] += sign * usd


class LedgerState:
    """Everything a run or a command wants to know of a ledger."""

    def __init__(self) -> None:
        self.seq = 0
        self.service: str | None = None
        self.name: str | None = None
        self.runs = 0
        self.began = 0.0
        """When the newest run began, seconds since 1970."""
        self.ended = True
        """False where the newest run left no `run_ended`."""
        self.last_run_ended: Mapping[str, Any] | None = None
        self.spend = Spend()
        self._histories: dict[tuple[str, str], History] = {}
        self._by_key: dict[str, list[History]] = {}
        self._by_id: dict[str, list[History]] = {}
        self._jobs: dict[str, History] = {}
        self._owners: dict[str, History] = {}

    # what can be asked

    def __len__(self) -> int:
        return len(self._histories)

    def histories(self) -> Iterable[History]:
        """Every history, oldest first."""
        return self._histories.values()

    def get(self, task: str, key: str) -> History | None:
        """Give the history of exactly this id and key."""
        return self._histories.get((task, key))

    def of_key(self, key: str) -> list[History]:
        """All histories of a key, oldest first."""
        return sorted(self._by_key.get(key, ()), key=lambda h: h.since)

    def of_id(self, task: str) -> list[History]:
        """All histories of an id, oldest first."""
        return sorted(self._by_id.get(task, ()), key=lambda h: h.since)

    def of_job(self, job_id: str) -> History | None:
        """Give the history that has this job, if any."""
        return self._jobs.get(job_id)

    def owner_of(self, path: str) -> History | None:
        """Give the history whose saved file stands at `path`, as far as the ledger knows."""
        return self._owners.get(path)

    def jobs_out(self) -> Iterator[History]:
        """Histories with a job whose image is not saved yet, oldest first."""
        return (h for h in self._histories.values() if h.out)

    # the fold

    def apply(self, value: Mapping[str, Any], at: int = 0) -> None:
        """Take in one decoded record; `at` is the place of its line in the ledger, in bytes.

        Raises BadLine, changing nothing, where the record cannot follow what came before it.
        """
        seq = value["seq"]
        if seq != self.seq + 1:
            raise BadLine(f"record {seq} stands where record {self.seq + 1} belongs")
        try:
            self._apply(value, at)
        except IllegalTransition as exc:
            raise BadLine(f"{value.get('task')}: {exc}") from None
        except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
            if isinstance(exc, BadLine):
                raise
            raise BadLine(f"a {value['type']} record without a usable {exc}") from None
        self.seq = seq

    def _apply(self, value: Mapping[str, Any], at: int) -> None:
        kind = value["type"]
        if kind == "run_started":
            self.service, self.name = str(value["service"]), str(value["name"])
            self.runs += 1
            self.began = seconds_of(value["ts"])
            self.ended = False
        elif kind == "run_ended":
            self.ended = True
            self.last_run_ended = value
        elif kind == "renamed":
            self._rename(str(value["from"]), value["task"], value["key"])
        elif kind == "moved":
            self._move_file(value)
        elif (event := event_of(value)) is not None:
            self._step(event, value, at)

    def _step(self, event: Event, value: Mapping[str, Any], at: int) -> None:
        task, key = value["task"], value["key"]
        found = self._histories.get((task, key))
        state = advance(found.state if found else None, event)
        history = found or History(task, key, value["seq"])
        _TAKE_IN[event](self, history, value, at)  # each reads all that it needs before it changes anything
        history.state = state
        if found is None:
            self._add(history)

    def _add(self, history: History) -> None:
        self._histories[history.task, history.key] = history
        self._by_key.setdefault(history.key, []).append(history)
        self._by_id.setdefault(history.task, []).append(history)

    def _rename(self, old: str, new: str, key: str) -> None:
        history = self._histories.get((old, key))
        if history is None or (new, key) in self._histories:
            raise BadLine(f"{old} cannot be renamed to {new}")
        del self._histories[old, key]
        self._by_key[key].remove(history)
        self._by_id[old].remove(history)
        history.task = new
        self._add(history)

    def _move_file(self, value: Mapping[str, Any]) -> None:
        history = self._histories.get((value["task"], value["key"]))
        source, target = str(value["from"]), str(value["to"])
        if history is not None and self._owners.get(source) is history and history.state is not State.SAVED:
            del self._owners[source]  # an older file of its own made way for the one that is being placed
            return
        if history is None or history.state is not State.SAVED or all(f.path != source for f in history.files):
            return  # a file that is not of this ledger made way
        history.files = tuple(
            SavedFile(target, f.bytes, f.sha256, f.format, f.width, f.height) if f.path == source else f
            for f in history.files
        )
        history.moves += ((source, target),)
        if self._owners.get(source) is history:
            self._owners[target] = self._owners.pop(source)

    def _charge(self, history: History, bucket: Bucket | None) -> None:
        self.spend.move(history.usd, history.bucket, bucket)
        history.bucket = bucket

    # one function for each event

    def _submitting(self, history: History, value: Mapping[str, Any], at: int) -> None:
        usd = None if value["usd"] is None else Decimal(value["usd"])
        if usd is not None and not 0 <= usd < MOST_USD:
            raise ValueError("price")
        attempt, path = int(value["attempt"]), str(value["path"])
        history.bucket = None  # what an earlier attempt cost stays where it is
        history.usd, history.attempt, history.path, history.run = usd, attempt, path, value["run"]
        history.job_id, history.code, history.message = None, "", ""
        if "request" in value:
            history.request_at = at
        self._charge(history, Bucket.UNKNOWN)

    def _submitted(self, history: History, value: Mapping[str, Any], at: int) -> None:
        _check_attempt(history, value)
        self._attached(history, value, at)

    def _attached(self, history: History, value: Mapping[str, Any], at: int) -> None:
        job_id, submitted_at = value["job_id"], seconds_of(value["ts"])
        if not isinstance(job_id, str) or not job_id:
            raise TypeError("job_id")
        history.job_id, history.request_id, history.submitted_at = job_id, value.get("request_id"), submitted_at
        self._jobs[job_id] = history
        self._charge(history, Bucket.OUT)

    def _freed(self, history: History, value: Mapping[str, Any], at: int) -> None:
        _check_attempt(history, value)
        history.message = str(value.get("reason", ""))
        self._charge(history, None)

    def _doubted(self, history: History, value: Mapping[str, Any], at: int) -> None:
        history.message = str(value["reason"])
        self._charge(history, Bucket.UNKNOWN)

    def _generated(self, history: History, value: Mapping[str, Any], at: int) -> None:
        _check_job(history, value)
        history.code, history.message = "", ""
        self._charge(history, Bucket.DELIVERED)

    def _downloaded(self, history: History, value: Mapping[str, Any], at: int) -> None:
        _check_job(history, value)
        files = tuple(_file(f) for f in value["files"])
        if not files:
            raise ValueError("files")
        history.files = files

    def _saved(self, history: History, value: Mapping[str, Any], at: int) -> None:
        self._downloaded(history, value, at)
        self._owners.update((f.path, history) for f in history.files)
        history.was_saved = True
        history.code, history.message = "", ""

    def _failed(self, history: History, value: Mapping[str, Any], at: int) -> None:
        code, message = str(value["code"]), str(value["message"])
        history.code, history.message = code, message
        if history.bucket is Bucket.OUT:
            self._charge(history, Bucket.UNKNOWN if history.code == JOB_NOT_FOUND else Bucket.FAILED)

    def _parked(self, history: History, value: Mapping[str, Any], at: int) -> None:
        _check_job(history, value)
        history.message = "its time was over before its job ended"

    def _released(self, history: History, value: Mapping[str, Any], at: int) -> None:
        if history.bucket is not None:  # what was freed by a refusal stays free
            self._charge(history, Bucket.UNKNOWN)
        history.message = "to be submitted again, as settled by hand"

    def _settled_not_sent(self, history: History, value: Mapping[str, Any], at: int) -> None:
        history.message = "not sent, as settled by hand"
        self._charge(history, None)


def _check_attempt(history: History, value: Mapping[str, Any]) -> None:
    """An answer settles its own attempt: another's price is not freed by it."""
    if value["attempt"] != history.attempt:
        raise BadLine(f"{history.task}: attempt {value['attempt']} is not the one that is open, {history.attempt}")


def _check_job(history: History, value: Mapping[str, Any]) -> None:
    """What became of a job says nothing of another, and must not make one forgotten."""
    if value["job_id"] != history.job_id:
        raise BadLine(f"{history.task}: job {value['job_id']} is not its job, {history.job_id}")


def _file(value: Mapping[str, Any]) -> SavedFile:
    file = SavedFile(*(value[name] for name in ("path", "bytes", "sha256", "format", "width", "height")))
    if not isinstance(file.path, str) or not isinstance(file.sha256, str) or type(file.bytes) is not int:
        raise TypeError("files")
    return file


_TAKE_IN = {
    Event.SUBMITTING: LedgerState._submitting,
    Event.SUBMITTED: LedgerState._submitted,
    Event.ATTACHED: LedgerState._attached,
    Event.NOT_SUBMITTED: LedgerState._freed,
    Event.NOT_SENT: LedgerState._settled_not_sent,
    Event.IN_DOUBT: LedgerState._doubted,
    Event.GENERATED: LedgerState._generated,
    Event.DOWNLOADED: LedgerState._downloaded,
    Event.SAVED: LedgerState._saved,
    Event.FAILED_SUBMIT: LedgerState._failed,
    Event.FAILED_DOWNLOAD: LedgerState._failed,
    Event.FAILED_FINAL: LedgerState._failed,
    Event.PARKED: LedgerState._parked,
    Event.RESUBMIT: LedgerState._released,
}
