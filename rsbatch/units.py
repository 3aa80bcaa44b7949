"""Durations, sizes and money, between what people write and numbers.

Rule: pure; seconds are floats, bytes are integers, US dollars are `Decimal`. What cannot be read is a
`ValueError` whose text says how to write it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION: Final = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_LONGEST: Final = 366 * 86400
_BYTES: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]*)")
_MONEY: Final = re.compile(r"\d{1,9}(?:\.\d{1,12})?")

DURATION_PATTERN: Final = r"^(?=.)(\d+(\.\d+)?d)?(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"
"""The form of a duration, for the manifest's JSON Schema."""
SIZE_PATTERN: Final = r"^\d+(\.\d+)? ?([kKmMgG][iI]?)?[bB]?$"
"""The form of a size, for the manifest's JSON Schema."""
MONEY_PATTERN: Final = r"^\d{1,9}(\.\d{1,12})?$"
"""The form of an amount of US dollars, for the manifest's JSON Schema."""


def parse_duration(text: str) -> float:
    """Read seconds from `90s`, `15m`, `6h`, `2d` or a sum such as `1h30m`; at most 366 days.

    Raises ValueError.
    """
    match = _DURATION.fullmatch(text.strip()) if text.isascii() and len(text) <= 50 else None
    if match is None or match.group() == "":
        raise ValueError(f"{text!r} is not a duration; write one such as 90s, 15m, 6h or 1h30m")
    seconds = sum(float(part) * unit for part, unit in zip(match.groups("0"), _SECONDS.values(), strict=True))
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is more than a year")
    return float(seconds)


def parse_size(text: str) -> int:
    """Read bytes from `64MiB`, `10MB`, `512KiB` or a plain number; part bytes are cut off.

    Raises ValueError.
    """
    match = _SIZE.fullmatch(text.strip()) if text.isascii() else None
    unit = _BYTES.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size; write one such as 64MiB, 10MB, 512KiB or a number of bytes")
    return int(Decimal(match.group(1)) * unit)


def parse_money(text: str) -> Decimal:
    """Read US dollars from `25`, `25.00` or `0.0072`, exactly.

    Raises ValueError.
    """
    if not text.isascii() or not _MONEY.fullmatch(text):
        raise ValueError(f"{text!r} is not an amount of US dollars; write one such as 25.00 or 0.0072")
    return Decimal(text)


def format_duration(seconds: float) -> str:
    """Write seconds for people, in at most two units: `0.4s`, `12s`, `3m 05s`, `1h 30m`, `2d 4h`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s" if whole % 60 else f"{whole // 60}m"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60}h {minutes % 60:02}m" if minutes % 60 else f"{minutes // 60}h"
    hours = minutes // 60
    return f"{hours // 24}d {hours % 24}h" if hours % 24 else f"{hours // 24}d"


def format_rate(count: int | None) -> str:
    """Write a number of submissions a minute for people."""
    return f"{count} submission a minute" if count == 1 else f"{count} submissions a minute"


def format_size(count: int) -> str:
    """Write bytes for people: `812 B`, `1.4 MiB`."""
    if count < 1024:
        return f"{count} B"
    value = count / 1024
    units = ["TiB", "GiB", "MiB", "KiB"]
    while value >= 1023.95 and len(units) > 1:
        value /= 1024
        units.pop()
    return f"{value:.1f} {units[-1]}".replace(".0 ", " ")


def format_money(usd: Decimal) -> str:
    """Write US dollars for people, never rounded: `$25.00`, `$0.0072`, `-$1.50`."""
    text = f"{abs(usd):f}"
    whole, _, part = text.partition(".")
    return f"{'-' if usd < 0 else ''}${int(whole):,}.{part.rstrip('0'):0<2}"
