"""The cases of GitHub's own documentation, and what it leaves to the reader."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.manifest.matrix import Matrix, combinations, same


def expand(axes: dict[str, Any], **lists: Any) -> list[dict[str, Any]]:
    return list(combinations(Matrix(axes, **lists)))


def test_the_product_goes_through_the_last_axis_first() -> None:
    assert expand({"version": [10, 12], "os": ["ubuntu", "windows"]}) == [
        {"version": 10, "os": "ubuntu"},
        {"version": 10, "os": "windows"},
        {"version": 12, "os": "ubuntu"},
        {"version": 12, "os": "windows"},
    ]


def test_github_expanding_or_adding_fruit() -> None:
    made = expand(
        {"fruit": ["apple", "pear"], "animal": ["cat", "dog"]},
        include=[
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    )
    assert made == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_github_expanding_configurations() -> None:
    made = expand(
        {"os": ["windows-latest", "ubuntu-latest"], "node": [14, 16]},
        include=[{"os": "windows-latest", "node": 16, "npm": 6}],
    )
    assert made == [
        {"os": "windows-latest", "node": 14},
        {"os": "windows-latest", "node": 16, "npm": 6},
        {"os": "ubuntu-latest", "node": 14},
        {"os": "ubuntu-latest", "node": 16},
    ]


def test_github_adding_configurations() -> None:
    made = expand(
        {"os": ["macos-latest", "windows-latest", "ubuntu-latest"], "version": [12, 14, 16]},
        include=[{"os": "windows-latest", "version": 17}],
    )
    assert len(made) == 10
    assert made[-1] == {"os": "windows-latest", "version": 17}


def test_github_excluding_configurations() -> None:
    made = expand(
        {
            "os": ["macos-latest", "windows-latest"],
            "version": [12, 14, 16],
            "environment": ["staging", "production"],
        },
        exclude=[
            {"os": "macos-latest", "version": 12, "environment": "production"},
            {"os": "windows-latest", "version": 16},
        ],
    )
    assert len(made) == 9
    assert {"os": "macos-latest", "version": 12, "environment": "staging"} in made
    assert not any(one["os"] == "windows-latest" and one["version"] == 16 for one in made)


def test_github_include_alone() -> None:
    sites = [{"site": "production", "datacenter": "site-a"}, {"site": "staging", "datacenter": "site-b"}]
    assert expand({}, include=sites) == sites


def test_include_comes_after_exclude_and_can_bring_back() -> None:
    made = expand({"a": [1, 2]}, exclude=[{"a": 1}], include=[{"a": 1, "x": "back"}])
    assert made == [{"a": 2}, {"a": 1, "x": "back"}]


def test_a_new_combination_is_not_added_to() -> None:
    assert expand({"a": [1]}, include=[{"a": 2}, {"a": 2, "x": 1}]) == [{"a": 1}, {"a": 2}, {"a": 2, "x": 1}]


def test_added_values_may_be_overwritten_but_not_those_of_axes() -> None:
    assert expand({"a": [1]}, include=[{"x": 1}, {"x": 2}]) == [{"a": 1, "x": 2}]


def test_when_all_is_excluded_an_include_stands_alone() -> None:
    assert expand({"a": [1]}, exclude=[{"a": 1}]) == []
    assert expand({"a": [1]}, exclude=[{"a": 1}], include=[{"x": 1}]) == [{"x": 1}]


def test_names_and_bounds() -> None:
    matrix = Matrix({"a": [1, 2], "b": [1, 2, 3]}, (), [{"a": 1, "x": 1}, {"y": 2}])
    assert matrix.added == {"x", "y"}
    assert matrix.bound == 8
    assert Matrix({}, (), [{"x": 1}]).bound == 1


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (True, True, True),
        (None, None, True),
        ("1", 1, False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": [1]}, {"a": [True]}, False),
        ({"a": 1}, {"b": 1}, False),
        ([1, 2], [1], False),
    ],
)
def test_same(left: Any, right: Any, equal: bool) -> None:
    assert same(left, right) is equal


def test_a_large_matrix_is_not_held() -> None:
    numbers = range(10_000)
    endless = combinations(Matrix({"a": numbers, "b": numbers, "c": numbers}, include=[{"x": 1}]))
    assert next(endless) == {"a": 0, "b": 0, "c": 0, "x": 1}


VALUES = st.sampled_from([1, 2, 3])
AXES = st.dictionaries(st.sampled_from("abc"), st.lists(VALUES, min_size=1, max_size=3, unique=True), max_size=3)
PARTIAL = st.lists(st.dictionaries(st.sampled_from("abcxy"), VALUES, min_size=1), max_size=3)


@given(AXES, PARTIAL, PARTIAL)
def test_the_rules_hold(
    axes: dict[str, list[int]], exclude: list[dict[str, int]], include: list[dict[str, int]]
) -> None:
    product = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []
    left = [one for one in product if not any(bad.items() <= one.items() for bad in exclude)]
    made = expand(axes, exclude=exclude, include=include)
    originals, new = made[: len(left)], made[len(left) :]
    assert [{key: one[key] for key in axes} for one in originals] == left
    fits = [any(all(o.get(k, v) == v for k, v in item.items() if k in axes) for o in left) for item in include]
    assert new == [item for item, fit in zip(include, fits, strict=True) if not fit]
