"""Reading a ledger's bytes back into what they say.

Rule: a line without a newline at the very end is a torn write and is left out; anything else that cannot be
trusted raises LedgerDamaged with the number of its line. Nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from rsbatch.collector import collector_off
from rsbatch.errors import LedgerDamaged
from rsbatch.ledger.records import BadLine, decode
from rsbatch.ledger.state import LedgerState

_CHUNK = 256 * 1024
"""Bytes read at once: what their lines become should still be in the processor's cache when it is looked at."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the bytes say: where the last whole line begins (`last`) and ends (`end`), and what is `torn` after it.

    `ends_with_a_run`: that line is a `run_ended`.
    """

    state: LedgerState
    last: int
    end: int
    torn: bytes
    ends_with_a_run: bool


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Give the lines, each with its newline, the last one perhaps without; split on newline alone."""
    torn = b""
    for whole, rest in _blocks(file):
        yield from whole
        torn = rest
    if torn:
        yield torn


def _blocks(file: BinaryIO) -> Iterator[tuple[list[bytes], bytes]]:
    """Give some lines at a time, each with its newline, and what was read after them."""
    rest = b""
    while whole := file.readlines(_CHUNK):
        whole[0] = rest + whole[0]  # a run that goes on may have written the other half of a line meanwhile
        rest = b"" if whole[-1].endswith(b"\n") else whole.pop()
        yield whole, rest


def records(file: BinaryIO, path: str) -> Iterator[dict[str, Any]]:
    """Give each record, decoded; a torn tail is left out. Raises LedgerDamaged."""
    for number, line in enumerate(lines(file), 1):
        if line.endswith(b"\n"):
            yield _decode(line[:-1], path, number)


@collector_off()
def replay(file: BinaryIO, path: str, state: LedgerState | None = None) -> Replayed:
    """Fold all records, into `state` if one is given; raises LedgerDamaged."""
    state = LedgerState() if state is None else state
    last = torn = b""

    def whole_lines() -> Iterator[list[bytes]]:
        nonlocal last, torn
        for whole, rest in _blocks(file):
            torn = rest
            if whole:
                last = whole[-1]
                yield whole

    before = state.seq
    try:
        end = state.take(whole_lines())
    except BadLine as exc:  # each line raises `seq` by one
        raise LedgerDamaged(path, state.seq - before + 1, str(exc)) from None
    ends_with_a_run = bool(last) and decode(last[:-1])["type"] == "run_ended"
    return Replayed(state, end - len(last), end, torn, ends_with_a_run)


def _decode(line: bytes, path: str, number: int) -> dict[str, Any]:
    try:
        return decode(line)
    except BadLine as exc:
        raise LedgerDamaged(path, number, str(exc)) from None
