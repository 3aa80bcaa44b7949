"""The named cases, and that their table and their files belong together."""

from __future__ import annotations

import pytest

from torture.named import cases, expected, outcome

TABLE = expected()


def test_every_case_is_in_the_table_and_the_other_way_round() -> None:
    assert cases() == sorted(TABLE)
    assert len(TABLE) >= 60


@pytest.mark.parametrize("name", TABLE)
def test_what_comes_of_it(name: str) -> None:
    assert outcome(name) == TABLE[name]
