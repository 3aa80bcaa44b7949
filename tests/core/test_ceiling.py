"""The in-flight limit finds the service's ceiling, and never passes the user's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.ceiling import (
    CONFIRM_SECONDS,
    CONFIRM_WITHIN,
    PAUSE_SHARE,
    PROBE_FIRST,
    PROBE_MOST,
    PROBE_SECONDS,
    SETTLE_SECONDS,
    Ceiling,
    buffer,
)

NOW, NEVER = float("-inf"), float("inf")
CONFIRMED = (0, 5, 15, 35, 75)
"""Seconds after which a refusal is tried again."""


def found(holds: int = 8, most: int = 64, now: float = 0.0) -> Ceiling:
    """A limit that has found a ceiling and confirmed it."""
    limit = Ceiling(most)
    for after in CONFIRMED:
        limit.refused(holds, now + after)
    limit.accepted(holds, now + CONFIRMED[-1])
    assert limit.holds == holds
    return limit


def accept(limit: Ceiling, held: int, times: int, now: float = 100.0) -> None:
    for _ in range(times):
        assert not limit.accepted(held, now)


def test_it_starts_at_the_most() -> None:
    limit = Ceiling(8)
    assert (limit.holds, limit.runs, limit.slots, limit.covered) == (8, None, None, False)
    assert (limit.opens_at(7), limit.opens_at(8)) == (NOW, None)


def test_a_refusal_at_8_says_that_the_ceiling_is_8_and_is_confirmed() -> None:
    limit = Ceiling(64)
    limit.refused(8, 100)
    assert (limit.holds, limit.slots) == (8, 8)
    assert (limit.opens_at(7), limit.opens_at(8), limit.opens_at(9)) == (NOW, 100 + CONFIRM_SECONDS, None)
    for after, then in pairwise(CONFIRMED[1:]):
        limit.refused(8, 100 + after)
        assert (limit.holds, limit.opens_at(8)) == (8, 100 + then)
    limit.refused(8, 100 + CONFIRM_WITHIN)
    assert limit.opens_at(8) == 100 + CONFIRM_WITHIN + PROBE_SECONDS


def test_a_refusal_of_what_then_goes_through_was_of_the_rate() -> None:
    limit = Ceiling(64)
    limit.refused(8, 100)
    assert not limit.accepted(8, 102), "one of the eight had ended: that tells nothing"
    assert limit.accepted(9, 105)
    assert (limit.holds, limit.opens_at(63)) == (64, NOW)
    assert not limit.accepted(10, 106)


def test_refusals_by_chance_do_not_keep_the_next_probe_off() -> None:
    limit = found(8)
    for _ in range(PROBE_MOST):
        limit.refused(7, 200)
        assert limit.accepted(8, 205)
    assert limit.opens_at(8) == NOW


@pytest.mark.parametrize("refusals", [1, 2])
def test_refusals_by_chance_leave_the_ceiling_where_it_was(refusals: int) -> None:
    limit = found(8)
    for after, then in list(pairwise(CONFIRMED))[:refusals]:
        limit.refused(7, 200 + after)
        assert (limit.holds, limit.opens_at(7)) == (7, 200 + then)
    assert not limit.accepted(7, 215), "one of the seven had ended: that tells nothing"
    assert limit.accepted(8, 216)
    assert limit.holds == 8


def test_a_ceiling_that_fell_by_one_is_confirmed_twice() -> None:
    limit = found(8)
    for at in (200, 205, 215):
        limit.refused(7, at)
        limit.accepted(7, at + 1)
    assert limit.holds == 7
    assert limit.opens_at(7) == 215 + PROBE_SECONDS


def test_a_quota_of_a_minute_is_no_ceiling() -> None:
    limit = Ceiling(64)
    for held, at in ((20, 0), (19, 4), (18, 9), (16, 30)):
        limit.refused(held, at)
    assert limit.holds < 20
    assert limit.accepted(17, 61)
    assert limit.holds == 64


@pytest.mark.parametrize(("accepted", "tries"), [(2, 3), (3, 4)])
def test_what_is_refused_again_at_once_was_the_ceiling_all_the_same(accepted: int, tries: int) -> None:
    limit = Ceiling(64)
    limit.refused(32, 0)
    assert limit.accepted(33, 5), "a job had ended, but nobody knew"
    for _ in range(accepted):
        limit.accepted(33, 6)
    at, seen = 7.0, 0
    limit.refused(32, at)
    while (then := limit.opens_at(32)) is not None and then < at + 100:
        at, seen = then, seen + 1
        limit.refused(32, at)
    assert seen == tries


def test_what_is_accepted_while_a_refusal_is_tried_again_brings_that_on() -> None:
    limit = Ceiling(64)
    for after in CONFIRMED[:3]:
        limit.refused(8, after)
    limit.accepted(8, 16)
    assert limit.opens_at(8) == 16 + 3 * CONFIRM_SECONDS


def test_an_outage_is_no_ceiling() -> None:
    """Nothing goes through for a while, though jobs end."""
    limit = found(8)
    for held, after in zip((7, 6, 5, 3, 2), CONFIRMED, strict=True):
        limit.refused(held, 200 + after)
    assert limit.holds < 3
    assert limit.as_json() == {"holds": 8, "runs": None}, "if the run ends now"
    assert not limit.accepted(1, 300), "it was not of the rate either"
    assert (limit.holds, limit.opens_at(7)) == (8, NOW)


def test_a_ceiling_that_takes_some_is_none_of_an_outage() -> None:
    limit = found(8)
    for held, after in zip((7, 6, 5, 3, 2), CONFIRMED, strict=True):
        limit.refused(held, 200 + after)
        limit.accepted(held, 200 + after)
    limit.refused(2, 300)
    limit.accepted(2, 301)
    assert limit.holds == 2


def test_what_is_refused_while_nothing_is_out_is_of_no_ceiling() -> None:
    limit = found(8)
    for at in range(200, 300, 10):
        limit.refused(0, at)
    assert (limit.holds, limit.opens_at(7)) == (8, NOW)


def test_where_a_refusal_costs_a_long_pause_there_are_few() -> None:
    limit = found(8)
    limit.refused(6, 200, 600)
    assert limit.opens_at(6) == 200 + CONFIRM_SECONDS
    limit.refused(6, 800, 600)
    accept(limit, 6, PROBE_MOST, 801)
    assert (limit.holds, limit.opens_at(6)) == (6, 800 + PAUSE_SHARE * 600)
    limit.refused(6, 20_000, 600)
    accept(limit, 6, PROBE_MOST, 20_001)
    assert limit.opens_at(6) == 20_000 + PAUSE_SHARE * 600
    limit.refused(6, 40_000, 1)
    accept(limit, 6, PROBE_MOST, 40_001)
    assert limit.opens_at(6) == NOW


def test_from_a_few_it_is_up_again_soon() -> None:
    limit = found(8)
    for held, at in ((3, 200), (2, 205), (1, 215), (1, 230), (1, 270)):
        limit.refused(held, at)
        limit.accepted(1, at + 1)
    assert limit.holds == 1
    accept(limit, 1, 3, 280)
    assert limit.opens_at(1) == NOW


def test_a_falling_ceiling_is_followed_in_growing_steps() -> None:
    limit, found_at = found(64, most=100), []
    for held in (63, 62, 61, 59, 56, 51, 44):
        limit.refused(held, 200)
        found_at.append(limit.holds)
    assert found_at == [63, 62, 60, 57, 52, 45, 39]
    assert Ceiling(1).holds == 1
    for _ in range(3):
        limit.refused(1, 300)
        assert limit.holds == 1


def test_probes_come_after_so_many_acceptances() -> None:
    limit, gaps = found(8), []
    for _ in range(3):
        gaps.append(int(limit.opens_at(8) == NOW))
        while limit.opens_at(8) != NOW:
            accept(limit, 8, 1)
            gaps[-1] += 1
        assert limit.opens_at(9) is None
        limit.refused(8, 100)
    assert gaps == [2 * PROBE_FIRST - 1, PROBE_MOST, PROBE_MOST]
    assert limit.opens_at(8) == 100 + PROBE_SECONDS
    assert limit.holds == 8


def probing(holds: int = 8) -> Ceiling:
    limit = found(holds)
    accept(limit, holds, PROBE_MOST)
    return limit


def test_probes_that_go_through_and_settle_double_the_step() -> None:
    limit, held, now = probing(), 8, 200.0
    for step in (2, 4, 8):
        for _ in range(step):
            assert limit.opens_at(held) in {NOW, now}
            held += 1
            limit.accepted(held, now)
        now += SETTLE_SECONDS
        assert limit.opens_at(held) == now
    limit.refused(held, now)
    assert (held, limit.holds) == (22, 22)
    assert limit.opens_at(22) == now + PROBE_SECONDS


def test_a_probe_that_took_the_place_of_an_ended_job_is_none() -> None:
    limit = probing()
    limit.accepted(9, 200)
    limit.ended(200, 201)
    assert limit.opens_at(9) == NOW, "known to go on when the probe went through"
    limit.ended(199, 201)
    assert limit.opens_at(9) is None
    assert limit.holds == 8
    limit.ended(150, 202)
    accept(limit, 8, PROBE_MOST)
    assert limit.opens_at(8) == NOW, "the next probe comes sooner, as this one cost nothing"


def test_ends_that_are_in_doubt_are_taken_off() -> None:
    limit = probing(16)
    for held in (17, 18, 19):
        limit.accepted(held, 200)
    limit.ended(199, 202)
    limit.ended(250, 200 + SETTLE_SECONDS)
    assert limit.holds == 18


def test_a_probe_that_is_refused_half_way_counts_what_went_through() -> None:
    limit = probing()
    limit.accepted(9, 200)
    limit.refused(9, 201)
    assert (limit.holds, limit.opens_at(9), limit.opens_at(7)) == (8, None, NOW)
    limit.ended(300, 206)
    assert limit.holds == 9
    limit = probing()
    limit.accepted(9, 200)
    limit.refused(9, 201)
    limit.ended(199, 202)
    assert limit.holds == 8
    assert limit.opens_at(8) == 201 + PROBE_SECONDS, "that probe was paid for"


def test_a_fall_ends_a_trial() -> None:
    limit = probing()
    limit.accepted(9, 200)
    limit.refused(5, 201)
    assert limit.holds == 5
    assert limit.opens_at(5) == 201 + CONFIRM_SECONDS


# services that queue


def test_what_waits_while_others_run_shows_how_many_run() -> None:
    limit = Ceiling(64)
    limit.seen(waiting=True, rank=9, running=0)
    assert limit.runs is None, "where none runs, WAIT may be the word for running"
    limit.seen(waiting=False, rank=30, running=0)
    assert limit.runs is None
    limit.seen(waiting=True, rank=20, running=3)
    assert limit.runs == 19
    limit.seen(waiting=True, rank=9, running=4)
    assert (limit.runs, limit.slots, limit.covered) == (8, 8, True)
    assert (limit.opens_at(8 + buffer(8) - 1), limit.opens_at(8 + buffer(8))) == (NOW, None)
    assert (limit.queued(8), limit.queued(9)) == (False, True)
    limit.seen(waiting=False, rank=11, running=7)
    assert limit.runs == 11
    limit.seen(waiting=True, rank=3, running=6)
    assert limit.runs == 6, "more were seen to run than its place says"


def test_the_users_limit_is_the_most_for_the_buffer_too() -> None:
    limit = Ceiling(8)
    limit.seen(waiting=True, rank=9, running=4)
    assert (limit.covered, limit.opens_at(8), limit.opens_at(7)) == (False, None, NOW)


def test_buffers() -> None:
    assert [buffer(n) for n in (1, 8, 12, 13, 32, 1000)] == [3, 3, 3, 4, 8, 250]


# from one run to the next


@pytest.mark.parametrize(
    "learned", [None, 7, {}, {"holds": 0, "runs": -1}, {"holds": True, "runs": "8"}, {"holds": 9.5}]
)
def test_what_cannot_be_used_is_not_used(learned: object) -> None:
    limit = Ceiling(8, learned)
    assert (limit.holds, limit.runs) == (8, None)
    assert limit.as_json() == {"holds": None, "runs": None}


def test_a_run_starts_from_what_an_earlier_one_learned() -> None:
    limit = found(8)
    limit.seen(waiting=True, rank=7, running=4)
    assert limit.as_json() == {"holds": 8, "runs": 6}
    again = Ceiling(64, limit.as_json())
    assert (again.holds, again.runs, again.slots) == (8, 6, 6)
    accept(again, 8, PROBE_FIRST)
    again._runs = None
    assert again.opens_at(8) == NOW


def test_a_refusal_at_the_end_of_a_run_does_not_lower_what_the_next_one_starts_from() -> None:
    limit = found(8)
    limit.refused(3, 200)
    assert (limit.holds, limit.as_json()) == (3, {"holds": 8, "runs": None})


def test_a_first_run_learns_nothing_from_a_refusal_that_is_in_doubt() -> None:
    limit = Ceiling(64)
    limit.refused(3, 200)
    assert limit.as_json() == {"holds": None, "runs": None}


def test_a_run_with_a_lower_limit_does_not_make_the_ceiling_forgotten() -> None:
    assert Ceiling(4, {"holds": 8, "runs": None}).as_json() == {"holds": 8, "runs": None}
    assert Ceiling(64, {"holds": 8}).slots == 8
    low = Ceiling(4, {"holds": 8})
    for at in CONFIRMED:
        low.refused(2, at)
    assert low.as_json() == {"holds": 2, "runs": None}


def test_without_a_refusal_in_this_run_a_probe_comes_by_acceptances_alone() -> None:
    assert Ceiling(64, {"holds": 8}).opens_at(8) == NEVER


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["accepted", "refused", "ended", "waits", "runs"]),
        st.integers(0, 60),
        st.floats(0, 100),
        st.integers(0, 10),
    ),
    max_size=120,
)


@given(st.integers(1, 40), EVENTS)
def test_it_stays_in_its_bounds(most: int, events: list[tuple[str, int, float, int]]) -> None:
    limit, now = Ceiling(most), 0.0
    for what, held, pause, other in events:
        now += pause
        if what == "accepted":
            limit.accepted(min(held, most), now)
        elif what == "refused":
            limit.refused(min(held, most), now)
        elif what == "ended":
            limit.ended(now - other, now)
        else:
            limit.seen(waiting=what == "waits", rank=held + 1, running=other)
        assert 1 <= limit.holds <= most
        assert limit.opens_at(most) is None, "the user's limit is the most"
        assert limit.opens_at(0) == NOW, "one is always allowed"
        assert Ceiling(most, limit.as_json()).holds <= most


def service(limit: Ceiling, ceilings: Iterator[int], rounds: int) -> tuple[int, int, list[int]]:
    """A service that refuses, whose jobs end at once when we look: accepted, refused, and how many it held."""
    held, accepted, refused, history, now = 0, 0, 0, list[int](), 0.0
    for ceiling in ceilings:
        for _ in range(rounds):
            now += 6
            if held:
                held -= 1
                limit.ended(now, now)
            while (at := limit.opens_at(held)) is not None and at <= now:
                if held < ceiling:
                    held += 1
                    accepted += 1
                    limit.accepted(held, now)
                else:
                    refused += 1
                    limit.refused(held, now)
                    break
            history.append(held)
    return accepted, refused, history


@given(st.integers(1, 50), st.integers(1, 64))
def test_a_steady_ceiling_is_reached_kept_and_costs_few_refusals(ceiling: int, most: int) -> None:
    accepted, refused, history = service(Ceiling(most), iter([ceiling]), 500)
    assert set(history[3:]) == {min(ceiling, most)}
    assert refused <= 7 + accepted / PROBE_MOST


@given(st.integers(2, 40), st.integers(2, 40))
def test_a_ceiling_that_changes_is_found_again(first: int, second: int) -> None:
    _, refused, history = service(Ceiling(64), iter([first, second]), 400)
    assert history[-1] == second
    assert refused <= 30 + max(0, first - second) / 2
