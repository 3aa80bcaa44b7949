"""A large ledger held as places in its file says what the same ledger says when all of it is held."""

from __future__ import annotations

import gc
import io
from collections import Counter
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from core_help import FIELDS, Book, Steps, at, key_of, saved_file, started, task

from rsbatch.errors import StoreError
from rsbatch.ledger import records
from rsbatch.ledger.large import LargeState
from rsbatch.ledger.records import BadLine, Record, encode
from rsbatch.ledger.replay import replay
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import TRANSITIONS, Event, State
from rsbatch.model import SavedFile
from rsbatch.planning import Matcher
from torture.ledgers import record_of

NAMES = [f"t{n}" for n in range(6)]
KEYS = [key_of(f"k{n}") for n in range(4)]
PATHS = [f"{n}.png" for n in range(5)]


class Two:
    """The same records in a state that holds all, and in ones that read again; they must refuse the same ones.

    `large` is as in a replay, `live` as in a run, which takes a record in before its line can be read.
    """

    def __init__(self, size: int = 0) -> None:
        self.plain = LedgerState()
        self.lines: dict[int, bytes] = {}
        self.end = self.durable = 0
        self.read = 0
        self.large = LargeState(self.line_at, size)
        self.live = LargeState(self.durable_line_at)
        self.large.written(10**9)

    def line_at(self, place: int) -> bytes:
        self.read += 1
        return self.lines[place]

    def durable_line_at(self, place: int) -> bytes:
        assert place < self.durable
        return self.lines[place]

    def sync(self) -> None:
        self.durable = self.end
        self.live.written(self.end)

    def put(self, *new: Record) -> bool:
        for record in new:
            line, value = encode(record, seq=self.plain.seq + 1, ts=1_780_000_000.0 + self.plain.seq, run="r")
            said = []
            for state in (self.plain, self.large, self.live):
                try:
                    state.apply(value, self.end)
                except BadLine as exc:
                    said.append(str(exc))
            if said:
                assert said == 3 * said[:1]
                return False
            self.lines[self.end] = line[:-1]
            self.end += len(line)
        return True

    def same(self) -> None:
        expected = view(self.plain)
        for state in (self.large, self.live):
            assert view(state) == expected
            self._same_parts(state)

    def _same_parts(self, state: LargeState) -> None:
        unsettled, settled = {h.since for h in state.unsettled()}, set(state.settled())
        assert not unsettled & settled
        assert not list(self.plain.settled())
        histories = {h.since: h for h in self.plain.histories()}
        assert unsettled | settled == set(histories)
        assert {histories[since].state for since in settled} <= {State.SAVED}
        assert not any(histories[since].moves for since in settled)
        assert all(len(histories[since].files) == 1 for since in settled)
        for job in self.plain.jobs():  # two tasks may have one by mistake: then it is either's
            found = state.of_job(job)
            assert found is not None
            assert found.job_id == job or job in state._former_jobs


def told(history: History | None) -> Any:
    return None if history is None else {name: getattr(history, name) for name in FIELDS}


def view(state: LedgerState) -> Any:
    """All that can be asked of a state."""
    names, keys = [*NAMES, "none"], [*KEYS, *map(key_of, NAMES)]  # a task's own key, and some that are shared
    return {
        "histories": [told(h) for h in state.histories()],
        "count": len(state),
        "get": [told(state.get(name, key)) for name in names for key in keys],
        "find": [state.find(name, key) for name in names for key in keys],
        "keys": [[told(h) for h in state.of_key(key)] for key in keys],
        "owners": {path: told(state.owner_of(path)) for path in paths(state)},
        "out": [told(h) for h in state.jobs_out()],
        "spend": (state.spend.usd, state.spend.unpriced, state.redos, state.seq),
        # asking for these makes indexes, which are kept up from then on
        "ids": [[told(h) for h in state.of_id(name)] for name in names],
        "jobs": {job: told(h) for job, h in state.jobs().items()},
        "found": {job: state.of_job(job) is not None for job in [*state.jobs(), "none"]},
    }


