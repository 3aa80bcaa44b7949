"""The scheduler keeps its promises under any order of events."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from core_help import task
from hypothesis import given, settings
from hypothesis import strategies as st

from rsbatch.asking import FixedInterval
from rsbatch.ceiling import Ceiling
from rsbatch.ledger.state import History
from rsbatch.model import Limits
from rsbatch.pacing import Quota
from rsbatch.retry import DOWNLOAD_SECONDS, UNAVAILABLE_SECONDS
from rsbatch.scheduler import (
    ASKED_SECONDS,
    COVERED_PRICE,
    DOWNLOADS_AHEAD,
    FEWEST,
    FILL_SECONDS,
    LAST_PRICE,
    QUERY_SHARE,
    REFUSED_OFTEN,
    REFUSED_SECONDS,
    SLOT_PRICE,
    WAITING_SECONDS,
    Finished,
    Halt,
    Idle,
    Job,
    Order,
    Policies,
    Scheduler,
    StartDownload,
    StartQuery,
    StartSubmit,
)

FAST = Limits(in_flight=4, submits_per_second=1000, queries_per_second=1000, downloads=2)


def scheduler(limits: Limits = FAST, *, submits: int = 8, queries: int = 8, now: float = 0.0) -> Scheduler:
    policies = Policies(Ceiling(limits.in_flight), FixedInterval(), submits, queries, Random(1))
    return Scheduler(limits, policies, now)


def order(name: str = "cat") -> Order:
    return Order(task(name))


def job(**more: Any) -> Job:
    return Job(History("cat", "k", 1), "cat.{ext}", **more)


def submit(one: Scheduler, now: float) -> Order:
    step = one.next(now)
    assert isinstance(step, StartSubmit)
    return step.order


def test_a_life() -> None:
    one = scheduler()
    assert one.hungry
    one.offer(order())
    one.exhausted = True
    assert not one.hungry
    submit(one, 0)
    assert (one.in_flight, one.open.submits) == (1, 1)
    assert one.next(0) == Idle(None)
    it = job(fresh=True)
    one.accepted(it, 1)
    assert (one.in_flight, one.jobs_waiting, it.since) == (1, 1, 1)
    assert one.next(1) == Idle(4)
    assert one.next(4) == StartQuery(it)
    one.asked(it, 4.5)
    assert one.next(6.9) == Idle(7), "3 seconds after it was asked for, not after the answer"
    assert one.next(7) == StartQuery(it)
    one.asked(it, 8, after=10)
    assert one.next(18) == StartQuery(it)
    one.release(it, 18)
    one.deliver(it)
    one.ended(it, 18)
    assert (one.in_flight, one.waiting_downloads, it.queries) == (0, 1, 3)
    assert one.next(18) == StartDownload(it)
    assert one.waiting_downloads == 1
    one.downloaded()
    assert one.next(18) == Finished()


def test_an_old_job_counts_its_time_from_its_first_query() -> None:
    one, it = scheduler(), job()
    one.watch(it, 5)
    assert one.in_flight == 1
    assert one.next(5) == StartQuery(it)
    assert it.since == 5


def test_an_ended_job_takes_no_slot_and_is_asked_without_a_time() -> None:
    one, it = scheduler(), job(ended=True)
    one.watch(it, 0)
    assert one.in_flight == 0
    assert one.next(0) == StartQuery(it)
    it.since = None
    one.asked(it, 1)
    assert one.next(4) == StartQuery(it)
    one.ended(it, 4)
    assert one.in_flight == 0


def test_downloads_first_then_queries_then_submissions() -> None:
    one, first, second = scheduler(), job(ended=True), job()
    one.offer(order())
    one.watch(second, 0)
    one.deliver(first)
    assert [type(one.next(0)) for _ in range(3)] == [StartDownload, StartQuery, StartSubmit]


def test_downloads_have_their_own_limit_and_are_tried_again() -> None:
    one, jobs = scheduler(), [job(ended=True) for _ in range(3)]
    for it in jobs:
        one.deliver(it)
    assert one.next(0) == StartDownload(jobs[0])
    assert one.next(0) == StartDownload(jobs[1])
    assert one.next(0) == Idle(None)
    one.download_later(jobs[0], 5)
    assert one.waiting_downloads == 3
    assert one.next(0) == StartDownload(jobs[2])
    one.ask_fresh(jobs[1], 3)
    assert one.next(0) == Idle(3)
    assert one.next(3) == StartQuery(jobs[1])
    one.begin_inline()
    assert one.open.downloads == 2
    one.ended(jobs[1], 3)
    one.downloaded()
    assert one.next(5) == StartDownload(jobs[0])


@pytest.mark.parametrize(("in_flight", "most"), [(4, 2 * DOWNLOADS_AHEAD), (10, 10)])
def test_no_more_is_bought_while_many_images_wait(in_flight: int, most: int) -> None:
    one = scheduler(Limits(in_flight=in_flight, submits_per_second=1000, queries_per_second=1000, downloads=2))
    for _ in range(most):
        one.deliver(job(ended=True))
    assert [type(one.next(0)) for _ in range(3)] == [StartDownload, StartDownload, Idle]
    assert one.paused is None, "nothing is to be submitted"
    one.offer(order())
    assert one.next(1) == Idle(None), "it waits for the end of a download"
    assert one.paused == "downloads are behind"
    one.download_later(job(ended=True), 50)
    assert isinstance(one.next(2), StartDownload)
    assert one.next(2) == Idle(None), "one that is tried again waits as well"
    one.downloaded()
    assert one.paused is None
    assert [type(one.next(3)) for _ in range(3)] == [StartDownload, StartSubmit, Idle]


def test_images_without_a_good_address_wait_as_well() -> None:
    """Expired addresses, bad images, and jobs that an earlier run left: all paid, and none in flight."""
    most = 2 * DOWNLOADS_AHEAD
    one, jobs = scheduler(queries=20), [job() for _ in range(most)]
    for it in jobs[:2]:
        one.deliver(it)
        assert one.next(0) == StartDownload(it)
        it.ended = True
        one.ask_fresh(it, 10)
    for it in jobs[2:]:
        it.ended = True
        one.watch(it, 10)
    one.watch(job(ended=True, restore=True), 60)
    one.offer(order())
    assert one.next(0) == Idle(10)
    assert one.paused == "downloads are behind"
    assert one.waiting_downloads == 0, "what is asked for is not shown as downloading"
    assert [one.next(10 + number / 100) for number in range(most)] == [StartQuery(it) for it in jobs]
    assert one.next(11) == Idle(60), "an answer that is on its way fetched nothing yet"
    one.deliver(jobs[0])
    one.ended(jobs[0], 11)
    assert [type(one.next(11)) for _ in range(2)] == [StartDownload, Idle], "it waits still"
    one.asked(jobs[1], 11, after=100)
    one.abandoned(jobs[2], 11)
    assert isinstance(one.next(11), StartSubmit)
    one.offer(order())
    one.deliver(jobs[3])
    one.ended(jobs[3], 12)
    assert isinstance(one.next(12), StartDownload)
    assert isinstance(one.next(12), StartSubmit)


def test_what_was_saved_once_holds_up_nothing() -> None:
    one = scheduler()
    for _ in range(2 * DOWNLOADS_AHEAD):
        one.watch(job(ended=True, restore=True), 10)
    one.offer(order())
    assert isinstance(one.next(0), StartSubmit)


def test_an_order_that_waits_for_downloads_says_nothing_of_the_service() -> None:
    one = scheduler()
    for _ in range(2 * DOWNLOADS_AHEAD):
        one.deliver(job(ended=True))
    for _ in range(2):
        assert isinstance(one.next(0), StartDownload)
    one.offer(order())
    late = 2 * UNAVAILABLE_SECONDS
    assert one.next(late) == Idle(None)
    assert one.halted is None
    one.downloaded()
    one.throttled(submit_after(one, 3 * late), "HTTP 503", 7.0, 3 * late, limit=False)
    assert one.next(3 * late) == Idle(3 * late + 7)
    assert one.next(3 * late + UNAVAILABLE_SECONDS - 1) != Finished()
    assert one.halted is None


def submit_after(one: Scheduler, now: float) -> Order:
    """Start what comes before the next submission."""
    while not isinstance(step := one.next(now), StartSubmit):
        assert isinstance(step, StartDownload)
    return step.order


def test_the_most_in_flight_and_the_most_open() -> None:
    one = scheduler(submits=3, queries=1)
    for _ in range(5):
        one.offer(order())
    assert not one.hungry
    assert [type(one.next(t)) for t in (0, 1, 2, 3)] == [StartSubmit] * 3 + [Idle]
    first, second = job(), job()
    one.accepted(first, 3)
    one.accepted(second, 3)
    submit(one, 4)
    assert one.in_flight == 4
    assert isinstance(one.next(5), Idle)
    assert one.next(6) == StartQuery(first)
    assert one.next(6) == Idle(None)


def test_rates() -> None:
    one = scheduler(Limits(submits_per_second=1, queries_per_second=0.5))
    one.offer(order())
    one.offer(order())
    submit(one, 0)
    assert one.next(0) == Idle(1)
    submit(one, 1)
    one.watch(job(), 1)
    one.watch(job(), 1)
    assert isinstance(one.next(1), StartQuery)
    assert one.next(2) == Idle(3)


def test_a_throttled_order_goes_first_after_the_wait_that_was_asked_for() -> None:
    one = scheduler()
    one.offer(order("a"))
    one.offer(order("b"))
    one.offer(order("c"))
    first, second = submit(one, 0), submit(one, 1)
    one.throttled(second, "slow", 20, 1, limit=True)
    assert one.paused == "slow"
    one.throttled(first, "slow", None, 1, limit=False)
    assert (one.in_flight, one.open.submits) == (0, 0)
    assert one.next(1) == Idle(21)
    assert submit(one, 21).task.id == "a"
    assert one.paused is None


def test_throttling_backs_off_and_an_acceptance_ends_that() -> None:
    one, now, waits = scheduler(), 0.0, []
    one.offer(order())
    for _ in range(6):
        it = submit(one, now)
        one.throttled(it, "slow", 0, now, limit=False)
        idle = one.next(now)
        assert isinstance(idle, Idle)
        assert idle.until is not None
        waits.append(idle.until - now)
        now = idle.until
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits))
    submit(one, now)
    one.accepted(job(), now)
    one.offer(order())
    it = submit(one, now + 1)
    one.throttled(it, "slow", None, now + 1, limit=False)
    idle = one.next(now + 1)
    assert isinstance(idle, Idle)
    assert idle.until is not None
    assert idle.until <= now + 2


def test_retries_wait_on_the_side() -> None:
    one = scheduler()
    one.offer(order("a"))
    one.exhausted = True
    one.retry(submit(one, 0), 7, 0)
    assert one.next(0) == Idle(7)
    assert submit(one, 7).task.id == "a"
    one.dropped(8)
    assert one.next(8) == Finished()


def test_throttled_queries() -> None:
    one, first, second = scheduler(), job(), job()
    one.watch(first, 0)
    one.watch(second, 0)
    assert one.next(0) == StartQuery(first)
    assert one.next(1) == StartQuery(second)
    one.queries_throttled(first, 9, 1)
    one.queries_throttled(second, None, 1)
    assert one.next(1) == Idle(10)
    assert one.next(10) == StartQuery(first)
    one.abandoned(first, 10)
    assert one.jobs_waiting == 1
    assert one.in_flight == 2, "it stays out, for the next run"


class Notes:
    """An in-flight limit without a limit and a schedule of one second, which write down what they are told."""

    def __init__(self, runs: int = 10**6, *, covered: bool = False, of_rate: bool = False) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.runs = runs
        self.covered = covered
        self.of_rate = of_rate
        self.takes: float | None = None

    def opens_at(self, held: int) -> float | None:
        return float("-inf")

    def queued(self, rank: int) -> bool:
        return rank > self.runs

    def accepted(self, held: int, now: float) -> bool:
        self.told.append(("accepted", held, now))
        return self.of_rate

    def refused(self, held: int, now: float, pause: float = 0.0) -> None:
        self.told.append(("refused", held, now, pause))

    def seen(self, *, waiting: bool, rank: int, running: int) -> None:
        self.told.append(("waits" if waiting else "runs", rank, running))

    def delay(self, kind: str, age: float, price: float, most_queries: float) -> float:
        self.told.append(("delay", kind, age, price, most_queries))
        return 1.0

    def overall(self) -> float | None:
        return self.takes

    def ended(self, *what: Any) -> None:
        self.told.append(("ended", *what))


def test_what_the_policies_are_told() -> None:
    notes = Notes()
    one = Scheduler(FAST, Policies(notes, notes, 8, 8, Random(1)), 0)
    one.offer(order())
    first = submit(one, 0)
    one.throttled(first, "busy", 2, 1, limit=False)
    submit(one, 3)
    one.throttled(first, "busy", 2, 4, limit=True)
    submit(one, 6)
    it = job()
    one.accepted(it, 7)
    assert one.next(8) == StartQuery(it)
    one.asked(it, 9.5)
    old = job(ended=True)
    one.watch(old, 10)
    assert one.next(10) == StartQuery(old)
    old.since = None
    one.asked(old, 10)
    assert [told for told in notes.told if told[0] != "delay"] == [("refused", 0, 4, 2), ("accepted", 1, 7)]
    delays = [told[1:] for told in notes.told if told[0] == "delay"]
    assert delays == [
        ("", 0.0, SLOT_PRICE, QUERY_SHARE * 1000),
        ("", 1.0, SLOT_PRICE, QUERY_SHARE * 1000),
        ("", 0.0, SLOT_PRICE, QUERY_SHARE * 1000),
    ]


def names(notes: Notes, *kinds: str) -> list[tuple[Any, ...]]:
    return [told for told in notes.told if told[0] in kinds]


def test_what_a_job_that_is_done_took_is_learned_from_the_last_time_it_was_known_to_go_on() -> None:
    notes = Notes()
    one = Scheduler(FAST, Policies(notes, notes, 8, 8, Random(1)), 0)
    one.offer(order())
    submit(one, 0)
    it = job(fresh=True, kind="big")
    one.accepted(it, 1)
    assert one.next(2) == StartQuery(it)
    one.asked(it, 3, state="RUN")
    assert one.next(4) == StartQuery(it)
    one.finished(it, 5)
    assert names(notes, "runs", "ended") == [("runs", 1, 0), ("ended", "big", 1.0, 4.0), ("ended", 2, 5)]
    old = job()
    one.watch(old, 6)
    assert one.next(6) == StartQuery(old)
    one.finished(old, 7)
    assert names(notes, "ended")[2:] == [("ended", 6, 7)], "how long a job of another run took is not known"


def test_a_job_whose_answers_take_long_is_asked_for_half_of_the_time() -> None:
    one = scheduler()
    it = job()
    one.watch(it, 0)
    assert one.next(0) == StartQuery(it)
    one.asked(it, 4, state="RUN")
    assert one.next(4) == Idle(8)
    assert one.next(8) == StartQuery(it)


def waiting_pair(notes: Notes) -> tuple[Scheduler, Job, Job]:
    one = Scheduler(FAST, Policies(notes, notes, 8, 8, Random(1)), 0)
    jobs = []
    for n in range(2):
        one.offer(order())
        submit(one, n / 1000)
        jobs.append(job(fresh=True))
        one.accepted(jobs[-1], 0)
    return one, jobs[0], jobs[1]


def test_a_job_that_waits_is_left_alone_until_another_ends() -> None:
    notes = Notes(runs=1, covered=True)
    one, first, second = waiting_pair(notes)
    assert one.next(1) == StartQuery(first)
    assert one.next(1) == Idle(WAITING_SECONDS)
    one.finished(first, WAITING_SECONDS - 1)
    assert second.place is not None
    assert second.place.began == (WAITING_SECONDS - 1) / 2, "in the middle of when the first may have ended"
    second.place.not_before = WAITING_SECONDS + 9
    assert one.next(WAITING_SECONDS) == Idle(WAITING_SECONDS + 9)
    assert one.next(WAITING_SECONDS + 9) == StartQuery(second)
    assert {told[3] for told in names(notes, "delay")} == {COVERED_PRICE}


def test_a_job_that_says_that_it_waits_or_runs_is_believed() -> None:
    notes = Notes(runs=1)
    one, first, second = waiting_pair(notes)
    assert one.next(1) == StartQuery(first)
    one.asked(first, 1, state="WAIT")
    assert first.place is not None
    assert second.place is not None
    assert first.place.began == 0, "a first in line has no one to wait for"
    assert one.next(2) == StartQuery(first)
    one.asked(first, 2, state="something else")
    one.open.queries = 7
    assert one.next(3) == StartQuery(first)
    one.open.queries = 7
    assert one.next(WAITING_SECONDS) == StartQuery(second)
    one.asked(second, WAITING_SECONDS, state="RUN")
    assert second.place.began == WAITING_SECONDS / 2
    assert names(notes, "waits", "runs") == [("waits", 1, 0), ("runs", 2, 0)]
    assert one.next(WAITING_SECONDS + 1) == StartQuery(second)
    one.asked(second, WAITING_SECONDS + 1, state="WAIT")
    assert second.place.began is None
    one.open.queries = 7
    assert one.next(2 * WAITING_SECONDS + 1) == StartQuery(second)
    one.finished(second, 2 * WAITING_SECONDS + 2)
    when = ("ended", WAITING_SECONDS + 1, 2 * WAITING_SECONDS + 2)
    assert names(notes, "ended") == [when], "when it began is not known, so its time is not"


def test_the_last_jobs_are_asked_for_more_often() -> None:
    notes = Notes(covered=True)
    one, first, second = waiting_pair(notes)
    old = job(ended=True)
    one.watch(old, 90)
    notes.told.clear()
    one.exhausted = True
    one.next(0.5)
    assert [told[3] for told in names(notes, "delay")] == [2 * LAST_PRICE] * 2
    assert one.next(1) == StartQuery(first)
    one.asked(first, 1)
    one.ended(second, 1)
    one.open.queries += 1  # it was not asked for
    assert one.next(2) == StartQuery(second)
    one.abandoned(second, 2)
    assert one.next(2) == StartQuery(first)
    one.asked(first, 2)
    assert names(notes, "delay")[-1][3] == LAST_PRICE


@pytest.mark.parametrize(("second", "opens_at"), [(0.1, 6.15), (0.9, 6.05)])
def test_a_refusal_of_the_rate_slows_submissions_down(second: float, opens_at: float) -> None:
    notes = Notes(of_rate=True)
    one = Scheduler(Limits(submits_per_second=10), Policies(notes, notes, 8, 0, Random(1)), 0)
    for _ in range(4):
        one.offer(order())
    submit(one, 0)
    one.accepted(job(), 0)
    one.throttled(submit(one, second), "full", 1, 1, limit=True)
    submit(one, 5)
    one.accepted(job(), 5)
    submit(one, 6)
    why = "0.2 s apart, less what a late timer may make good, but only if it came 0.1 s after the one before"
    assert one.next(6) == Idle(pytest.approx(opens_at)), why


@pytest.mark.parametrize(
    ("accepted", "takes", "rate"),
    [
        (REFUSED_OFTEN - 1, None, FEWEST / FILL_SECONDS[1]),
        (REFUSED_OFTEN, None, 600 / FILL_SECONDS[1]),
        (REFUSED_OFTEN, 30.0, 600 / 30),
        (REFUSED_OFTEN, 1.0, 600 / FILL_SECONDS[0]),
        (REFUSED_OFTEN, 900.0, 600 / FILL_SECONDS[1]),
    ],
)
def test_now_and_then_a_refusal_does_not_slow_submissions_below_what_fills_the_slots(
    accepted: int, takes: float | None, rate: float
) -> None:
    notes = Notes()
    notes.takes = takes
    one = Scheduler(Limits(in_flight=600, submits_per_second=100), Policies(notes, notes, 8, 0, Random(1)), 0)
    now = 0.0
    for _ in range(20):
        notes.of_rate = False
        for _ in range(accepted):
            one.offer(order())
            submit(one, now)
            one.accepted(job(), now)
            now += 30
        one.offer(order())
        one._submit_gate.take(now)
        one.throttled(submit(one, now + 1 / one._submit_gate.per_second), "full", 1, now, limit=True)
        notes.of_rate = True
        now += 60
        submit(one, now)
        one.accepted(job(), now)
        now += 60
    assert one._submit_gate.per_second == pytest.approx(rate, rel=0.1)


def test_a_refusal_while_jobs_are_out_waits_for_their_end_not_for_ever_longer() -> None:
    notes = Notes()
    one = Scheduler(FAST, Policies(notes, notes, 8, 8, Random(1)), 0)
    one.offer(order())
    submit(one, 0)
    one.accepted(job(), 0)
    one.offer(order())
    now = 0.5
    for _ in range(5):
        one.throttled(submit(one, now), "full", None, now, limit=True)
        assert one.paused is None
        one.open.queries = 8  # none is asked for meanwhile
        assert one.next(now) == Idle(now + REFUSED_SECONDS)
        now += REFUSED_SECONDS
    one.throttled(submit(one, now), "full", 30, now, limit=True)
    assert one.next(now) == Idle(now + 30), "what the service asks for is kept to"


def test_the_most_in_flight_holds_whatever_the_policy_says() -> None:
    notes = Notes()
    one = Scheduler(FAST, Policies(notes, notes, 9, 8, Random(1)), 0)
    for _ in range(6):
        one.offer(order())
    assert [type(one.next(t)) for t in range(5)] == [StartSubmit] * FAST.in_flight + [Idle]


def test_orders_are_wanted_until_as_many_wait_as_may_be_open() -> None:
    one = scheduler(submits=2)
    one.offer(order())
    assert one.hungry
    one.offer(order())
    assert not one.hungry


def test_a_download_that_waits_for_room_is_no_time_to_wake_at() -> None:
    one, jobs = scheduler(), [job(ended=True) for _ in range(3)]
    for it in jobs:
        one.deliver(it)
    assert [one.next(0), one.next(0)] == [StartDownload(jobs[0]), StartDownload(jobs[1])]
    one.download_later(jobs[0], 5)
    assert one.next(0) == StartDownload(jobs[2])
    assert one.next(0) == Idle(None)


def images_of(*hosts: str) -> list[Job]:
    return [job(ended=True, images=(f"https://{host}.example/1.png",)) for host in hosts]


def test_a_host_that_wants_fewer_requests_is_left_alone_for_as_long_as_it_says() -> None:
    one, jobs = scheduler(), images_of(*"aaabb")
    for it in jobs:
        one.deliver(it)
    assert [one.next(0), one.next(0)] == [StartDownload(jobs[0]), StartDownload(jobs[1])]
    assert one.download_refused(jobs[0], 30, 1)
    assert one.download_refused(jobs[1], 10, 2)  # the longer of the two holds
    assert [one.next(2), one.next(2)] == [StartDownload(jobs[3]), StartDownload(jobs[4])], "the other host goes on"
    assert one.paused is None
    one.downloaded()
    one.downloaded()
    assert one.next(12) == Idle(31)
    assert one.waiting_downloads == 3
    assert one.paused == "downloads: HTTP 429"
    assert one.next(30.9) == Idle(31)
    assert [one.next(31), one.next(31)] == [StartDownload(jobs[0]), StartDownload(jobs[2])]
    one.host_delivered(jobs[0], 31)
    one.downloaded()
    assert one.next(31) == StartDownload(jobs[1])


def test_an_image_that_is_refused_again_and_again_waits_longer_than_its_host() -> None:
    one, jobs = scheduler(Limits(downloads=3)), images_of(*"aaaa")
    for it in jobs:
        one.deliver(it)
    jobs[0].refusals, jobs[0].download_since = 5, 0
    assert one.next(0) == StartDownload(jobs[0])
    assert one.download_refused(jobs[0], None, 4)
    assert jobs[0].download_since is None, "the time for its attempts begins anew"
    assert one.next(4) == Idle(4 + REFUSED_SECONDS)
    assert [one.next(5) for _ in range(3)] == [StartDownload(it) for it in jobs[1:]]
    assert one.paused is None, "images come"
    for it in jobs[1:]:
        one.host_delivered(it, 5)
        one.downloaded()
    idle = one.next(5)
    assert isinstance(idle, Idle)
    assert idle.until is not None
    assert 4 + 16 <= idle.until <= 4 + 32
    assert one.paused is None


def test_a_host_that_gives_nothing_for_too_long_is_waited_for_no_more() -> None:
    one, jobs = scheduler(Limits(downloads=1)), images_of(*"aaa")
    for it in jobs:
        one.deliver(it)
    assert one.next(0) == StartDownload(jobs[0])
    assert one.download_refused(jobs[0], 900, 100), "it says when it will give some"
    assert one.next(100) == Idle(1000)
    assert one.next(1000) == StartDownload(jobs[0])
    assert not one.download_refused(jobs[0], 900, 1000)
    one.downloaded()
    assert one.next(1000) == StartDownload(jobs[1]), "the others wait no longer for that"
    assert not one.download_refused(jobs[1], 900, 1000), "it has waited as long, though it was never asked for"
    one.downloaded()
    assert one.next(1000) == StartDownload(jobs[2])
    one.host_delivered(jobs[2], 1000)
    one.downloaded()
    one.deliver(jobs[1])
    assert one.next(1000) == StartDownload(jobs[1])
    assert one.download_refused(jobs[1], None, 1000), "it gives some again"


def test_a_host_that_refuses_is_waited_for_ten_minutes() -> None:
    one, (it,) = scheduler(), images_of("a")
    one.deliver(it)
    assert one.next(0) == StartDownload(it)
    assert one.download_refused(it, None, 0)
    assert one.next(DOWNLOAD_SECONDS - 1) == StartDownload(it)
    assert one.download_refused(it, None, DOWNLOAD_SECONDS - 1)
    assert isinstance(one.next(DOWNLOAD_SECONDS - 1), Idle), "it is tried again, and not at once"
    assert one.next(DOWNLOAD_SECONDS + 60) == StartDownload(it)
    assert not one.download_refused(it, None, DOWNLOAD_SECONDS + 60)


def test_while_a_host_gives_some_images_the_others_are_waited_for() -> None:
    one, jobs = scheduler(), images_of(*"aa")
    for it in jobs:
        one.deliver(it)
    assert [one.next(0), one.next(0)] == [StartDownload(jobs[0]), StartDownload(jobs[1])]
    assert one.download_refused(jobs[0], 400, 0)
    one.host_delivered(jobs[1], 300)
    one.downloaded()
    assert one.next(300) == Idle(400), "it may have been on its way before"
    assert one.next(400) == StartDownload(jobs[0])
    assert one.download_refused(jobs[0], 499, 400)
    assert one.next(899) == StartDownload(jobs[0])
    assert one.download_refused(jobs[0], 1, 899)
    assert one.next(910) == StartDownload(jobs[0])
    assert not one.download_refused(jobs[0], 1, 910)


def test_what_is_waited_for_is_said() -> None:
    one, jobs = scheduler(Limits(downloads=2, in_flight=2)), images_of(*"ab")
    one.deliver(jobs[0])
    assert one.next(0) == StartDownload(jobs[0])
    assert one.download_refused(jobs[0], 60, 0)
    assert one.paused == "downloads: HTTP 429"
    one.offer(order())
    one.throttled(submit(one, 1), "ConnectError", 30, 1, limit=False)
    assert one.paused == "ConnectError", "that nothing can be submitted is worse"
    one.deliver(jobs[1])
    assert one.next(2) == StartDownload(jobs[1])
    one.download_later(jobs[1], 5)
    assert one.paused == "ConnectError"
    for _ in range(6):
        one.deliver(job(ended=True, restore=True))
    assert one.paused == "downloads are behind", "the next one waits for another reason"


def test_throttled_queries_back_off_and_an_answer_ends_that() -> None:
    one, it, now, waits = scheduler(), job(), 0.0, []
    one.watch(it, 0)
    for _ in range(4):
        assert one.next(now) == StartQuery(it)
        one.queries_throttled(it, None, now)
        idle = one.next(now)
        assert isinstance(idle, Idle)
        assert idle.until is not None
        waits.append(idle.until - now)
        now = idle.until
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits))
    assert one.next(now) == StartQuery(it)
    one.answered(now)
    one.asked(it, now, after=0.01)
    now += 0.01
    assert one.next(now) == StartQuery(it)
    one.queries_throttled(it, None, now)
    idle = one.next(now)
    assert isinstance(idle, Idle)
    assert idle.until is not None
    assert idle.until <= now + 1


def test_queries_that_are_throttled_together_count_once() -> None:
    one, jobs = scheduler(), [job() for _ in range(6)]
    for it in jobs:
        one.watch(it, 0)
    for n, it in enumerate(jobs):
        assert one.next(n / 100) == StartQuery(it)
    for it in jobs:
        one.queries_throttled(it, None, 0.1)
    idle = one.next(0.1)
    assert isinstance(idle, Idle)
    assert idle.until is not None
    assert idle.until <= 0.1 + 1


def test_each_job_is_asked_for_now_and_then_whatever_is_refused() -> None:
    one = scheduler()
    for _ in range(30):
        one.watch(job(), 0)
    now = 0.0
    for _ in range(12):
        step = one.next(now)
        assert isinstance(step, StartQuery)
        one.queries_throttled(step.job, 1, now)
        now += 1
        step = one.next(now)
        assert isinstance(step, StartQuery)
        one.answered(now)
        one.asked(step.job, now, after=0)
        now += 1
    assert one._query_gate.per_second == pytest.approx(30 / ASKED_SECONDS, rel=0.05)


def test_a_service_that_wants_fewer_queries_gets_fewer_for_a_while() -> None:
    notes = Notes()
    one = Scheduler(Limits(queries_per_second=10), Policies(notes, notes, 8, 8, Random(1)), 0)
    it = job()
    one.watch(it, 0)
    now = 0.0
    for _ in range(3):  # an outage counts once
        assert one.next(now) == StartQuery(it)
        one.queries_throttled(it, 5, now)
        now += 5
    assert one.next(now) == StartQuery(it)
    one.answered(now)
    one.asked(it, now)
    assert names(notes, "delay")[-1][4] == pytest.approx(QUERY_SHARE * 5 / 0.98)
    for _ in range(40):
        now += 1
        assert one.next(now) == StartQuery(it)
        one.answered(now)
        one.asked(it, now)
    assert names(notes, "delay")[-1][4] == pytest.approx(QUERY_SHARE * 10)


def test_what_is_broken_off_is_open_no_more() -> None:
    one, it = scheduler(), job()
    one.watch(it, 0)
    assert one.next(0) == StartQuery(it)
    assert one.open.queries == 1
    one.abandoned(it, 0)
    assert one.open.queries == 0


def test_what_orders_and_jobs_begin_with() -> None:
    assert (order().refusals, order().expected) == (0, None)
    new = job()
    assert [new.ended, new.orphan, new.restore, new.fresh] == [False] * 4
    assert (new.queries, new.troubles, new.empties, new.download_attempts, new.images) == (0, 0, 0, 0, ())


def test_reasons_that_scripts_rest_on() -> None:
    """They stand in the summary of `run --json`."""
    assert [halt.value for halt in Halt] == [
        *("budget", "stop_after", "max_failures", "max_in_doubt", "key_refused", "balance", "wrong_address"),
        *("unavailable", "signal", "store"),
    ]


def test_a_halt_harvests_and_submits_no_more() -> None:
    one, it = scheduler(), job()
    one.offer(order())
    one.watch(it, 5)
    one.halt(Halt.BUDGET)
    one.halt(Halt.SIGNAL)
    assert one.halted is Halt.BUDGET
    assert not one.hungry
    assert one.next(0) == Idle(5)
    assert one.next(5) == StartQuery(it)
    one.ended(it, 5)
    assert one.next(5) == Finished()


def test_a_halt_without_harvest_waits_for_what_is_open_alone() -> None:
    one = scheduler()
    one.offer(order())
    one.watch(job(), 5)
    submit(one, 0)
    one.halt(Halt.SIGNAL, harvest=False)
    assert one.next(9) == Idle(None)
    one.halt(Halt.STORE)
    assert (one.halted, one.harvesting) == (Halt.STORE, False)
    one.dropped(9)
    assert one.next(9) == Finished()


def test_a_service_that_accepts_nothing_for_15_minutes_is_unavailable() -> None:
    one = scheduler()
    one.offer(order())
    one.throttled(submit(one, 1), "down", 10**6, 1, limit=False)
    assert one.next(2) == Idle(UNAVAILABLE_SECONDS)
    assert one.next(UNAVAILABLE_SECONDS) == Finished()
    assert one.halted is Halt.UNAVAILABLE


def test_time_in_which_nothing_waited_does_not_count() -> None:
    """A run that first fetched files for 20 minutes has not been refused for 20 minutes."""
    one = scheduler()
    one.deliver(job(ended=True))
    assert isinstance(one.next(0), StartDownload)
    one.next(1200)
    one.downloaded()
    one.next(1201)
    one.offer(order())
    submit(one, 1202)
    assert one.halted is None


def test_jobs_that_are_out_are_hope() -> None:
    one, it = scheduler(), job()
    one.watch(it, 0)
    one.offer(order())
    one.throttled(submit_after_query(one), "down", 10**6, 1, limit=False)
    one.asked(it, 1, after=5000)
    assert one.next(2000) == Idle(5001)
    one.next(5001)
    one.ended(it, 5001)
    assert one.next(5002) == Idle(5001 + UNAVAILABLE_SECONDS)


def submit_after_query(one: Scheduler) -> Order:
    assert isinstance(one.next(0), StartQuery)
    return submit(one, 0)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(1, 6),
    st.integers(0, 30),
    st.sampled_from([0.5, 3.0, 50.0]),
    st.sampled_from([None, "halt", "abort"]),
)
def test_any_run_keeps_its_limits_and_ends(seed: int, most: int, total: int, rate: float, end: str | None) -> None:
    """Random outcomes, at random times, until the scheduler says that it is finished."""
    rng = Random(seed)
    limits = Limits(in_flight=most, submits_per_second=rate, queries_per_second=2 * rate, downloads=2)
    one = scheduler(limits, submits=3, queries=2)
    left, now = total, 0.0
    under_way: list[Any] = []
    submits: list[float] = []
    queries: list[float] = []
    handed, gone = 0, 0
    for _ in range(rng.randrange(3)):
        one.watch(job(ended=rng.random() < 0.3), rng.random())
    stop_at = rng.uniform(0, 60) if end else math.inf
    for _ in range(20_000):
        while one.hungry:
            if not left:
                one.exhausted = True
                break
            one.offer(order(f"t{left}"))
            left -= 1
        if now >= stop_at:
            one.halt(Halt.SIGNAL, harvest=end == "halt")
            stop_at = math.inf
        step = one.next(now)
        assert one.open.submits <= 3
        assert one.open.queries <= 2
        assert one.open.downloads <= 2
        assert min(one.open.submits, one.open.queries, one.open.downloads, one.in_flight) >= 0
        if isinstance(step, Finished):
            break
        if isinstance(step, Idle):
            assert step.until is None or step.until > now, "no busy waiting"
            assert step.until is not None or under_way or one.hungry, "no standstill"
            times = [t for t in (step.until, stop_at) if t is not None and t < math.inf]
            if under_way and (not times or rng.random() < 0.7):
                now += rng.uniform(0, 2)
                settle(one, under_way.pop(rng.randrange(len(under_way))), now, rng)
            elif times:
                now = max(now, min(times))
            continue
        if isinstance(step, StartSubmit):
            handed += 1
            assert one.halted is None
            assert one.in_flight <= most
            submits.append(now)
        elif isinstance(step, StartQuery):
            queries.append(now)
        under_way.append(step)
    else:
        pytest.fail("it does not end")
    gone = one.in_flight
    assert not under_way
    assert not one.open
    if end is None and one.halted is None:
        assert (left, gone, one.waiting_downloads, one.jobs_waiting) == (0, 0, 0, 0)
        assert handed >= total
    for times, per_second in ((submits, rate), (queries, 2 * rate)):
        for i, first in enumerate(times):
            for j in range(i, len(times)):
                assert j - i <= (times[j] - first + 0.051) * per_second + 1e-6


def settle(one: Scheduler, step: Any, now: float, rng: Random) -> None:
    dice = rng.random()
    if isinstance(step, StartSubmit):
        if dice < 0.6:
            one.accepted(job(fresh=True), now)
        elif dice < 0.75:
            one.throttled(step.order, "slow", rng.choice([None, 0.0, 5.0]), now, limit=rng.random() < 0.5)
        elif dice < 0.85:
            one.retry(step.order, rng.uniform(0, 30), now)
        else:
            one.dropped(now)
    elif isinstance(step, StartQuery):
        it = step.job
        if dice < 0.3:
            one.asked(it, now)
        elif dice < 0.4:
            one.queries_throttled(it, rng.choice([None, 3.0]), now)
        elif dice < 0.5:
            one.ended(it, now)
        else:
            one.release(it, now)
            one.deliver(it)
            one.ended(it, now)
    elif dice < 0.7:
        if dice < 0.6:
            one.host_delivered(step.job, now)
        one.downloaded()
    elif dice < 0.85:
        one.download_later(step.job, now + 1)
    elif dice < 0.9:
        if not one.download_refused(step.job, rng.choice([None, 0.0, 5.0]), now):
            one.downloaded()
    else:
        one.ask_fresh(step.job, now + 1)


def test_a_quota_is_found_and_kept_to_and_is_no_ceiling() -> None:
    """A service that takes 20 submissions a minute and runs any number of jobs, 40 seconds each."""
    ceiling = Ceiling(64)
    policies = Policies(ceiling, FixedInterval(), 8, 8, Random(1))
    limits = Limits(in_flight=64, submits_per_second=5, queries_per_second=1000)
    one, ends, now, refused = Scheduler(limits, policies, 0.0), {}, 0.0, 0
    taken: list[float] = []
    told: set[tuple[str | None, bool]] = set()
    while len(taken) < 200:
        if one.hungry:
            one.offer(order())
            continue
        step = one.next(now)
        if isinstance(step, StartSubmit):
            if len([at for at in taken if at > now - 60]) < 20:
                taken.append(now)
                it = job(fresh=True)
                ends[it] = now + 40
                one.accepted(it, now)
            else:
                refused += 1
                one.throttled(step.order, "HTTP 429", None, now, limit=True)
        elif isinstance(step, StartQuery):
            one.answered(now)
            if ends[step.job] <= now:
                one.ended(step.job, now)
            else:
                one.asked(step.job, now, state="RUN")
        else:
            assert isinstance(step, Idle)
            assert step.until is not None
            told.add((one.paused, step.until - now > 10))
            now = step.until
    assert ("20 submissions a minute", True) in told
    assert taken[-1] < 9 * 60 + 10, "20 a minute from the first minute on"
    assert refused < 20
    assert ceiling.holds == 64
    assert policies.quota.per_minute == 20


def test_a_pause_that_the_service_asks_for_is_told_once_there_is_room() -> None:
    one, it = scheduler(), job(fresh=True)
    one.watch(it, 20.0)
    one.offer(order())
    one.throttled(submit(one, 1.0), "HTTP 429", 60.0, 1.0, limit=True)
    assert one.next(2.0) == Idle(20.0)
    assert one.paused is None, "the job that is out has the one slot there is"
    assert one.next(20.0) == StartQuery(it)
    one.ended(it, 20.0)
    assert one.next(20.0) == Idle(61.0)
    assert one.paused == "HTTP 429"
    submit(one, 61.0)
    assert one.paused is None


def test_a_pause_that_nobody_asked_for_is_not_told_where_a_job_ends() -> None:
    one, it = scheduler(), job(fresh=True)
    one.watch(it, 1.5)
    one.offer(order())
    one.throttled(submit(one, 1.0), "HTTP 429", None, 1.0, limit=True)
    assert one.next(1.5) == StartQuery(it)
    one.ended(it, 1.5)
    assert one.next(1.5) == Idle(2.0)
    assert one.paused is None


def test_a_quota_that_is_waited_for_is_told_as_long_as_there_is_something_to_submit() -> None:
    quota = Quota(1)
    quota.passed(1, 0.0)
    assert quota.refused(0, 0, 1.0), "from now on it is kept to"
    one = Scheduler(FAST, Policies(Ceiling(4), FixedInterval(), 8, 8, Random(1), quota), 0.0)
    one.offer(order())
    assert one.next(2) == Idle(60)
    assert one.paused == "1 submission a minute"
    one.halt(Halt.SIGNAL)
    assert one.paused is None
