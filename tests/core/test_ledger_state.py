"""The fold: what is known after each record, and money in exactly one place."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from core_help import JSON, NOW, Book, Steps, at, key_of, quick, saved_file, snapshot, started
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rsbatch.ledger import records
from rsbatch.ledger.records import BadLine, Record, encode, run_ended
from rsbatch.ledger.replay import replay
from rsbatch.ledger.state import JOB_NOT_FOUND, Bucket, History, LedgerState
from rsbatch.lifecycle import OUT, TRANSITIONS, Event, State

CAT = Steps()
IN: dict[State, Bucket | None] = {
    State.SUBMITTING: Bucket.UNKNOWN,
    State.NOT_SUBMITTED: None,
    State.SUBMITTED: Bucket.OUT,
    State.GENERATED: Bucket.DELIVERED,
    State.DOWNLOADED: Bucket.DELIVERED,
    State.SAVED: Bucket.DELIVERED,
    State.FAILED_SUBMIT: None,
    State.FAILED_DOWNLOAD: Bucket.DELIVERED,
    State.FAILED_FINAL: Bucket.FAILED,
    State.HELD: Bucket.UNKNOWN,
    State.PARKED: Bucket.OUT,
    State.RELEASED: Bucket.UNKNOWN,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("usd", ["0.05", None])
def test_where_the_money_of_each_state_is(state: State, usd: str | None) -> None:
    book = at(state, usd=usd)
    bucket = IN[state]
    assert book.the().state is state
    assert book.the().bucket is bucket
    assert book.the().out == (state in OUT)
    assert [h.task for h in book.state.jobs_out()] == (["cat"] if state in OUT else [])
    price, count = (Decimal("0.05"), 0) if usd else (Decimal(0), 1)
    spend = book.state.spend
    assert spend.usd == {b: price if b is bucket else Decimal(0) for b in Bucket}
    assert spend.unpriced == {b: count if b is bucket else 0 for b in Bucket}
    assert spend.total == (price if bucket else 0)
    assert spend.known == (bucket is None or usd is not None)


@pytest.mark.parametrize(
    ("more", "bucket"),
    [
        ([CAT.submitting(), CAT.submitted(), CAT.failed(code=JOB_NOT_FOUND)], Bucket.UNKNOWN),
        ([*CAT.to(State.PARKED), CAT.failed()], Bucket.FAILED),
        ([*CAT.to(State.GENERATED), CAT.failed(code="no_images")], Bucket.DELIVERED),
        ([*CAT.to(State.NOT_SUBMITTED), CAT.failed("submit")], None),
        ([*CAT.to(State.HELD), CAT.resolved("attached", "j")], Bucket.OUT),
        ([*CAT.to(State.HELD), CAT.resolved("not_sent")], None),
        ([*CAT.to(State.HELD), CAT.resolved("resubmit"), CAT.resolved("not_sent")], None),
        ([*CAT.to(State.FAILED_FINAL), CAT.resolved("resubmit")], Bucket.UNKNOWN),
        ([*CAT.to(State.FAILED_FINAL), CAT.resolved("attached", "j")], Bucket.OUT),
        ([*CAT.to(State.NOT_SUBMITTED), CAT.failed("submit"), CAT.resolved("resubmit")], None),
    ],
)
def test_money_after_a_settlement(more: list[Record], bucket: Bucket | None) -> None:
    book = Book().put(*more)
    assert book.the().bucket is bucket
    assert book.state.spend.total == (Decimal("0.05") if bucket else 0)


def test_a_second_purchase_is_counted_beside_the_first() -> None:
    book = at(State.SAVED).put(CAT.submitting(2))
    assert book.state.spend.usd[Bucket.DELIVERED] == Decimal("0.05")
    assert book.state.spend.usd[Bucket.UNKNOWN] == Decimal("0.05")
    assert book.the().was_saved
    assert (book.the().attempt, book.the().job_id) == (2, None)


def test_what_is_known_of_a_run() -> None:
    state = Book().state
    assert (state.service, state.name, state.runs, state.ended, len(state)) == (None, None, 0, True, 0)
    book = Book().put(started(service="S", name="N"))
    assert (book.state.service, book.state.name, book.state.runs, book.state.ended) == ("S", "N", 1, False)
    book.put(run_ended({"exit_code": 3, "run": "x"}))
    assert book.state.ended
    assert book.state.last_run_ended is not None
    assert (book.state.last_run_ended["exit_code"], book.state.last_run_ended["run"]) == (3, "r1")
    book.put(Record("of_the_future", "cat", key_of("cat"), {"x": 1}))
    assert book.state.seq == 3


def test_what_is_known_of_a_task() -> None:
    book = Book().put(started()).put(CAT.submitting(request={"prompt": "p"}), run="r7")
    history = book.the()
    assert history.request_at == len(book.lines[0])
    assert (history.path, history.run, history.attempt, history.since) == ("cat.{ext}", "r7", 1, 2)
    book.put(CAT.submitted())
    assert book.state.of_job("job-cat") is history
    assert (history.job_id, history.request_id, history.submitted_at) == ("job-cat", "req", NOW + 2)
    assert book.state.of_job("other") is None
    book.put(CAT.generated(), CAT.downloaded(saved_file("x.png")), CAT.saved(saved_file("x.png")))
    assert book.state.owner_of("x.png") is history
    assert history.files == (saved_file("x.png"),)


def test_an_attempt_without_its_body_keeps_the_place_of_the_first() -> None:
    book = Book().put(CAT.submitting(request={}), CAT.not_submitted(), CAT.submitting(2))
    assert book.the().request_at == 0


def test_histories_of_an_id_and_of_a_key() -> None:
    book = Book().put(CAT.submitting(), Steps("cat", key="k2").submitting(), Steps("dog", key_of("cat")).submitting())
    assert [h.key for h in book.state.of_id("cat")] == [key_of("cat"), "k2"]
    assert [h.task for h in book.state.of_key(key_of("cat"))] == ["cat", "dog"]
    assert book.state.of_id("none") == book.state.of_key("none") == []
    assert len(list(book.state.histories())) == len(book.state) == 3


def test_a_rename_takes_all_along() -> None:
    book = at(State.SUBMITTED)
    kitten = Steps("kitten", key_of("cat"))
    book.put(kitten.renamed("cat"))
    assert book.state.get("cat", key_of("cat")) is None
    assert book.state.of_id("cat") == []
    history = book.the("kitten", key_of("cat"))
    assert book.state.of_job("job-cat") is history
    assert book.state.of_key(key_of("cat")) == [history]


def test_a_history_is_found_by_an_id_that_it_had() -> None:
    key = key_of("cat")
    kitten, tom = Steps("kitten", key), Steps("tom", key)
    book = at(State.SUBMITTED).put(kitten.renamed("cat"), tom.renamed("kitten"))
    assert [book.state.name_of(name, key) for name in ("cat", "kitten", "tom", "dog")] == ["tom", "tom", "tom", "dog"]
    assert book.state.name_of("cat", "other") == "cat"
    book.put(CAT.renamed("tom"))
    assert [book.state.name_of(name, key) for name in ("cat", "kitten", "tom")] == ["cat"] * 3


def test_a_rename_leaves_the_other_histories_of_the_id() -> None:
    book = Book().put(CAT.submitting(), Steps("cat", key="k2").submitting(), Steps("kitten", key="k2").renamed("cat"))
    assert [h.key for h in book.state.of_id("cat")] == [key_of("cat")]


@pytest.mark.parametrize(
    "record",
    [
        Steps("kitten", key_of("cat")).renamed("nobody"),
        Steps("kitten", key="other").renamed("cat"),
        Steps("dog", key_of("cat")).renamed("cat"),
    ],
)
def test_a_rename_that_cannot_be_changes_nothing(record: Record) -> None:
    book = at(State.SAVED).put(Steps("dog", key_of("cat")).submitting())
    before = snapshot(book.state)
    with pytest.raises(BadLine, match="cannot be renamed"):
        book.put(record)
    assert snapshot(book.state) == before


def test_a_moved_file_is_known_at_its_new_place() -> None:
    book = at(State.SAVED).put(CAT.moved("cat.png", "cat~1.png"))
    history = book.the()
    assert [f.path for f in history.files] == ["cat~1.png"]
    assert history.moves == (("cat.png", "cat~1.png"),)
    assert book.state.owner_of("cat.png") is None
    assert book.state.owner_of("cat~1.png") is history


def test_a_moved_file_of_several() -> None:
    files = saved_file("a.png"), saved_file("b.png")
    book = at(State.GENERATED).put(CAT.downloaded(*files), CAT.saved(*files), CAT.moved("b.png", "c.png"))
    assert book.the().files == (saved_file("a.png"), saved_file("c.png"))


def test_a_file_that_another_task_took_over_is_not_given_away() -> None:
    dog = Steps("dog")
    book = at(State.SAVED).put(*dog.to(State.SAVED), CAT.moved("cat.png", "old.png"))
    assert [f.path for f in book.the().files] == ["old.png"]
    assert book.state.owner_of("cat.png") is book.the("dog")


@pytest.mark.parametrize(
    "book",
    [
        at(None),
        at(State.SUBMITTED),
        at(State.SAVED).put(CAT.moved("cat.png", "elsewhere.png")),
    ],
)
def test_a_file_that_is_not_of_this_ledger_made_way(book: Book) -> None:
    before = snapshot(book.state)[1:]
    book.put(CAT.moved("cat.png", "x.png"))
    assert snapshot(book.state)[1:] == before


def test_an_older_file_makes_way_for_the_one_that_replaces_it() -> None:
    book = at(State.SAVED).put(CAT.generated(), CAT.moved("cat.png", "cat~1.png"))
    assert book.state.owner_of("cat.png") is None
    assert not book.the().moves


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_a_gap_is_refused(seq: int) -> None:
    book = Book().put(started())
    _, value = encode(CAT.submitting(), seq=seq, ts=NOW, run="r")
    with pytest.raises(BadLine, match=f"record {seq} stands where record 2 belongs"):
        book.state.apply(value)


@pytest.mark.parametrize("usd", ["NaN", "sNaN", "Infinity", "-0.01", "1e9", "abc", [], {}, "1e999999999"])
def test_money_that_is_none(usd: Any) -> None:
    record = CAT.submitting()._replace(fields={**CAT.submitting().fields, "usd": usd})
    with pytest.raises(BadLine, match=r"submitting record without a usable usd$"):
        Book().put(record)


@pytest.mark.parametrize("job_id", ["", None, 5, [], {}])
def test_a_job_has_a_name(job_id: Any) -> None:
    (record,) = CAT.to(State.SUBMITTED)[-1:]
    with pytest.raises(BadLine, match="submitted record without a usable job_id"):
        at(State.SUBMITTING).put(record._replace(fields={**record.fields, "job_id": job_id}))


RECORDS = [
    started(),
    CAT.renamed("dog"),
    CAT.moved("cat.png", "b.png"),
    *(r for state in State for r in CAT.to(state)[-1:]),
    CAT.resolved("attached", "j"),
    CAT.resolved("not_sent"),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([None, *State]), st.sampled_from(RECORDS), st.data())
def test_a_record_that_is_refused_changes_nothing(state: State | None, record: Record, data: st.DataObject) -> None:
    book = at(state)
    before = snapshot(book.state)
    _, value = encode(record, seq=book.state.seq + 1, ts=NOW, run="r")
    value = dict(value)
    name = data.draw(st.sampled_from([n for n in value if n not in {"v", "seq", "type", "run", "ts"}]))
    if data.draw(st.booleans()):
        del value[name]
    else:
        value[name] = data.draw(JSON | st.just([{"path": "x"}]) | st.just(float("inf")))
    try:
        book.state.apply(value)
    except BadLine:
        assert snapshot(book.state) == before


def test_an_event_of_each_kind_is_taken_in() -> None:
    """Nothing in the table of transitions is without its function in the fold."""
    for state, row in TRANSITIONS.items():
        for event in row:
            book = at(state)
            how = {Event.ATTACHED: "attached", Event.NOT_SENT: "not_sent", Event.RESUBMIT: "resubmit"}.get(event)
            record = {
                Event.FAILED_SUBMIT: CAT.failed("submit", final=False),
                Event.FAILED_DOWNLOAD: CAT.failed("download", final=False),
                Event.FAILED_FINAL: CAT.failed(),
            }.get(event) or (CAT.resolved(how, "j") if how else getattr(CAT, event.value)())  # type: ignore[arg-type]
            book.put(record)
            assert book.the().state is row[event]


def test_what_a_history_begins_with() -> None:
    new = History("t", "k", 1)
    assert (new.state, new.attempt, new.run, new.path, new.code, new.message) == (None, 0, "", "", "", "")
    assert (new.submitted_at, new.was_saved, new.moves, new.files) == (0.0, False, (), ())


def test_words_that_stand_in_ledgers_and_summaries() -> None:
    assert [bucket.value for bucket in Bucket] == ["delivered", "failed", "unknown", "out"]
    assert JOB_NOT_FOUND == "job_not_found"


@pytest.mark.parametrize(
    ("state", "record", "message"),
    [
        (State.SUBMITTED, CAT.parked(), "its time was over before its job ended"),
        (State.HELD, CAT.resolved("resubmit"), "to be submitted again, as settled by hand"),
        (State.HELD, CAT.resolved("not_sent"), "not sent, as settled by hand"),
        (State.SUBMITTING, Record("not_submitted", "cat", CAT.key, {"attempt": 1}), ""),
        (State.FAILED_DOWNLOAD, CAT.generated(), ""),
        (State.FAILED_FINAL, CAT.submitting(2), ""),
    ],
)
def test_what_each_record_says_of_its_task(state: State, record: Record, message: str) -> None:
    history = at(state).put(record).the()
    assert history.message == message
    if record.type in {"generated", "submitting"}:
        assert history.code == ""


def test_a_saved_record_clears_what_went_wrong_before_and_says_where_the_files_are() -> None:
    book = at(State.FAILED_DOWNLOAD).put(CAT.downloaded(), CAT.saved(saved_file("b.png")))
    assert (book.the().code, book.the().message) == ("", "")
    assert [f.path for f in book.the().files] == ["b.png"]


@pytest.mark.parametrize("state", [State.NOT_SUBMITTED, State.FAILED_SUBMIT])
def test_a_doubt_takes_freed_money_back(state: State) -> None:
    """Only `repair` puts one there: a lost record may have been another submission."""
    book = at(state).put(CAT.in_doubt())
    assert book.state.spend.usd[Bucket.UNKNOWN] == Decimal("0.05")


def test_a_doubt_about_a_task_that_was_never_seen_has_no_known_price() -> None:
    assert not at(None).put(CAT.in_doubt()).state.spend.known


def test_the_place_of_a_line_is_0_unless_told() -> None:
    state = LedgerState()
    for number, record in enumerate((started(), CAT.submitting(request={})), 1):
        state.apply(encode(record, seq=number, ts=NOW, run="r")[1])
    assert next(iter(state.histories())).request_at == 0


def test_why_a_record_cannot_follow_is_said_once() -> None:
    with pytest.raises(BadLine, match=r"^cat cannot be renamed to dog$"):
        at(None).put(Steps("dog").renamed("cat"))


OTHERS = Steps(job="job-other")
BAD_FILE = {"path": "a.png", "bytes": 1, "sha256": "0", "format": "png", "width": 1, "height": 1}


@pytest.mark.parametrize(
    ("state", "record", "why"),
    [
        (State.SUBMITTING, CAT.submitted(2), "attempt 2 is not the one that is open, 1"),
        (State.SUBMITTING, CAT.not_submitted(2), "attempt 2 is not the one that is open, 1"),
        (State.SUBMITTING, Record("submitted", "cat", CAT.key, {"attempt": 1, "job_id": None}), "job_id"),
        (State.SUBMITTING, Record("submitted", "cat", CAT.key, {"attempt": 1, "job_id": ""}), "job_id"),
        (State.HELD, Record("resolved", "cat", CAT.key, {"how": "attached"}), "job_id"),
        (State.SUBMITTED, OTHERS.generated(), "job job-other is not its job, job-cat"),
        (State.SUBMITTED, OTHERS.parked(), "job job-other is not its job, job-cat"),
        (State.GENERATED, OTHERS.downloaded(), "job job-other is not its job, job-cat"),
        (State.DOWNLOADED, OTHERS.saved(), "job job-other is not its job, job-cat"),
        (State.DOWNLOADED, Record("saved", "cat", CAT.key, {"job_id": "job-cat", "files": []}), "files"),
        *(
            (
                State.DOWNLOADED,
                Record("saved", "cat", CAT.key, {"job_id": "job-cat", "files": [BAD_FILE | bad]}),
                "files",
            )
            for bad in ({"path": 5}, {"bytes": "1"}, {"bytes": True}, {"sha256": None})
        ),
    ],
)
def test_a_record_of_another_job_or_attempt_backs_nothing(state: State, record: Record, why: str) -> None:
    book = at(state)
    before = snapshot(book.state)
    with pytest.raises(BadLine, match=why):
        book.put(record)
    assert snapshot(book.state) == before


@dataclass
class Attempt:
    """The plain rule: an attempt is spent unless it was freed."""

    usd: Decimal | None
    freed: bool = False


class Money(RuleBasedStateMachine):
    """Random lives of three tasks: each price in exactly one bucket, the total by the rule, replay as live."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.attempts: dict[str, list[Attempt]] = {"a": [], "b": [], "c": []}
        self.jobs = 0

    @initialize()
    def begin(self) -> None:
        self.book.put(started())

    @rule(name=st.sampled_from("abc"), pick=st.randoms(), usd=st.sampled_from([None, "0", "0.0072", "0.0636", "0.25"]))
    def step(self, name: str, pick: Any, usd: str | None) -> None:
        history = self.book.state.get(name, key_of(name))
        state = history.state if history else None
        # what only `repair` does is not the runner's: a doubt about a state without an open intent
        events = [e for e in TRANSITIONS[state] if not (e is Event.IN_DOUBT and state is not State.SUBMITTING)]
        if state in {State.NOT_SUBMITTED, State.FAILED_SUBMIT, State.FAILED_FINAL}:
            freed = self.attempts[name][-1].freed
            events = [e for e in events if not (freed and e is Event.ATTACHED)]  # a person knows better than the rule
        if not events:
            return
        event = pick.choice(events)
        steps = Steps(name, usd=usd, job=(history.job_id if history else None) or "")
        attempt = len(self.attempts[name])
        if event is Event.SUBMITTING:
            self.attempts[name].append(Attempt(steps.usd))
            self.book.put(steps.submitting(attempt + 1))
        elif event in {Event.SUBMITTED, Event.ATTACHED}:
            self.jobs += 1
            job = f"job-{self.jobs}"
            attached = event is Event.ATTACHED
            if attached and self.attempts[name][-1].freed:
                return
            self.book.put(steps.resolved("attached", job) if attached else steps.submitted(attempt, job))
        elif event in {Event.NOT_SUBMITTED, Event.NOT_SENT}:
            self.attempts[name][-1].freed = True
            self.book.put(steps.not_submitted(attempt) if event is Event.NOT_SUBMITTED else steps.resolved("not_sent"))
        elif event is Event.RESUBMIT:
            self.book.put(steps.resolved("resubmit"))
        elif event in {Event.FAILED_DOWNLOAD, Event.FAILED_SUBMIT}:
            self.book.put(steps.failed("download" if event is Event.FAILED_DOWNLOAD else "submit", final=False))
        elif event is Event.FAILED_FINAL:
            self.book.put(steps.failed(code=pick.choice(["fail", JOB_NOT_FOUND])))
        else:
            self.book.put(getattr(steps, event.value)())

    @precondition(lambda self: len(self.book.lines) > 5)
    @rule()
    def again(self) -> None:
        assert snapshot(replay(BytesIO(self.book.data), "L").state) == snapshot(self.book.state)

    @invariant()
    def the_total_is_by_the_rule(self) -> None:
        spent = [a for attempts in self.attempts.values() for a in attempts if not a.freed]
        spend = self.book.state.spend
        assert spend.total == sum((a.usd for a in spent if a.usd is not None), Decimal(0))
        assert sum(spend.unpriced.values()) == sum(a.usd is None for a in spent)
        assert spend.known == all(a.usd is not None for a in spent)

    @invariant()
    def no_bucket_is_overdrawn(self) -> None:
        assert all(usd >= 0 for usd in self.book.state.spend.usd.values())
        assert all(number >= 0 for number in self.book.state.spend.unpriced.values())

    @invariant()
    def out_money_belongs_to_jobs_that_are_out(self) -> None:
        waiting = [h for h in self.book.state.histories() if h.bucket is Bucket.OUT]
        assert self.book.state.spend.usd[Bucket.OUT] == sum((h.usd for h in waiting if h.usd), Decimal(0))
        assert all(h.state in {State.SUBMITTED, State.PARKED} for h in waiting)


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_empty_state() -> None:
    assert list(LedgerState().histories()) == []


