"""Records that a failing disk kept out come back at the next open, and nothing is paid for twice by it."""

from __future__ import annotations

import zlib
from io import BytesIO

import pytest
from core_help import NOW, Book, Steps, at, key_of, quick, snapshot, started
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.ledger.memory import MemoryDisk
from rsbatch.ledger.records import Record, encode
from rsbatch.ledger.replay import replay
from rsbatch.ledger.rescue import ANSWERED, NEVER_SENT, Merged, merge
from rsbatch.ledger.state import Bucket
from rsbatch.lifecycle import SUBMITTABLE, State

CAT = Steps()


def rescued(*new: Record, seq: int = 3, run: str = "r1") -> bytes:
    """The lines as the ledger would have had them."""
    return b"".join(encode(record, seq=seq + i, ts=NOW + 60, run=run)[0] for i, record in enumerate(new))


def take(book: Book, data: bytes) -> Merged:
    merged = merge(book.state, data, len(book.data))
    book.lines += merged.lines
    again = replay(BytesIO(book.data), "L").state
    assert snapshot(again) == snapshot(book.state), "what was taken in is what the next open reads"
    more = merge(again, data, len(book.data))
    assert (more.lines, more.jobs) == ([], 0), "taking in twice changes nothing"
    return merged


def test_an_answer_to_a_durable_intent_is_applied_as_it_is() -> None:
    book = at(State.SUBMITTING)
    merged = take(book, rescued(CAT.submitted()))
    history = book.the()
    assert (history.state, history.job_id, history.request_id) == (State.SUBMITTED, "job-cat", "req")
    assert history.submitted_at == NOW + 60
    assert (len(merged.lines), merged.jobs, merged.troubles) == (1, 1, [])


def test_an_answer_whose_task_was_doubted_meanwhile_settles_the_doubt() -> None:
    book = at(State.HELD)
    merged = take(book, rescued(CAT.submitted()))
    assert (book.the().state, book.the().job_id) == (State.SUBMITTED, "job-cat")
    assert len(merged.lines) == 1
    assert book.state.spend.usd[Bucket.OUT] == book.state.spend.total


@pytest.mark.parametrize(
    ("state", "lines"),
    [
        (State.NOT_SUBMITTED, 2),
        (State.FAILED_SUBMIT, 2),
        (State.RELEASED, 1),
        (State.FAILED_FINAL, 1),
    ],
)
def test_a_job_is_taken_by_a_task_that_has_none_in_work(state: State, lines: int) -> None:
    book = at(state, job="job-other")
    merged = take(book, rescued(CAT.submitted(), run="elsewhere"))
    assert (book.the().state, book.the().job_id) == (State.SUBMITTED, "job-cat")
    assert len(merged.lines) == lines


@pytest.mark.parametrize(
    "state", [State.SUBMITTED, State.PARKED, State.GENERATED, State.DOWNLOADED, State.FAILED_DOWNLOAD, State.SAVED]
)
def test_a_job_whose_task_has_another_is_told(state: State) -> None:
    book = at(state, job="job-other")
    before = snapshot(book.state)
    merged = take(book, rescued(CAT.submitted()))
    assert snapshot(book.state) == before
    assert merged.troubles == [
        "line 1 of the rescued records cannot be used: cat has another job by now; job job-cat was paid for, too"
    ]


def test_a_job_of_a_later_attempt_that_is_open_again() -> None:
    book = at(State.RELEASED).put(CAT.submitting(2), run="r2")
    take(book, rescued(CAT.submitted()))
    assert (book.the().state, book.the().job_id) == (State.SUBMITTED, "job-cat")
    assert ANSWERED in book.lines[-2].decode()


def test_a_job_that_is_known_is_skipped() -> None:
    book = at(State.SAVED)
    assert take(book, rescued(CAT.submitted())) == Merged()


