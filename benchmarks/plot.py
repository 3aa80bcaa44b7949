"""A picture of slots in use over time: a small SVG, so that no plotting library is needed for one plot.

Rule: pure; colors that can be told apart by everyone (Okabe and Ito), and words that are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

_COLORS = ("#999999", "#0072b2", "#d55e00", "#009e73")
_WIDE, _HIGH, _LEFT, _TOP = 760, 260, 46, 34


@dataclass(frozen=True)
class Series:
    """One line: `spans` are (start, end) of each job in seconds; or `steps` (from this second on, this many)."""

    name: str
    spans: Sequence[tuple[float, float]]
    steps: Sequence[tuple[float, float]] = field(default=())

    def points(self, until: float, wide: int = 190) -> list[tuple[float, float]]:
        """How many slots are in use, as means over equal parts of the time."""
        if self.steps:
            edges = [*(at for at, _ in self.steps[1:]), until]
            return [p for (at, n), to in zip(self.steps, edges, strict=True) for p in ((at, n), (to, n))]
        part, last = until / wide, max(end for _, end in self.spans)
        sums = [0.0] * wide
        for start, end in self.spans:
            for n in range(int(start / part), min(wide, int(end / part) + 1)):
                sums[n] += max(0.0, min(end, (n + 1) * part) - max(start, n * part)) / part
        return [(n * part, total) for n, total in enumerate(sums) if n * part <= last + part]


def slots_in_use(series: Sequence[Series]) -> str:
    """Give the picture as SVG text."""
    until = max(end for one in series for _, end in one.spans)
    most = max(n for one in series for _, n in one.points(until)) * 1.08
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH + 76}" role="img" '
        'font-family="sans-serif" font-size="12">',
        "<title>Slots in use over time</title>",
        f'<rect width="{_WIDE}" height="{_HIGH + 76}" fill="#ffffff"/>',
    ]
    for n in range(0, int(most) + 1, 8):
        y = _y(n, most)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDE - 10}" y1="{y}" y2="{y}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end" fill="#444444">{n}</text>')
    for minute in range(0, int(until / 60) + 1, 5):
        x = _x(minute * 60, until)
        parts.append(f'<text x="{x}" y="{_TOP + _HIGH + 18}" text-anchor="middle" fill="#444444">{minute} min</text>')
    for number, (one, color) in enumerate(zip(series, _COLORS, strict=False)):
        path = " ".join(f"{_x(t, until)},{_y(n, most)}" for t, n in one.points(until))
        dash = ' stroke-dasharray="5 4"' if one.steps else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>')
        x = _LEFT + 220 * number
        parts.append(f'<line x1="{x}" x2="{x + 24}" y1="16" y2="16" stroke="{color}" stroke-width="3"{dash}/>')
        parts.append(f'<text x="{x + 30}" y="20" fill="#222222">{escape(one.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(seconds: float, until: float) -> float:
    return round(_LEFT + seconds / until * (_WIDE - _LEFT - 16), 1)


def _y(slots: float, most: float) -> float:
    return round(_TOP + _HIGH - slots / most * _HIGH, 1)
