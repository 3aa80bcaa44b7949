"""Plain lines of a large ledger, taken in many at a time.

Rule: this is only a faster way to what the fold says. A history is plain if it has the five records of an image that
came as it should, each as `records.encode` writes it. Every byte of such a line is proved: it is what is always there,
or of a form that needs no parser, or the JSON parser reads it, or it is the same as in an earlier line of its history.
Any other line goes to the fold; before it go the lines of its history, which are held until the image is saved.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from struct import pack
from typing import Final, Protocol

from pydantic_core import from_json

from rsbatch.ledger.records import seconds_of

Row = tuple[int, str, str, str, str, int, int, int]
"""`seq` of the first record, id, key, path of the image, job, and places of `submitting`, `submitted` and `saved`."""

_FEW: Final = 32
"""Of so few lines whose heads are not alike, each goes to the fold."""
_VERSION: Final = len('{"v":')
_SEQ: Final = len('{"v":1,"seq":')
_TS: Final = len(',"ts":"')
_TAIL: Final = len(',"crc":"00000000"}')
_JOB: Final = b',"job_id":'
_DIGITS: Final = bytes(ord("0") if n in b"0123456789" else n for n in range(256))

_TEXT = rb"[ !#-\[\]-~\x80-\xff]"  # what stands in JSON as it is, if it is UTF-8
_ASCII = rb"[ !#-\[\]-~]"
_INT = rb"(?:0|[1-9]\d{0,14})"
_HEAD: Final = re.compile(
    rb'\{"v":1,"seq":(\d+),"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","run":"%b*","type":"' % _ASCII
)
_SUBMITTING: Final = re.compile(
    rb'submitting(","task":"(%b+)","key":"(%b+)"),"attempt":1,"request":(\{.*\}),'
    rb'"usd":(?:null|"(\d{1,6}(?:\.\d{1,12})?)"),"path":"%b*"' % (_TEXT, _TEXT, _TEXT)
)
_SUBMITTED: Final = re.compile(rb'("%b+"),"request_id":(?:null|"%b*")' % (_ASCII, _ASCII))
_GENERATED: Final = re.compile(rb',"images":%b,"waited_s":%b(?:\.\d{1,9})?,"queries":%b' % (_INT, _INT, _INT))
_DOWNLOADED: Final = re.compile(
    rb',"files":\[\{"path":"(%b+)","bytes":%b,"sha256":"%b*","format":"%b*","width":%b,"height":%b\}\]'
    % (_TEXT, _INT, _ASCII, _ASCII, _INT, _INT)
)


class Live:
    """A plain history that is under way: its lines so far with their places, and what its next line must say."""

    __slots__ = ("awaits", "held", "job", "key", "path", "said", "seq", "task", "usd", "who")

    def __init__(self, seq: int, who: bytes, task: str, key: str, usd: str | None) -> None:
        self.seq, self.who, self.task, self.key, self.usd = seq, who, task, key, usd
        self.awaits = b'submitted%b,"attempt":1' % who
        self.job = self.said = b""
        self.path = ""
        self.held: list[tuple[bytes, int]] = []

    @property
    def row(self) -> Row:
        """What is kept of it once it is saved."""
        held = self.held
        job = self.job[1:-1].decode()
        return self.seq, self.task, self.key, self.path, job, held[0][1], held[1][1], held[4][1]


class Keeper(Protocol):
    """The state that plain histories are taken in for."""

    seq: int

    def fold(self, line: bytes, at: int) -> None:
        """Take in one line, whatever it says. Raises BadLine."""
        ...

    def fold_late(self, line: bytes, at: int) -> None:
        """Take in a line of a plain history that was counted already, and is known to be sound."""
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
        self._awaited: dict[bytes, Live] = {}  # by how the next line of each begins, after its head
        self._live: dict[str, Live] = {}  # by key, as long as the keeper does not know it
        self._saved: dict[str, Live] = {}  # those that are to be settled, by path
        self._hours: set[bytes] = set()  # that the clock knows

    def take(self, lines: Sequence[bytes], at: int) -> int:
        """Take in lines, without their newlines, of which the first begins at `at`; gives where the last one ends.

        Raises BadLine; the keeper's `seq` is then that of the line before.
        """
        head = _head(lines, self._keeper.seq + 1)
        if head is not None and _sums_fit(lines):
            return self._take(lines, at, head)
        if len(lines) > _FEW:
            half = len(lines) // 2
            return self.take(lines[half:], self.take(lines[:half], at))
        for line in lines:
            self._keeper.fold(line, at)
            at += len(line) + 1
        return at

    def _take(self, lines: Sequence[bytes], at: int, head: _Head) -> int:
        keeper, awaited = self._keeper, self._awaited
        places = [*accumulate([len(line) + 1 for line in lines], initial=at)]
        rests = [line[head.size : -_TAIL] for line in lines]
        first = keeper.seq + 1
        for seq, line, place, rest in zip(count(first), lines, places, rests):
            begins, _, says = rest.partition(_JOB)
            live = awaited.pop(begins, None)
            if live is None:
                live = self._begun(rest, seq)
                goes_on = live is not None
            else:
                goes_on = self._goes_on(live, says, line, head)
            if live is not None and goes_on:
                live.held.append((line, place))
                continue
            self._settle()
            if live is not None:
                self.give_up(live.key)
            keeper.seq = seq - 1
            keeper.fold(line, place)
        keeper.seq = first + len(lines) - 1
        self._settle()
        return places[-1]

    def _begun(self, rest: bytes, seq: int) -> Live | None:
        """Begin a history if this is a plain first line, of a key that is new."""
        found = _SUBMITTING.fullmatch(rest)
        if found is None:
            return None
        who, task, key, request, usd = found.groups()
        try:
            rest.decode()
            if len(from_json(b"[%b]" % request, cache_strings="keys")) != 1:  # as deep as it is in the line
                return None
        except ValueError:
            return None
        live = Live(seq, who, task.decode(), key.decode(), None if usd is None else usd.decode())
        if live.key in self._live or not self._keeper.is_new(live.key):
            return None
        self._live[live.key] = self._awaited[live.awaits] = live
        return live

    def _goes_on(self, live: Live, says: bytes, line: bytes, head: _Head) -> bool:
        """Tell if the line that a history awaits says what it should after the name of its job."""
        number, job = len(live.held), live.job
        if number == 4:
            if says != live.said or live.path in self._saved or not self._keeper.is_free(live.path):
                return False
            self._saved[live.path] = live
            return True
        if number == 1:
            found = _SUBMITTED.fullmatch(says)
            if found is None or not self._is_time(line, head.time):
                return False
            live.job = found[1]
            live.awaits = b"generated" + live.who
        elif not says.startswith(job):
            return False
        elif number == 2:
            if _GENERATED.fullmatch(says, len(job)) is None:
                return False
            live.awaits = b"downloaded" + live.who
        else:
            found = _DOWNLOADED.fullmatch(says, len(job))
            try:
                if found is None:
                    return False
                live.path = found[1].decode()
            except UnicodeDecodeError:
                return False
            live.said = says
            live.awaits = b"saved" + live.who
        self._awaited[live.awaits] = live
        return True

    def _is_time(self, line: bytes, at: int) -> bool:
        """Tell if there is such a time; its form is known."""
        hour = line[at : at + len("2026-01-01T00")]
        if hour not in self._hours:
            try:
                seconds_of(f"{hour.decode()}:00:00Z")
            except ValueError:
                return False
            self._hours.add(hour)
        return line[at + len("2026-01-01T00:")] < ord("6") and line[at + len("2026-01-01T00:00:")] < ord("6")

    def _settle(self) -> None:
        if self._saved:
            self._keeper.settle([*self._saved.values()])
            for live in self._saved.values():
                del self._live[live.key]
            self._saved.clear()

    def give_up(self, key: str) -> None:
        """Give the lines of the history with this key, if it is under way, to the fold: it is plain no more."""
        live = self._live.pop(key, None)
        if live is not None:
            self._awaited.pop(live.awaits, None)
            for line, place in live.held:
                self._keeper.fold_late(line, place)

    def give_up_all(self) -> None:
        """Give all that is under way to the fold."""
        for key in [*self._live]:
            self.give_up(key)


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands before the type in each of some lines: how long it is, and where the time begins in it."""

    size: int
    time: int


