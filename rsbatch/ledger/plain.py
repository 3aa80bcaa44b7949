"""Plain lines of a large ledger, taken in many at a time.

Rule: this is only a faster way to what the fold says. A history is plain if it has the five records of an image that
came as it should, with fields that `records` knows, each of its type; those of another type of line are ignored, as
the fold does. Any other line goes to the fold; before it go the lines of its history, read once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, count
from operator import itemgetter
from struct import pack
from typing import Any, Final, Literal, Protocol, get_args

from isal.isal_zlib import crc32
from msgspec import UNSET, MsgspecError, Struct, UnsetType
from msgspec.json import Decoder

from rsbatch.ledger.records import seconds_of

_TAIL: Final = len(',"crc":"00000000"}\n')
_BODY, _END = itemgetter(slice(-_TAIL)), itemgetter(slice(-_TAIL, None))
"""Of a line: what its checksum is of, and what says it. (In a loop each slice would be made anew, for a third more.)"""
_DEEP: Final = 190
"""A line with more braces and brackets may be nested deeper than the fold takes."""
_HOUR: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d", re.ASCII)
_MINUTES: Final = re.compile(r":[0-5]\d:[0-5]\d\.", re.ASCII)
_MILLIS: Final = frozenset(f"{number:03}Z" for number in range(1000))
_SECOND: Final = len("2026-01-01T00:00:00.")
_USD: Final = re.compile(r"\d{1,6}(?:\.\d{1,12})?", re.ASCII)


_Type = Literal["submitting", "submitted", "generated", "downloaded", "saved"]
_AWAITED: Final = (*get_args(_Type), "")


class _File(Struct, forbid_unknown_fields=True, gc=False):
    """Like `model.SavedFile`, which as a dataclass would let unknown fields pass, unread."""

    path: str
    bytes: int
    sha256: str
    format: str
    width: int
    height: int


class _Line(Struct, forbid_unknown_fields=True, gc=False):
    """Any line of a plain history; what it lacks of what the fold would need has a value that is not plain.

    What is given twice counts as it stands last. So what must not be there at all is UNSET, which no JSON can say.
    """

    v: Literal[1]
    seq: int
    ts: str
    run: str
    type: _Type
    task: str
    key: str
    crc: str
    attempt: int = 0
    request: dict[str, Any] | UnsetType = UNSET
    usd: str | None = ""
    path: str | None = None
    job_id: str = ""
    request_id: str | None = None
    images: int = 0
    waited_s: float = 0
    queries: int = 0
    files: tuple[_File, ...] = ()


_read: Final = Decoder(_Line).decode  # into an object of known type: half of what a dict takes


class Live(Struct, gc=False):
    """A plain history that is under way: where its lines so far begin, and what they said."""

    first: _Line
    places: list[int] = []
    job: str = ""
    files: tuple[_File, ...] = ()


class Keeper(Protocol):
    """The state that plain histories are taken in for."""

    seq: int

    def fold(self, line: bytes, at: int) -> None:
        """Take in one line with its newline, whatever it says. Raises BadLine."""
        ...

    def fold_late(self, key: str, at: int) -> None:
        """Take in the line at this place, of a plain history: it was counted already, and is known to be sound."""
        ...

    def is_new(self, key: str) -> bool:
        """Tell if surely no history has this key."""
        ...

    def is_free(self, path: str) -> bool:
        """Tell if surely no history has a file at `path`."""
        ...

    def settle(self, plain: Sequence[Live]) -> None:
        """Keep plain histories that are saved, whose keys are new and whose paths are free."""
        ...


class PlainLines:
    """Takes in a ledger's lines for its state."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._live: dict[str, Live] = {}  # by key, as long as the keeper does not know it
        self._hours: set[str] = set()  # that the clock knows
        self._second = ""  # the last that it knew: a busy run has many lines of each
        self._saved: dict[str, Live] = {}  # those that are to be settled, by path

    def take(self, lines: Sequence[bytes], at: int) -> int:
        """Take in lines, each with its newline, of which the first begins at `at`; gives where the last one ends.

        Raises BadLine; the keeper's `seq` is then that of the line before.
        """
        keeper, sound = self._keeper, _sums_fit(lines)
        places = [*accumulate(map(len, lines), initial=at)]
        first = keeper.seq + 1
        for seq, line, place in zip(count(first), lines, places):
            live = self._of(line, seq) if sound else None  # else the fold finds the line that is not
            if live is not None:
                live.places.append(place)
            else:
                self._settle()
                keeper.seq = seq - 1
                keeper.fold(line, place)
        keeper.seq = first + len(lines) - 1
        self._settle()
        return places[-1]

    def _of(self, line: bytes, seq: int) -> Live | None:
        """Give the plain history whose next line this is, if there is one, with what the line says taken in."""
        try:
            said = _read(line)
        except (MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if said.seq != seq:
            return None
        live = self._live.get(said.key)
        if live is None:
            return self._begun(said, line)
        stage = len(live.places)
        if said.type != _AWAITED[stage] or said.task != live.first.task or said.request is not UNSET:
            return None  # and with it goes the history, as the fold will ask for it
        if stage == 1:
            live.job = said.job_id
            return live if said.job_id and said.attempt == 1 and self._is_time(said.ts) else None
        if said.job_id != live.job:
            return None
        if stage == 3:
            live.files = said.files
            return live if len(said.files) == 1 else None
        if stage == 4:
            return live if said.files == live.files and self._saves(live) else None
        return live

    def _begun(self, said: _Line, line: bytes) -> Live | None:
        """Begin a history if this is a plain first line, of a key that is new."""
        usd = said.usd
        if said.type != "submitting" or said.attempt != 1 or said.path is None or said.request is UNSET:
            return None
        if usd is not None and not _USD.fullmatch(usd):
            return None
        if len(line) > 2 * _DEEP and line.count(b"{") + line.count(b"[") > _DEEP:
            return None
        if not self._keeper.is_new(said.key):
            return None
        live = self._live[said.key] = Live(said)
        return live

    def _is_time(self, ts: str) -> bool:
        """Tell if there is such a time, written as a ledger's are."""
        second = ts[:_SECOND]
        if second != self._second:
            if not self._is_second(second):
                return False
            self._second = second
        return ts[_SECOND:] in _MILLIS

    def _is_second(self, text: str) -> bool:
        hour = text[: len("2026-01-01T00")]
        if hour not in self._hours:
            try:
                seconds_of(f"{hour}:59:59Z")  # hour 24 has a first second, by later Pythons
            except ValueError:
                return False
            if not _HOUR.fullmatch(hour):  # some other form of a date, whose hours may be written otherwise
                return False
            self._hours.add(hour)
        return _MINUTES.fullmatch(text, len(hour)) is not None

    def _saves(self, live: Live) -> bool:
        path = live.files[0].path
        if path in self._saved or not self._keeper.is_free(path):
            return False
        self._saved[path] = live
        return True

    def _settle(self) -> None:
        if self._saved:
            self._keeper.settle([*self._saved.values()])
            for live in self._saved.values():
                del self._live[live.first.key]
            self._saved.clear()

    def give_up(self, key: str) -> None:
        """Give the lines of the history with this key, if it is under way, to the fold: it is plain no more."""
        live = self._live.pop(key, None)
        if live is not None:
            for place in live.places:
                self._keeper.fold_late(key, place)

    def give_up_all(self) -> None:
        """Give all that is under way to the fold."""
        for key in [*self._live]:
            self.give_up(key)


def _sums_fit(lines: Sequence[bytes]) -> bool:
    """Tell if each line ends with the checksum of what is before, as `encode` writes it."""
    sums = map(crc32, map(_BODY, lines))
    tails = pack(f">{len(lines)}I", *sums).hex("|", 4).replace("|", '"}\n,"crc":"')
    return b"".join(map(_END, lines)) == b',"crc":"%b"}\n' % tails.encode()
