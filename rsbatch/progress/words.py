"""The words of a progress line, shared by the bar and the log.

Rule: pure; a line is made of pieces in the order of their importance, and the least important go first where
there is no room. Only plain characters of one column each, apart from text that is passed in.
"""

from __future__ import annotations

from decimal import Decimal

from rsbatch.progress.interface import Snapshot
from rsbatch.text import printable


def money(spent: Decimal | None, usd_known: bool) -> str:
    """Such as `$1.23`; `$1.23+` if some prices are not known, `$?` if none is."""
    if spent is None:
        return "$?"
    # Small batches cost fractions of a cent each: show what was spent rather than $0.00.
    digits = 4 if 0 < spent < 1 else 2
    return f"${spent:,.{digits}f}{'' if usd_known else '+'}"


def clock(seconds: float) -> str:
    """Such as `04:10`, `1:04:10`, `2d 03:04`."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def troubles(snapshot: Snapshot) -> list[str]:
    """Name the counts of what did not go well, those that are not 0."""
    counts = (("failed", snapshot.failed), ("held", snapshot.held), ("parked", snapshot.parked))
    return [f"{count:,} {name}" for name, count in counts if count]


_SHORTEST_REASON = 10


def pieces(snapshot: Snapshot, reason: int = 60) -> list[str]:
    """Give everything worth saying beside the number of images, the most important first.

    Why nothing is submitted takes `reason` characters at most, and is left out where that says nothing.
    """
    said = troubles(snapshot)
    if snapshot.paused:
        said.append(f"paused: {printable(snapshot.paused, reason)}" if reason >= _SHORTEST_REASON else "paused")
    left = [] if snapshot.eta is None else [f"{clock(snapshot.eta)} left"]
    if snapshot.paused:
        said += left
    if snapshot.out:
        said.append(f"{snapshot.out:,} in flight")
    if snapshot.downloading:
        said.append(f"{snapshot.downloading:,} downloading")
    if not snapshot.paused:
        said += left
    if snapshot.spent is not None or not snapshot.usd_known:
        said.append(money(snapshot.spent, snapshot.usd_known))
    said.append(f"{clock(snapshot.elapsed)} elapsed")
    return said


def fitting(said: list[str], columns: int, separator: str = ", ") -> str:
    """Join as many pieces, from the first on, as fit in `columns`; one that is too long is skipped."""
    line = ""
    for piece in said:
        longer = f"{line}{separator}{piece}" if line else piece
        if len(longer) <= columns:
            line = longer
    return line