def paths(state: LedgerState) -> set[str]:
    found = {file.path for h in state.histories() for file in h.files}
    return found | {path for h in state.histories() for move in h.moves for path in move} | set(PATHS)


def next_record(state: LedgerState, rng: Random) -> Record:
    """Draw a record: mostly the next plain one of some task, sometimes any that could come, sometimes a wrong one."""
    name = rng.choice(NAMES)
    key = key_of(name) if rng.random() < 0.9 else rng.choice(KEYS[:2])
    history = state.get(name, key)
    was = history.state if history else None
    draw = rng.random()
    if draw < 0.06:
        return records.renamed(name, key, from_=rng.choice(NAMES))
    if draw < 0.14:
        return records.moved(name, key, from_=rng.choice(PATHS), to=rng.choice(PATHS))
    if draw < 0.18:
        return records.redo(name, key, number=state.redos.get((name, key), 0) + 1)
    plain = {
        None: Event.SUBMITTING,
        State.SUBMITTING: Event.SUBMITTED,
        State.SUBMITTED: Event.GENERATED,
        State.GENERATED: Event.DOWNLOADED,
        State.DOWNLOADED: Event.SAVED,
    }
    event = plain.get(was) if rng.random() < 0.9 else None
    event = event or rng.choice(list(TRANSITIONS[was]))
    fresh = f"job-{state.seq}" if rng.random() < 0.95 else "job-1"
    found = rng.sample(PATHS, 1 if rng.random() < 0.95 else 2)
    files = [SavedFile(path, 100 + state.seq, f"{state.seq:064x}", "png", 4, 4) for path in found]
    if event is Event.SAVED and history is not None and rng.random() < 0.9:
        files = list(history.files)
    request = {"prompt": name} if history is None and rng.random() < 0.97 else None
    usd = rng.choice((None, Decimal("0.0072")))
    return record_of(event, name, key, history, job_id=fresh, files=files, request=request, usd=usd, rng=rng)


def test_any_ledger_is_read_as_if_all_of_it_were_held() -> None:
    settled, refused, held_again = Counter[str](), 0, Counter[str]()
    for seed in range(600):
        rng = Random(seed)
        two = Two()
        two.put(started())
        most, sync_every = Counter[str](), rng.choice((1, 3, 20, 1000))
        for _ in range(rng.randrange(20, 140)):
            refused += not two.put(next_record(two.plain, rng))
            if rng.randrange(sync_every) == 0:
                two.sync()
            asks = rng.randrange(200)
            for state in (two.plain, two.large, two.live):  # what is asked makes an index, kept up from then on
                if asks == 0:
                    state.of_id("t1")
                elif asks == 1:
                    state.of_job("job-1")
            for name, state in (("large", two.large), ("live", two.live)):
                rows = len(list(state.settled()))
                most[name] = max(most[name], rows)
                held_again[name] += rows < most[name]
        settled += most
        two.same()
        for _ in range(60):  # with its indexes made
            two.put(next_record(two.plain, rng))
            if rng.randrange(sync_every) == 0:
                two.sync()
        two.same()
    assert min(settled[name] for name in ("large", "live")) > 400, "hardly anything was let go of"
    assert min(held_again[name] for name in ("large", "live")) > 200, "hardly anything was held again"
    assert refused > 600, "hardly anything was refused"


def plain(count: int, size: int = 0) -> Two:
    two = Two(size)
    two.put(started())
    for number in range(count):
        file = saved_file(f"{number}.png")
        two.put(*Steps(f"c{number}").to(State.SAVED)[:1])
        steps = Steps(f"d{number}")
        two.put(steps.submitting(request={}), steps.submitted(), steps.generated())
        two.put(steps.downloaded(file), steps.saved(file))
    return two