def test_a_job_without_any_history_is_not_given_up() -> None:
    book = at(None)
    take(book, rescued(CAT.submitted()))
    assert (book.the().state, book.the().job_id) == (State.SUBMITTED, "job-cat")
    assert not book.state.spend.known


def test_a_job_of_a_task_that_was_renamed_meanwhile() -> None:
    book = at(State.HELD).put(Steps("kitten", key_of("cat")).renamed("cat"))
    take(book, rescued(CAT.submitted()))
    assert book.the("kitten", key_of("cat")).job_id == "job-cat"
    assert book.state.get("cat", key_of("cat")) is None


def test_an_intent_that_never_became_durable_is_dropped() -> None:
    book = at(None)
    assert take(book, rescued(CAT.submitting(), CAT.not_submitted())) == Merged()
    assert book.state.get("cat", key_of("cat")) is None


@pytest.mark.parametrize("lines", [1, 2])
def test_an_intent_whose_sync_failed_though_the_file_has_it_is_freed(lines: int) -> None:
    """It was never sent: its commit raised."""
    book = at(State.SUBMITTING)
    take(book, rescued(*[CAT.submitting(), CAT.not_submitted(reason=NEVER_SENT, status=None)][:lines], seq=2))
    assert (book.the().state, book.the().message) == (State.NOT_SUBMITTED, NEVER_SENT)
    assert book.state.spend.total == 0


def test_a_refusal_frees_the_money() -> None:
    book = at(State.SUBMITTING)
    take(book, rescued(CAT.not_submitted(reason="rate_limited", status=429)))
    assert (book.the().state, book.the().message) == (State.NOT_SUBMITTED, "rate_limited")
    assert b'"status":429' in book.lines[-1]


@pytest.mark.parametrize("record", [CAT.not_submitted(), CAT.submitting()])
def test_a_refusal_settles_a_doubt_of_the_same_intent(record: Record) -> None:
    book = at(State.HELD)
    take(book, rescued(record))
    assert book.the().state is State.NOT_SUBMITTED
    assert book.state.spend.total == 0


@pytest.mark.parametrize("record", [CAT.submitting(), CAT.not_submitted()])
@pytest.mark.parametrize("state", [State.SUBMITTING, State.HELD])
def test_an_old_rescue_frees_nothing_of_a_newer_run(record: Record, state: State) -> None:
    """The same task and attempt, but another run: that one's request may have been sent."""
    book = Book().put(started(), *CAT.to(state), run="newer")
    assert take(book, rescued(record)) == Merged()
    assert book.the().state is state


@pytest.mark.parametrize("record", [CAT.submitting(), CAT.not_submitted()])
def test_an_earlier_attempt_frees_nothing_of_a_later_one(record: Record) -> None:
    book = at(State.NOT_SUBMITTED).put(CAT.submitting(attempt=2))
    assert take(book, rescued(record)) == Merged()
    assert book.the().state is State.SUBMITTING


@pytest.mark.parametrize("state", sorted(set(State) - {State.SUBMITTING, State.HELD}))
@pytest.mark.parametrize("record", [CAT.submitting(), CAT.not_submitted(), CAT.in_doubt()])
def test_a_refusal_or_doubt_changes_nothing_that_went_on(state: State, record: Record) -> None:
    book = at(state)
    assert take(book, rescued(record)) == Merged()


@pytest.mark.parametrize("state", [State.SUBMITTING, State.HELD])
def test_the_reason_of_a_doubt_is_kept(state: State) -> None:
    book = at(state)
    take(book, rescued(CAT.in_doubt(reason="HTTP 502: <html>task_77")))
    assert (book.the().state, book.the().message) == (State.HELD, "HTTP 502: <html>task_77")


def test_a_doubt_of_another_run_is_not_taken() -> None:
    assert take(at(State.SUBMITTING), rescued(CAT.in_doubt(), run="r0")) == Merged()


