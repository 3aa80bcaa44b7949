"""The line form: what is written is read back, and what was not written is refused."""

from __future__ import annotations

import json
import math
import zlib
from decimal import Decimal
from typing import Any

import pytest
from core_help import FINITE_JSON, NOW, TEXT, Steps, quick, saved_file
from hypothesis import example, given
from hypothesis import strategies as st

from rsbatch.ledger import records
from rsbatch.ledger.records import BadLine, Record, decode, encode, event_of, seconds_of, timestamp
from rsbatch.lifecycle import Event, State


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return {"extra": value}


def sealed(body: bytes) -> bytes:
    return b'%s,"crc":"%08x"}' % (body, zlib.crc32(body))


@quick
@given(
    type_=TEXT,
    name=TEXT.filter(bool),
    fields=st.dictionaries(TEXT.map(lambda t: f"x{t}"), FINITE_JSON, max_size=4),
    seq=st.integers(1, 10**12),
    ts=st.floats(0, 4e9),
    run=TEXT,
)
@example(type_="t", name="n", fields={"x": "\u2028\u0085\r\n\x1b"}, seq=1, ts=0.0, run="r")
def test_round_trip(type_: str, name: str, fields: dict[str, Any], seq: int, ts: float, run: str) -> None:
    line, value = encode(Record(type_, name, "k", fields), seq=seq, ts=ts, run=run)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == value
    as_json = json.loads(line)
    assert list(as_json)[:7] == ["v", "seq", "ts", "run", "type", "task", "key"]
    assert list(as_json)[-1] == "crc"
    assert int(as_json["crc"], 16) == zlib.crc32(line[: line.rindex(b',"crc"')])


@quick
@given(st.floats(0, 4e9))
def test_times_keep_their_milliseconds(seconds: float) -> None:
    text = timestamp(seconds)
    assert math.isclose(seconds_of(text), seconds, abs_tol=0.0011)
    assert timestamp(seconds_of(text)) == text


def test_the_form_of_a_time() -> None:
    assert timestamp(NOW) == "2026-05-28T20:26:40.000Z"
    assert timestamp(NOW + 0.9999) == "2026-05-28T20:26:40.999Z"
    assert timestamp(NOW + 0.9999997) == "2026-05-28T20:26:41.000Z"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not a whole record"),
        (b"{}", "not a whole record"),
        (b',"crc":"0000000g"}', "not a whole record"),
        (b'{"v":1,"crc":"ABCDEF00"}', "not a whole record"),
        (b'{"v":1,"crc":"00000000"}', "the checksum does not fit"),
        (sealed(b"[1"), "not JSON"),
        (sealed(b'{"v":1,"x":' + b"[" * 1000), "not JSON"),
        (sealed(b'{"v":"\\ud800"'), "not JSON"),
        (sealed(b'{"v":2,"seq":1,"ts":"","run":"","type":"x"'), "version 2, and this rsbatch reads version 1"),
        (sealed(b'{"seq":1,"type":"x"'), "version None"),
        (sealed(b'{"v":1,"seq":true,"ts":"","run":"","type":"x"'), "not a record"),
        (sealed(b'{"v":1,"seq":"1","ts":"","run":"","type":"x"'), "not a record"),
        (sealed(b'{"v":1,"seq":1,"ts":"","run":"","type":5'), "not a record"),
        (sealed(b'{"v":1,"seq":1,"run":"","type":"x"'), "not a record"),
        (sealed(b'{"v":1,"seq":1,"ts":"","type":"x"'), "not a record"),
    ],
)
def test_what_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(BadLine, match=why):
        decode(line)


def test_only_objects_are_records() -> None:
    """The closing brace is put by the decoder, so nothing else can even be JSON."""
    body = b'"x'
    with pytest.raises(BadLine):
        decode(sealed(body))


@quick
@given(st.binary(max_size=60))
def test_decode_raises_nothing_else(noise: bytes) -> None:
    for line in (noise, sealed(noise), sealed(b'{"v":1,"seq":1,"ts":"","run":"","type":' + noise)):
        try:
            decode(line)
        except BadLine:
            continue


