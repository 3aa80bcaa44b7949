"""A few lines on a terminal that are drawn anew in their place.

Rule: nothing outside of its own lines is touched, and no mode of the terminal is changed, so that a process that is
killed leaves it sane.
"""

from __future__ import annotations

import os
from typing import TextIO

from tqdm import tqdm
from tqdm.utils import disp_trim

from rsbatch.progress.bar import bar_format, columns_of, wants_color
from rsbatch.progress.interface import Snapshot
from rsbatch.text import printable


class Screen:
    """Lines on a terminal; see `draw`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = 0

    def draw(self, lines: list[str], *, last: bool = False) -> None:
        """Put these lines in the place of the last ones, cut to the terminal's size; whole for the last time."""
        columns, rows = columns_of(self._stream), rows_of(self._stream)
        if not last:
            lines = [disp_trim(line, columns - 1) for line in lines]
            lines = [*lines[: rows - 2], "…"] if len(lines) >= rows else lines
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        # Each line is cleared behind its text: to clear the screen first flickers, and tmux keeps what is cleared.
        self._stream.write(f"{up}\r" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
        self._stream.flush()
        self._drawn = len(lines)

    def bar(self, snapshot: Snapshot) -> str:
        """Give the line that `run` shows at its bottom."""
        columns = columns_of(self._stream)
        form = bar_format(snapshot, columns, wants_color())
        return str(
            tqdm.format_meter(snapshot.settled, snapshot.total, snapshot.elapsed, ncols=columns, bar_format=form)
        )


def safe(lines: list[str]) -> list[str]:
    """Make lines of any text fit for a terminal."""
    return [printable(line) for line in lines]


def rows_of(stream: TextIO) -> int:
    """Height of the terminal behind `stream`; 24 if it has none to tell."""
    try:
        return os.get_terminal_size(stream.fileno()).lines or 24
    except (OSError, ValueError):
        return 24
