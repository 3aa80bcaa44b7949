"""Mutated ledgers, and an oracle that says what may come of each.

Rule: the oracle reads a ledger's lines with the standard library and holds two things against the fold and the
repair: a mutant is the state of a prefix or refused at the right line, and neither a saved task, nor freed money, nor
a forgotten job comes of anything but a record that says so. Valid lines with a false content are judged by what
they say: no checksum tells a lie from the truth.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cache
from random import Random
from typing import Any

from rsbatch.errors import LedgerDamaged
from rsbatch.ledger import records
from rsbatch.ledger.mend import Rebuild, Salvage, salvage
from rsbatch.ledger.records import Record, encode
from rsbatch.ledger.replay import lines, replay
from rsbatch.ledger.rescue import merge
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import OUT, TRANSITIONS, Event, State
from rsbatch.model import SavedFile

NOW = 1_780_000_000.0
BASES = 64
"""How many ledgers are mutated; each is drawn from its number."""

_JOBS_IN = {"submitted", "generated", "downloaded", "saved", "parked", "resolved"}
_FIELDS = [field.name for field in fields(History)]
_HOW = {Event.ATTACHED: "attached", Event.NOT_SENT: "not_sent", Event.RESUBMIT: "resubmit"}


@dataclass(frozen=True, slots=True)
class Base:
    """A sound ledger: its lines, what each prefix says, and the (id, key) of its tasks."""

    lines: tuple[bytes, ...]
    states: tuple[Any, ...]
    tasks: tuple[tuple[str, str], ...]


def snapshot(state: LedgerState) -> Any:
    """Give all that a state says, for comparing."""
    histories = [tuple(getattr(h, name) for name in _FIELDS) for h in state.histories()]
    spend = (tuple(state.spend.usd.items()), tuple(state.spend.unpriced.items()))
    jobs = tuple(sorted((job, h.task, h.key) for job, h in state.jobs().items()))
    owners = tuple((path, h.task, h.key) for path, h in state._owners.items())
    return state.seq, state.service, state.name, state.runs, state.ended, histories, spend, jobs, owners


@cache
def base(number: int) -> Base:
    """Draw a ledger of 10 to 40 records: the lives of some tasks, in the order in which a run mixes them."""
    rng = Random(f"ledger {number}")
    state, made = LedgerState(), []
    snapshots = [snapshot(state)]
    names = [f"t{n}" for n in range(rng.randrange(1, 5))]
    prices = {name: rng.choice((None, Decimal("0.0072"), Decimal("0.0636"), Decimal("0.25"))) for name in names}
    run, at = 1, 0
    size = rng.randrange(10, 41)
    while len(made) < size:
        if not made or rng.random() < 0.05:
            run += bool(made)
            fields = {
                "service": "sim",
                "name": "n",
                "manifest": "m",
                "manifest_sha256": "0",
                "version": "1",
                "tasks": 4,
            }
            record = records.run_started(**fields)  # type: ignore[arg-type]
        else:
            record = _step(state, rng.choice(names), prices, number, rng)
        line, value = encode(record, seq=state.seq + 1, ts=NOW + len(made), run=f"run-{run}")
        state.apply(value, at)
        at += len(line)
        made.append(line)
        snapshots.append(snapshot(state))
    return Base(tuple(made), tuple(snapshots), tuple((name, _key(name)) for name in names))


def _key(name: str) -> str:
    return name.encode().hex().ljust(64, "0")


def _step(state: LedgerState, task: str, prices: dict[str, Any], number: int, rng: Random) -> Record:
    """Give a record that may come next in the life of a task, as the runner or a person would make it."""
    key = _key(task)
    history = state.get(task, key)
    was = history.state if history else None
    events = [e for e in TRANSITIONS[was] if e is not Event.IN_DOUBT or was is State.SUBMITTING]
    if was is State.SAVED:
        file = history.files[0] if history else None
        if file is not None and rng.random() < 0.3:
            return records.moved(task, key, from_=file.path, to=f"{task}~{state.seq}.png")
    event = rng.choice(events)
    fresh = f"job-{number}-{state.seq}"
    files = [SavedFile(f"{task}.png", 100 + state.seq, f"{state.seq:064x}", "png", 4, 4)]
    if event is Event.SAVED and history is not None:
        files = list(history.files)
    request = {"prompt": task} if history is None else None
    return record_of(event, task, key, history, job_id=fresh, files=files, request=request, usd=prices[task], rng=rng)


def record_of(
    event: Event,
    task: str,
    key: str,
    history: History | None,
    *,
    job_id: str,
    files: Sequence[SavedFile],
    request: object,
    usd: Decimal | None,
    rng: Random,
) -> Record:
    """Make the record of an event, which follows what `history` says; `job_id` is that of a new job."""
    attempt = history.attempt if history else 0
    job = (history.job_id if history else None) or ""
    match event:
        case Event.SUBMITTING:
            path = f"{task}.{{ext}}"
            return records.submitting(task, key, attempt=attempt + 1, request=request, usd=usd, path=path)
        case Event.SUBMITTED:
            return records.submitted(task, key, attempt=attempt, job_id=job_id, request_id="req")
        case Event.NOT_SUBMITTED:
            return records.not_submitted(task, key, attempt=attempt, reason="rate_limit", status=429)
        case Event.IN_DOUBT:
            return records.in_doubt(task, key, attempt=attempt, reason="reset")
        case Event.GENERATED:
            return records.generated(task, key, job_id=job, images=1, waited_s=31.5, queries=9)
        case Event.DOWNLOADED:
            return records.downloaded(task, key, job_id=job, files=files)
        case Event.SAVED:
            return records.saved(task, key, job_id=job, files=files)
        case Event.PARKED:
            return records.parked(task, key, job_id=job, waited_s=1800)
        case Event.FAILED_SUBMIT:
            return records.failed(task, key, stage="submit", final=False, code="http_500", message="why")
        case Event.FAILED_DOWNLOAD:
            return records.failed(task, key, stage="download", final=False, code="http_500", message="why")
        case Event.FAILED_FINAL:
            code = rng.choice(("fail", "job_not_found"))
            return records.failed(task, key, stage="generate", final=True, code=code, message="why")
    new = job_id if event is Event.ATTACHED else None
    return records.resolved(task, key, how=_HOW[event], job_id=new)  # type: ignore[arg-type]


# Mutations: of bytes, of lines, and of what sound lines say


def mutate(found: Base, rng: Random) -> bytes:
    """Give the bytes of a mutant."""
    data = list(found.lines)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_MUTATIONS)(data, rng) or [b""]
    return b"".join(data)


def _flip(data: list[bytes], rng: Random) -> list[bytes]:
    at = rng.randrange(len(data))
    line = bytearray(data[at] or b"x")
    line[rng.randrange(len(line))] ^= rng.randrange(1, 256)
    return [*data[:at], bytes(line), *data[at + 1 :]]


def _cut(data: list[bytes], rng: Random) -> list[bytes]:
    at = rng.randrange(len(data))
    return [*data[:at], data[at][: rng.randrange(len(data[at]) + 1)]]


def _hole(data: list[bytes], rng: Random) -> list[bytes]:
    """Lose bytes, or find zeros or noise where they were, as after a power cut."""
    whole = b"".join(data)
    at, size = rng.randrange(len(whole) + 1), rng.choice((1, 2, 7, 64, 512))
    there = rng.choice((b"", b"\0" * size, rng.randbytes(size), b"\n"))
    return (whole[:at] + there + whole[at + size :]).splitlines(keepends=True)


def _drop(data: list[bytes], rng: Random) -> list[bytes]:
    at = rng.randrange(len(data))
    return [*data[:at], *data[at + rng.choice((1, 1, 2, 5)) :]]


def _double(data: list[bytes], rng: Random) -> list[bytes]:
    at, to = rng.randrange(len(data)), rng.randrange(len(data) + 1)
    return [*data[:to], data[at], *data[to:]]


def _swap(data: list[bytes], rng: Random) -> list[bytes]:
    made, a, b = list(data), rng.randrange(len(data)), rng.randrange(len(data))
    made[a], made[b] = made[b], made[a]
    return made


def _splice(data: list[bytes], rng: Random) -> list[bytes]:
    """Go on as another ledger does, or take lines of it in."""
    other = list(base(rng.randrange(BASES)).lines)
    at = rng.randrange(min(len(data), len(other)))
    return [*data[:at], *other[at : at + rng.choice((1, 2, 99))], *data[at + 1 :]]


def _garbage(data: list[bytes], rng: Random) -> list[bytes]:
    at = rng.randrange(len(data) + 1)
    noise = rng.choice((b"\n", b"\0\0\n", b"{}\n", b"null\n", rng.randbytes(30), b"\xff\xfe\n", b'{"v":1}\n', b"\r\n"))
    return [*data[:at], noise, *data[at:]]


def _reseal(data: list[bytes], rng: Random) -> list[bytes]:
    """Change what a line says and make its checksum fit."""
    at = rng.randrange(len(data))
    value = _value(data[at].rstrip(b"\n"))
    if value is None:
        return data
    value.pop("crc", None)
    _falsify(value, rng)
    return [*data[:at], seal(value), *data[at + 1 :]]


def _lose_soundly(data: list[bytes], rng: Random) -> list[bytes]:
    """Lose a line and number the rest anew, as a bug might."""
    made = [
        value
        for at, line in enumerate(data)
        if at != rng.randrange(len(data)) and (value := _value(line.rstrip(b"\n")))
    ]
    return [seal({**value, "seq": number}, drop="crc") for number, value in enumerate(made, 1)]


_MUTATIONS = (
    _flip,
    _flip,
    _cut,
    _cut,
    _hole,
    _drop,
    _double,
    _swap,
    _splice,
    _garbage,
    _reseal,
    _reseal,
    _lose_soundly,
)
_TYPES = (
    "submitting",
    "submitted",
    "not_submitted",
    "in_doubt",
    "generated",
    "downloaded",
    "saved",
    "failed",
    "parked",
)
_TYPES += ("renamed", "moved", "resolved", "run_started", "run_ended", "unheard_of", "")
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    1.5,
    10**30,
    "",
    "x",
    "1",
    "-1",
    "NaN",
    "1e999",
    [],
    {},
    [[]],
)
_VALUES += (["x"], {"path": "x"}, "\u0661", "t0", "t1", "job-1-1", "attached", "not_sent", "resubmit", "2026-13-01")


def _falsify(value: dict[str, Any], rng: Random) -> None:
    name = rng.choice(list(value))
    what = rng.randrange(6)
    if what == 0:
        value["type"] = rng.choice(_TYPES)
    elif what == 1:
        del value[name]
    elif what == 2 and value.get("files"):
        file = value["files"][0]
        file[rng.choice(list(file))] = rng.choice(_VALUES)
    elif what == 3 and "task" in value:
        value["task"] = rng.choice(("t0", "t1", "t2", "nobody", ""))
        value["key"] = rng.choice((_key(value["task"]), value.get("key")))
    else:
        value[name] = rng.choice(_VALUES)


def seal(value: dict[str, Any], drop: str = "") -> bytes:
    """Give the line of a value, whatever it says, with a checksum that fits."""
    value = {name: v for name, v in value.items() if name != drop}
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


# The oracle


def _value(line: bytes) -> dict[str, Any] | None:
    """Read a line by hand: an object whose checksum fits, None for all else."""
    head, mark, tail = line.rpartition(b',"crc":"')
    if not mark or len(tail) != 10 or tail[8:] != b'"}' or tail[:8] != b"%08x" % zlib.crc32(head):
        return None
    try:
        value = json.loads(head + b"}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value.get("v") == 1 else None


def _sound(data: Sequence[bytes]) -> list[dict[str, Any]]:
    """The values of all whole lines that can be trusted."""
    found = [_value(line[:-1]) for line in data if line.endswith(b"\n")]
    return [v for v in found if v is not None and isinstance(v.get("type"), str) and type(v.get("seq")) is int]


def spent(values: Sequence[dict[str, Any]]) -> Decimal:
    """Product.md's rule, by hand: each intent's price, but for attempts that were refused or settled as not sent."""
    total, open_ = Decimal(0), {}
    for value in values:
        who, kind = (value.get("task"), value.get("key")), value["type"]
        if kind == "renamed":
            open_[who] = open_.pop((value.get("from"), value.get("key")), Decimal(0))
        elif kind == "submitting":
            total += open_.pop(who, Decimal(0))
            open_[who] = Decimal(value["usd"] or 0)
        elif kind == "not_submitted" or (kind == "resolved" and value.get("how") == "not_sent"):
            open_[who] = Decimal(0)
    return total + sum(open_.values(), Decimal(0))


def judge(found: Base, data: bytes) -> str:
    """Have a mutant read; gives what is wrong with what came of it, empty if nothing is."""
    given = data.split(b"\n")
    same = 0
    while same < min(len(given) - 1, len(found.lines)) and given[same] + b"\n" == found.lines[same]:
        same += 1
    left = given[same:]
    torn_only = len(left) == 1
    try:
        replayed = replay(io.BytesIO(data), "L")
    except LedgerDamaged as damage:
        if torn_only:
            return f"a sound prefix was refused at line {damage.line}"
        if damage.line > len(given) - 1 or damage.line <= same:
            return f"line {damage.line} is not the one that is damaged; the first that differs is {same + 1}"
        first = _first_bad(given, same, damage.line - 1)
        return f"line {first} was trusted; damage is said of {damage.line}" if first else ""
    if torn_only:
        wrong = replayed.torn != left[0] or replayed.end != len(data) - len(left[0])
        if wrong or snapshot(replayed.state) != found.states[same]:
            return f"it is not the state of its first {same} lines"
        return ""
    bad = _first_bad(given, same, len(given) - 1)
    if bad is not None:
        return f"line {bad} was trusted"
    return _backed(replayed.state, [v for line in given[:-1] if (v := _value(line)) is not None])


def _first_bad(given: Sequence[bytes], same: int, end: int) -> int | None:
    """Number of the first line, from index `same` up to `end`, whose checksum or place is wrong."""
    for number in range(same, end):
        value = _value(given[number])
        if value is None or value.get("seq") != number + 1:
            return number + 1
    return None


def _backed(state: LedgerState, values: Sequence[dict[str, Any]]) -> str:
    """Hold what a state says against what the records say."""
    names: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for value in values:
        who = (value.get("task"), value.get("key"))
        if value["type"] == "renamed":
            names[who] = [*names.pop((value["from"], value["key"]), []), value]  # type: ignore[index]
        elif isinstance(value.get("task"), str) and isinstance(value.get("key"), str):  # not so in unknown types
            names.setdefault(who, []).append(value)  # type: ignore[arg-type]
    for history in state.histories():
        mine = names.get((history.task, history.key), [])
        if history.state is State.SAVED and not _is_saved(history, mine):
            return f"{history.task} counts as saved and nothing backs it"
        if history.state in OUT and not any(v.get("job_id") == history.job_id for v in mine):
            return f"{history.task} has job {history.job_id} out and nothing says so"
    if state.spend.total < spent(values):
        return f"{spent(values)} were spent by the records and {state.spend.total} by the state"
    for value in values:
        if value["type"] == "submitted" and state.of_job(value["job_id"]) is None:
            return f"job {value['job_id']} is forgotten"
    return ""


def _is_saved(history: History, mine: Sequence[dict[str, Any]]) -> bool:
    job, files = history.job_id, history.files
    said = {v["type"] for v in mine if v.get("job_id") == job}
    backed = bool(said & {"submitted", "resolved"}) and {"generated", "downloaded", "saved"} <= said
    return backed and bool(files) and all(isinstance(f.path, str) and type(f.bytes) is int for f in files)


def judge_repair(found: Base, data: bytes) -> str:
    """Repair a mutant as the command does; gives what is wrong with what came of it."""
    found_lines = list(lines(io.BytesIO(data)))
    salvaged = salvage(found_lines)
    sound = _sound(found_lines)
    rebuild = Rebuild(NOW + 10**6, "repair")
    try:
        replay(io.BytesIO(data), "L")
        damaged = False
    except LedgerDamaged:
        damaged = True
    if damaged != bool(salvaged.problems):
        return "`repair` calls it sound and `run` does not, or the other way round"
    if not damaged:
        return ""
    _mend(rebuild, salvaged, [*found.tasks, ("unseen", _key("unseen"))])
    return _repaired(rebuild, sound)


def _mend(rebuild: Rebuild, salvaged: Salvage, tasks: Sequence[tuple[str, str]]) -> None:
    """Do what `rsbatch repair` does, but for the sidecars."""
    if not salvaged.values or salvaged.values[0]["type"] != "run_started":
        fields = {"service": "sim", "name": "n", "manifest": "m", "manifest_sha256": "0", "version": "1", "tasks": 0}
        rebuild.put(records.run_started(**fields))  # type: ignore[arg-type]
    for value in salvaged.values:
        rebuild.keep(value)
    rebuild.doubt_the_rest(tasks)


def _repaired(rebuild: Rebuild, sound: Sequence[dict[str, Any]]) -> str:
    again = replay(io.BytesIO(b"".join(rebuild.lines)), "repaired").state
    if snapshot(again) != snapshot(rebuild.state):
        return "the next run reads the repaired ledger otherwise"
    for value in sound:
        job, usable = value.get("job_id"), _usable(value)
        if usable and value["type"] in _JOBS_IN and rebuild.state.of_job(job) is None:
            return f"job {job} can be read in a {value['type']} record and is forgotten"
    harmless = {State.SAVED, State.FAILED_FINAL, State.HELD} | OUT
    for history in rebuild.state.histories():
        if history.state not in harmless:
            return f"{history.task} is {history.state} and would be submitted"
        if history.state is State.SAVED and not any(
            v["type"] == "saved" and v.get("job_id") == history.job_id for v in sound
        ):
            return f"{history.task} counts as saved and nothing backs it"
    return ""


def _usable(value: dict[str, Any]) -> bool:
    """Tell if a record names a job, a task and a time, and (where it should) files that are some."""
    if value["type"] == "resolved" and value.get("how") != "attached":
        return False
    if value["type"] in {"downloaded", "saved"} and not _files_are_some(value.get("files")):
        return False
    try:
        records.seconds_of(value["ts"])
    except (KeyError, TypeError, ValueError):
        return False
    names = [value.get(name) for name in ("task", "key", "job_id", "run")]
    return all(isinstance(name, str) and name for name in names)


def _files_are_some(files: Any) -> bool:
    kinds = {"path": str, "bytes": int, "sha256": str}
    names = ("path", "bytes", "sha256", "format", "width", "height")
    return (
        bool(files)
        and isinstance(files, list)
        and all(
            isinstance(f, dict) and all(n in f for n in names) and all(type(f[n]) is kind for n, kind in kinds.items())
            for f in files
        )
    )


def judge_rescue(found: Base, data: bytes) -> str:
    """Offer a mutant's lines as rescued ones to a sound ledger; no money may be freed that a line does not free."""
    state = replay(io.BytesIO(b"".join(found.lines)), "L").state
    before = {h.task: h.job_id for h in state.histories() if h.state in OUT}
    merged = merge(state, data, sum(map(len, found.lines)))
    again = replay(io.BytesIO(b"".join([*found.lines, *merged.lines])), "L").state
    if snapshot(again) != snapshot(state):
        return "what was merged is read otherwise by the next run"
    lost = [task for task, job in before.items() if state.of_job(job or "") is None]
    return f"the job of {lost[0]} is forgotten" if lost else ""


def try_one(rng: Random) -> str:
    """Draw a mutant and have it read, and one in four repaired and offered as a rescue; gives what went wrong."""
    found = base(rng.randrange(BASES))
    data = mutate(found, rng)
    wrong = judge(found, data)
    if not wrong and rng.random() < 0.25:
        wrong = judge_repair(found, data) or judge_rescue(found, data)
    return wrong and f"{wrong}: {data!r}"
