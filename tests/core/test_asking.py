"""When jobs are asked for: what is learned from durations, and how near that comes to the best there is."""

from __future__ import annotations

import json
from itertools import pairwise
from math import exp, log, sqrt
from random import Random
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsbatch.asking import _BINS as BINS
from rsbatch.asking import _EDGES as EDGES
from rsbatch.asking import (
    CLASSES_MOST,
    ENOUGH,
    LEAST,
    MOST,
    QUERY_INTERVAL,
    Durations,
    FixedInterval,
    LearnedTimes,
    best_queries,
    interval,
    kind_of,
)

PLENTY = 1000.0


def test_classes() -> None:
    assert kind_of({"prompt": "a cat"}) == "gpt-image-2"
    assert kind_of({"model": "m", "size": "64x64", "quality": "low", "images": ["x"]}) == "m 64x64 low"
    assert len(kind_of({"model": "m" * 10_000})) == 40


def test_the_fixed_schedule() -> None:
    fixed = FixedInterval()
    assert fixed.delay("k", 50, 0.1, 7) == QUERY_INTERVAL
    fixed.ended("k", 1, 2)
    assert FixedInterval(1).delay("k", 0, 0, 0) == 1


def test_a_cold_start_asks_at_an_even_pace_or_as_often_as_may_be() -> None:
    times = LearnedTimes()
    for _ in range(ENOUGH):
        assert times.delay("k", 40, 0.1, PLENTY) == interval(0.1)
        assert times.mean("k") is None
        times.ended("k", 39, 42)
    assert times.delay("k", 0, 0.1, PLENTY) > 30
    assert times.mean("k") == pytest.approx(40.5, rel=0.02)
    assert times.delay("other", 40, 0.1, 0.1) == 10
    assert times.delay("other", 40, 0.1, 0.0001) == MOST


@pytest.mark.parametrize("price", [0.006, 0.02, 0.06])
def test_no_other_even_pace_is_better_while_nothing_is_known(price: float) -> None:
    def cost(seconds: float) -> float:
        return seconds / 2 + price * 48 / seconds

    assert all(cost(interval(price)) <= cost(interval(price) * other) for other in (0.5, 0.9, 1.1, 2))


def test_an_even_pace_has_its_bounds() -> None:
    assert interval(0.0) == LEAST
    assert interval(9.0) == QUERY_INTERVAL, "a duration that is known within a minute teaches nothing"


def test_many_classes_share_one_in_the_end() -> None:
    times = LearnedTimes()
    assert times.overall() is None
    for n in range(CLASSES_MOST + 5):
        times.ended(f"k{n}", 9, 10)
    assert len(times.as_json()) <= CLASSES_MOST + 1
    assert times.as_json()[""]["counts"]
    assert times.overall() == pytest.approx(9.5, rel=0.02)
    assert len(LearnedTimes({f"k{n}": Durations_of([5.0]).as_json() for n in range(99)}).as_json()) == CLASSES_MOST


def Durations_of(values: list[float]) -> Durations:
    one = Durations()
    for value in values:
        one.add(value * 0.99, value)
    return one


def test_a_duration_that_is_known_badly_is_spread_by_what_is_known_of_others() -> None:
    one = Durations()
    one.add(0, 40)
    assert one.mean == pytest.approx(20, rel=0.02), "nothing is known: anywhere alike"
    one = Durations_of([30.0] * 50)
    one.delay(0, 0.1, PLENTY)
    one.add(0, 100)
    assert one.mean == pytest.approx(30, rel=0.02)
    one.add(1000, 1100)
    assert one.mean > 48, "where nothing was thought possible, anywhere alike"
    assert Durations().mean == 0


def test_old_durations_fade() -> None:
    one = Durations_of([30.0] * 1500)
    for _ in range(6000):
        one.add(59, 60)
    assert one.count <= 2000
    assert one.mean > 55


def test_the_next_run_goes_on_from_what_was_learned() -> None:
    times = LearnedTimes()
    rng = Random(1)
    for _ in range(200):
        took = 40 * exp(0.3 * rng.gauss(0, 1))
        times.ended("k", took - 1, took)
    learned = json.loads(json.dumps(times.as_json()))
    again = LearnedTimes(learned)
    assert again.mean("k") == pytest.approx(times.mean("k"), rel=0.001)
    for age in (0, 20, 40, 60):
        assert again.delay("k", age, 0.1, PLENTY) == pytest.approx(times.delay("k", age, 0.1, PLENTY), rel=0.1)
    assert len(json.dumps(learned)) < 4000, "a ledger's line stays short"


GOOD = {"bins": 1, "first": 3, "counts": [1.0]}


@pytest.mark.parametrize(
    "broken",
    [
        *(None, 7, "x", [], {}),
        GOOD | {"bins": 2},
        GOOD | {"first": -1},
        GOOD | {"first": "3"},
        GOOD | {"first": BINS},
        GOOD | {"counts": None},
        GOOD | {"counts": []},
        GOOD | {"counts": ["1"]},
        GOOD | {"counts": [-1]},
        GOOD | {"counts": [float("nan")]},
        GOOD | {"counts": [10**9]},
        GOOD | {"counts": [0.0]},
    ],
)
def test_what_cannot_be_used_is_not_used(broken: Any) -> None:
    assert Durations.of_json(broken) is None
    assert LearnedTimes({"k": broken}).as_json() == {}
    assert LearnedTimes(broken).overall() is None


