"""A damaged ledger becomes usable again, and no job id and no doubt is lost by it."""

from __future__ import annotations

import io
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from core_help import JSON, NOW, Book, Steps, at, key_of, quick, saved_file, snapshot, started
from hypothesis import given, settings
from hypothesis import strategies as st

from rsbatch.ledger.mend import LOST, Rebuild, ends_before_a_job, salvage
from rsbatch.ledger.records import UNDER_REPAIR, BadLine, Record, decode, encode
from rsbatch.ledger.replay import lines, replay
from rsbatch.ledger.state import Bucket
from rsbatch.lifecycle import OUT, SUBMITTABLE, State
from rsbatch.sidecar import Sidecar

CAT = Steps()


def mended(data: bytes) -> Rebuild:
    rebuild = Rebuild(NOW, "repair")
    for value in salvage(lines(io.BytesIO(data))).values:
        rebuild.keep(value)
    again = replay(io.BytesIO(b"".join(rebuild.lines)), "L")
    assert snapshot(again.state) == snapshot(rebuild.state)
    return rebuild


def test_a_sound_ledger_has_no_problems_and_stays_as_it_is() -> None:
    data = at(State.SAVED).data
    found = salvage(lines(io.BytesIO(data + b"torn")))
    assert (found.problems, found.torn, len(found.values)) == ([], b"torn", 6)
    assert b"".join(mended(data).lines) == data


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda ls: [ls[0], b"{}\n", *ls[2:]], "line 2: not a whole record"),
        (lambda ls: [ls[0], *ls[2:]], "line 2: record 3 stands where record 2 belongs"),
        (lambda ls: [*ls, ls[-1]], "line 7: record 6 stands where record 7 belongs"),
        (lambda ls: [*ls, encode(CAT.submitted(), seq=7, ts=NOW, run="r")[0]], "line 7: cat: submitted cannot follow"),
    ],
)
def test_what_is_wrong_is_told_once(change: Any, problem: str) -> None:
    found = salvage(change(list(at(State.SAVED).lines)))
    assert len(found.problems) == 1
    assert found.problems[0].startswith(problem)


WITH_JOB = [State.SUBMITTED, State.GENERATED, State.DOWNLOADED, State.SAVED, State.PARKED]


@pytest.mark.parametrize("state", WITH_JOB)
def test_any_one_record_that_names_a_job_is_enough(state: State) -> None:
    """All others are lost: the last one alone brings the job back, in the same state."""
    rebuild = mended(at(state).lines[-1])
    history = rebuild.state.get("cat", key_of("cat"))
    assert history is not None
    assert (history.job_id, history.state) == ("job-cat", state)
    assert rebuild.left_out == 0


@pytest.mark.parametrize("before", [None, *State])
def test_no_job_id_that_can_be_read_is_given_up(before: State | None) -> None:
    """Whatever the trusted part says, a later record of a second job is believed."""
    book = at(before, job="job-old")
    attempt = 2 if before is not None else 1
    line, _ = encode(CAT.submitted(attempt), seq=len(book.lines) + 3, ts=NOW, run="r")
    rebuild = mended(book.data + line)
    history = rebuild.state.get("cat", key_of("cat"))
    assert history is not None
    assert (history.job_id, history.state) == ("job-cat", State.SUBMITTED)
    assert rebuild.state.of_job("job-cat") is history
    assert rebuild.state.spend.total >= book.state.spend.total, "nothing spent is forgotten"


def test_a_second_job_of_a_saved_task_is_a_second_purchase() -> None:
    book = at(State.SAVED, job="job-old")
    line, _ = encode(CAT.submitted(2), seq=99, ts=NOW, run="r")
    state = mended(book.data + line).state
    assert state.spend.usd == {
        Bucket.DELIVERED: Decimal("0.05"),
        Bucket.OUT: Decimal("0.05"),
        Bucket.FAILED: 0,
        Bucket.UNKNOWN: 0,
    }


