"""Whatever happens to one byte of a ledger is found, and at the right line."""

from __future__ import annotations

import io

import pytest
from core_help import Book, Steps, quick, snapshot, started
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.errors import LedgerDamaged
from rsbatch.ledger.records import encode, run_ended
from rsbatch.ledger.replay import Replayed, lines, records, replay
from rsbatch.lifecycle import State


def sample() -> Book:
    book = Book().put(started())
    for number, state in enumerate(State):
        book.put(*Steps(f"täsk-{number}").to(state))
    return book.put(run_ended({"exit_code": 3}))


BOOK = sample()
DATA = BOOK.data
STARTS = [DATA.rfind(b"\n", 0, at) + 1 for at in range(len(DATA))]


def line_of(at: int) -> int:
    return DATA.count(b"\n", 0, at) + 1


def read(data: bytes) -> Replayed:
    return replay(io.BytesIO(data), "L")


def prefix_state(count: int) -> object:
    book = Book()
    replayed = read(b"".join(BOOK.lines[:count]))
    assert not book.lines
    return snapshot(replayed.state)


def test_a_sound_ledger_says_what_the_live_one_said() -> None:
    replayed = read(DATA)
    assert snapshot(replayed.state) == snapshot(BOOK.state)
    assert (replayed.end, replayed.torn) == (len(DATA), b"")
    assert read(b"").state.seq == 0


@quick
@given(at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_is_found_at_its_line(at: int, flip: int) -> None:
    broken = bytearray(DATA)
    broken[at] ^= flip
    if at == len(DATA) - 1:  # without its newline the last line counts as torn: it is cut off, and that is said
        replayed = read(bytes(broken))
        assert replayed.torn
        assert snapshot(replayed.state) == prefix_state(len(BOOK.lines) - 1)
        return
    with pytest.raises(LedgerDamaged) as caught:
        read(bytes(broken))
    assert caught.value.line == line_of(at)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_every_byte_of_a_line(bit: int) -> None:
    """Not by chance: each byte of the second line in turn."""
    start, end = len(BOOK.lines[0]), len(BOOK.lines[0]) + len(BOOK.lines[1])
    for at in range(start, end):
        broken = bytearray(DATA[: end + len(BOOK.lines[2])])
        broken[at] ^= 1 << bit
        with pytest.raises(LedgerDamaged) as caught:
            read(bytes(broken))
        assert caught.value.line == 2


@quick
@given(st.integers(0, len(DATA)))
def test_a_truncated_ledger_is_its_whole_lines_and_a_torn_tail(size: int) -> None:
    replayed = read(DATA[:size])
    whole = DATA[:size].count(b"\n")
    assert replayed.end == sum(map(len, BOOK.lines[:whole]))
    assert replayed.torn == DATA[replayed.end : size]
    assert snapshot(replayed.state) == prefix_state(whole)


@quick
@given(st.integers(0, len(BOOK.lines) - 2), st.data())
def test_missing_doubled_and_swapped_lines_are_found(number: int, data: st.DataObject) -> None:
    other = data.draw(st.integers(number + 1, len(BOOK.lines) - 1))
    missing = BOOK.lines[:number] + BOOK.lines[number + 1 :]
    doubled = [*BOOK.lines[: number + 1], *BOOK.lines[number:]]
    swapped = list(BOOK.lines)
    swapped[number], swapped[other] = swapped[other], swapped[number]
    for broken, line in ((missing, number + 1), (doubled, number + 2), (swapped, number + 1)):
        with pytest.raises(LedgerDamaged) as caught:
            read(b"".join(broken))
        assert caught.value.line == line
        assert "belongs" in caught.value.reason


def test_a_sound_line_that_cannot_follow_is_damage() -> None:
    line, _ = encode(Steps("new").submitted(), seq=2, ts=0, run="r")
    with pytest.raises(LedgerDamaged, match=r"L, line 2: new: submitted cannot follow nothing.*repair"):
        read(BOOK.lines[0] + line)


@pytest.mark.parametrize("chunks", [1, 7, 10**9])
def test_lines_do_not_depend_on_how_the_file_is_read(chunks: int) -> None:
    class Slow(io.BytesIO):
        def readlines(self, hint: int | None = -1, /) -> list[bytes]:
            return super().readlines(min(chunks, hint or 0))

    data = "a\u2028b\x85c\rd\r\ne\n\ntorn".encode()
    assert list(lines(Slow(data))) == ["a\u2028b\x85c\rd\r\n".encode(), b"e\n", b"\n", b"torn"]


def test_records_leaves_out_the_torn_tail_and_names_the_damaged_line() -> None:
    assert [r["seq"] for r in records(io.BytesIO(DATA + b'{"v":1'), "L")] == list(range(1, len(BOOK.lines) + 1))
    with pytest.raises(LedgerDamaged) as caught:
        list(records(io.BytesIO(DATA + b"{}\n"), "L"))
    assert caught.value.line == len(BOOK.lines) + 1


def test_a_line_that_is_written_meanwhile_is_read_whole() -> None:
    """A run goes on while its ledger is read: what was read of its last line is half of it, and then the rest comes."""

    class Grows(io.BytesIO):
        def readlines(self, hint: int | None = -1, /) -> list[bytes]:
            given = super().readlines(hint)
            if not given and len(self.getvalue()) < len(DATA):
                at = self.tell()
                self.write(DATA[at:])
                self.seek(at)
                given = super().readlines(hint)
            return given

    for size in (1, len(DATA) // 2, len(DATA) - 2):
        assert snapshot(replay(Grows(DATA[:size]), "x").state) == snapshot(BOOK.state)


def test_a_ledger_is_read_through_anything_that_reads() -> None:
    """A bar that shows how far it is stands between the file and whoever reads it, and can do nothing else."""

    class OnlyReads:
        def __init__(self) -> None:
            self.readlines = io.BytesIO(DATA).readlines

    assert snapshot(replay(OnlyReads(), "x").state) == snapshot(BOOK.state)  # type: ignore[arg-type]
