"""Reordering, adding and removing changes no other task's id, key or path: nothing is bought twice for it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_help import Folder

from rsbatch.model import Task

PLAIN: list[dict[str, Any]] = [
    {"id": "hero", "prompt": "A hero"},
    {"prompt": "No id"},
    {"id": "many", "prompt": "Many {{ sample }}", "samples": 2},
    {"prompt": "No id, many", "samples": 3},
    {"id": "{{ a }}-{{ b }}", "prompt": "{{ a }} {{ b }}", "matrix": {"a": ["x", "y"], "b": [1, 2]}},
    {"prompt": "{{ c }} {{ d | default('-') }}", "matrix": {"c": [1, 2], "include": [{"c": 1, "d": 5}, {"c": 3}]}},
    {"id": "r-{{ row.sku }}", "prompt": "{{ row.name }}", "rows": "t.jsonl"},
]
ROWS = [{"sku": str(number), "name": f"name {number}"} for number in range(6)]


def identities(tasks: list[Task]) -> dict[str, tuple[str, str]]:
    return {task.id: (task.key, task.path) for task in tasks}


def expand(folder: Folder, entries: list[dict[str, Any]], rows: list[dict[str, str]]) -> dict[str, tuple[str, str]]:
    folder.write("t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return identities(folder.tasks(json.dumps({"version": 1, "tasks": entries})))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.permutations(PLAIN), st.permutations(ROWS))
def test_order_does_not_matter(folder: Folder, entries: list[dict[str, Any]], rows: list[dict[str, str]]) -> None:
    assert expand(folder, entries, rows) == expand(folder, PLAIN, ROWS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(range(len(PLAIN))), min_size=1, unique=True),
    st.lists(st.sampled_from(range(len(ROWS))), min_size=1, unique=True),
)
def test_what_is_left_stays_as_it_is(folder: Folder, entries: list[int], rows: list[int]) -> None:
    whole = expand(folder, PLAIN, ROWS)
    part = expand(folder, [PLAIN[index] for index in entries], [ROWS[index] for index in rows])
    assert part.items() <= whole.items()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.permutations(["x", "y", "z", "w"]), st.permutations([1, 2, 3]), st.integers(1, 4), st.booleans())
def test_axes_may_grow_shrink_and_change_places(
    folder: Folder, first: list[str], second: list[int], kept: int, swapped: bool
) -> None:
    def entry(a: list[str], b: list[int], swap: bool) -> dict[str, Any]:
        axes: dict[str, Any] = {"b": b, "a": a} if swap else {"a": a, "b": b}
        return {"id": "{{ a }}-{{ b }}", "prompt": "{{ a }} {{ b }}", "matrix": axes}

    whole = expand(folder, [entry(["x", "y", "z", "w"], [1, 2, 3], False)], ROWS)
    part = expand(folder, [entry(first[:kept], second, swapped)], ROWS)
    assert part.items() <= whole.items()
    assert len(part) == kept * 3


def test_more_samples_leave_the_first_as_they_are(folder: Folder) -> None:
    two = expand(folder, [{"id": "a", "prompt": "x", "samples": 2}], ROWS)
    three = expand(folder, [{"id": "a", "prompt": "x", "samples": 3}], ROWS)
    assert two.items() <= three.items()


def test_adding_a_column_or_a_default_that_equals_changes_nothing(folder: Folder) -> None:
    plain = expand(folder, [{"id": "{{ row.sku }}", "prompt": "{{ row.name }}", "rows": "t.jsonl"}], ROWS)
    more = [{**row, "note": "new"} for row in ROWS]
    assert expand(folder, [{"id": "{{ row.sku }}", "prompt": "{{ row.name }}", "rows": "t.jsonl"}], more) == plain


def test_keys_of_a_real_manifest_are_frozen(folder: Folder) -> None:
    """If this fails, users would buy all their images again."""
    keys = expand(folder, PLAIN, ROWS)
    assert keys["hero"][0] == "5203aedce2ff0c5a6a02e2d3b51395d334713af12dd7e4829eabe0402d0b22c5"
    assert keys["many-2"][0] == "2768a15790408e983ad53fd004e443c2198b8a838de1394b0c218bbd0a64abd0"
    assert keys["x-1"][0] == "3e00c07c44c170de5063f508bc42ba717f32fb19ab0b9fac459fabc8c3ff325f"
