"""Numbers to the shapes of a plot: SVG path data and the labels beside it.

Rule: pure; gives numbers and path data, no markup. Heights and widths are in the units of the SVG's viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 150
_MOST_BARS: Final = 24
_FAR: Final = 3
"""Times what nine of ten are within: what is longer is an outlier."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A line of steps under which the area is filled; `ticks` are (y, label)."""

    path: str
    ticks: Sequence[tuple[float, str]]


def steps(points: Sequence[tuple[float, int]], start: float, end: float) -> Steps:
    """Draw a count that changes at given times; of many changes in one column of pixels the highest is kept."""
    top = _nice(max(1, *(count for _, count in points)))
    span = max(end - start, 1e-9)
    columns: list[int | None] = [None] * (WIDTH + 1)
    last = [0] * (WIDTH + 1)
    for at, count in points:
        x = min(WIDTH, max(0, int((at - start) / span * WIDTH)))
        columns[x] = count if columns[x] is None else max(columns[x] or 0, count)
        last[x] = count
    path, level = [f"M0 {HEIGHT}"], -1
    now = points[0][1]
    for x, found in enumerate(columns):
        shown = now if found is None else max(found, now)
        if shown != level:
            path.append(f"H{x}V{_round(HEIGHT - shown / top * HEIGHT)}")
            level = shown
        now = now if found is None else last[x]
    path.append(f"H{WIDTH}V{HEIGHT}Z")
    half = [] if top == 1 else [top // 2]
    return Steps("".join(path), [(_round(HEIGHT - n / top * HEIGHT), str(n)) for n in (0, *half, top)])


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: where it stands, how many fell in, and between which values (seconds)."""

    x: float
    y: float
    width: float
    height: float
    count: int
    least: float
    most: float


def histogram(values: Sequence[float]) -> list[Bar]:
    """Count values in bars of one round width, from zero on; nothing of nothing.

    Far outliers, such as jobs that were out while no run was, are all in the last bar: the others stay readable.
    """
    if not values:
        return []
    end = min(max(values), _FAR * quantile(sorted(values), 0.9))
    width = _round_width(end / _MOST_BARS)
    counts = [0] * (int(end / width) + 1)
    for value in values:
        counts[min(int(value / width), len(counts) - 1)] += 1
    across, top = WIDTH / len(counts), max(counts)
    return [
        Bar(
            _round(n * across), _round(HEIGHT - count / top * HEIGHT), _round(max(across - 2, 1)),
            _round(count / top * HEIGHT), count, n * width, max((n + 1) * width, max(values) * (n + 1 == len(counts))),
        )
        for n, count in enumerate(counts)
    ]  # fmt: skip


def quantile(values: Sequence[float], part: float) -> float:
    """Give the value below which `part` (0 to 1) of the sorted `values` are, by nearest rank."""
    return values[max(0, math.ceil(part * len(values)) - 1)]


def _nice(most: int) -> int:
    """Give an even number at or above `most`, 1 for 1: the top of an axis that has a half."""
    return most if most == 1 else most + most % 2


def _round_width(least: float) -> float:
    """Give the next of 1, 2, 5, 10, 20, 50 … tenths that is not below `least`."""
    power = 0.1
    while True:
        for step in (1, 2, 5):
            if step * power >= least:
                return step * power
        power *= 10


def _round(value: float) -> float:
    return round(value, 1)
