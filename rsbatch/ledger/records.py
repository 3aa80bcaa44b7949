"""Records and their line form: the ledger's format, version 1.

Rule: pure. A record is built here and nowhere else, so that this file is the list of what a ledger may hold. A
line is `{"v":1,"seq":…,"ts":…,"run":…,"type":…,…,"crc":"…"}`; the CRC-32 covers the line's bytes before `,"crc"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec
from isal.isal_zlib import crc32
from pydantic_core import from_json

from rsbatch.lifecycle import Event
from rsbatch.model import SavedFile

VERSION = 1
UNDER_REPAIR = b"this ledger was lost, and its repair did not come to its end: run `rsbatch repair` with its manifest\n"
"""The first and only line of a ledger that is being made anew."""
Stage = Literal["submit", "generate", "download"]
How = Literal["attached", "not_sent", "resubmit"]

_CRC = re.compile(rb'^,"crc":"([0-9a-f]{8})"}$')
_CRC_LENGTH = len(b',"crc":"00000000"}')
to_json = msgspec.json.Encoder().encode
"""Gives a value as a ledger's line has it."""
_LEAST, _LONG, _FLAT = 400, 4000, 100
"""Bytes of what may be too deep and of what may have too long a number, and brackets of what surely is not too deep."""


class Record(NamedTuple):
    """One record before it has a place in a ledger. `task` and `key` are empty for records of the run itself."""

    type: str
    task: str = ""
    key: str = ""
    fields: Mapping[str, Any] = MappingProxyType({})


class BadLine(ValueError):
    """A complete line that is not a record that can be trusted; the text says why."""


def encode(record: Record, *, seq: int, ts: float, run: str) -> tuple[bytes, dict[str, Any]]:
    """Give the line (newline included) and the value that `decode` would give for it.

    `ts` is in seconds since 1970, UTC; all numbers are finite, for JSON has no others. Raises BadLine for what could
    not be read back: a body that is nested too deeply must not make a ledger unreadable.
    """
    whose = {"task": record.task, "key": record.key} if record.task else {}
    value = {"v": VERSION, "seq": seq, "ts": timestamp(ts), "run": run, "type": record.type, **whose, **record.fields}
    try:
        body = to_json(value)[:-1]  # in half of pydantic_core's time
        if "request" in record.fields and _may_be_unreadable(body):  # all other fields are flat, and ours
            from_json(body + b"}")
    except (ValueError, TypeError, RecursionError) as exc:
        raise BadLine(f"cannot be recorded: {exc}") from None
    return b'%s,"crc":"%08x"}\n' % (body, crc32(body)), value


def _may_be_unreadable(body: bytes) -> bool:
    """Tell if it must be read to be sure, which takes a quarter of an intent's time.

    A reader takes 200 levels, which are 400 bytes at least, and numbers of 4,300 digits.
    """
    return len(body) > _LONG or (len(body) > _LEAST and body.count(b"[") + body.count(b"{") > _FLAT)


