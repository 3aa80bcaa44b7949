"""Long work that is no run: silent where it is short, or where nobody asked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsbatch.progress.work import AFTER, LINE_EVERY, reading, show_on, working


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _silent_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm")
    yield
    show_on(None)


def work(stream: io.StringIO, seconds: float, total: int | None = 1000) -> str:
    """A thousand files, one after another."""
    show_on(stream)
    now = [0.0]
    with working("comparing files", "files", total, lambda: now[0]) as tick:
        for number in range(1, 1001):
            now[0] = number * seconds / 1000
            tick(1)
    return stream.getvalue()


def test_what_is_done_within_a_second_says_nothing() -> None:
    assert work(Terminal(), AFTER * 0.9) == ""


def test_a_terminal_sees_a_bar_that_goes_away() -> None:
    said = work(Terminal(), 60)
    assert said.startswith("\rcomparing files:   2%|")
    assert "/1000" in said
    assert said.endswith("\r"), "the line is left empty"


def test_a_pipe_gets_a_line_each_half_minute() -> None:
    assert work(io.StringIO(), LINE_EVERY * 0.9) == ""
    assert work(io.StringIO(), LINE_EVERY * 2.5) == (
        "comparing files: 400 of 1,000 files\ncomparing files: 800 of 1,000 files\n"
    )
    assert work(io.StringIO(), LINE_EVERY * 1.5, None) == "comparing files: 667 files\n"


def test_nobody_asked() -> None:
    with working("comparing files", "files") as tick:
        tick(1)


@pytest.mark.parametrize("shown", [False, True])
def test_a_file_reads_as_before(tmp_path: Path, shown: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc\n" * 800 + b"end")
    show_on(Terminal() if shown else None)
    with path.open("rb") as file, reading(file, "reading") as told:
        given = [told.readlines(2000), told.readlines(2000), told.readlines(2000)]
    with path.open("rb") as file:
        assert given == [file.readlines(2000), file.readlines(2000), file.readlines(2000)]
    assert 1 < len(given[0]) < 600


@pytest.mark.parametrize("shown", [False, True])
def test_its_lines_too(tmp_path: Path, shown: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc\n" * 200_000 + b"end")
    show_on(Terminal() if shown else None)
    with path.open("rb") as file, reading(file, "reading") as told:
        assert list(told) == [b"abc\n"] * 200_000 + [b"end"]
