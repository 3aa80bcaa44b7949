"""What a large ledger says: the history of a saved image is held as the places of its lines.

Rule: a history with the plain five records (`submitting`, `submitted`, `generated`, `downloaded`, `saved`) is three
places in the file and what finds them, 100 bytes in all instead of a thousand; it is made again, by the same fold,
when it is asked for. Any other history is held as `LedgerState` holds it, and so is one to which something happens
later, and one whose lines are not all durable. What must be read for a record is read before anything is changed:
where that fails, nothing has happened.

While anybody holds a history, to ask for it again gives the same object.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from heapq import merge
from operator import attrgetter
from struct import pack
from typing import Any, Final
from weakref import WeakValueDictionary

from rsbatch.errors import StoreError
from rsbatch.ledger.plain import Live, PlainLines
from rsbatch.ledger.records import BadLine, decode
from rsbatch.ledger.state import Bucket, History, LedgerState
from rsbatch.lifecycle import Event, State

_PLAIN: Final = [Event.SUBMITTING, Event.SUBMITTED, Event.GENERATED, Event.DOWNLOADED, Event.SAVED]
_SINCE = attrgetter("since")
_BIG: Final = 2**20
"""Places of a table, 4 MiB, from which on it grows more slowly."""
_SMALL: Final = 2**10
_SHORT: Final = 2 * 1024
"""Bytes of a history whose prompt is short: with a line of it they are 1,800."""


class LargeState(LedgerState):
    """A ledger's state whose plain saved histories are read again from `line_at`, which gives the line at a place.

    `line_at` is asked for places of records that `take` or `written` was told of. It raises StoreError, as do all
    methods that give histories, but for `unsettled` and `jobs_out`, and `apply`. `size` is that of the ledger in bytes,
    if it is known before.
    """

    def __init__(self, line_at: Callable[[int], bytes], size: int = 0) -> None:
        super().__init__()
        self._line_at = line_at
        self._rows = _Rows(size // _SHORT)
        self._made: WeakValueDictionary[int, History] = WeakValueDictionary()
        self._maker = LedgerState()
        self._places: dict[int, tuple[int, ...]] = {}
        """Of the lines of plain histories that are not saved yet, by `since`."""
        self._done: OrderedDict[int, tuple[History, str, tuple[int, ...]]] = OrderedDict()
        """Those that are, while a line of theirs cannot be read yet; with the path of the image."""
        self._readable = 0
        """The place before which all lines can be read."""
        self._plain = PlainLines(self)

    def written(self, end: int) -> None:
        """See `LedgerState`."""
        self._readable = end
        self._let_go()

    # what can be asked

    def __len__(self) -> int:
        return super().__len__() + len(self._rows)

    def histories(self) -> Iterable[History]:
        """See `LedgerState`."""
        rows = sorted(self._rows, key=self._rows.since.__getitem__)
        return merge(map(self._history, rows), self.unsettled(), key=_SINCE)

    def unsettled(self) -> Iterable[History]:
        """See `LedgerState`."""
        return sorted(super().histories(), key=_SINCE)  # what is held again comes last

    def settled(self) -> Iterable[int]:
        """See `LedgerState`; nothing is read for it."""
        return map(self._rows.since.__getitem__, self._rows)

    def find(self, task: str, key: str) -> tuple[int, bool] | None:
        """See `LedgerState`; by the two names' hashes of 64 bits, without reading."""
        held = super().get(task, key)
        if held is not None:
            return held.since, held.out
        row = self._rows.find(task, key)
        return None if row is None else (self._rows.since[row], False)

    def get(self, task: str, key: str) -> History | None:
        """See `LedgerState`."""
        self._plain.give_up(key)
        held = super().get(task, key)
        row = None if held is not None else self._rows.find(task, key)
        return held if row is None else self._history(row)

    def of_key(self, key: str) -> list[History]:
        """See `LedgerState`."""
        return sorted([*super().of_key(key), *map(self._history, self._rows.of_key(key))], key=_SINCE)

    def of_id(self, task: str) -> list[History]:
        """See `LedgerState`."""
        return sorted([*super().of_id(task), *map(self._history, self._rows.of_task(task))], key=_SINCE)

    def of_job(self, job_id: str) -> History | None:
        """See `LedgerState`; nothing is read where no history has the job."""
        held = super().of_job(job_id)
        if held is not None:
            return held
        return next((h for h in map(self._history, self._rows.of_job(job_id)) if h.job_id == job_id), None)

    def owner_of(self, path: str) -> History | None:
        """See `LedgerState`."""
        held = super().owner_of(path)
        row = None if held is not None else self._rows.of_path(path)
        return held if row is None else self._history(row)

    def _history(self, row: int) -> History:
        """Make the history of a row from its lines."""
        made = self._made.get(row)
        if made is None:
            made = self._made[row] = self._read(row)
        return made

    def _read(self, row: int) -> History:
        rows, maker = self._rows, self._maker
        try:
            intent, job, end = (decode(self._line_at(places[row])) for places in rows.places)
            history = History(end["task"], end["key"], intent["seq"])
            if rows.find(history.task, history.key) != row or history.since != rows.since[row]:
                raise BadLine("another task")
            maker._submitting(history, intent, rows.places[0][row])
            maker._attached(history, job, rows.places[1][row])
            maker._charge(history, Bucket.DELIVERED)
            maker._saved(history, end, rows.places[2][row])
        except (BadLine, LookupError, TypeError, ValueError, ArithmeticError):
            raise _replaced() from None
        maker._owners.clear()
        history.state = State.SAVED
        return history

    # the fold

    def take(self, blocks: Iterable[Sequence[bytes]]) -> int:
        """See `LedgerState`; plain histories are kept without a fold of their records."""
        at = 0
        for lines in blocks:
            at = self._plain.take(lines, at)
            self.written(at)
        self._plain.give_up_all()
        return at

    def fold(self, line: bytes, at: int) -> None:
        """Take in one line with its newline, whatever it says. Raises BadLine."""
        self.apply(decode(line[:-1]), at)

    def fold_late(self, key: str, at: int) -> None:
        """Take in the line at this place, of a plain history: it was counted already, and is known to be sound."""
        seq = self.seq
        try:
            value = decode(self._line_at(at))
            if value.get("key") != key:
                raise BadLine("another task")
            self.seq = value["seq"] - 1
            self.apply(value, at)
        except BadLine:
            raise _replaced() from None
        self.seq = seq

    def is_new(self, key: str) -> bool:
        """Tell if surely no history has this key."""
        return key not in self._by_key and not self._rows.keys.knows(key)

    def is_free(self, path: str) -> bool:
        """Tell if surely no history has a file at `path`."""
        return path not in self._owners and not self._rows.paths.knows(path)

    def settle(self, plain: Sequence[Live]) -> None:
        """Keep plain histories that are saved, whose keys are new and whose paths are free."""
        firsts, places = [live.first for live in plain], [live.places for live in plain]
        self._rows.add(
            [first.seq for first in firsts],
            [first.task for first in firsts],
            [first.key for first in firsts],
            [live.files[0].path for live in plain],
            [live.job for live in plain],
            [of_lines[0] for of_lines in places],
            [of_lines[1] for of_lines in places],
            [of_lines[4] for of_lines in places],
        )
        for usd, number in Counter([first.usd for first in firsts]).items():
            self.spend.add(None if usd is None else Decimal(usd), Bucket.DELIVERED, number)

    def _held(self, task: str, key: str) -> History | None:
        self._plain.give_up(key)
        held = super().get(task, key)
        if held is not None:
            self._done.pop(held.since, None)
            return held
        row = self._rows.find(task, key)
        return None if row is None else self._hold(row)

    def _step(self, event: Event, value: Mapping[str, Any], at: int) -> History:
        history = super()._step(event, value, at)
        self._follow(history, event, value, at)
        return history

    def _take_over(self, paths: Iterable[str]) -> None:
        """Hold who has these paths now: of two with one path both are held, as its owner may change again."""
        rows = {row for row in map(self._rows.of_path, paths) if row is not None}
        former = {row: self._history(row) for row in rows}  # all are read before one is held
        for row in former:
            self._hold(row)

    def _follow(self, history: History, event: Event, value: Mapping[str, Any], at: int) -> None:
        """Take down where a plain history's lines are, and let go of it once it is saved."""
        since = history.since
        places = self._places.get(since)
        if places is None:
            if event is Event.SUBMITTING and since == value["seq"]:
                self._places[since] = (at,)
        elif event is not _PLAIN[len(places)]:
            del self._places[since]
        elif event is not Event.SAVED:
            self._places[since] = (*places, at)
        else:
            del self._places[since]
            if len(value["files"]) == 1:
                self._done[since] = history, value["files"][0]["path"], (*places, at)
                self._let_go()

    def _let_go(self) -> None:
        """Hold saved histories whose lines can be read as rows, if each is alone with its key and its path.

        Rows of one key would make a search of the table long.
        """
        rows: list[tuple[int, str, str, str, str, int, int, int]] = []
        first = self._rows.ever
        while self._done:
            history, path, places = next(iter(self._done.values()))
            if places[-1] >= self._readable:
                break
            self._done.popitem(last=False)
            job = str(history.job_id)  # it is saved, so it has one
            if self._is_alone(history) and self._owners.get(path) is history:
                self._forget(history, path, job)
                self._made[first + len(rows)] = history
                rows.append((history.since, history.task, history.key, path, job, places[0], places[1], places[4]))
        if rows:
            self._rows.add(*zip(*rows, strict=True))

    def _is_alone(self, history: History) -> bool:
        return self._by_key.get(history.key) is history and not self._rows.keys.knows(history.key)

    def _forget(self, history: History, path: str, job: str) -> None:
        """Take a history out of all that finds it."""
        self._count -= 1
        del self._by_key[history.key], self._owners[path]
        if self._by_id is not None:
            self._by_id[history.task].remove(history)
            if not self._by_id[history.task]:
                del self._by_id[history.task]
        if self._by_job is not None and self._by_job.get(job) is history:
            del self._by_job[job]

    def _hold(self, row: int) -> History:
        """Hold the history of a row as an object again: something happens to it."""
        history = self._history(row)
        self._rows.drop(row)
        self._add(history)
        for file in history.files:
            self._owners[file.path] = history
        if self._by_job is not None and history.job_id is not None:
            self._by_job[history.job_id] = history
        return history


