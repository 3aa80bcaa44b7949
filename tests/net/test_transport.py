"""What goes out over aiohttp, and what comes of answers that are none."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from rsbatch.net.transport import AiohttpTransport, tls_context
from tests.net.conftest import Serve

pytestmark = pytest.mark.anyio
TIMEOUT = {"timeout": httpx.Timeout(20).as_dict()}
SIGNED = "/a%2Db%7E/%41/x%20y?sig=a%2Bb%2F%3D&t=%20y+z&q=(%27)!*;1"


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(keep=True)
    yield transport
    await transport.aclose()


async def ask(transport: AiohttpTransport, url: str, body: bytes = b"") -> tuple[httpx.Response, bytes]:
    request = httpx.Request("POST" if body else "GET", url, content=body, extensions=TIMEOUT)
    response = await transport.handle_async_request(request)
    try:
        return response, b"".join([piece async for piece in response.aiter_raw()])
    finally:
        await response.aclose()


async def test_a_url_goes_out_byte_for_byte(
    transport: AiohttpTransport, serve: Serve, send: Callable[..., Any]
) -> None:
    """A signature is made over the bytes of a URL; aiohttp alone would tidy it up."""
    async with serve(send(b"ok")) as server:
        await ask(transport, server.url + SIGNED)
    assert server.heads[0].split(b" ")[1].decode() == SIGNED


async def test_nothing_is_added_and_nothing_is_kept(
    transport: AiohttpTransport, serve: Serve, send: Callable[..., Any]
) -> None:
    packed = gzip.compress(b"ok")
    headers = ["Connection: close", "Set-Cookie: a=b", "Content-Encoding: gzip", "Location: /elsewhere"]
    async with serve(send(packed, *headers, status="302 Found")) as server:
        for _ in range(2):
            response, body = await ask(transport, server.url, b"{}")
            assert (response.status_code, response.headers["Location"], body) == (302, "/elsewhere", packed)
    assert len(server.heads) == 2
    for head in server.heads:
        names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line and b":" in line}
        assert names == {b"host", b"content-length"}


async def test_the_authorities_list_is_read_where_it_is_needed(
    transport: AiohttpTransport, serve: Serve, send: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**options: object) -> None:
        raise OSError("no list")

    monkeypatch.setattr(httpx, "create_ssl_context", missing)
    tls_context.cache_clear()
    async with serve(send(b"ok")) as server:
        assert (await ask(transport, server.url))[1] == b"ok"
        with pytest.raises(httpx.ReadError, match="no list"):
            await ask(transport, server.url.replace("http:", "https:"))


async def test_a_connection_is_kept_where_that_is_asked_for(serve: Serve) -> None:
    async def twice(stream: SocketStream, head: bytes) -> None:
        for _ in range(2):
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await stream.receive()

    for keep, connections in ((True, 1), (False, 2)):
        transport = AiohttpTransport(keep=keep)
        async with serve(twice) as server:
            for _ in range(2):
                assert (await ask(transport, server.url))[1] == b"ok"
            await transport.aclose()
        assert len(server.heads) == connections


@pytest.mark.parametrize("read", [False, True], ids=["in-the-socket", "read-already"])
@pytest.mark.parametrize(
    "more", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nst"]
)
async def test_what_came_unasked_is_no_answer(
    transport: AiohttpTransport, serve: Serve, more: bytes, read: bool
) -> None:
    """It would be that of another job, and so would be each after it."""
    answered, sent = anyio.Event(), anyio.Event()

    async def answer(stream: SocketStream, head: bytes) -> None:
        for turn in range(3):
            name = head.split()[1]
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
            if turn == 0 and name == b"/a":
                await answered.wait()
                # At once, so that it is still in the socket when the next request is made.
                os.write(stream.extra(SocketAttribute.raw_socket).fileno(), more)
                sent.set()
            head = await stream.receive()

    async with serve(answer) as server:
        assert (await ask(transport, f"{server.url}/a"))[1] == b"/a"
        answered.set()
        await sent.wait()
        for _ in range(20 if read else 0):  # turns of the loop, each of which reads what has come
            await anyio.lowlevel.checkpoint()
        for name in (b"/b", b"/c"):
            assert (await ask(transport, server.url + name.decode()))[1] == name
        await transport.aclose()
    assert len(server.heads) == 2


@pytest.mark.parametrize(
    "broken",
    [b"HTTP/1.1 200 OK\r\nX: canary\0\r\n\r\n", b"canary", b"HTTP/1.1 200 OK\r\nX: " + b"canary" * 20_000],
)
async def test_a_broken_answer_is_told_without_its_words(
    transport: AiohttpTransport, serve: Serve, send: Callable[..., Any], broken: bytes
) -> None:
    async with serve(send(broken, raw=True)) as server:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await ask(transport, f"{server.url}/?sig=canary")
    assert str(caught.value).isprintable()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, chunked"])
async def test_an_unknown_transfer_encoding_is_refused(
    transport: AiohttpTransport, serve: Serve, send: Callable[..., Any], encoding: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {encoding}\r\n\r\n".encode()
    said = ""
    async with serve(send(head + b"1\r\nx\r\n0\r\n\r\n", raw=True)) as server:
        try:
            await ask(transport, server.url)
        except httpx.RemoteProtocolError as exc:
            said = str(exc)
    assert "transfer encoding" in said


async def test_who_does_not_listen_and_who_hangs_up(
    transport: AiohttpTransport, serve: Serve, send: Callable[..., Any]
) -> None:
    async with serve(send(b"", raw=True)) as server:
        with pytest.raises(httpx.ReadError, match="disconnected"):
            await ask(transport, server.url)
    with pytest.raises(httpx.ConnectError):
        await ask(transport, server.url)


async def test_a_request_counts_as_sent_once_it_is_connected(transport: AiohttpTransport, serve: Serve) -> None:
    """By the names of httpcore's events, which tell whether a submission that broke off may have been charged."""

    async def twice(stream: SocketStream, head: bytes) -> None:
        for _ in range(2):
            seen.append(f"{steps[-1].partition('.')[0]}, received")
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await stream.receive()

    async def trace(event: str, info: object) -> None:
        steps.append(event)

    steps: list[str] = []
    seen: list[str] = []
    async with serve(twice) as server:
        for _ in range(2):
            request = httpx.Request("POST", server.url, content=b"{}", extensions={**TIMEOUT, "trace": trace})
            await (await transport.handle_async_request(request)).aread()
        await transport.aclose()
    assert seen == ["http11, received"] * 2
    kinds = [step.partition(".")[0] for step in steps]
    assert kinds == ["connection", "http11"] * 2
    steps.clear()
    other = AiohttpTransport(keep=False)
    with pytest.raises(httpx.ConnectError):
        await other.handle_async_request(request)
    await other.aclose()
    assert [step.partition(".")[0] for step in steps] == ["connection"]
