"""The bar, on real pseudo-terminals where it matters."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import count
from typing import TextIO

import pytest

from rsbatch.progress.bar import Bar, bar_format, columns_of, wants_color
from rsbatch.progress.choose import choose
from rsbatch.progress.interface import Silent, Snapshot
from rsbatch.progress.log import Log

WIDTHS = [*range(20, 130), 160, 200]


class Terminal:
    """A pseudo-terminal: what is written to `stream` is what a person would get to see."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def seen(self) -> str:
        self.stream.flush()
        self.stream.write("\0")  # so that there is something to read, and an end to it
        self.stream.flush()
        text = b""
        while not text.endswith(b"\0"):
            text += os.read(self._master, 65536)
        return text[:-1].decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal()
    it.resize(80)
    yield it
    it.close()


def lines_of(text: str) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_line_fits_and_tells_the_most_important(busy: Snapshot, columns: int) -> None:
    stream = io.StringIO()
    bar = Bar(stream, color=False, columns=lambda: columns)
    bar.begin(1000, 100)
    bar.update(busy)
    bar.close()
    for line in lines_of(stream.getvalue()):
        assert len(line.rstrip()) < columns
    last = lines_of(stream.getvalue())[-1]
    assert last.startswith(" 41% 418/1,000")
    if columns >= 40:
        assert "3 failed, 1 held" in last
    if columns >= 60:
        assert re.search(r"\|[#0-9 █▏▎▍▌▋▊▉]+\|", last)
    if columns >= 140:
        assert "17:03 left, 8 in flight, 2 downloading, $26.20+" in last
    if columns >= 200:
        assert "paused: 429 from the service" in last
        assert last.rstrip().endswith("12:34 elapsed")


def test_a_terminal_is_drawn_on_at_its_width(terminal: Terminal, busy: Snapshot) -> None:
    ticks = count()
    bar = Bar(terminal.stream, color=False, monotonic=lambda: float(next(ticks)))
    bar.begin(1000, 0)
    assert lines_of(terminal.seen())[-1].rstrip().endswith("00:00 elapsed")
    terminal.resize(120)
    bar.update(busy)
    wide = terminal.seen()
    assert wide.startswith("\r\x1b[J")
    assert 80 < len(lines_of(wide)[-1].rstrip()) < 120
    terminal.resize(40)
    bar.update(busy)
    narrow = terminal.seen()
    assert all(len(line) <= 40 for line in re.split(r"[\r\n]", re.sub(r"\x1b\[J", "", narrow)))
    assert "3 failed" in narrow
    bar.close()
    assert terminal.seen().endswith("\n")


def test_notes_stand_above_the_bar(terminal: Terminal, busy: Snapshot) -> None:
    bar = Bar(terminal.stream, color=False)
    bar.note("before it begins")
    assert terminal.seen() == "before it begins\n"
    bar.begin(1000, 0)
    terminal.seen()
    bar.note("a warning \x1b[2J{x}\n")
    text = terminal.seen()
    # The bar is blanked, the note takes its line, the bar is drawn below.
    assert re.match(r"\r +\ra warning \\x1b\[2J\{x\}\\n\n\r  0% 0/1,000", text)
    bar.close()
    terminal.seen()
    bar.note("after it")
    bar.close()
    assert terminal.seen() == "after it\n"


def test_many_updates_draw_seldom(busy: Snapshot) -> None:
    stream = io.StringIO()
    time = [0.0]
    bar = Bar(stream, color=False, columns=lambda: 80, monotonic=lambda: time[0])
    bar.begin(1000, 0)
    for saved in range(1000):
        time[0] += 0.001
        bar.update(Snapshot(1000, saved=saved))
    drawn = stream.getvalue().count("\r")
    assert 5 < drawn < 30
    bar.close()
    assert " 99% 999/1,000" in stream.getvalue()


def test_trouble_is_red_where_colors_are_welcome(busy: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31m3 failed\x1b[0m, \x1b[31m1 held\x1b[0m" in bar_format(busy, 80, color=True)
    assert "\x1b" not in bar_format(busy, 80)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_color()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color()
    monkeypatch.setenv("NO_COLOR", "")
    assert wants_color()
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_color()


def test_colors_do_not_count_as_columns(busy: Snapshot) -> None:
    stream = io.StringIO()
    bar = Bar(stream, color=True, columns=lambda: 60)
    bar.begin(1000, 0)
    bar.update(busy)
    bar.close()
    assert "\x1b[31m3 failed\x1b[0m" in stream.getvalue()
    assert all(len(line.rstrip()) < 60 for line in lines_of(stream.getvalue()))


def test_braces_and_a_run_without_tasks(busy: Snapshot) -> None:
    stream = io.StringIO()
    bar = Bar(stream, color=False, columns=lambda: 200)
    bar.begin(0, 0)
    bar.update(Snapshot(0, paused="{bar} {0} }{"))
    bar.close()
    assert "100% 0/0" in stream.getvalue()
    assert "paused: {bar} {0} }{" in stream.getvalue()


def test_closing_without_a_beginning_and_twice() -> None:
    stream = io.StringIO()
    bar = Bar(stream, color=False)
    bar.update(Snapshot(1))
    bar.close()
    bar.close()
    assert stream.getvalue() == ""
    assert columns_of(stream) > 0


def test_no_thread_of_tqdms_stays(busy: Snapshot) -> None:
    before = threading.active_count()
    bar = Bar(io.StringIO(), color=False, columns=lambda: 80)
    bar.begin(1000, 0)
    bar.update(replace(busy, paused=None))
    assert threading.active_count() == before
    bar.close()


def test_the_observer_fits_the_stream(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    pipe = io.StringIO()
    assert isinstance(choose("auto", terminal.stream), Bar)
    assert isinstance(choose("auto", pipe), Log)
    assert isinstance(choose("bar", pipe), Bar)
    assert isinstance(choose("log", terminal.stream), Log)
    assert isinstance(choose("auto", terminal.stream, quiet=True), Silent)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose("auto", terminal.stream), Log)
    none = choose("none", pipe)
    none.begin(5, 0)
    none.update(Snapshot(5, saved=5))
    none.close()
    assert pipe.getvalue() == ""
    none.note("a warning")
    assert pipe.getvalue().endswith("Z a warning\n")


def test_silence() -> None:
    silent = Silent()
    silent.begin(1, 0)
    silent.update(Snapshot(1))
    silent.note("x")
    silent.close()


@pytest.mark.parametrize(
    ("columns", "more", "said"),
    [
        (40, {}, " 81% 65/80 paused, 00:46 left, $0.6500"),
        (80, {}, "| paused: HTTP 429: at most 10 submi…, 00:46 left"),
        (80, {"out": 8}, "| paused: HTTP 429: at most 10 submi…, 00:46 left"),
        (80, {"failed": 3}, "| 3 failed, paused: HTTP 429: at mos…, 00:46 left"),
        (80, {"failed": 12, "held": 3}, "| 12 failed, 3 held, paused, 00:46 left"),
        (200, {"out": 8}, "10 submissions a minute, 00:46 left, 8 in flight, $0.6500, 00:34 elapsed"),
    ],
)
def test_a_pause_leaves_room_for_what_moves(columns: int, more: dict[str, int], said: str) -> None:
    reason, saved = "HTTP 429: at most 10 submissions a minute", 65 - more.get("failed", 0) - more.get("held", 0)
    one = Snapshot(80, saved, paused=reason, spent=Decimal("0.65"), usd_known=True, elapsed=34, eta=46, **more)
    assert said in bar_format(one, columns)
