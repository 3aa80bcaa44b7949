"""How long a plan takes: from what was measured, and unknown where nothing was."""

from __future__ import annotations

from typing import Any

import pytest

from rsbatch.asking import ENOUGH, LearnedTimes
from rsbatch.estimate import Estimate, learned_by, seconds_left, seconds_left_of_downloads


def ended(kind: str = "k", seconds: float = 40.0, **ceiling: int) -> dict[str, Any]:
    times = LearnedTimes()
    for _ in range(ENOUGH):
        times.ended(kind, seconds - 0.5, seconds)
    return {"type": "run_ended", "learned": {"times": times.as_json(), "ceiling": ceiling}}


@pytest.mark.parametrize("record", [None, {}, {"learned": None}, {"learned": "x"}])
def test_before_anything_was_measured_the_time_is_unknown(record: Any) -> None:
    assert learned_by(record) == {}
    one = Estimate.of(record, 8)
    one.add("k")
    assert one.seconds is None
    assert one.in_words() == "time: unknown, as nothing has been measured yet"


def test_measured_times_and_ceiling() -> None:
    one = Estimate.of(ended(holds=4), 64)
    for _ in range(40):
        one.add("k")
    assert one.seconds is not None
    least, most = one.seconds
    assert least == pytest.approx(400, rel=0.02)
    assert most == pytest.approx(430, rel=0.02)
    assert one.in_words().endswith("by earlier runs, 4 at a time")


def test_where_the_ceiling_is_not_known_that_is_said() -> None:
    one = Estimate.of(ended(), 8)
    one.add("k")
    assert one.in_words().endswith("by earlier runs, if the account runs 8 at a time")
    assert Estimate.of(ended(runs=20), 8).slots == 8, "the user's limit is the most"


def test_a_quota_of_submissions_bounds_the_time() -> None:
    record = ended()
    record["learned"]["per_minute"] = 6
    one = Estimate.of(record, 64)
    for _ in range(61):
        one.add("k")
    assert one.seconds is not None
    least, most = one.seconds
    assert (least, most > 610) == (600, True)
    assert one.in_words().endswith("by earlier runs, 6 submissions a minute")
    burst = Estimate.of(record, 64)
    for _ in range(6):
        burst.add("k")
    assert burst.seconds is not None
    assert burst.seconds[0] < 10, "all may go at once"
    assert burst.seconds[1] > 50, "or spread over the minute"
    few = Estimate.of(record, 1)
    few.add("k")
    assert few.in_words().endswith("by earlier runs, if the account runs 1 at a time"), (
        "the jobs themselves take longer"
    )


def test_a_class_that_was_not_measured_makes_the_time_unknown() -> None:
    one = Estimate.of(ended(), 8)
    one.add("k")
    for n in range(5):
        one.add(f"new {n}")
    assert one.seconds is None
    assert one.in_words() == (
        "time: unknown for 5 of them (new 0, new 1, new 2, …), of which too few have been measured yet"
    )


def test_what_was_measured_may_be_of_other_jobs() -> None:
    one = Estimate.of(ended(), 8)
    one.add("new")
    assert one.in_words() == "time: unknown, as too few jobs like these have been measured yet"


def test_what_is_left_of_a_run() -> None:
    assert seconds_left(10, 4, None, 4) is None
    assert seconds_left(10, 4, 40.0, 4) == 120
    assert seconds_left(0, 1, 40.0, 4) == 20
    assert seconds_left(0, 0, 40.0, 4) == 0
    assert seconds_left(1, 0, 40.0, 0) == 40
    assert seconds_left(10, 4, 40.0, 64) == 40
    assert seconds_left(10, 4, 40.0, 64, to_submit=100.0) == 140
    assert seconds_left(10, 4, 40.0, 1, to_submit=10.0) == 480


def test_what_is_left_where_downloads_are_behind() -> None:
    assert seconds_left_of_downloads(30, 0, 20.0) is None
    assert seconds_left_of_downloads(30, 10, 20.0) == 60
