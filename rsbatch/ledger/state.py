"""What a ledger says: a pure fold over its records.

Rule: `LedgerState.apply` is the only place where a record changes what is known, for a replay and for a live run
alike. No IO. Money is Decimal, and each attempt's price stands in exactly one bucket or, freed, in none.

A ledger may have millions of tasks, so a history is held small: its files packed, equal texts shared, and indexes that
few commands ask for made when one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any

from pydantic_core import from_json, to_json

from rsbatch.ledger.records import BadLine, decode, event_of, seconds_of
from rsbatch.lifecycle import OUT, SUBMITTABLE, Event, IllegalTransition, State, advance
from rsbatch.model import MOST_USD, SavedFile

JOB_NOT_FOUND = "job_not_found"
"""The code of a job that the service says it does not know: nobody can tell whether it was charged."""


class Bucket(StrEnum):
    """Where the price of an attempt is counted."""

    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    OUT = "out"


@dataclass(slots=True, eq=False, weakref_slot=True)
class History:
    """What the ledger knows of one (id, key). Only the fold changes it.

    `since` is the `seq` of its first record, `usd`, `bucket` and `run` are of the newest attempt, `path` is as in
    `submitting`, `request_at` the place of the line that has the request body, `submitted_at` seconds since 1970.
    `packed` has the files as JSON, a quarter of what they take as objects; read them from `files`.
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
    packed: bytes = b""
    code: str = ""
    message: str = ""
    submitted_at: float = 0.0
    request_at: int | None = None
    was_saved: bool = False
    moves: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> tuple[SavedFile, ...]:
        """The files of its newest images."""
        return tuple(SavedFile(*values) for values in from_json(self.packed)) if self.packed else ()

    @property
    def out(self) -> bool:
        """True while a job exists whose image is not saved."""
        return self.state in OUT

    @property
    def submittable(self) -> bool:
        """True where a run submits it again without being asked."""
        return self.state in SUBMITTABLE


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
        if source is not None:
            self.add(usd, source, -1)
        if target is not None:
            self.add(usd, target, 1)

    def add(self, usd: Decimal | None, bucket: Bucket, count: int) -> None:
        """Put the prices of `count` attempts into a bucket."""
        if usd is None:
            self.unpriced[bucket] += count
        else:
            self.usd[bucket] += count * usd


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
        self.redos: dict[tuple[str, str], int] = {}
        """How many new samples were asked for, by id and key of the task whose image was rejected."""
        self.repaired_at: float | None = None
        """Seconds since 1970: what was bought before may not all be known. None if no records were ever lost."""
        self._count = 0
        self._by_key: dict[str, History | dict[str, History]] = {}  # those of one key by their ids, if there are more
        self._by_id: dict[str, list[History]] | None = None  # made when it is first asked for, as is the next
        self._by_job: dict[str, History] | None = None
        self._former_jobs: dict[str, History] = {}
        self._names: dict[tuple[str, str], str] = {}  # of renamed histories the next id, by the one before and the key
        self._owners: dict[str, History] = {}

    # what can be asked

    def __len__(self) -> int:
        return self._count

    def histories(self) -> Iterable[History]:
        """Every history, oldest first."""
        if self._count == len(self._by_key):
            return self._by_key.values()  # type: ignore[return-value]  # all are alone with their keys
        return sorted((h for key in self._by_key for h in self._of_key(key)), key=_SINCE)

    def unsettled(self) -> Iterable[History]:
        """Every history to which a run may have something to do, oldest first; saved ones may be among them."""
        return self.histories()

    def settled(self) -> Iterable[int]:
        """Give `since` of every history that `unsettled` leaves out: each is saved, by its first job, as one file."""
        return ()

    def find(self, task: str, key: str) -> tuple[int, bool] | None:
        """Give `since` of the history of exactly this id and key, and whether its job is out."""
        found = self.get(task, key)
        return None if found is None else (found.since, found.out)

    def get(self, task: str, key: str) -> History | None:
        """Give the history of exactly this id and key."""
        found = self._by_key.get(key)
        if isinstance(found, dict):
            return found.get(task)
        return found if found is not None and found.task == task else None

    _held = get
    """The same, of a history that is about to change."""

    def name_of(self, task: str, key: str) -> str:
        """Give the id that a history has by now which had this one; the same where it was not renamed."""
        while (task, key) in self._names and self.get(task, key) is None:
            task = self._names[task, key]
        return task

    def of_key(self, key: str) -> list[History]:
        """All histories of a key, oldest first."""
        return sorted(self._of_key(key), key=_SINCE)

    def _of_key(self, key: str) -> Iterable[History]:
        found = self._by_key.get(key, {})
        return found.values() if isinstance(found, dict) else (found,)

    def of_id(self, task: str) -> list[History]:
        """All histories of an id, oldest first."""
        if self._by_id is None:
            self._by_id = {}
            for history in self.unsettled():
                self._by_id.setdefault(history.task, []).append(history)
        return sorted(self._by_id.get(task, ()), key=_SINCE)

    def of_job(self, job_id: str) -> History | None:
        """Give a history that has this job, or had it for an earlier attempt, if any."""
        if self._by_job is None:
            self._by_job = self._jobs_of(self.unsettled())
        return self._by_job.get(job_id)

    def jobs(self) -> Mapping[str, History]:
        """Give every job with its history, those of earlier attempts included."""
        return self._jobs_of(self.histories())

    def _jobs_of(self, histories: Iterable[History]) -> dict[str, History]:
        return self._former_jobs | {h.job_id: h for h in histories if h.job_id is not None}

    def owner_of(self, path: str) -> History | None:
        """Give the history whose saved file stands at `path`, as far as the ledger knows."""
        return self._owners.get(path)

    def jobs_out(self) -> Iterator[History]:
        """Histories with a job whose image is not saved yet, oldest first."""
        return (h for h in self.unsettled() if h.out)

    # the fold

    def written(self, end: int) -> None:
        """Take in that all lines that begin before `end`, in bytes, can be read from the ledger by now."""

    def take(self, blocks: Iterable[Sequence[bytes]]) -> int:
        """Take in all lines of a ledger, some at a time, with their newlines; gives where the last one ends.

        Raises BadLine; `seq` is then that of the line before.
        """
        at = 0
        for lines in blocks:
            for line in lines:
                self.apply(decode(line[:-1]), at)
                at += len(line)
        return at

    def apply(self, value: Mapping[str, Any], at: int = 0) -> None:
        """Take in one decoded record; `at` is the place of its line in the ledger, in bytes.

        Raises BadLine, changing nothing, where the record cannot follow what came before it.
        """
        seq = value["seq"]
        if seq != self.seq + 1:
            raise BadLine(f"record {seq} stands where record {self.seq + 1} belongs")
        try:
            event = event_of(value)
            if event is not None:
                self._step(event, value, at)
            else:
                self._apply(value)
        except IllegalTransition as exc:
            raise BadLine(f"{value.get('task')}: {exc}") from None
        except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
            if isinstance(exc, BadLine):
                raise
            field = str(exc.args[0]) if exc.args else ""  # where it names one: what Python says is for nobody else
            what = f"without a usable {field}" if field.isidentifier() else "with a value that cannot be used"
            raise BadLine(f"a {value['type']} record {what}") from None
        self.seq = seq

    def _apply(self, value: Mapping[str, Any]) -> None:
        """Take in a record that moves no task's state."""
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
            self._rename(str(value["from"]), *_ident(value))
        elif kind == "moved":
            self._move_file(value)
        elif kind == "redo":
            self._redo(value)
        elif kind == "repaired":
            self.repaired_at = seconds_of(value["ts"])

    def _step(self, event: Event, value: Mapping[str, Any], at: int) -> History:
        task, key = _ident(value)
        found = self._held(task, key)
        state = advance(found.state if found else None, event)
        history = found or History(task, key, value["seq"])
        _TAKE_IN[event](self, history, value, at)  # each reads all that it needs before it changes anything
        history.state = state
        if found is None:
            self._add(history)
        return history

    def _add(self, history: History) -> None:
        self._count += 1
        others = self._by_key.get(history.key)
        if others is None:
            self._by_key[history.key] = history
        elif isinstance(others, dict):
            others[history.task] = history
        else:
            self._by_key[history.key] = {others.task: others, history.task: history}
        if self._by_id is not None:
            self._by_id.setdefault(history.task, []).append(history)

    def _rename(self, old: str, new: str, key: str) -> None:
        history = self._held(old, key)
        if history is None or self.get(new, key) is not None:
            raise BadLine(f"{old} cannot be renamed to {new}")
        others = self._by_key[key]
        if isinstance(others, dict):
            del others[old]
            others[new] = history
        if self._by_id is not None:
            self._by_id[old].remove(history)
            self._by_id.setdefault(new, []).append(history)
        history.task = new
        self._names.pop((new, key), None)
        self._names[old, key] = new
        if (old, key) in self.redos:
            self.redos[new, key] = self.redos.pop((old, key))

    def _redo(self, value: Mapping[str, Any]) -> None:
        task, key = _ident(value)
        if self.get(task, key) is None or value["number"] != self.redos.get((task, key), 0) + 1:
            raise BadLine(f"{task}: new sample {value['number']} follows nothing")
        self.redos[task, key] = value["number"]

    def _move_file(self, value: Mapping[str, Any]) -> None:
        history = self._held(value["task"], value["key"])
        source, target = str(value["from"]), str(value["to"])
        if history is not None and self._owners.get(source) is history and history.state is not State.SAVED:
            del self._owners[source]  # an older file of its own made way for the one that is being placed
            return
        if history is None or history.state is not State.SAVED or all(f.path != source for f in history.files):
            return  # a file that is not of this ledger made way
        rows = from_json(history.packed)
        self._take_over([target])
        history.packed = _pack([[target if row[0] == source else row[0], *row[1:]] for row in rows])
        history.moves += ((source, target),)
        if self._owners.get(source) is history:
            self._owners[target] = self._owners.pop(source)

    def _take_over(self, paths: Iterable[str]) -> None:
        """Make ready for another owner of these paths, before anything is changed."""

    def _charge(self, history: History, bucket: Bucket | None) -> None:
        if bucket is not history.bucket:
            self.spend.move(history.usd, history.bucket, bucket)
            history.bucket = bucket

    def _give_job(self, history: History, job_id: str | None) -> None:
        if history.job_id is not None:
            self._former_jobs[history.job_id] = history
        history.job_id = job_id
        if self._by_job is not None and job_id is not None:
            self._by_job[job_id] = history

    # one function for each event

    def _submitting(self, history: History, value: Mapping[str, Any], at: int) -> None:
        usd = None if value["usd"] is None else _price(value["usd"])
        attempt, path = int(value["attempt"]), str(value["path"])
        history.bucket = None  # what an earlier attempt cost stays where it is
        history.usd, history.attempt, history.path, history.run = usd, attempt, path, _same(value["run"])
        history.code, history.message = "", ""
        self._give_job(history, None)
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
        history.request_id, history.submitted_at = value.get("request_id"), submitted_at
        self._give_job(history, job_id)
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
        history.packed = _pack(_rows(value["files"]))

    def _saved(self, history: History, value: Mapping[str, Any], at: int) -> None:
        _check_job(history, value)
        rows = _rows(value["files"])
        self._take_over([row[0] for row in rows])
        history.packed = _pack(rows)
        for row in rows:
            self._owners[row[0]] = history
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