class _Rows:
    """Histories as numbers: hashes of what finds them, and where their lines are; `likely` is about how many come."""

    def __init__(self, likely: int) -> None:
        self.since = array("Q")
        self.places = (array("Q"), array("Q"), array("Q"))
        """Where the lines `submitting`, `submitted` and `saved` begin, in bytes."""
        self._dropped: set[int] = set()
        self.keys, self.paths, self._tasks, self._jobs = (_Index(self._dropped, likely) for _ in range(4))

    def __len__(self) -> int:
        return self.ever - len(self._dropped)

    @property
    def ever(self) -> int:
        """How many there are with those that were dropped: what the next one's number is."""
        return len(self.since)

    def __iter__(self) -> Iterator[int]:
        return (row for row in range(len(self.since)) if row not in self._dropped)

    def add(
        self,
        since: Sequence[int],
        tasks: Iterable[str],
        keys: Iterable[str],
        paths: Iterable[str],
        jobs: Iterable[str],
        *places: Sequence[int],
    ) -> None:
        """Take in histories, each a value of every column; the last three are where `places` begin."""
        for column, values in zip((self.since, *self.places), (since, *places), strict=True):
            _extend(column, values)
        self.keys.add(keys)
        self.paths.add(paths)
        self._tasks.add(tasks)
        self._jobs.add(jobs)

    def drop(self, row: int) -> None:
        """Forget a row."""
        self._dropped.add(row)

    def find(self, task: str, key: str) -> int | None:
        """Give the row of exactly this id and key."""
        for row in self.keys.rows(key):
            if self._tasks.has(row, task):
                return row
        return None

    def of_key(self, key: str) -> list[int]:
        """Give the rows of a key."""
        return self.keys.rows(key)

    def of_task(self, task: str) -> list[int]:
        """Give the rows of an id."""
        return self._tasks.rows(task)

    def of_job(self, job_id: str) -> list[int]:
        """Give the rows whose job has this id, or another of the same hash."""
        return self._jobs.rows(job_id)

    def of_path(self, path: str) -> int | None:
        """Give the row whose image stands at `path`; no two have the same."""
        rows = self.paths.rows(path)
        return rows[0] if rows else None