@pytest.mark.parametrize("size", [0, 1, 10**6, 10**7], ids=["not known", "tiny", "too small", "enough"])
def test_many(size: int) -> None:
    two = plain(3000, size)  # more than the first table takes, but for the last
    assert len(list(two.large.unsettled())) == 3000
    assert len(two.large) == 6000
    for number in (0, 1, 511, 512, 513, 2047, 2048, 2999):
        for name in (f"c{number}", f"d{number}", "other"):
            assert told(two.large.get(name, key_of(name))) == told(two.plain.get(name, key_of(name)))
            assert [told(h) for h in two.large.of_id(name)] == [told(h) for h in two.plain.of_id(name)]
        assert told(two.large.owner_of(f"{number}.png")) == told(two.plain.owner_of(f"{number}.png"))


def test_of_one_key_only_the_first_is_let_go_of() -> None:
    """Rows of one key are found one after another."""
    two = plain(0)
    for name in ("one", "two", "three"):
        steps, file = Steps(name, key=key_of("same")), saved_file(f"{name}.png")
        two.put(steps.submitting(request={}), steps.submitted(), steps.generated())
        two.put(steps.downloaded(file), steps.saved(file))
        two.sync()
    for state in (two.large, two.live):
        assert [h.task for h in state.unsettled()] == ["two", "three"]
    two.same()


def test_who_holds_a_history_is_given_it_again() -> None:
    two = plain(2)
    name, key = "d1", key_of("d1")
    first = two.large.get(name, key)
    assert two.large.owner_of("1.png") is first
    assert next(h for h in two.large.histories() if h.task == name) is first
    read = two.read
    assert two.large.get(name, key) is first
    assert two.read == read
    del first
    gc.collect()
    assert told(two.large.get(name, key)) == told(two.plain.get(name, key))
    assert two.read == read + 3


def test_a_job_of_two_images_is_one_object_by_each_path() -> None:
    two = plain(1)
    steps, files = Steps("two"), (saved_file("a.png"), saved_file("b.png"))
    two.put(steps.submitting(request={}), steps.submitted(), steps.generated())
    two.put(steps.downloaded(*files), steps.saved(*files))
    held = two.large.get("two", key_of("two"))
    assert held is not None
    assert two.large.owner_of("a.png") is held
    assert two.large.owner_of("b.png") is held


def test_what_happens_later_happens_to_the_same_object() -> None:
    two = plain(1)
    held = two.large.get("d0", key_of("d0"))
    assert held is not None
    two.put(records.moved("d0", key_of("d0"), from_="0.png", to="x.png"))
    assert held.files[0].path == "x.png"
    assert two.large.owner_of("x.png") is held
    assert two.large.owner_of("0.png") is None
    two.same()


def test_nothing_is_read_to_give_tasks_their_histories() -> None:
    two = plain(3)
    matcher = Matcher(two.large)
    for name in ("c0", "d0", "d1", "new"):
        matcher.visit(task(name))
    assert matcher.settle() == []
    assert two.read == 0
    assert told(matcher.of(task("d1"))) == told(two.plain.get("d1", key_of("d1")))
    owned = {h.task for h in two.large.histories() if matcher.owns(h)}
    assert owned == {"c0", "d0", "d1"}


def test_a_new_name_is_found() -> None:
    two = plain(3)
    matcher = Matcher(two.large)
    renamed = task("neo", key=key_of("d1"))
    matcher.visit(renamed)
    assert [(name, history.task) for name, history in matcher.settle()] == [("neo", "d1")]
    assert matcher.of(renamed) is matcher.of(renamed)


def test_a_job_is_found_by_its_id_without_reading_any_other() -> None:
    two = plain(3)
    assert two.large.of_job("none") is None
    assert two.read == 0
    found = two.large.of_job("job-d1")
    assert found is two.large.get("d1", key_of("d1"))
    assert two.read == 3
    two.put(records.moved("d1", key_of("d1"), from_="1.png", to="x.png"))
    assert two.large.of_job("job-d1") is found


