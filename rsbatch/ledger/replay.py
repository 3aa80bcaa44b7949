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

_CHUNK = 1024 * 1024


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
    rest = b""
    while chunk := file.read(_CHUNK):
        whole = (rest + chunk).split(b"\n")
        rest = whole.pop()
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def records(file: BinaryIO, path: str) -> Iterator[dict[str, Any]]:
    """Give each record, decoded; a torn tail is left out. Raises LedgerDamaged."""
    for number, line in enumerate(lines(file), 1):
        if line.endswith(b"\n"):
            yield _decode(line[:-1], path, number)


@collector_off()
def replay(file: BinaryIO, path: str, state: LedgerState | None = None) -> Replayed:
    """Fold all records, into `state` if one is given; raises LedgerDamaged."""
    state = LedgerState() if state is None else state
    last, at, kind, torn = 0, 0, "", b""
    for number, line in enumerate(lines(file), 1):
        if not line.endswith(b"\n"):
            torn = line
            break
        value = _decode(line[:-1], path, number)
        try:
            state.apply(value, at)
        except BadLine as exc:
            raise LedgerDamaged(path, number, str(exc)) from None
        last, at, kind = at, at + len(line), value["type"]
    return Replayed(state, last, at, torn, kind == "run_ended")


def _decode(line: bytes, path: str, number: int) -> dict[str, Any]:
    try:
        return decode(line)
    except BadLine as exc:
        raise LedgerDamaged(path, number, str(exc)) from None
