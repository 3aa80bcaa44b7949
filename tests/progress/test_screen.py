"""Lines drawn anew in their place."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios

from rsbatch.progress.interface import Snapshot
from rsbatch.progress.screen import Screen, rows_of, safe


def drawn(columns: int, rows: int, *frames: list[str], last: bool = False) -> list[str]:
    """What a terminal of this size is sent for each frame, with `last` for the last one."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    sent = []
    with os.fdopen(theirs, "w") as stream:
        screen = Screen(stream)
        for number, frame in enumerate(frames, 1):
            screen.draw(frame, last=last and number == len(frames))
            sent.append(os.read(ours, 65536).decode().replace("\r\n", "\n"))
    os.close(ours)
    return sent


def test_a_frame_takes_the_place_of_the_one_before() -> None:
    first, second, third = drawn(80, 24, ["a", "b", "c"], ["d"], ["e"])
    assert first == "\ra\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J"
    assert second == "\x1b[3A\rd\x1b[K\n\x1b[J"
    assert third == "\x1b[1A\re\x1b[K\n\x1b[J"


def test_a_frame_fits_whatever_the_size() -> None:
    (frame,) = drawn(20, 5, ["x" * 50, "橘猫" * 20, "c", "d", "e", "f"])
    lines = frame.removeprefix("\r").removesuffix("\x1b[J").split("\x1b[K\n")
    assert lines[:-1] == ["x" * 19, "橘猫" * 4 + "橘", "c", "…"], "wide characters take two columns"


def test_the_last_frame_is_whole() -> None:
    long = ["rsbatch resolve " + "x" * 50, "c", "d", "e", "f"]
    assert drawn(20, 5, ["a"], long, last=True)[1] == "\x1b[1A\r" + "\x1b[K\n".join(long) + "\x1b[K\n\x1b[J"


def test_the_bar_is_that_of_a_run(busy: Snapshot) -> None:
    assert "41% 418/1,000" in Screen(io.StringIO()).bar(busy)
    assert rows_of(io.StringIO()) == 24
    assert safe(["a\x1b[2J"]) == ["a\\x1b[2J"]