def test_a_final_failure_alone_stays_one() -> None:
    rebuild = mended(at(State.FAILED_FINAL).lines[-1])
    history = rebuild.state.get("cat", key_of("cat"))
    assert history is not None
    assert history.state is State.FAILED_FINAL


@pytest.mark.parametrize(
    "record",
    [
        CAT.not_submitted(),
        CAT.failed("download", final=False),
        CAT.resolved("resubmit"),
        CAT.renamed("dog"),
        Record("downloaded", "cat", key_of("cat"), {"job_id": "j"}),
        Record("saved", "cat", key_of("cat"), {"job_id": "j", "files": 5}),
        Record("saved", "cat", key_of("cat"), {"job_id": "j", "files": [5]}),
        Record("submitted", "cat", key_of("cat"), {"attempt": 1, "job_id": 5}),
        Record("resolved", "cat", key_of("cat"), {"how": "magic"}),
    ],
)
def test_what_cannot_be_bridged_to_is_left_out(record: Record) -> None:
    assert mended(encode(record, seq=5, ts=NOW, run="r")[0]).left_out == 1


def test_a_time_that_is_none_is_left_out() -> None:
    rebuild = Rebuild(NOW, "r")
    rebuild.keep({"v": 1, "seq": 1, "ts": "soon", "run": "r", "type": "submitted"})
    assert (rebuild.left_out, rebuild.lines) == (1, [])


def test_kept_records_keep_their_times_and_runs() -> None:
    rebuild = mended(at(State.SUBMITTED).lines[1] + at(State.SUBMITTED).lines[2])
    assert rebuild.lines[0] == encode(CAT.submitting(), seq=1, ts=NOW + 1, run="r1")[0]


@pytest.mark.parametrize("state", State)
def test_what_may_have_been_submitted_by_a_lost_record_is_doubted(state: State) -> None:
    rebuild = mended(at(state).data)
    harmless = state in {State.SAVED, State.FAILED_FINAL, State.HELD} | OUT
    assert rebuild.doubt_the_rest([("cat", key_of("cat")), ("new", "k")]) == 1 + (not harmless)
    history, new = rebuild.state.get("cat", key_of("cat")), rebuild.state.get("new", "k")
    assert history is not None
    assert new is not None
    assert history.state is (state if harmless else State.HELD)
    assert (new.state, new.message) == (State.HELD, LOST)
    assert rebuild.doubt_the_rest([("new", "k")]) == 0


def told(rebuild: Rebuild, start: int = 0) -> list[tuple[Any, ...]]:
    """What the lines from `start` on say: type, and all fields but the common ones."""
    values = [decode(line[:-1]) for line in rebuild.lines[start:]]
    common = {"v", "seq", "ts", "run", "task", "key", "type", "files"}
    return [(v["type"], {name: field for name, field in v.items() if name not in common}) for v in values]


def test_what_is_put_before_the_end_of_a_job_that_nothing_else_is_known_of() -> None:
    rebuild = mended(encode(CAT.saved(), seq=7, ts=NOW, run="r")[0])
    assert told(rebuild) == [
        ("in_doubt", {"attempt": 1, "reason": "records of the ledger are lost: it may have been submitted"}),
        ("resolved", {"how": "attached", "job_id": "job-cat"}),
        ("generated", {"job_id": "job-cat", "images": 1, "waited_s": 0, "queries": 0}),
        ("downloaded", {"job_id": "job-cat"}),
        ("saved", {"job_id": "job-cat"}),
    ]
    assert snapshot(replay(io.BytesIO(b"".join(rebuild.lines)), "L").state) == snapshot(rebuild.state)


def test_what_is_put_between_two_jobs_of_a_task() -> None:
    book = at(State.DOWNLOADED, job="job-old")
    rebuild = mended(book.data + encode(Steps(job="job-new").generated(), seq=12, ts=NOW, run="r")[0])
    assert told(rebuild, len(book.lines)) == [
        ("failed", {"stage": "generate", "final": True, "code": "lost", "message": LOST}),
        ("submitting", {"attempt": 2, "usd": "0.05", "path": "cat.{ext}"}),
        ("submitted", {"attempt": 2, "job_id": "job-new", "request_id": None}),
        ("generated", {"job_id": "job-new", "images": 1, "waited_s": 1, "queries": 1}),
    ]


