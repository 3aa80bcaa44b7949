"""The words of progress lines."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rsbatch.progress.interface import Snapshot
from rsbatch.progress.words import clock, fitting, money, pieces


@pytest.mark.parametrize(
    ("spent", "known", "text"),
    [
        (None, True, "$?"),
        (Decimal(0), True, "$0.00"),
        (Decimal("0.0072"), True, "$0.0072"),
        (Decimal("0.0636"), False, "$0.0636+"),
        (Decimal("1234.5"), True, "$1,234.50"),
    ],
)
def test_money(spent: Decimal | None, known: bool, text: str) -> None:
    assert money(spent, known) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "00:00"), (0.9, "00:00"), (250, "04:10"), (3850, "1:04:10"), (183840, "2d 03:04")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_most_important_comes_first(busy: Snapshot) -> None:
    assert pieces(busy) == [
        "3 failed",
        "1 held",
        "2 parked",
        "paused: 429 from the service",
        "17:03 left",
        "8 in flight",
        "2 downloading",
        "$26.20+",
        "12:34 elapsed",
    ]
    assert busy.settled == 418


def test_what_is_nothing_is_not_said() -> None:
    assert pieces(Snapshot(10, pending=10)) == ["00:00 elapsed"]


def test_a_reason_from_outside_is_harmless() -> None:
    said = pieces(Snapshot(10, paused="\x1b[2J\n" + "x" * 500))[0]
    assert said.startswith("paused: \\x1b[2J\\n")
    assert len(said) < 80


def test_pieces_that_do_not_fit_are_left_out() -> None:
    assert fitting(["aaa", "bb", "c"], 9) == "aaa, bb"
    assert fitting(["aaa", "bbbbbbbb", "c"], 6) == "aaa, c"
    assert fitting(["aaa"], 2) == ""
    assert fitting(["aaa"], -5) == ""