@pytest.mark.parametrize("depth", [250, 100_000])
def test_what_could_not_be_read_back_is_not_written(depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    with pytest.raises(BadLine, match="cannot be recorded"):
        encode(Steps().submitting(request={"extra": deep}), seq=1, ts=NOW, run="r")
    with pytest.raises(BadLine, match="cannot be recorded"):
        encode(Steps().in_doubt(reason="\ud800"), seq=1, ts=NOW, run="r")


@pytest.mark.parametrize("request_", [{"seed": 10**4400}, {"prompt": "[" * 300, "seed": 10**4301}, _nested(199)])
def test_what_a_reader_refuses_is_not_written(request_: Any) -> None:
    with pytest.raises(BadLine, match="cannot be recorded"):
        encode(Steps().submitting(request=request_), seq=1, ts=NOW, run="r")


@pytest.mark.parametrize(
    "request_", [{"seed": 10**3000}, {"prompt": "[" * 300}, {"prompt": "x" * 5000}, _nested(150), _nested(95)]
)
def test_what_a_reader_takes_is_written(request_: Any) -> None:
    line, value = encode(Steps().submitting(request=request_), seq=1, ts=NOW, run="r")
    assert decode(line[:-1]) == value


STEPS = Steps()


@pytest.mark.parametrize(
    ("record", "event", "fields"),
    [
        (
            STEPS.submitting(request={"prompt": "p"}),
            Event.SUBMITTING,
            {"attempt": 1, "request": {"prompt": "p"}, "usd": "0.05", "path": "cat.{ext}"},
        ),
        (Steps(usd=None).submitting(2), Event.SUBMITTING, {"attempt": 2, "usd": None, "path": "cat.{ext}"}),
        (STEPS.submitted(), Event.SUBMITTED, {"attempt": 1, "job_id": "job-cat", "request_id": "req"}),
        (STEPS.not_submitted(), Event.NOT_SUBMITTED, {"attempt": 1, "reason": "no", "status": 429}),
        (STEPS.in_doubt(), Event.IN_DOUBT, {"attempt": 1, "reason": "reset"}),
        (STEPS.generated(), Event.GENERATED, {"job_id": "job-cat", "images": 1, "waited_s": 1, "queries": 1}),
        (STEPS.parked(), Event.PARKED, {"job_id": "job-cat", "waited_s": 9}),
        (STEPS.renamed("dog"), None, {"from": "dog"}),
        (STEPS.moved("a", "b"), None, {"from": "a", "to": "b"}),
        (STEPS.resolved("attached", "j"), Event.ATTACHED, {"how": "attached", "job_id": "j"}),
        (STEPS.resolved("not_sent"), Event.NOT_SENT, {"how": "not_sent"}),
        (STEPS.resolved("resubmit"), Event.RESUBMIT, {"how": "resubmit"}),
        (
            STEPS.failed("submit", final=False),
            Event.FAILED_SUBMIT,
            {"stage": "submit", "final": False, "code": "fail", "message": "why"},
        ),
        (
            STEPS.failed("download", final=False),
            Event.FAILED_DOWNLOAD,
            {"stage": "download", "final": False, "code": "fail", "message": "why"},
        ),
        (
            STEPS.failed("submit"),
            Event.FAILED_FINAL,
            {"stage": "submit", "final": True, "code": "fail", "message": "why"},
        ),
        (records.run_ended({"run": "r", "exit_code": 0}), None, {"exit_code": 0}),
        (Record("something_new", "t", "k", {"x": 1}), None, {"x": 1}),
    ],
)
def test_each_record_has_its_fields_and_its_event(record: Record, event: Event | None, fields: dict[str, Any]) -> None:
    _, value = encode(record, seq=1, ts=NOW, run="r")
    assert dict(record.fields) == fields
    assert event_of(value) is event


@pytest.mark.parametrize(("make", "event"), [("downloaded", Event.DOWNLOADED), ("saved", Event.SAVED)])
def test_files_in_records(make: str, event: Event) -> None:
    record = getattr(STEPS, make)(saved_file("a.png"), saved_file("a~2.png"))
    _, value = encode(record, seq=1, ts=NOW, run="r")
    assert event_of(value) is event
    assert [f["path"] for f in value["files"]] == ["a.png", "a~2.png"]
    assert list(value["files"][0]) == ["path", "bytes", "sha256", "format", "width", "height"]


def test_a_resolution_that_is_not_known_is_not_trusted() -> None:
    with pytest.raises(BadLine, match="resolved how"):
        event_of({"type": "resolved", "how": "magic"})


def test_money_is_written_exactly() -> None:
    record = records.submitting("t", "k", attempt=1, request=None, usd=Decimal("0.10"), path="p")
    assert record.fields["usd"] == "0.10"


def test_every_state_has_a_way() -> None:
    for state in State:
        assert STEPS.to(state)


def test_a_record_of_the_run_has_no_task() -> None:
    bare = Record("x")
    assert (bare.task, bare.key, dict(bare.fields)) == ("", "", {})
    fields = {"service": "s", "name": "n", "manifest": "m", "manifest_sha256": "h", "version": "1", "tasks": 3}
    assert dict(records.run_started(**fields).fields) == fields  # type: ignore[arg-type]


def test_waits_are_written_to_the_millisecond() -> None:
    assert records.parked("t", "k", job_id="j", waited_s=1.23456).fields["waited_s"] == 1.235
    made = records.generated("t", "k", job_id="j", images=1, waited_s=1.23456, queries=1)
    assert made.fields["waited_s"] == 1.235
