"""Records that are put at the same time share one sync."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from rsbatch.clock import SystemClock
from rsbatch.errors import StoreError
from rsbatch.ledger import records
from rsbatch.ledger.memory import MemoryDisk
from rsbatch.ledger.records import Record
from rsbatch.ledger.writer import Ledger
from torture.mishaps import Fuse, FusedFile

WRITERS = 256


class Book:
    """A ledger in memory that counts the lines of each append."""

    def __init__(self, *, fails: int | None = None) -> None:
        self.disk = MemoryDisk()
        self.fuse = Fuse()
        self.fuse.fails = fails
        self.groups: list[int] = []
        inner, state = self.disk.open()
        self._file = FusedFile(inner, self.disk, self.fuse, None)
        self.ledger = Ledger(self, state, clock=SystemClock(), run="r")  # type: ignore[arg-type]

    async def append(self, data: bytes) -> None:
        self.groups.append(data.count(b"\n"))
        await self._file.append(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def intent(number: int) -> Record:
    return records.submitting(f"task-{number}", f"{number:064x}", attempt=1, request=None, usd=None, path="")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
async def test_all_that_are_ready_at_once_are_one_group(anyio_backend: str) -> None:
    """Also those whom the end of a sync set going: none has the next one for itself.

    Trio goes on with them in an order that is left to chance, so that some may come one turn late there.
    """
    book, rounds = Book(), 4

    async def writer(number: int) -> None:
        for n in range(rounds):
            await book.ledger.write(intent(number * rounds + n))
            assert f'"task-{number * rounds + n}"'.encode() in book.disk.data

    async with anyio.create_task_group() as group:
        for number in range(WRITERS):
            group.start_soon(writer, number)
    assert sum(book.groups) == WRITERS * rounds
    if anyio_backend == "asyncio":
        assert book.groups == [WRITERS] * rounds


@pytest.mark.anyio
async def test_one_alone_waits_for_nobody() -> None:
    book = Book()
    await book.ledger.write(intent(1))
    await book.ledger.write(intent(2))
    assert book.groups == [1, 1]


@pytest.mark.anyio
async def test_a_failed_append_fails_the_whole_group_and_is_the_last() -> None:
    book = Book(fails=1)
    failed = 0

    async def writer(number: int) -> None:
        nonlocal failed
        for n in range(2):
            with pytest.raises(StoreError):
                await book.ledger.write(intent(number * 2 + n))
            failed += 1

    async with anyio.create_task_group() as group:
        for number in range(WRITERS):
            group.start_soon(writer, number)
    assert (book.groups, failed) == ([WRITERS], 2 * WRITERS)
    assert book.disk.data == b""
    assert book.disk.rescued.count(b"\n") == 2 * WRITERS


@pytest.mark.anyio
async def test_who_is_cancelled_before_the_write_begins_leaves_it_to_the_others() -> None:
    book = Book()
    seq = book.ledger.put(intent(0))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await book.ledger.commit(seq)
    assert (scope.cancelled_caught, book.groups, book.ledger.failure) == (True, [], None)
    await book.ledger.write(intent(1))
    assert book.groups == [2]


def test_a_task_that_asyncio_cancels_before_the_write_begins_leaves_it_to_the_others() -> None:
    book = Book()

    async def main() -> None:
        first, second = (asyncio.create_task(book.ledger.write(intent(number))) for number in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second

    asyncio.run(main())
    assert (book.groups, book.ledger.failure) == ([2], None)


@pytest.mark.anyio
async def test_what_is_durable_does_not_go_to_the_rescue_whatever_comes_after() -> None:
    """An intent in the rescue counts as never sent, and who waits for one that is durable sends."""
    book, sent = Book(), []

    def no_memory(end: int) -> None:
        raise MemoryError

    book.ledger.state.written = no_memory  # type: ignore[method-assign]

    async def submit(number: int) -> None:
        with suppress(MemoryError):
            await book.ledger.write(intent(number))
            sent.append(number)

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(submit, number)
    assert len(sent) == 1, "one met the error, the other did not"
    assert (book.disk.data.count(b"\n"), book.disk.rescued) == (2, b"")