def test_all_else_is_done_again_anyhow() -> None:
    book = at(State.SUBMITTED)
    others = [CAT.generated(), CAT.downloaded(), CAT.saved(), CAT.failed(), CAT.parked(), started()]
    assert take(book, rescued(*others)) == Merged()


BAD_TIME = encode(CAT.submitted(), seq=3, ts=NOW, run="r1")[0]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"\n\n", 0),
        (b"garbage\n", 1),
        (rescued(CAT.submitted())[:-9], 1),
        (rescued(Record("submitted", "cat", key_of("cat"), {"attempt": 1})), 1),
        (rescued(Record("submitted", "cat", key_of("cat"), {"attempt": 1, "job_id": ""})), 1),
        (rescued(Record("submitted", "cat", key_of("cat"), {"attempt": 1, "job_id": 7})), 1),
        (rescued(Record("submitted", "", "", {"attempt": 1, "job_id": "j"})), 1),
        (rescued(Record("in_doubt", "cat", key_of("cat"), {"attempt": 1})), 1),
        (rescued(Record("submitting", "cat", key_of("cat"), {})), 1),
    ],
)
def test_lines_that_cannot_be_used_are_told(data: bytes, count: int) -> None:
    book = at(State.SUBMITTING)
    merged = take(book, data)
    assert (merged.lines, merged.jobs, len(merged.troubles)) == ([], 0, count)


def test_a_bad_line_does_not_hide_the_next() -> None:
    book = at(State.SUBMITTING)
    merged = take(book, b"torn\n" + rescued(CAT.submitted()))
    assert (merged.jobs, len(merged.troubles)) == (1, 1)


@quick
@given(st.sampled_from([None, *State]), st.binary(max_size=80), st.booleans())
def test_nothing_in_a_rescue_raises(state: State | None, noise: bytes, same_run: bool) -> None:
    records = [CAT.submitting(), CAT.submitted(), CAT.not_submitted(), CAT.in_doubt(reason="x")]
    book = at(state)
    held = book.state.get("cat", key_of("cat"))
    was = held.state if held else None
    take(book, noise + b"\n" + rescued(*records, run="r1" if same_run else "r0"))
    now = book.state.get("cat", key_of("cat"))
    assert now is not None
    if was in SUBMITTABLE | {State.SUBMITTING, State.HELD, None}:
        assert now.job_id == "job-cat", "the job is not lost, so nothing is submitted again"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_memory_takes_in_its_rescue_too() -> None:
    disk = MemoryDisk(at(State.SUBMITTING).data)
    file, _ = disk.open()
    file.rescue([rescued(CAT.submitted())])
    file.close()
    file, state = disk.open()
    history = state.of_job("job-cat")
    assert history is not None
    assert disk.rescued == b""
    assert file.size == len(disk.data)


def test_the_words_of_a_rescue() -> None:
    """They stand in ledgers and in the output of `plan`."""
    assert NEVER_SENT == "its intent could not be recorded, so it was not sent"
    assert ANSWERED == "its answer could not be recorded in the ledger and was rescued"


@pytest.mark.parametrize("job_id", ["", 7, None])
@pytest.mark.parametrize("state", [None, State.NOT_SUBMITTED, State.HELD])
def test_a_job_without_a_name_changes_nothing(job_id: object, state: State | None) -> None:
    record = Record("submitted", "cat", key_of("cat"), {"attempt": 1, "job_id": job_id})
    merged = take(at(state), rescued(record))
    assert (merged.lines, merged.jobs, len(merged.troubles)) == ([], 0, 1)
    assert merged.troubles[0].endswith("a job without an id")


def test_a_line_without_a_usable_time_is_told_even_where_it_changes_nothing() -> None:
    body = b'{"v":1,"seq":3,"ts":"soon","run":"r1","type":"not_submitted","task":"cat"'
    merged = take(at(State.SAVED), b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body)))
    assert "soon" in merged.troubles[0]
