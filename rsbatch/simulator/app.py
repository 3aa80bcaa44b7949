"""The simulator as an ASGI application.

Rule: plain ASGI, no framework. A connection is ended through `extensions["rsbatch.hang_up"]`, which our
server offers; where another server does not, ConnectionResetError is raised and that server decides.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from rsbatch.simulator.delivery import Draw, HungUp, Sleep, draw_here, draw_in_thread, pack
from rsbatch.simulator.engine import Engine
from rsbatch.simulator.wire import MAX_BODY, Request

HANG_UP = "rsbatch.hang_up"
"""The ASGI extension: a function of one bool, True to reset the connection, False to close it after what was
sent.
"""

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _ClientGone(Exception):
    """The client left before its request was whole."""


def create_app(
    engine: Engine,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Sleep = anyio.sleep,
    paint_in_thread: bool = False,
) -> App:
    """Return the ASGI application round an engine. `clock` gives epoch seconds."""
    draw: Draw = draw_in_thread if paint_in_thread else draw_here

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the simulator speaks http only, not {scope['type']}")
        try:
            body = await _read(receive)
        except _ClientGone:
            return
        settings = engine.settings
        try:
            if settings.one_way > 0:
                await sleep(settings.one_way)
            answer = engine.handle(_translate(scope, body), clock())
            parcel = await pack(answer, settings, sleep=sleep, draw=draw)
        except HungUp:
            await _hang_up(scope, receive, reset=True)
            return
        head = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in parcel.headers]
        await send({"type": "http.response.start", "status": parcel.status, "headers": head})
        try:
            async for chunk in parcel.chunks(sleep):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except HungUp:
            await _hang_up(scope, receive, reset=False)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        if len(body) <= MAX_BODY:  # what goes beyond is read and dropped, and refused with 413
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _translate(scope: Scope, body: bytes) -> Request:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    server = scope.get("server") or ("127.0.0.1", 80)
    host = headers.get("host") or f"{server[0]}:{server[1]}"
    return Request(
        method=scope["method"],
        path=scope["path"],
        origin=f"{scope.get('scheme', 'http')}://{host}",
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        body=body,
    )


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool) -> None:
    hang_up = scope.get("extensions", {}).get(HANG_UP)
    if hang_up is None:
        raise ConnectionResetError("the simulator ends this connection")
    hang_up(reset)
    while (await receive())["type"] != "http.disconnect":
        pass  # the server notices the end before it asks why there is no answer