def decode(line: bytes) -> dict[str, Any]:
    """Read one line (without its newline) back; raises BadLine."""
    body, tail = line[:-_CRC_LENGTH], line[-_CRC_LENGTH:]
    if tail != b',"crc":"%08x"}' % crc32(body):
        raise BadLine("the checksum does not fit" if _CRC.match(tail) else "not a whole record")
    try:
        # Nearly all values are new ones, which a cache only makes slower: 1.0 instead of 1.7 µs.
        value: dict[str, Any] = from_json(body + b"}", cache_strings="keys")
    except ValueError:
        raise BadLine("not JSON") from None
    get = value.get  # JSON that ends in a brace is an object
    if get("v") != VERSION:
        raise BadLine(f"version {get('v')!r}, and this rsbatch reads version {VERSION}")
    if type(get("seq")) is not int or type(get("ts")) is not str or type(get("run")) is not str:
        raise BadLine("not a record")
    if type(get("type")) is not str:
        raise BadLine("not a record")
    return value


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return _millisecond(round(seconds * 1_000_000) // 1000)


@lru_cache(maxsize=8)
def _millisecond(whole: int) -> str:
    """Write a millisecond; a run that is busy asks for the same one dozens of times."""
    seconds, millis = divmod(whole, 1000)
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", f".{millis:03d}Z")


def seconds_of(ts: str) -> float:
    """Seconds since 1970 of a record's `ts`."""
    return datetime.fromisoformat(ts).timestamp()


def event_of(value: Mapping[str, Any]) -> Event | None:
    """Give the lifecycle event that a decoded record stands for, None for records that move no state.

    Types that this version does not know move nothing. Raises BadLine where a known type lacks what tells.
    """
    kind = value["type"]
    plain = _PLAIN_EVENTS.get(kind)
    if plain is not None:
        return plain
    if kind == "failed":
        if value.get("final"):
            return Event.FAILED_FINAL
        return Event.FAILED_SUBMIT if value.get("stage") == "submit" else Event.FAILED_DOWNLOAD
    if kind == "resolved":
        try:
            return Event(str(value.get("how")))
        except ValueError:
            raise BadLine(f"resolved how? {value.get('how')!r}") from None
    return None


_PLAIN_EVENTS = {
    e.value: e
    for e in (
        Event.SUBMITTING,
        Event.SUBMITTED,
        Event.NOT_SUBMITTED,
        Event.IN_DOUBT,
        Event.GENERATED,
        Event.DOWNLOADED,
        Event.SAVED,
        Event.PARKED,
    )
}


def run_started(*, service: str, name: str, manifest: str, manifest_sha256: str, version: str, tasks: int) -> Record:
    """A run begins; `tasks` is how many tasks its manifest has."""
    return Record(
        "run_started",
        fields={
            "service": service,
            "name": name,
            "manifest": manifest,
            "manifest_sha256": manifest_sha256,
            "version": version,
            "tasks": tasks,
        },
    )


def submitting(task: str, key: str, *, attempt: int, request: object | None, usd: Decimal | None, path: str) -> Record:
    """The intent: durable before the request leaves. `request` is the body's ledger form on attempt 1."""
    fields: dict[str, Any] = {"attempt": attempt}
    if request is not None:
        fields["request"] = request
    fields |= {"usd": None if usd is None else str(usd), "path": path}
    return Record("submitting", task, key, fields)


def submitted(task: str, key: str, *, attempt: int, job_id: str, request_id: str | None) -> Record:
    """The service accepted: durable before the first query."""
    return Record("submitted", task, key, {"attempt": attempt, "job_id": job_id, "request_id": request_id})


def not_submitted(task: str, key: str, *, attempt: int, reason: str, status: int | None) -> Record:
    """Certainly no job came of this attempt; `status` is the HTTP status, None where there was none."""
    return Record("not_submitted", task, key, {"attempt": attempt, "reason": reason, "status": status})


def in_doubt(task: str, key: str, *, attempt: int, reason: str) -> Record:
    """A request may have been sent, and its fate is unknown."""
    return Record("in_doubt", task, key, {"attempt": attempt, "reason": reason})


def generated(task: str, key: str, *, job_id: str, images: int, waited_s: float, queries: int) -> Record:
    """The service said DONE; `waited_s` in seconds since the submission as far as this run knows."""
    return Record(
        "generated",
        task,
        key,
        {"job_id": job_id, "images": images, "waited_s": round(waited_s, 3), "queries": queries},
    )


def downloaded(task: str, key: str, *, job_id: str, files: Sequence[SavedFile]) -> Record:
    """The bytes are in part files, verified, hashed and synced: durable before the rename."""
    return Record("downloaded", task, key, {"job_id": job_id, "files": [_fields(f) for f in files]})


def _fields(file: SavedFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "format": file.format,
        "width": file.width,
        "height": file.height,
    }


def saved(task: str, key: str, *, job_id: str, files: Sequence[SavedFile]) -> Record:
    """The files are in place."""
    return Record("saved", task, key, {"job_id": job_id, "files": [_fields(f) for f in files]})


def failed(task: str, key: str, *, stage: Stage, final: bool, code: str, message: str) -> Record:
    """A task ended without its image, for good (`final`) or until the next run."""
    return Record("failed", task, key, {"stage": stage, "final": final, "code": code, "message": message})


def parked(task: str, key: str, *, job_id: str, waited_s: float) -> Record:
    """The task's time is over and its job has not ended; it is polled again by the next run."""
    return Record("parked", task, key, {"job_id": job_id, "waited_s": round(waited_s, 3)})


def renamed(task: str, key: str, *, from_: str) -> Record:
    """The history of `from_` with the same key goes on under the id `task`."""
    return Record("renamed", task, key, {"from": from_})


def moved(task: str, key: str, *, from_: str, to: str) -> Record:
    """A file made way for another: durable before the move. `task` and `key` are of the file that moves."""
    return Record("moved", task, key, {"from": from_, "to": to})


def resolved(task: str, key: str, *, how: How, job_id: str | None = None) -> Record:
    """A person settled the task's doubt."""
    fields: dict[str, Any] = {"how": how}
    if job_id is not None:
        fields["job_id"] = job_id
    return Record("resolved", task, key, fields)


def redo(task: str, key: str, *, number: int) -> Record:
    """A person rejected the task's image and wants the `number`-th (1-based) new sample in its place."""
    return Record("redo", task, key, {"number": number})


def repaired() -> Record:
    """A repair made this ledger of one that had lost records: until here, more may have been bought than it says."""
    return Record("repaired")


def run_ended(summary: Mapping[str, Any]) -> Record:
    """A run ended by itself; the fields of its summary, without `run`, which each record has."""
    return Record("run_ended", fields={k: v for k, v in summary.items() if k != "run"})