def test_a_held_task_is_not_doubted_again() -> None:
    book = at(State.HELD)
    rebuild = mended(book.data + encode(CAT.generated(), seq=12, ts=NOW, run="r")[0])
    assert [kind for kind, _ in told(rebuild, len(book.lines))] == ["resolved", "generated"]


def test_the_places_of_requests_are_those_in_the_new_ledger() -> None:
    book = Book().put(started(), Steps("dog").submitting(request={"p": 1}), CAT.submitting(request={"p": 2}))
    rebuild = mended(book.data)
    assert snapshot(rebuild.state) == snapshot(book.state)


@pytest.mark.parametrize("job_id", [5, None])
def test_a_job_without_a_name_brings_nothing(job_id: Any) -> None:
    record = Record("submitted", "cat", key_of("cat"), {"attempt": 1, "job_id": job_id})
    assert mended(encode(record, seq=5, ts=NOW, run="r")[0]).lines == []
    assert mended(encode(CAT.not_submitted(), seq=5, ts=NOW, run="r")[0]).lines == []


@pytest.mark.parametrize("kind", ["downloaded", "saved"])
def test_files_that_cannot_be_read_do_not_hide_the_job(kind: str) -> None:
    record = Record(kind, "cat", key_of("cat"), {"job_id": "job-cat"})
    rebuild = mended(encode(record, seq=5, ts=NOW, run="r")[0])
    history = rebuild.state.of_job("job-cat")
    assert history is not None
    assert history.state is State.SUBMITTED


def test_nothing_is_torn_unless_it_is() -> None:
    assert salvage([]).torn == b""


def test_an_editor_that_writes_carriage_returns_loses_no_record() -> None:
    book = at(State.SUBMITTED)
    data = book.data.replace(b"\n", b"\r\n")
    assert salvage(lines(io.BytesIO(data))).problems[1] == "line 2: ends in a carriage return"
    assert b"".join(mended(data).lines) == book.data
    assert salvage([b"rot\r\n"]).problems == ["line 1: not a whole record"]


def test_a_sound_record_that_can_follow_nothing_is_kept() -> None:
    """A line may be lost together with its number: the job that comes after it is known all the same."""
    line, _ = encode(CAT.submitted(), seq=2, ts=NOW, run="r")
    rebuild = mended(Book().put(started()).data + line)
    assert rebuild.state.of_job("job-cat") is not None


@pytest.mark.parametrize(
    "state", [None, State.SUBMITTING, State.HELD, State.SUBMITTED, State.SAVED, State.FAILED_FINAL]
)
def test_a_job_that_a_person_attached_is_kept_wherever_it_stands(state: State | None) -> None:
    line, _ = encode(CAT.resolved("attached", "job-found"), seq=99, ts=NOW, run="r")
    rebuild = mended(at(state).data + line)
    history = rebuild.state.of_job("job-found")
    assert history is not None
    assert history.state is State.SUBMITTED
    assert rebuild.left_out == 0


def test_released_tasks_are_doubted_though_they_once_had_a_job() -> None:
    """What is lost may be the submission that they were released for."""
    book = at(State.FAILED_FINAL).put(CAT.resolved("resubmit"))
    rebuild = mended(book.data)
    assert rebuild.doubt_the_rest([]) == 1
    assert rebuild.state.of_job("job-cat") is not None
    history = rebuild.state.get("cat", key_of("cat"))
    assert history is not None
    assert history.state is State.HELD


def test_a_second_job_is_known_though_only_its_end_is_left() -> None:
    book = at(State.DOWNLOADED, job="job-old")
    second = Steps(job="job-new")
    rebuild = mended(book.data + encode(second.saved(), seq=12, ts=NOW, run="r")[0])
    assert rebuild.state.of_job("job-old") is rebuild.state.of_job("job-new") is not None
    assert rebuild.state.spend.usd[Bucket.DELIVERED] == Decimal("0.10")
    history = rebuild.state.get("cat", key_of("cat"))
    assert history is not None
    assert (history.state, history.job_id) == (State.SAVED, "job-new")


