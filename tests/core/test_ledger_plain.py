"""Lines that are taken in many at a time say what they say one by one, and damage is found at the same line."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from core_help import FIELDS, Steps, saved_file, started

from rsbatch.errors import LedgerDamaged, StoreError
from rsbatch.ledger import records
from rsbatch.ledger import replay as replay_module
from rsbatch.ledger.large import LargeState
from rsbatch.ledger.plain import Live
from rsbatch.ledger.records import Record, encode
from rsbatch.ledger.replay import Replayed, replay
from rsbatch.ledger.state import LedgerState

Lines = list[bytes]


class Counting(LargeState):
    """Counts the histories that did not go through the fold."""

    def __init__(self, line_at: Callable[[int], bytes]) -> None:
        super().__init__(line_at)
        self.plain = 0

    def settle(self, plain: Sequence[Live]) -> None:
        self.plain += len(plain)
        super().settle(plain)


def view(state: LedgerState) -> Any:
    """All that a state says."""
    told = [{name: getattr(h, name) for name in FIELDS} for h in state.histories()]
    paths = {path for h in state.histories() for path in (h.path, *(f.path for f in h.files), *sum(h.moves, ()))}
    owners = {path: owner and (owner.task, owner.key) for path in paths for owner in [state.owner_of(path)]}
    spend = (dict(state.spend.usd), dict(state.spend.unpriced))
    names = (state.seq, state.service, state.name, state.runs, state.began, state.ended, state.last_run_ended)
    found = [state.find(h.task, h.key) for h in state.histories()]
    others = [[o.task for o in state.of_key(h.key)] for h in state.histories()]
    ids = [[o.key for o in state.of_id(h.task)] for h in state.histories()]
    jobs = {job: (h.task, h.key) for job, h in state.jobs().items()}
    return told, owners, spend, names, state.redos, len(state), found, others, ids, jobs


def both(data: bytes, chunk: int = replay_module._CHUNK) -> tuple[str, int]:
    """Read with and without the fast way; gives what was wrong, if anything, and how many histories went that way.

    `chunk` bytes are read at once; between them what is saved is let go of.
    """

    def line_at(place: int) -> bytes:
        return data[place : data.index(b"\n", place)]

    large = Counting(line_at)
    said: list[Any] = []
    for state in (LedgerState(), large):
        try:
            with patch.object(replay_module, "_CHUNK", chunk):
                found: Replayed = replay(io.BytesIO(data), "L", state)
        except LedgerDamaged as exc:
            said.append(str(exc))
        else:
            said.append((view(state), found.last, found.end, found.torn, found.ends_with_a_run))
    assert said[0] == said[1]
    return said[0] if isinstance(said[0], str) else "", large.plain


def plain_steps(
    name: str, usd: str | None = "0.05", job: str = "", *, key: str | None = None, path: str = ""
) -> list[Record]:
    steps, file = Steps(name, key, usd=usd, job=job), saved_file(path or f"{name}.png")
    request = {"prompt": f'{name} "quoted" ünd\n', "n": [1, {"a": 2.5}]}
    begun = [steps.submitting(request=request), steps.submitted(), steps.generated()]
    return [*begun, steps.downloaded(file), steps.saved(file)]


def odd_steps(name: str, rng: Random) -> list[Record]:
    """What may come in the life of a task that is not plain, or not plain to the end."""
    steps = plain_steps(name)
    at = Steps(name)
    match rng.randrange(10):
        case 0:
            return steps[: rng.randrange(1, 5)]
        case 1:
            return [*steps[:1], at.not_submitted(), at.submitting(2), at.submitted(2), *steps[2:]]
        case 2:
            return [*steps[:2], at.parked(), *steps[2:]]
        case 3:
            return [*steps, at.submitting(2), at.submitted(2, job="again")]
        case 4:
            return [*steps, at.moved(f"{name}.png", f"{name}~1.png"), records.redo(name, at.key, number=1)]
        case 5:
            return [*steps[:3], records.renamed(f"{name}-new", at.key, from_=name)]
        case 6:
            return [*steps[:4], *steps[2:]]
        case 7:
            return [*steps[:3], at.failed("download", final=False), *steps[3:]]
        case 8:
            return [*steps, *plain_steps(f"{name}-same-path", path=f"{name}.png")]
        case _:
            return [*steps, *plain_steps(f"{name}-same-key", key=at.key)]


def ledger(rng: Random, tasks: int = 40, odd: float = 0.1) -> Lines:
    """Draw a ledger, as a run with some jobs in flight mixes its lines."""
    lives = []
    for number in range(tasks):
        name = rng.choice((f"t{number}", f"tä/{number}", f"日 {number}"))
        usd = rng.choice((None, "0.05", "0.0072", "1", "0.00000000000000000001"))
        lives.append(odd_steps(name, rng) if rng.random() < odd else plain_steps(name, usd, f"job-{number}"))
    made: list[Record] = [started()]
    waiting, under_way = lives[::-1], []
    while waiting or under_way:
        while waiting and len(under_way) < 6:
            under_way.append(waiting.pop())
        life = rng.choice(under_way)
        made.append(life.pop(0))
        if not life:
            under_way.remove(life)
    if rng.random() < 0.5:
        made.append(records.run_ended({"exit_code": 0}))
    ts = 1_780_000_000.0
    return [encode(r, seq=n, ts=ts + n, run=f"run-{n // 400}")[0] for n, r in enumerate(made, 1)]


def test_any_ledger_says_the_same() -> None:
    fast = 0
    for seed in range(30):
        rng = Random(seed)
        wrong, plain = both(b"".join(ledger(rng, tasks=rng.randrange(20, 90), odd=rng.choice((0, 0.05, 0.3)))))
        assert wrong == ""
        fast += plain
    assert fast > 500, "hardly anything went the fast way"


def test_a_ledger_of_many_blocks_says_the_same() -> None:
    """What is saved becomes a row at the end of a block, and something may happen to it in a later one."""
    for seed in range(20):
        rng = Random(seed)
        wrong, _ = both(b"".join(ledger(rng, tasks=60, odd=rng.choice((0.1, 0.5)))), chunk=rng.randrange(300, 9000))
        assert wrong == ""


def test_what_is_not_plain_is_held_as_places_too_as_it_is_read() -> None:
    """Its price is not written as others are, so its lines go to the fold, one by one."""
    made = [started(), *plain_steps("a", usd="1e-20")]
    data = b"".join(encode(r, seq=n, ts=1.0, run="r")[0] for n, r in enumerate(made, 1))
    state = Counting(lambda place: data[place : data.index(b"\n", place)])
    replay(io.BytesIO(data), "L", state)
    assert state.plain == 0
    assert list(state.unsettled()) == []
    assert [history.task for history in state.histories()] == ["a"]


def test_a_whole_plain_ledger_goes_the_fast_way() -> None:
    lines = ledger(Random(1), tasks=300, odd=0)
    wrong, plain = both(b"".join(lines))
    assert wrong == ""
    assert plain == 300 - sum(b'"usd":"1E-20"' in line for line in lines) > 200  # a price of another form


@pytest.mark.parametrize("instead", ["rubbish", "another"])
def test_a_ledger_that_is_replaced_while_it_is_read_is_told(instead: str) -> None:
    """What was plain at first goes to the fold when something else happens; its lines are read once more for that."""

    def ledger_of(name: str) -> bytes:
        made = [started(), *plain_steps(name)[:2], Steps(name).parked()]
        return b"".join(encode(r, seq=n, ts=1.0, run="r")[0] for n, r in enumerate(made, 1))

    data = ledger_of("a")
    other = {"rubbish": b"x" * len(data), "another": ledger_of("b")}[instead]
    with pytest.raises(StoreError, match="was replaced while it was read; run the command again"):
        replay(io.BytesIO(data), "L", LargeState(lambda place: other[place:].partition(b"\n")[0]))


def seal(body: bytes) -> bytes:
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def body_of(line: bytes) -> bytes:
    return line[: line.rindex(b',"crc"')]


def again(line: bytes, old: bytes, new: bytes) -> bytes:
    """Change a line's text and seal it."""
    return seal(body_of(line).replace(old, new, 1))