@pytest.mark.parametrize("how", ["saved", "moved"])
def test_where_a_line_cannot_be_read_nothing_has_happened(how: str) -> None:
    """The path of a saved image becomes another's; the history that had it must be read for that."""
    two = plain(2)
    steps = Steps("new")
    two.put(steps.submitting(request={}), steps.submitted(), steps.generated())
    path = "1.png" if how == "saved" else "y.png"
    two.put(steps.downloaded(saved_file(path)))
    record = steps.saved(saved_file(path))
    if how == "moved":
        two.put(record)
        record = records.moved("new", steps.key, from_="y.png", to="1.png")
    two.large.written(0)
    held = two.large.get("new", steps.key)
    before, seq, lines = told(held), two.large.seq, dict(two.lines)
    line, value = encode(record, seq=seq + 1, ts=1_780_000_000.0 + seq, run="r")
    two.lines = dict.fromkeys(lines, b"")
    if how == "moved":  # its own row is held first
        two.lines |= {place: text for place, text in lines.items() if b'"new"' in text}
    with pytest.raises(StoreError):
        two.large.apply(value, two.end)
    assert (told(held), two.large.seq) == (before, seq)
    two.lines = lines
    assert two.put(record)
    two.same()
    assert line


def test_further_records_are_held_until_their_lines_can_be_read() -> None:
    two = plain(2)
    two.large.written(two.end)
    file = saved_file("new.png")
    steps = Steps("new")
    two.put(steps.submitting(request={}), steps.submitted(), steps.generated(), steps.downloaded(file))
    two.put(steps.saved(file))
    for state in (two.large, two.live):
        assert "new" in {h.task for h in state.unsettled()}
    held = two.live.get("new", steps.key)
    two.sync()
    assert "new" in {h.task for h in two.large.unsettled()}
    assert [h.task for h in two.live.unsettled()] == ["c0", "c1"]
    assert two.live.get("new", steps.key) is held, "who holds it is given it again"
    two.same()


def test_what_happens_between_the_last_record_and_its_sync_is_not_forgotten() -> None:
    for record in (
        records.moved("new", key_of("new"), from_="new.png", to="old.png"),
        records.renamed("neo", key_of("new"), from_="new"),
    ):
        two = plain(0)
        steps, file = Steps("new"), saved_file("new.png")
        two.put(steps.submitting(request={}), steps.submitted(), steps.generated())
        two.put(steps.downloaded(file), steps.saved(file), record)
        two.sync()
        assert len(list(two.live.unsettled())) == 1
        two.same()


@pytest.mark.parametrize("what", ["nothing", "rubbish", "another", "another's", "later", "other records", "no files"])
def test_a_ledger_that_was_replaced_meanwhile_is_told(what: str) -> None:
    two = plain(2)
    rows = two.large._rows
    places = [column[0] for column in rows.places]
    instead = [two.lines[column[1]] for column in rows.places]
    own, other = Steps("d0"), Steps("d1")
    since = rows.since[0]

    def lines(first: Record, last: Record, seq: int, job: str = "") -> list[bytes]:
        made = (first, own.submitted(job=job), last)
        return [encode(one, seq=seq + n, ts=1.0, run="r")[0][:-1] for n, one in enumerate(made)]

    changed = {
        "nothing": [b""] * 3,
        "rubbish": [two.lines[place][:-1] for place in places],
        "another": instead,
        "another's": lines(other.submitting(), other.saved(), since, other.job),
        "later": lines(own.submitting(), own.saved(), since + 1),
        "other records": lines(own.parked(), own.parked(), since),
        "no files": lines(own.submitting(), records.saved(own.name, own.key, job_id=own.job, files=[]), since),
    }[what]
    assert len(changed) == 3
    two.lines |= zip(places, changed, strict=True)
    with pytest.raises(StoreError, match="was replaced while it was read; run the command again"):
        two.large.get("d0", key_of("d0"))


def test_a_replay_fills_the_state_that_it_is_given() -> None:
    book = at(State.SAVED)
    state = LargeState(lambda place: b"")
    assert replay(io.BytesIO(book.data), "L", state).state is state
    assert len(state) == 1


def test_a_book_says_the_same() -> None:
    assert isinstance(Book().state, LedgerState)