def sidecar(image: int = 1, images: int = 1, **more: Any) -> Sidecar:
    suffix = "" if image == 1 else f"~{image}"
    fields: dict[str, Any] = {
        "task": "cat",
        "key": key_of("cat"),
        "service": "s",
        "manifest": "n",
        "attempt": 2,
        "job_id": "job-cat",
        "request_id": "req",
        "usd": Decimal("0.05"),
        "request": {"prompt": "p"},
        "image": image,
        "images": images,
        "file": saved_file(f"sub/cat{suffix}.png"),
        "submitted": "2026-01-01T00:00:00.000Z",
        "run": "r",
        "rsbatch": "1",
    }
    return Sidecar(**{**fields, **more})


def test_a_saved_job_comes_back_from_what_lies_beside_its_images() -> None:
    rebuild = Rebuild(NOW, "repair")
    rebuild.adopt([sidecar(2, 2), sidecar(1, 2)])
    history = rebuild.state.of_job("job-cat")
    assert history is not None
    assert (history.state, history.path, history.attempt) == (State.SAVED, "sub/cat.{ext}", 2)
    assert [f.path for f in history.files] == ["sub/cat.png", "sub/cat~2.png"]
    assert rebuild.state.spend.usd[Bucket.DELIVERED] == Decimal("0.05")


def test_only_whole_jobs_whose_records_are_lost_are_adopted() -> None:
    rebuild = Rebuild(NOW, "repair")
    rebuild.put(CAT.submitting())
    rebuild.put(CAT.submitted())
    known = sidecar()
    owl = replace(known, task="owl", key=key_of("owl"), job_id="job-owl", attempt=0)
    again = replace(owl, job_id="job-owl-2", submitted="2026-02-01T00:00:00.000Z", attempt=3)
    half = replace(owl, task="fox", key=key_of("fox"), job_id="job-fox", images=2)
    rebuild.adopt_all([again, half, known, owl])
    assert [h.state for h in rebuild.state.of_key(key_of("cat"))] == [State.SUBMITTED], "its records are not lost"
    assert rebuild.state.of_job("job-fox") is None
    assert rebuild.unplaced == [half]
    assert rebuild.state.of_job("job-owl") is rebuild.state.of_job("job-owl-2") is not None, "bought twice, both known"
    again = replay(io.BytesIO(b"".join(rebuild.lines)), "L")
    assert again.state.spend.usd[Bucket.DELIVERED] == 2 * Decimal("0.05")


def test_a_job_is_adopted_by_nobody_else_and_takes_no_ones_place() -> None:
    rebuild = Rebuild(NOW, "repair")
    for record in CAT.to(State.SAVED):
        rebuild.put(record)
    before = snapshot(rebuild.state)
    renamed, older = sidecar(task="tom"), sidecar(job_id="job-old")
    rebuild.adopt_all([renamed, older])
    assert snapshot(rebuild.state) == before


BEFORE_A_JOB = SUBMITTABLE | {State.SUBMITTING, State.HELD, State.FAILED_FINAL}


def test_where_a_job_may_follow() -> None:
    assert ends_before_a_job(None)
    for state in State:
        (history,) = at(state).state.of_key(key_of("cat"))
        assert ends_before_a_job(history) is (state in BEFORE_A_JOB), state


