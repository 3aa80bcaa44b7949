"""The open ledger of a run: stamps records, folds them and makes them durable.

Rule: `put` never waits, so nothing can come between an answer and its record; `commit` returns only when the
record is durable. All that queued up while one sync ran goes with the next, and what the end of a sync set going
goes along (group commit, no timer). After one failed write nothing is written to the file again: what is still in
memory goes to the rescue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import anyio
import anyio.lowlevel

from rsbatch.clock import Clock
from rsbatch.errors import StoreError
from rsbatch.ledger.records import BadLine, Record, decode, encode
from rsbatch.ledger.state import LedgerState


class LedgerFile(Protocol):
    """The bytes of a ledger, locked for one writer."""

    @property
    def size(self) -> int:
        """Bytes that are in the file and durable."""
        ...

    async def append(self, data: bytes) -> None:
        """Add whole lines and make them durable; raises StoreError, after which the file is left alone."""
        ...

    @property
    def nearly_full(self) -> bool:
        """True once a full disk took the reserve: the run must come to its end."""
        ...

    def line_at(self, offset: int) -> bytes:
        """Give the line that begins at `offset`, without its newline."""
        ...

    def rescue(self, lines: Sequence[bytes]) -> str:
        """Keep lines that the file could not take, wherever that can be done; says where."""
        ...

    def close(self) -> None:
        """Give up the lock."""
        ...


class Ledger:
    """The ledger of one run.

    `run` is the run's id. `say` is called with one sentence when lines had to be rescued.
    """

    def __init__(
        self,
        file: LedgerFile,
        state: LedgerState,
        *,
        clock: Clock,
        run: str,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.state = state
        self.run = run
        self.failure: StoreError | None = None
        self._file = file
        self._clock = clock
        self._say = say
        self._queue: list[bytes] = []
        self._end = file.size
        self._durable = state.seq
        self._flushed: anyio.Event | None = None
        state.written(file.size)

    def put(self, record: Record) -> int:
        """Fold the record and queue its line; gives its `seq`. Raises BadLine for an illegal one, queueing nothing."""
        line, value = encode(record, seq=self.state.seq + 1, ts=self._clock.wall(), run=self.run)
        self.state.apply(value, self._end)
        self._end += len(line)
        self._queue.append(line)
        return self.state.seq

    async def commit(self, seq: int) -> None:
        """Return when all records up to `seq` are durable; raises StoreError where they cannot be made so."""
        while self._durable < seq:
            if self._flushed is not None:
                await self._flushed.wait()
            else:
                await self._flush()

    async def write(self, *records: Record) -> None:
        """Put the records and wait until they are durable; raises StoreError where they cannot be made so.

        A cancellation waits for that too. The shield needs no deadline: below it is one sync of the disk, which
        nothing can interrupt.
        """
        seq = self._durable  # of none there is nothing to wait for
        for record in records:
            seq = self.put(record)
        with anyio.CancelScope(shield=True):
            await self.commit(seq)

    async def _flush(self) -> None:
        done = self._flushed = anyio.Event()
        try:
            if self.failure is None:
                # The end of a sync sets many going at once: one turn of the loop, and all of them come along. Without
                # it the first has a sync to itself, while the others wait for the one after it.
                await anyio.lowlevel.checkpoint()
            await self._append()
        finally:
            self._flushed = None
            done.set()

    async def _append(self) -> None:
        lines, self._queue = self._queue, []
        seq = self.state.seq
        try:
            if self.failure is not None:
                self._rescue(lines)
                raise self.failure
            with anyio.CancelScope(shield=True):  # a write that has begun is not left half done
                await self._file.append(b"".join(lines))
            self._durable = seq
        except StoreError as exc:
            if self.failure is None:
                self.failure = exc
                self._rescue(lines)
            raise self.failure from None
        except BaseException:  # asyncio's own Task.cancel goes through shields: what the file has now nobody knows
            if self.failure is None:
                self.failure = StoreError("a write of the ledger was interrupted")
                self._rescue(lines)
            raise
        # Not in the `try`: whatever fails here, these lines are durable, and so not for the rescue.
        self.state.written(self._file.size)

    def _rescue(self, lines: Sequence[bytes]) -> None:
        if lines:
            self._say(self._file.rescue(lines))

    @property
    def nearly_full(self) -> bool:
        """True once a full disk took the reserve: the run must come to its end."""
        return self._file.nearly_full

    def request_of(self, offset: int | None) -> Any:
        """Give the request body recorded in the line at `offset`, None where there is none; raises StoreError."""
        if offset is None or offset >= self._file.size:
            return None
        try:
            return decode(self._file.line_at(offset)).get("request")
        except BadLine as exc:
            raise StoreError(f"the ledger was changed while it was open: {exc}") from None

    async def close(self) -> None:
        """Make the rest durable if that can be done, then give up the lock."""
        try:
            if self._queue:
                with anyio.CancelScope(shield=True):
                    await self.commit(self.state.seq)
        finally:
            self._file.close()