def test_what_can_be_used_is() -> None:
    assert Durations.of_json(GOOD) is not None


@given(
    st.lists(st.tuples(st.floats(0, 50_000), st.floats(0, 5_000)), min_size=1, max_size=60),
    st.floats(0, 100_000),
    st.floats(0.001, 100),
    st.floats(1e-6, 1e4),
)
@settings(max_examples=60, deadline=None)
def test_any_durations_give_a_next_query_within_its_bounds(
    seen: list[tuple[float, float]], age: float, price: float, most: float
) -> None:
    one = Durations()
    for low, more in seen:
        one.add(low, low + more)
    assert LEAST <= one.delay(age, price, most) <= MOST
    assert Durations.of_json(json.loads(json.dumps(one.as_json()))) is not None


# against the best there is

NORMAL = NormalDist()
Parts = list[tuple[float, float, float]]
LOGNORMAL: Parts = [(1.0, 45.0, 0.35)]
BIMODAL: Parts = [(0.5, 20.0, 0.15), (0.5, 120.0, 0.15)]
HEAVY: Parts = [(0.9, 30.0, 0.2), (0.1, 90.0, 0.8)]


def cdf(parts: Parts, t: float) -> float:
    return sum(p * NORMAL.cdf((log(t) - log(m)) / s) for p, m, s in parts)


def bound(parts: Parts) -> float:
    """½ (∫ √(density × survival))²: the least mean delay × mean number of queries (Keller 1974), in seconds."""
    total, step = 0.0, 0.1
    for n in range(1, 8000):
        a, b = cdf(parts, n * step), cdf(parts, (n + 1) * step)
        total += sqrt((b - a) / step * (1 - (a + b) / 2)) * step
    return total**2 / 2


@pytest.mark.parametrize("price", [0.006, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("parts", [LOGNORMAL, BIMODAL, HEAVY], ids=["lognormal", "bimodal", "heavy"])
def test_learning_comes_near_the_theoretical_bound(parts: Parts, price: float) -> None:
    """600 jobs whose times are known only as far as the queries tell; the first hundred are learning alone."""
    times, rng, delays, queries = LearnedTimes(), Random(5), 0.0, 0
    for number in range(600):
        _, median, sigma = rng.choices(parts, [p for p, _, _ in parts])[0]
        took, age, asked = median * exp(sigma * rng.gauss(0, 1)), 0.0, 0
        while True:
            at = age + times.delay("k", age, price, PLENTY)
            asked += 1
            if at >= took:
                break
            age = at
        times.ended("k", age, at)
        if number >= 100:
            delays, queries = delays + at - took, queries + asked
    assert delays / 500 * queries / 500 / bound(parts) < (1.25 if parts is LOGNORMAL else 1.5)


def test_queries_may_follow_each_other_as_closely_as_the_least_gap() -> None:
    """With bins alone, which are 1.5% wide, those of a job of 90 s would be 1.35 s apart."""
    one, rng = Durations(), Random(3)
    for _ in range(300):
        one.add(*(90 * exp(0.1 * rng.gauss(0, 1)),) * 2)
    assert one.delay(100, 0.0001, PLENTY) == pytest.approx(LEAST, rel=0.5)


def test_fewer_queries_where_few_may_be_made() -> None:
    one, rng = Durations(), Random(2)
    for _ in range(300):
        one.add(*(45 * exp(0.35 * rng.gauss(0, 1)),) * 2)

    def asked(most: float) -> int:
        age, count = 0.0, 0
        while age < 60:
            age += one.delay(age, 0.05, most)
            count += 1
        return count

    counts = [asked(most) for most in (PLENTY, 0.2, 0.1, 0.05, 0.001)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 12
    assert counts[-1] <= 3


def test_past_all_that_was_seen_the_time_between_queries_grows_and_is_bounded() -> None:
    one = Durations_of([40.0, 45.0, 50.0] * 20)
    age, waits = 60.0, []
    while age < 40_000:
        waits.append(one.delay(age, 0.05, PLENTY))
        age += waits[-1]
    assert max(waits) == MOST
    assert waits[-1] == MOST


def cost(masses: list[float], queries: list[int], price: float) -> float:
    """Mean delay + price × mean number of queries of a fixed list of edges, counted out; masses lie evenly."""
    total, left = 0.0, 1.0
    for first, last in pairwise([-1, *queries]):
        at = EDGES[last]
        total += price * left
        for n in range(first + 1, last + 1):
            total += masses[n] * (at - (EDGES[n] + (EDGES[n - 1] if n else 0.0)) / 2)
            left -= masses[n]
    return total


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.floats(0.01, 5), st.integers(0, 2**6 - 1))
@settings(max_examples=60, deadline=None)
def test_no_other_list_of_queries_is_better(weights: list[float], price: float, other: int) -> None:
    masses = [0.0] * BINS
    for n, weight in enumerate(weights):
        masses[200 + 20 * n] = weight + 0.01
    whole = sum(masses)
    masses = [m / whole for m in masses]
    following = best_queries(EDGES, masses, price)
    best, at = [], 0
    while at < BINS - 1:
        at = following[at]
        best.append(at)
    rival = [200 + 20 * n for n in range(6) if other >> n & 1] + [BINS - 1]
    assert cost(masses, best, price) <= cost(masses, rival, price) + 1e-6