@pytest.mark.parametrize("doubted", [False, True])
@pytest.mark.parametrize(
    ("attempt", "run", "state", "unknown"),
    [(1, "r", "saved", "0"), (2, "s", "saved", "0.05"), (1, "s", "held", "0.05"), (0, "s", "held", "0.05")],
)
def test_an_intent_takes_the_image_of_its_own_submission_or_of_a_later_one(
    attempt: int, run: str, state: str, unknown: str, *, doubted: bool
) -> None:
    rebuild = Rebuild(NOW, "repair")
    rebuild.put(CAT.submitting(), run="r")
    if doubted:
        rebuild.put(CAT.in_doubt())
    rebuild.adopt_all([sidecar(attempt=attempt, run=run)])
    rebuild.doubt_the_rest([])
    again = replay(io.BytesIO(b"".join(rebuild.lines)), "L").state
    (history,) = again.of_key(key_of("cat"))
    assert (history.state, history.attempt) == (State(state), max(attempt, 1))
    assert again.spend.usd[Bucket.UNKNOWN] == Decimal(unknown), "an earlier submission may have been charged"


def test_of_two_that_say_they_are_the_same_image_the_first_is_taken() -> None:
    rebuild = Rebuild(NOW, "repair")
    copy = replace(sidecar(1, 2), file=saved_file("copy/cat.png"))
    rebuild.adopt_all([sidecar(1, 2), sidecar(2, 2), copy])
    (history,) = rebuild.state.of_key(key_of("cat"))
    assert [file.path for file in history.files] == ["sub/cat.png", "sub/cat~2.png"]


@pytest.mark.parametrize("state", sorted(SUBMITTABLE | {State.FAILED_FINAL}))
def test_a_task_of_which_no_job_came_takes_one_that_lies_there(state: State) -> None:
    rebuild = Rebuild(NOW, "repair")
    for record in CAT.to(state):
        rebuild.put(record)
    rebuild.adopt_all([sidecar(job_id="job-new")])
    (history,) = rebuild.state.of_key(key_of("cat"))
    assert (history.state, history.job_id) == (State.SAVED, "job-new")


def test_the_mark_of_a_repair_that_broke_off() -> None:
    found = salvage([UNDER_REPAIR])
    assert (found.begun, found.values, found.problems) == (True, [], [])
    found = salvage([UNDER_REPAIR, at(None).lines[0]])
    assert (found.begun, len(found.problems)) == (False, 2), "nothing may follow it"


def test_put_changes_nothing_where_a_record_cannot_follow() -> None:
    rebuild = Rebuild(NOW, "repair")
    with pytest.raises(BadLine):
        rebuild.put(CAT.saved())
    assert (rebuild.lines, rebuild.state.seq) == ([], 0)


BOOK = Book().put(started())
for _number, _state in enumerate(State):
    BOOK.put(*Steps(f"t{_number}").to(_state))


@settings(max_examples=150, deadline=None)
@given(st.sets(st.integers(0, len(BOOK.lines) - 1)), st.randoms())
def test_whatever_lines_are_lost(lost: set[int], rng: Any) -> None:
    """Every job id in a line that is left is known afterwards, and what had none is nowhere submittable."""
    kept = [(b"rot\n" if rng.random() < 0.5 else b"") if i in lost else line for i, line in enumerate(BOOK.lines)]
    data = b"".join(kept)
    rebuild = mended(data)
    rebuild.doubt_the_rest([(f"t{n}", key_of(f"t{n}")) for n in range(len(State))])
    for n in range(len(State)):
        if f'"job-t{n}"'.encode() in data:
            assert rebuild.state.of_job(f"job-t{n}") is not None
        history = rebuild.state.get(f"t{n}", key_of(f"t{n}"))
        assert history is not None
        assert history.state in OUT | {State.SAVED, State.FAILED_FINAL, State.HELD}


@quick
@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["submitting", "submitted", "saved", "downloaded", "generated", "failed", "x"])},
            optional=dict.fromkeys(("task", "key", "job_id", "files", "attempt", "usd", "path", "final", "from"), JSON),
        ),
        max_size=4,
    )
)
def test_no_record_however_odd_stops_a_repair(values: list[dict[str, Any]]) -> None:
    rebuild = Rebuild(NOW, "repair")
    for number, value in enumerate(values, 1):
        rebuild.keep({"v": 1, "seq": number, "ts": "2026-01-01T00:00:00.000Z", "run": "r", **value})
