"""Servers on loopback that send exactly the bytes they are told to."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSListener

Answer = Callable[[SocketStream, bytes], Awaitable[None]]
"""Gets the connection and the request's head, and sends what it likes; then the connection is closed."""


@dataclass
class Server:
    """A listening server; `heads` are the requests that came, in order."""

    port: int
    heads: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Serve = Callable[..., AbstractAsyncContextManager[Server]]


@asynccontextmanager
async def _serve(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    sockets = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Server(sockets.extra(SocketAttribute.local_port))
    listener = sockets if tls is None else TLSListener(sockets, tls, standard_compatible=False)

    async def handle(stream: ByteStream) -> None:
        async with stream:
            head = b""
            try:
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                server.heads.append(head)
                await answer(stream, head)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass  # the client has hung up, which is what some tests are about

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield server
        group.cancel_scope.cancel()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def serve() -> Serve:
    return _serve


def response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Print a whole answer; `length` is what it claims, if that is not the truth."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@pytest.fixture
def send() -> Callable[..., Answer]:
    """Make an answer of `response`'s arguments, or of raw bytes."""

    def make(body: bytes, *headers: str, raw: bool = False, **options: object) -> Answer:
        data = body if raw else response(body, *headers, **options)  # type: ignore[arg-type]

        async def answer(stream: SocketStream, head: bytes) -> None:
            await stream.send(data)

        return answer

    return make
