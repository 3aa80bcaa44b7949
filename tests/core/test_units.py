"""Durations, sizes and money are read as people write them, and nothing else is."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.units import (
    DURATION_PATTERN,
    MONEY_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_money,
    format_size,
    parse_duration,
    parse_money,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("6h", 21600),
        ("2d", 172800),
        ("1h30m", 5400),
        ("1d2h3m4s", 93784),
        ("0.5s", 0.5),
        ("1.5h", 5400),
        (" 30m ", 1800),
        ("0s", 0),
        ("366d", 366 * 86400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert re.match(DURATION_PATTERN, text.strip())


@pytest.mark.parametrize(
    "text", ["", " ", "90", "m", "1m1h", "1h1h", "-5s", "1 h", "5S", "1e3s", "367d", "٣s", "9" * 60 + "s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"write one such as 90s|more than a year"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64MiB", 64 * 2**20),
        ("10MB", 10_000_000),
        ("512KiB", 2**19),
        ("512kib", 2**19),
        ("1.5 GiB", 3 * 2**29),
        ("2GB", 2 * 10**9),
        ("7kB", 7000),
        ("0", 0),
        ("1234", 1234),
        ("12b", 12),
        ("0.3KB", 300),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count
    assert re.match(SIZE_PATTERN, text)


@pytest.mark.parametrize("text", ["", "MiB", "64M", "64TiB", "-1", "1,5MB", "٣", "64 Mi B", "1" * 16])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="write one such as 64MiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["25", "25.00", "0.0072", "0", "999999999.999999999999"])
def test_money_is_exact(text: str) -> None:
    assert parse_money(text) == Decimal(text)
    assert re.match(MONEY_PATTERN, text)


@pytest.mark.parametrize("text", ["", "-1", "1e3", "$5", "1_0", "NaN", "Infinity", ".5", "5.", "٣", "1" * 10, " 1"])
def test_what_is_no_money(text: str) -> None:
    with pytest.raises(ValueError, match="US dollars"):
        parse_money(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.42, "0.4s"),
        (1, "1s"),
        (9.9, "9.9s"),
        (9.97, "10s"),
        (12.4, "12s"),
        (59.6, "1m"),
        (185, "3m 05s"),
        (120, "2m"),
        (3600, "1h"),
        (5400, "1h 30m"),
        (86400, "1d"),
        (100_000, "1d 3h"),
        (-90, "-1m 30s"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1_500_000, "1.4 MiB"),
        (64 * 2**20, "64 MiB"),
        (2**20 - 1, "1 MiB"),
        (2**40, "1 TiB"),
        (2**60, "1048576 TiB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        ("25", "$25.00"),
        ("0.0072", "$0.0072"),
        ("1234567.5", "$1,234,567.50"),
        ("-1.5", "-$1.50"),
        ("0", "$0.00"),
        ("1E+2", "$100.00"),
        ("3.140000", "$3.14"),
        ("0.0636000", "$0.0636"),
    ],
)
def test_money_for_people(usd: str, text: str) -> None:
    assert format_money(Decimal(usd)) == text


@given(st.decimals(min_value=0, max_value=10**8, places=6))
def test_money_is_never_rounded(usd: Decimal) -> None:
    assert Decimal(format_money(usd).replace("$", "").replace(",", "")) == usd


@given(st.floats(0, 10**8))
def test_any_duration_can_be_shown(seconds: float) -> None:
    assert re.fullmatch(r"[0-9.]+[smhd]( \d+[smh])?", format_duration(seconds))
