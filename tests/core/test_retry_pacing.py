"""Waiting and giving up; gates, limits and schedules: decisions on plain numbers."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from core_help import quick
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.pacing import Quota, RateGate
from rsbatch.retry import (
    BACKOFF_MOST,
    DOWNLOAD_ATTEMPTS,
    DOWNLOAD_SECONDS,
    EMPTY_DONE_QUERIES,
    SUBMIT_ATTEMPTS,
    UNAVAILABLE_SECONDS,
    UNKNOWN_JOB_SECONDS,
    Again,
    GiveUp,
    after_download,
    after_refusal,
    after_unknown,
    backoff,
)


@quick
@given(st.integers(0, 10**6), st.integers(0, 99))
def test_backoff_doubles_is_capped_and_spread_by_half(failures: int, seed: int) -> None:
    ceiling = min(BACKOFF_MOST, 2.0 ** min(failures - 1, 10))
    assert ceiling / 2 <= backoff(failures, Random(seed)) <= ceiling


def test_the_numbers_that_are_promised() -> None:
    """5 attempts a task, 5 downloads in 10 minutes, DONE without images 3 times, 15 minutes of nothing."""
    assert (SUBMIT_ATTEMPTS, DOWNLOAD_ATTEMPTS, DOWNLOAD_SECONDS) == (5, 5, 600.0)
    assert (UNKNOWN_JOB_SECONDS, EMPTY_DONE_QUERIES, UNAVAILABLE_SECONDS, BACKOFF_MOST) == (600.0, 3, 900.0, 60.0)


def test_giving_up_is_said() -> None:
    assert after_download(DOWNLOAD_ATTEMPTS, 0, Random(1)) == GiveUp()
    assert after_refusal(SUBMIT_ATTEMPTS, Random(1)) == GiveUp()


def test_nothing_is_added_to_the_wait_unless_asked_for() -> None:
    class Least(Random):
        def uniform(self, a: float, b: float) -> float:
            return a

    assert after_download(1, 0, Least()) == Again(0.5)


@pytest.mark.parametrize("attempts", range(1, 8))
def test_after_a_refusal(attempts: int) -> None:
    step = after_refusal(attempts, Random(1))
    assert isinstance(step, GiveUp) == (attempts >= SUBMIT_ATTEMPTS)


@pytest.mark.parametrize(
    ("attempts", "since", "at_least", "again"),
    [
        (1, 0, 0, True),
        (4, 300, 0, True),
        (DOWNLOAD_ATTEMPTS, 0, 0, False),
        (1, 600, 0, False),
        (1, 599.9, 0, False),
        (1, 0, 600, True),
        (1, 1, 600, False),
    ],
)
def test_after_a_download(attempts: int, since: float, at_least: float, again: bool) -> None:
    step = after_download(attempts, since, Random(1), at_least)
    assert isinstance(step, Again) == again
    if isinstance(step, Again):
        assert step.after >= at_least


@pytest.mark.parametrize(
    ("since", "expected"), [(0, Again(3)), (4, Again(4)), (60, Again(15)), (599, Again(15)), (600, GiveUp())]
)
def test_after_an_unknown_job(since: float, expected: Again | GiveUp) -> None:
    assert after_unknown(since) == expected


@quick
@given(st.floats(0.5, 200), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_a_gate_lets_no_more_through_than_its_rate_over_any_span(rate: float, pauses: list[float]) -> None:
    gate, now, taken = RateGate(rate), 1000.0, []
    for pause in pauses:
        now = max(now + pause * pause / 9, gate.opens_at())
        gate.take(now)
        taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first <= (taken[last] - taken[first] + 0.051) * rate + 1e-6


def test_a_late_timer_does_not_lower_the_rate() -> None:
    gate, now = RateGate(10), 0.0
    for _ in range(1000):
        now = max(now, gate.opens_at()) + 0.02
        gate.take(now)
    assert now == pytest.approx(100, rel=0.01)


def test_a_gate_catches_up_after_less_than_a_second_alone() -> None:
    gate = RateGate(1000)
    gate.take(0)
    gate.take(1.5)
    assert gate.opens_at() == pytest.approx(1.501), "more than a second late: nothing to make good"
    gate.take(2)
    assert gate.opens_at() == pytest.approx(1.951), "half a second late: a twentieth is made good"


def test_a_whole_second_late_is_too_late_to_be_made_good() -> None:
    gate = RateGate(1)
    gate.take(0)
    gate.take(2)
    assert gate.opens_at() == 3


def test_a_gate_that_was_too_fast_slows_down_and_comes_back() -> None:
    gate = RateGate(10)
    gate.slower(0)
    gate.take(0)
    assert gate.opens_at() == pytest.approx(0.2)
    for _ in range(20):
        gate.slower(0)
    gate.take(10)
    assert gate.opens_at() == pytest.approx(40), "never slower than one in 30 seconds"
    for _ in range(400):
        gate.passed(20)
    gate.take(100)
    assert gate.opens_at() == pytest.approx(100.1), "and never faster than it was made"


def test_a_gate_has_a_slowest_of_its_own() -> None:
    gate = RateGate(10, slowest=2)
    for _ in range(9):
        gate.slower(0)
    assert gate.per_second == 0.5


def test_a_gate_is_not_slowed_below_what_goes_through_nor_below_what_is_needed() -> None:
    gate = RateGate(10)
    for number in range(600):
        gate.passed(float(number))
    for _ in range(9):
        gate.slower(600)
    assert gate.per_second == pytest.approx(1, rel=0.02), "one a second went through"
    gate.slower(900)
    assert gate.per_second == pytest.approx(0.5, rel=0.02), "which was long ago"
    gate.slower(900, at_least=0.4)
    assert gate.per_second == pytest.approx(0.4)
    gate.slower(900, at_least=0.8)
    assert gate.per_second == pytest.approx(0.4), "to slow down is never to speed up"


def test_a_gate_tells_what_came_as_soon_as_it_may() -> None:
    gate = RateGate(10)
    assert not gate.take(0)
    assert gate.take(0.1)
    assert gate.take(0.29)
    assert not gate.take(0.6)


def test_a_gate_counts_what_went_through_since_it_was_slowed() -> None:
    gate = RateGate(10)
    for _ in range(3):
        gate.passed(0)
    assert gate.passed_since == 3
    gate.slower(0)
    assert gate.passed_since == 0


def test_a_gate_of_less_than_one_in_thirty_seconds_stays_as_it_is() -> None:
    gate = RateGate(0.01)
    gate.slower(0)
    gate.take(0)
    assert gate.opens_at() == 100


def used_up(count: int = 20, quota: Quota | None = None) -> Quota:
    """One of which `count` went through, one each tenth of a second, and as many jobs are out."""
    quota = quota or Quota()
    for number in range(count):
        quota.passed(number + 1, number / 10)
    return quota


def found(count: int = 20) -> Quota:
    quota = used_up(count)
    quota.refused(count - 1, 0, 30)
    assert quota.refused(count - 1, 0, 31)
    return quota


def test_a_quota_shows_by_two_refusals_of_what_was_held_before() -> None:
    quota = used_up()
    assert not quota.refused(20, 0, 2), "20 jobs were out: a ceiling, for all we know"
    assert not quota.refused(19, 0, 30), "that may be chance"
    assert (quota.per_minute, quota.opens_at(0)) == (None, float("-inf"))
    assert quota.refused(19, 0, 31)
    assert quota.per_minute == 20
    assert quota.opens_at(0) == 60


def test_when_the_last_of_many_may_be_sent() -> None:
    """20 a minute, of which those went through at 0, 0.1, … 1.9."""
    quota = found()
    assert [quota.last_at(count, 31) for count in (1, 2, 20, 21, 40, 41)] == [60, 60.1, 61.9, 120, 121.9, 180]
    assert [quota.last_at(count, 61) for count in (0, 11, 12, 20, 21)] == [61, 61, 61.1, 61.9, 121]
    assert quota.last_at(21, 200) == 260
    assert used_up().last_at(1000, 31) == 31, "no limit is known"


def test_an_acceptance_between_two_refusals_shows_that_they_came_by_chance() -> None:
    quota = used_up()
    quota.refused(19, 0, 30)
    quota.passed(20, 31)
    assert not quota.refused(19, 0, 32)


def test_a_ceiling_is_no_quota() -> None:
    quota = used_up()
    for at in range(2, 50):
        assert not quota.refused(20, 0, at)
    assert quota.per_minute is None


def test_fewer_than_went_through_before_are_no_quota() -> None:
    quota = used_up()
    for at in (61, 61, 61):
        assert not quota.refused(10, 0, at)
    assert not quota.refused(10, 11, 61), "what is under way may have been counted already"
    assert quota.refused(10, 11, 61)


def test_nothing_went_through_is_no_quota() -> None:
    quota = Quota()
    assert not quota.refused(3, 5, 100)
    assert not quota.refused(3, 5, 101)


def test_a_known_quota_lets_one_through_for_each_that_is_a_minute_old() -> None:
    quota = found()
    assert [quota.opens_at(others) for others in (0, 1, 2)] == [60, pytest.approx(60.1), pytest.approx(60.2)]
    quota.passed(9, 60.05)
    assert quota.opens_at(0) == pytest.approx(60.1), "one is a minute old, one is new"
    assert quota.opens_at(20) == 91, "as many are under way as it takes: not before it is tried again"
    quota.passed(10, 160)
    assert quota.opens_at(0) == float("-inf")


def test_a_quota_is_tried_now_and_then() -> None:
    quota, taken, at, tries = found(), [n / 10 for n in range(20)], 31.0, [31.0]
    while len(tries) < 8:
        at = max(at, quota.opens_at(0)) + 0.01
        if len([before for before in taken if before > at - 60]) < 20:
            quota.passed(6, at)
            taken.append(at)
        else:
            assert quota.refused(5, 0, at)
            tries.append(at)
    waits = [after - before for before, after in pairwise(tries)]
    assert waits == pytest.approx([60, 120, 240, 480, 960, 960, 960], abs=1)


def test_what_goes_through_past_a_quota_refutes_it() -> None:
    quota = found()
    assert quota.opens_at(0) == 60
    quota.passed(20, 56.9)
    assert quota.per_minute is None
    assert quota.opens_at(0) == float("-inf")


def test_an_answer_that_took_long_refutes_no_quota() -> None:
    quota = found()
    quota.passed(20, 57)
    assert quota.per_minute == 20


def test_a_quota_that_is_less_than_before_is_found_after_three_minutes() -> None:
    quota = found()
    for number in range(10):
        quota.passed(10, 100.0 + number)
    assert not quota.refused(9, 0, 130)
    assert quota.per_minute == 20
    for number in range(10):
        quota.passed(10, 190.0 + number)
    assert not quota.refused(9, 0, 230)
    assert quota.per_minute is None
    assert quota.refused(9, 0, 231)
    assert quota.per_minute == 10


@pytest.mark.parametrize("learned", [None, "20", 0, -1, True, 2.5, 10**400])
def test_what_an_earlier_run_says_of_a_quota_may_be_anything(learned: object) -> None:
    quota = Quota(learned)
    assert quota.per_minute is None
    assert quota.opens_at(0) == float("-inf")


def test_a_quota_that_an_earlier_run_found_is_tried_then_kept_to() -> None:
    quota = used_up(20, Quota(20, 0.0))
    assert quota.per_minute == 20
    assert quota.opens_at(0) == float("-inf")
    assert quota.refused(20, 0, 3)
    assert quota.opens_at(0) == 8, "a ceiling of 20 would say no more than that"
    assert quota.refused(20, 0, 8)
    assert quota.opens_at(0) == 18
    assert quota.refused(19, 0, 18), "a job has ended"
    assert quota.opens_at(0) == 60


def test_a_ceiling_that_was_taken_for_a_quota_is_found_out_once_a_job_ends() -> None:
    """Eight slots, jobs of 10 s, and an outage after the first eight: they fill the slots once a minute."""
    quota = found(8)
    for number in range(8):
        quota.passed(number + 1, 61 + number / 10)
    assert quota.refused(8, 0, 91), "the next is tried while all eight are out"
    assert quota.opens_at(0) == 96
    assert quota.refused(8, 0, 96)
    assert quota.opens_at(0) == 106
    quota.passed(8, 106)
    assert quota.per_minute is None


def test_one_refusal_will_do_where_the_service_asks_for_a_long_pause() -> None:
    quota = used_up()
    assert not quota.refused(20, 0, 2, pause=58), "that may be a ceiling"
    assert not quota.refused(19, 0, 30, pause=19)
    quota = used_up()
    assert quota.refused(19, 0, 30, pause=30)
    assert quota.per_minute == 20


def test_a_quota_is_not_forgotten_where_nothing_was_sent_for_long() -> None:
    quota = found()
    assert not quota.refused(3, 0, 3700)
    assert quota.per_minute == 20
