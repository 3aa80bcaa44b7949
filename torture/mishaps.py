"""What breaks a world in memory: a fuse that kills the run, a slow or failing disk, a network with bad hours.

Rule: each stands round a shipped implementation and passes everything on that it does not break. Once the fuse has
blown the process is gone: nothing it still tries has any effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Any

import anyio
import httpx
from anyio.lowlevel import checkpoint

from rsbatch.errors import StoreError
from rsbatch.ledger.memory import MemoryDisk, MemoryLedgerFile
from rsbatch.simulator import wire
from rsbatch.storage.interface import Part, Storage, write_beside


class Killed(BaseException):
    """The process is gone: raised out of the run at a moment of the test's choice."""


@dataclass
class Fuse:
    """Counts every touch of the world outside and kills the run at touch number `at` (1-based; None: never).

    `torn` is how much of an append gets into the file where the kill strikes in its middle, 0 to 1. Append number
    `fails` (1-based) raises StoreError, its bytes kept in the file or not as `fails_late` says.
    """

    at: int | None = None
    torn: float = 0.5
    fails: int | None = None
    fails_late: bool = False
    count: int = 0
    appends: int = 0
    blown: bool = False
    where: str = ""

    def touch(self, where: str) -> None:
        if self.blown:
            raise Killed(where)
        self.count += 1
        if self.count == self.at:
            self.blown, self.where = True, where
            raise Killed(where)


class FusedFile:
    """A ledger file that may be slow, fail, or be cut off in the middle of an append."""

    def __init__(
        self, inner: MemoryLedgerFile, disk: MemoryDisk, fuse: Fuse, latency: Callable[[], float] | None
    ) -> None:
        self._inner = inner
        self._disk = disk
        self._fuse = fuse
        self._latency = latency

    async def append(self, data: bytes) -> None:
        fuse = self._fuse
        fuse.touch("before an append")
        if self._latency is not None:
            await anyio.sleep(self._latency())
        fuse.appends += 1
        if fuse.appends == fuse.fails:
            if fuse.fails_late:
                await self._inner.append(data)
            raise StoreError("the disk in memory failed, as it was told to")
        try:
            fuse.touch("in the middle of an append")
        except Killed:
            self._disk.data += data[: int(len(data) * fuse.torn)]
            raise
        await self._inner.append(data)
        fuse.touch("after an append")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def rescue(self, lines: Sequence[bytes]) -> str:
        self._fuse.touch("rescue")
        return self._inner.rescue(lines)


class FusedStorage:
    """A storage that a kill may strike before or after each of its methods."""

    def __init__(self, inner: Storage, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def open_part(self, name: str) -> AbstractAsyncContextManager[Part]:
        return self._open_part(name)

    @asynccontextmanager
    async def _open_part(self, name: str) -> AsyncIterator[Part]:
        self._fuse.touch("open_part")
        async with self._inner.open_part(name) as part:
            yield _Fused(part, self._fuse)  # type: ignore[misc]

    async def publish(self, name: str, path: str, sidecar: bytes | None = None) -> bool:
        """In two steps, as on a disk: a kill may come between them."""
        inner: Any = _Fused(self._inner, self._fuse)
        await inner.publish(name, path)
        return sidecar is not None and await write_beside(inner, path, sidecar)

    def __getattr__(self, name: str) -> Any:
        return getattr(_Fused(self._inner, self._fuse), name)


class _Fused:
    def __init__(self, inner: object, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not iscoroutinefunction(method):
            return method

        async def fused(*args: Any, **options: Any) -> Any:
            self._fuse.touch(f"before {name}")
            result = await method(*args, **options)
            self._fuse.touch(f"after {name}")
            return result

        return fused


@dataclass
class Sent:
    """One submission as the network saw it.

    `at` in seconds of the run; `sent` once its first byte left, `reached` once the service has it, `returned` once
    its whole answer is back at the client.
    """

    body: bytes
    at: float
    sent: bool = False
    reached: bool = False
    returned: bool = False
    answer: bytes = b""


@dataclass
class Weather:
    """What is wrong with the network in one run: windows of (begin, end) in seconds of the run, delays in seconds."""

    outages: Sequence[tuple[float, float]] = ()
    storms: Sequence[tuple[float, float]] = ()
    delay: Callable[[], float] | None = None
    breaks: Callable[[], Awaitable[None]] = checkpoint
    """Awaited at each place where a real transport may be cancelled."""
    on_submit: Callable[[], None] = lambda: None
    sent: list[Sent] = field(default_factory=list)
    queries: list[float] = field(default_factory=list)
    open: int = 0
    """Submissions under way."""


class Network(httpx.AsyncBaseTransport):
    """What lies between us and the service: it tells `trace` of its steps as httpcore does, and writes a log."""

    def __init__(self, inner: httpx.AsyncBaseTransport, weather: Weather, fuse: Fuse) -> None:
        self._inner = inner
        self._weather = weather
        self._fuse = fuse

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        weather, now = self._weather, anyio.current_time()
        note = Sent(await request.aread(), now)
        if request.url.path == wire.QUERY:
            weather.queries.append(now)
        if request.url.path != wire.SUBMIT:
            return await self._carry(request, note)
        weather.sent.append(note)
        weather.open += 1
        weather.on_submit()
        try:
            return await self._carry(request, note)
        except BaseException:
            weather.open -= 1
            raise

    async def _carry(self, request: httpx.Request, note: Sent) -> httpx.Response:
        weather, now = self._weather, note.at
        self._fuse.touch("before a request")
        await _trace(request, "connection.connect_tcp.started")
        await self._pass_time()
        if any(begin <= now < end for begin, end in weather.outages):
            raise httpx.ConnectError("connection refused, as it was told to", request=request)
        await _trace(request, "connection.connect_tcp.complete")
        note.sent = True
        await _trace(request, "http11.send_request_headers.started")
        await self._pass_time()
        if any(begin <= now < end for begin, end in weather.storms):
            body = b'{"code": "rate_limit_exceeded", "message": "a storm"}'
            stream = _Watched(httpx.ByteStream(body), note, weather, submits=request.url.path == wire.SUBMIT)
            return httpx.Response(429, stream=stream, request=request)
        note.reached = True
        response = await self._inner.handle_async_request(request)
        self._fuse.touch("after a request")
        await self._pass_time()
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        response.stream = _Watched(stream, note, weather, submits=request.url.path == wire.SUBMIT)
        return response

    async def _pass_time(self) -> None:
        await self._weather.breaks()
        if self._weather.delay is not None:
            await anyio.sleep(self._weather.delay())


class _Watched(httpx.AsyncByteStream):
    """A body that notes when all of it has come; closing it may be cancelled, as closing a socket may."""

    def __init__(self, inner: httpx.AsyncByteStream, note: Sent, weather: Weather, *, submits: bool) -> None:
        self._inner = inner
        self._note = note
        self._weather = weather
        self._submits = submits

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            await self._weather.breaks()
            if self._submits:
                self._note.answer += chunk
            yield chunk
        self._note.returned = True

    async def aclose(self) -> None:
        if self._submits:
            self._submits = False
            self._weather.open -= 1
        await self._weather.breaks()
        await self._inner.aclose()


async def _trace(request: httpx.Request, event: str) -> None:
    trace = request.extensions.get("trace")
    if trace is not None:
        await trace(event, {})