def reorder(line: bytes, rng: Random) -> bytes:
    value = list(json.loads(line).items())[:-1]
    rng.shuffle(value)
    return seal(json.dumps(dict(value), ensure_ascii=False, separators=(",", ":")).encode()[:-1])


def number_of(line: bytes) -> bytes:
    return b'"seq":%d,' % json.loads(line)["seq"]


def flip(line: bytes, rng: Random, end: int | None = None) -> bytes:
    at = rng.randrange(end or len(line) - 1)
    return line[:at] + bytes([line[at] ^ 1 << rng.randrange(8)]) + line[at + 1 :]


def cut(line: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + line[at + 1 :]


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth + b","


def at_time(body: bytes, ts: bytes) -> bytes:
    at = body.index(b'"ts":"') + 6
    return body[:at] + ts + body[body.index(b'"', at) :]


CHANGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "a flipped bit": flip,
    "a flipped bit, sealed": lambda line, rng: seal(body_of(flip(line, rng, len(body_of(line))))),
    "a byte cut out, sealed": lambda line, rng: seal(cut(body_of(line), rng)),
    "another checksum": lambda line, rng: line[:-11] + b"%08x" % rng.randrange(2**32) + b'"}\n',
    "a checksum in capitals": lambda line, rng: line[:-11] + line[-11:-3].upper() + b'"}\n',
    "keys in another order": reorder,
    "a space": lambda line, rng: again(line, b'","', b'", "'),
    "a space at the end": lambda line, rng: line[:-1] + b" \n",
    "a carriage return": lambda line, rng: line[:-1] + b"\r\n",
    "an empty line": lambda line, rng: b"\n",
    "another number": lambda line, rng: again(line, number_of(line), b'"seq":%d,' % rng.randrange(999)),
    "a number with a zero": lambda line, rng: again(line, b'"seq":', b'"seq":0'),
    "another version": lambda line, rng: again(line, b'"v":1', b'"v":2'),
    "a version with a point": lambda line, rng: again(line, b'"v":1', b'"v":1.0'),
    "another run": lambda line, rng: again(line, b'"run":"', b'"run":"x'),
    "a run that is none": lambda line, rng: again(line, b'"run":"run-0"', b'"run":7'),
    "a month too many": lambda line, rng: seal(at_time(body_of(line), b"2026-13-01T10:00:00.000Z")),
    "the 31st of February": lambda line, rng: seal(at_time(body_of(line), b"2026-02-31T10:00:00.000Z")),
    "hour 24": lambda line, rng: seal(at_time(body_of(line), b"2026-02-01T24:00:00.000Z")),
    "minute 60": lambda line, rng: seal(at_time(body_of(line), b"2026-02-01T10:60:00.000Z")),
    "second 60": lambda line, rng: seal(at_time(body_of(line), b"2026-02-01T10:00:60.000Z")),
    "the last second of a day": lambda line, rng: seal(at_time(body_of(line), b"2028-02-29T23:59:59.999Z")),
    "the year 0": lambda line, rng: seal(at_time(body_of(line), b"0000-02-01T10:00:00.000Z")),
    "a time of letters": lambda line, rng: seal(at_time(body_of(line), b"2026-02-01Tten past tenZ")),
    "attempt 2": lambda line, rng: again(line, b'"attempt":1', b'"attempt":2'),
    "attempt 1.0": lambda line, rng: again(line, b'"attempt":1', b'"attempt":1.0'),
    "attempt true": lambda line, rng: again(line, b'"attempt":1', b'"attempt":true'),
    "another job": lambda line, rng: again(line, b'"job_id":"job', b'"job_id":"jab'),
    "a longer job": lambda line, rng: again(line, b'"job_id":"job', b'"job_id":"job-job'),
    "no job": lambda line, rng: again(line, b'"job_id":"', b'"jab_id":"'),
    "an empty job": lambda line, rng: again(line, json.dumps(json.loads(line).get("job_id")).encode(), b'""'),
    "a job with an escape": lambda line, rng: again(line, b'"job_id":"job', b'"job_id":"\\u006aob'),
    "a task with an escape": lambda line, rng: again(line, b'"task":"t', b'"task":"\\u0074'),
    "a task that is a number": lambda line, rng: again(line, b'"task":"', b'"task":1,"tusk":"'),
    "another task": lambda line, rng: again(line, b'"task":"', b'"task":"x'),
    "another key": lambda line, rng: again(line, b'"key":"', b'"key":"f'),
    "a task twice": lambda line, rng: seal(body_of(line) + b',"task":"t1"'),
    "a job twice": lambda line, rng: seal(body_of(line) + b',"job_id":"job-1"'),
    "a type twice": lambda line, rng: seal(body_of(line) + b',"type":"saved"'),
    "a number twice": lambda line, rng: seal(body_of(line) + b',"seq":1'),
    "a further field": lambda line, rng: seal(body_of(line) + b',"more":[{}]'),
    "two requests": lambda line, rng: again(line, b'"request":{', b'"request":{},{'),
    "a request that is none": lambda line, rng: again(line, b'"request":{', b'"request":{{'),
    "a request with two ends": lambda line, rng: again(line, b',"usd"', b'},"usd"'),
    "a request with a second in it": lambda line, rng: again(line, b'"request":{', b'"request":{},"request":{'),
    "a request with a task after it": lambda line, rng: again(line, b'"request":{', b'"request":{},"task":{'),
    "a deep request": lambda line, rng: again(
        line, b'"n":[', b'"n":[' + deep(rng.choice((190, 196, 197, 198, 199, 250)))
    ),
    "a deep request on any line": lambda line, rng: seal(
        body_of(line) + b',"request":{"a":%b}' % deep(rng.choice((150, 250)))[:-1]
    ),
    "a deep request that is taken back": lambda line, rng: seal(
        body_of(line) + b',"request":{"a":%b},"request":{}' % deep(rng.choice((150, 250)))[:-1]
    ),
    "a checksum of no UTF-8": lambda line, rng: seal(body_of(line) + b',"crc":"\xff"'),
    "a checksum of many digits": lambda line, rng: seal(body_of(line) + b',"crc":' + b"9" * 5000),
    "a deep checksum": lambda line, rng: seal(body_of(line) + b',"crc":' + deep(300)[:-1]),
    "a request that is deeper than any": lambda line, rng: again(line, b'"n":[', b'"n":[' + deep(9999)),
    "a request with a lone surrogate": lambda line, rng: again(line, b'"prompt":"', b'"prompt":"\\ud800'),
    "a request that is not a number": lambda line, rng: again(line, b'"n":[1', b'"n":[NaN'),
    "a request with a control character": lambda line, rng: again(line, b'"prompt":"', b'"prompt":"\x01'),
    "a control character": lambda line, rng: again(line, b'"path":"', b'"path":"\x1f'),
    "a tab in a name": lambda line, rng: again(line, b'"task":"', b'"task":"\t'),
    "no UTF-8 in a path": lambda line, rng: again(line, b'"path":"', b'"path":"\xff'),
    "no UTF-8 in a name": lambda line, rng: again(line, b'"task":"', b'"task":"\xc3'),
    "no UTF-8 in a run": lambda line, rng: again(line, b'"run":"', b'"run":"\xed\xa0\x80'),
    "no UTF-8 in a job": lambda line, rng: again(line, b'"job_id":"', b'"job_id":"\xff'),
    "a price below zero": lambda line, rng: again(line, b'"usd":"', b'"usd":"-'),
    "a price too high": lambda line, rng: again(line, b'"usd":"', b'"usd":"1111111111'),
    "a price with an exponent": lambda line, rng: again(line, b'"usd":"', b'"usd":"1e3'),
    "a price that is none": lambda line, rng: again(line, b'"usd":"', b'"usd":"x'),
    "a price that is a number": lambda line, rng: again(line, b'"usd":null', b'"usd":5'),
    "a path that is a number": lambda line, rng: again(line, b'"path":"', b'"path":1,"puth":"'),
    "no files": lambda line, rng: again(line, b'"files":[{', b'"files":[],"filus":[{'),
    "files that are none": lambda line, rng: again(line, b'"bytes":100', b'"bytes":"100"'),
    "bytes with a zero": lambda line, rng: again(line, b'"bytes":100', b'"bytes":0100'),
    "other bytes": lambda line, rng: again(line, b'"bytes":100', b'"bytes":101'),
    "another hash": lambda line, rng: again(line, b'"sha256":"ab', b'"sha256":"aa'),
    "many bytes": lambda line, rng: again(line, b'"bytes":100', b'"bytes":%d' % 10**30),
    "too many digits": lambda line, rng: again(line, b'"queries":1', b'"queries":' + b"9" * 5000),
    "a wait with a zero": lambda line, rng: again(line, b'"waited_s":1', b'"waited_s":01'),
    "a wait without a fraction": lambda line, rng: again(line, b'"waited_s":1', b'"waited_s":1.'),
    "another type": lambda line, rng: again(line, b'"type":"', b'"type":"un'),
    "a type that is none": lambda line, rng: again(line, b'"type":"', b'"type":null,"tupe":"'),
    "no object": lambda line, rng: seal(b"[" + body_of(line)),
    "half a line": lambda line, rng: line[: len(line) // 2] + b"\n",
    "an array": lambda line, rng: b"[]\n",
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_line_is_judged_the_same(what: str) -> None:
    """Whatever it is, and in whichever line; where it changes nothing that counts, the rest is read as before."""
    changed = 0
    lines = ledger(Random(3), tasks=40, odd=0)
    for seed in range(12):
        rng = Random(seed)
        number = rng.randrange(100, len(lines))
        line = CHANGES[what](lines[number], rng)
        changed += line != lines[number]
        both(b"".join([*lines[:number], line, *lines[number + 1 :]]))
    assert changed, "nothing was changed"


@pytest.mark.parametrize(
    "ts",
    [
        "2026-02-01T10:00:00.000Z",
        "2026-02-01T24:30:00.000Z",
        "2026-W01-1T10:00:00.000Z",
        "2600W01T11:00:24:30.000Z",  # of this one the first half is a time
        "2126W21T00:00:59:59.999Z",
        "2026-02-01t10:00:00.000z",
    ],
)
def test_a_time_of_another_form_is_judged_the_same(ts: str) -> None:
    lines = [encode(r, seq=n, ts=1.0, run="r")[0] for n, r in enumerate([started(), *plain_steps("a")], 1)]
    lines[2] = seal(at_time(body_of(lines[2]), ts.encode()))
    both(b"".join(lines))


@pytest.mark.parametrize("rest", ["000Z", "999Z", "99Z", "9999Z", "99\N{ARABIC-INDIC DIGIT NINE}Z", "999z", "-99Z", ""])
def test_the_second_that_a_line_shares_with_the_one_before_proves_only_itself(rest: str) -> None:
    lines = [
        encode(r, seq=n, ts=1.0, run="r")[0] for n, r in enumerate([started(), *plain_steps("a"), *plain_steps("b")], 1)
    ]
    for number, end in ((2, "123Z"), (7, rest)):
        lines[number] = seal(at_time(body_of(lines[number]), f"2026-02-01T10:00:00.{end}".encode()))
    assert both(b"".join(lines))[1] == (2 if rest in ("000Z", "999Z") else 1)


def test_lines_that_were_moved_are_judged_the_same() -> None:
    refused = 0
    lines = ledger(Random(4), tasks=40, odd=0)
    for seed in range(80):
        rng = Random(seed)
        given = list(lines)
        a, b = rng.randrange(len(given)), rng.randrange(len(given))
        match seed % 4:
            case 0:
                given[a], given[b] = given[b], given[a]
            case 1:
                del given[a]
            case 2:
                given.insert(a, given[b])
            case _:  # in another order, and numbered so that it fits
                given.insert(a, given.pop(b))
                given = [again(line, number_of(line), b'"seq":%d,' % n) for n, line in enumerate(given, 1)]
        refused += both(b"".join(given))[0] != ""
    assert refused > 55


def test_two_changes_are_judged_the_same() -> None:
    """What is held back when a line is refused is not refused before it, nor after it."""
    lines = ledger(Random(5), tasks=40, odd=0.05)
    refused = 0
    for seed in range(120):
        rng = Random(seed)
        given = list(lines)
        for _ in range(2):
            number = rng.randrange(60, len(lines))
            given[number] = (
                CHANGES[rng.choice(list(CHANGES))](given[number], rng)
                if given[number] == lines[number]
                else given[number]
            )
        refused += both(b"".join(given))[0] != ""
    assert refused > 60


def test_a_torn_tail_is_left_out() -> None:
    data = b"".join(ledger(Random(6), tasks=40, odd=0))
    for size in range(len(data) - 900, len(data), 17):
        assert both(data[:size])[0] == ""


def test_the_money_of_what_is_plain_is_counted() -> None:
    lines = ledger(Random(7), tasks=60, odd=0)
    state = LargeState(lambda place: b"")
    replay(io.BytesIO(b"".join(lines)), "L", state)
    values = [json.loads(line) for line in lines]
    spent = sum(Decimal(v["usd"] or 0) for v in values if v["type"] == "submitting")
    assert state.spend.total == spent
    assert sum(state.spend.unpriced.values()) == sum(v["type"] == "submitting" and v["usd"] is None for v in values)