@quick
@given(st.lists(st.dictionaries(st.sampled_from(["task", "key", "from", "to", "how", "job_id"]), JSON), max_size=3))
def test_apply_raises_bad_line_alone(values: list[dict[str, Any]]) -> None:
    for fields in values:
        for kind in ("renamed", "moved", "resolved", "submitted", "saved", "failed", "run_started", "run_ended", "?"):
            book = at(State.SAVED)
            value = {"v": 1, "seq": book.state.seq + 1, "ts": "x", "run": "r", "type": kind, **fields}
            try:
                book.state.apply(value)
            except BadLine:
                continue


def test_what_is_asked_for_late_is_what_was_kept_all_along() -> None:
    """The indexes of ids and jobs are made when they are first asked for, and kept up from then on."""
    key = key_of("same")
    cat, dog, owl = (Steps(name, key) for name in ("cat", "dog", "owl"))
    steps = [
        started(),
        *cat.to(State.SAVED),
        *dog.to(State.SUBMITTED),
        *Steps("apart").to(State.FAILED_FINAL),
        *owl.to(State.PARKED),
        *(Steps("apart").submitting(2), Steps("apart").submitted(2, "job-again")),
        Steps("hen", key).renamed("dog"),
        Steps("lone").submitting(),
        Steps("new", Steps("lone").key).renamed("lone"),
        owl.resolved("attached", "job-other"),
    ]
    early, late = LedgerState(), Book()
    for number, record in enumerate(steps, 1):
        early.of_id("cat"), early.of_job("job-cat")
        early.apply(encode(record, seq=number, ts=NOW + number - 1, run="r1")[1], len(late.data))
        late.put(record)
    assert len(late.state) == len(early) == 5
    assert snapshot(early) == snapshot(late.state)
    assert [h.task for h in late.state.histories()] == ["cat", "hen", "apart", "owl", "new"]
    assert [h.task for h in late.state.of_key(key)] == ["cat", "hen", "owl"]
    assert late.state.of_id("dog") == late.state.of_id("lone") == []
    assert {job: h.task for job, h in late.state.jobs().items()} == {
        "job-cat": "cat",
        "job-dog": "hen",
        "job-apart": "apart",
        "job-again": "apart",
        "job-owl": "owl",
        "job-other": "owl",
    }


@pytest.mark.parametrize("name", ["task", "key"])
def test_a_name_that_is_no_text_is_refused(name: str) -> None:
    value = encode(CAT.submitting(), seq=1, ts=NOW, run="r1")[1]
    with pytest.raises(BadLine):
        LedgerState().apply(value | {name: 5})


def test_when_the_newest_run_began() -> None:
    book = Book()
    assert book.state.began == 0
    for _ in range(2):
        book.put(started(), records.run_ended({}))
        assert book.state.began == NOW + book.state.seq - 2


def test_a_new_name_takes_the_place_of_the_old_one_in_the_index() -> None:
    book = at(State.SAVED)
    assert [h.task for h in book.state.of_id("cat")] == ["cat"]
    book.put(Steps("tom", key=key_of("cat")).renamed("cat"))
    assert [h.task for h in book.state.of_id("tom")] == ["tom"]
    assert book.state.of_id("cat") == []
