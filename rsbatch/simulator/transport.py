"""The simulator inside the process: an httpx transport in place of the network.

Rule: public API of httpx only; works on asyncio and trio, in real and in virtual time. Whatever host is asked
is the simulator's; URLs of images are built from the request's own Host. Timeouts of the request are kept to,
faults of the connection are raised as httpx raises them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx

from rsbatch.simulator.delivery import Draw, HungUp, Parcel, Sleep, draw_here, draw_in_thread, pack
from rsbatch.simulator.engine import Engine
from rsbatch.simulator.wire import Request


class SimulatorTransport(httpx.AsyncBaseTransport):
    """Serves an engine to `httpx.AsyncClient(transport=…)`.

    `clock` gives epoch seconds. With `paint_in_thread` images are drawn in a worker thread, which virtual
    time does not allow. The engine may be shared by several transports.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = anyio.sleep,
        paint_in_thread: bool = False,
    ) -> None:
        self.engine = engine
        self._clock = clock
        self._sleep = sleep
        self._draw: Draw = draw_in_thread if paint_in_thread else draw_here

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request.

        Raises httpx.ReadError, httpx.ReadTimeout and httpx.RemoteProtocolError as faults.
        """
        body = await request.aread()
        settings = self.engine.settings
        # Without latency this is the only checkpoint of a good request: it comes before the request is accepted.
        await self._sleep(settings.one_way)
        answer = self.engine.handle(_translate(request, body), self._clock())
        try:
            parcel = await _within(request, pack, answer, settings, sleep=self._sleep, draw=self._draw)
        except HungUp:
            raise httpx.ReadError("the simulator reset the connection", request=request) from None
        stream = _Body(parcel, request, self._sleep)
        return httpx.Response(parcel.status, headers=list(parcel.headers), stream=stream, request=request)


class _Body(httpx.AsyncByteStream):
    def __init__(self, parcel: Parcel, request: httpx.Request, sleep: Sleep) -> None:
        self._parcel = parcel
        self._request = request
        self._sleep = sleep

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._parcel.chunks(self._sleep)
        while True:
            try:
                chunk = await _within(self._request, anext, chunks)
            except StopAsyncIteration:
                return
            except HungUp:
                text = "peer closed connection without sending complete message body"
                raise httpx.RemoteProtocolError(text, request=self._request) from None
            yield chunk


def _translate(request: httpx.Request, body: bytes) -> Request:
    host = request.headers.get("host") or request.url.netloc.decode()
    return Request(
        method=request.method,
        path=request.url.path,
        origin=f"{request.url.scheme}://{host}",
        query=request.url.query.decode("ascii"),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
    )


async def _within(request: httpx.Request, ask: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Await `ask(…)` for at most the request's read timeout (seconds). Raises httpx.ReadTimeout after it."""
    limit = request.extensions.get("timeout", {}).get("read")
    with anyio.move_on_after(limit):
        return await ask(*args, **named)
    raise httpx.ReadTimeout("the simulator did not answer in time", request=request)