def _ident(value: Mapping[str, Any]) -> tuple[str, str]:
    task, key = value["task"], value["key"]
    if type(task) is not str or type(key) is not str:
        raise TypeError("task")
    return task, key


def _check_attempt(history: History, value: Mapping[str, Any]) -> None:
    """An answer settles its own attempt: another's price is not freed by it."""
    if value["attempt"] != history.attempt:
        raise BadLine(f"{history.task}: attempt {value['attempt']} is not the one that is open, {history.attempt}")


def _check_job(history: History, value: Mapping[str, Any]) -> None:
    """What became of a job says nothing of another, and must not make one forgotten."""
    if value["job_id"] != history.job_id:
        raise BadLine(f"{history.task}: job {value['job_id']} is not its job, {history.job_id}")


def _rows(files: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Give the values of each file, in the order of SavedFile's fields."""
    rows = [_VALUES(file) for file in files]
    for path, size, sha256, *_ in rows:
        if not isinstance(path, str) or not isinstance(sha256, str) or type(size) is not int:
            raise TypeError("files")
    if not rows:
        raise ValueError("files")
    return rows


def _price(value: Any) -> Decimal:
    """Read US dollars; the error names the field, whatever Decimal says."""
    try:
        usd = _money(value)
        if not 0 <= usd < MOST_USD:
            raise ValueError
    except (TypeError, ValueError, ArithmeticError):
        raise ValueError("usd") from None
    return usd


def _pack(rows: object) -> bytes:
    return to_json(rows, inf_nan_mode="constants")


_VALUES = itemgetter("path", "bytes", "sha256", "format", "width", "height")
_SINCE = attrgetter("since")
# A ledger has few prices and runs, and each is one object.
_money = lru_cache(maxsize=64, typed=True)(Decimal)


@lru_cache(maxsize=64)
def _same(text: str) -> str:
    return text


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