def _head(lines: Sequence[bytes], first: int) -> _Head | None:
    """Measure the heads of lines that are numbered from `first` on, and whose heads are alike but for digits.

    None if they are not: then nothing is proved.
    """
    match = _HEAD.match(lines[0])
    digits = len(str(first))
    if match is None or match.end(1) != _SEQ + digits or len(str(first + len(lines) - 1)) != digits:
        return None
    size = match.end()
    heads = b"".join([line[:size] for line in lines])
    if heads.translate(_DIGITS) != match[0].translate(_DIGITS) * len(lines):
        return None
    if heads[_VERSION::size] != b"1" * len(lines):
        return None
    numbers = str(list(range(first, first + len(lines))))[1:-1].replace(", ", "").encode()
    for digit in range(digits):
        if heads[_SEQ + digit :: size] != numbers[digit::digits]:
            return None
    return _Head(size, match.end(1) + _TS)


def _sums_fit(lines: Sequence[bytes]) -> bool:
    """Tell if each line ends with the checksum of what is before, as `encode` writes it."""
    sums = map(zlib.crc32, [line[:-_TAIL] for line in lines])
    tails = pack(f">{len(lines)}I", *sums).hex("|", 4).replace("|", '"},"crc":"')
    return b"".join([line[-_TAIL:] for line in lines]) == b',"crc":"%b"}' % tails.encode()