class _Index:
    """Finds rows by a text of each, held as its hash of 64 bits; but for those that are in `dropped`.

    A table with open addressing, four bytes a place, half of them free or more; made when it is first asked, and then
    for as many as are likely to come: else half of the time would go into making it anew as it grows.
    """

    def __init__(self, dropped: set[int], likely: int) -> None:
        self._numbers, self._dropped = array("q"), dropped
        self._table = array("I")
        self._last = 0
        self._first = max(_SMALL, 1 << (2 * likely - 1).bit_length())

    def add(self, texts: Iterable[str]) -> None:
        """Take in the next rows' texts."""
        numbers = [*map(hash, texts)]
        _extend(self._numbers, numbers)
        if self._table:
            self._put(numbers)

    def has(self, row: int, text: str) -> bool:
        """Tell if this is the row's text, by its hash."""
        return self._numbers[row] == hash(text)

    def knows(self, text: str) -> bool:
        """Tell if any row has this text, one that was dropped included."""
        table, last = self._table or self._made(), self._last
        number = hash(text)
        at = number & last
        while row := table[at]:
            if self._numbers[row - 1] == number:
                return True
            at = (at + 1) & last
        return False

    def rows(self, text: str) -> list[int]:
        """Give the rows with this text."""
        table, last = self._table or self._made(), self._last
        number = hash(text)
        at = number & last
        found = []
        while row := table[at]:
            if self._numbers[row - 1] == number and row - 1 not in self._dropped:
                found.append(row - 1)
            at = (at + 1) & last
        return found

    def _made(self) -> array[int]:
        self._put(self._numbers)
        return self._table

    def _put(self, numbers: Sequence[int]) -> None:
        """Put the last rows, whose numbers these are, into the table."""
        if 2 * len(self._numbers) > len(self._table) or not self._table:
            places = len(self._table) or self._first
            while 2 * len(self._numbers) > places:
                places *= 4 if places < _BIG else 2
            self._table, self._last = array("I", bytes(4 * places)), places - 1
            numbers = self._numbers
        table, last = self._table, self._last
        for row, number in enumerate(numbers, len(self._numbers) - len(numbers) + 1):
            at = number & last
            while table[at]:
                at = (at + 1) & last
            table[at] = row


def _replaced() -> StoreError:
    return StoreError("the ledger was replaced while it was read; run the command again")


def _extend(column: array[int], values: Sequence[int]) -> None:
    """Add to a column; `array.extend` takes five times as long."""
    column.frombytes(pack(f"{len(values)}{column.typecode}", *values))
