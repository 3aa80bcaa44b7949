"""Downloads from real servers on loopback, the hostile ones included."""

from __future__ import annotations

import base64
import gzip
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import anyio
import httpx
import pytest
from anyio.abc import SocketStream

from rsbatch.errors import StoreError
from rsbatch.net.fetch import (
    DEFAULT_LIMITS,
    LONGEST_WAIT,
    FetchError,
    FetchKind,
    FetchLimits,
    HttpFetcher,
    guarded_transport,
)
from rsbatch.net.guard import GuardedTransport, Policy
from rsbatch.wire import retry_after

pytestmark = pytest.mark.anyio

LOCAL = Policy(loopback=True)
MIB = 1 << 20


class Download:
    """A sink that keeps what it got."""

    def __init__(self) -> None:
        self.data = b""

    async def __call__(self, piece: bytes) -> None:
        self.data += piece


async def fetch(
    url: str, *, max_bytes: int = MIB, policy: Policy = LOCAL, limits: FetchLimits = DEFAULT_LIMITS
) -> bytes:
    fetcher = HttpFetcher(guarded_transport(policy), limits)
    sink = Download()
    try:
        size = await fetcher.fetch(url, sink, max_bytes=max_bytes)
    finally:
        await fetcher.aclose()
    assert size == len(sink.data)
    return sink.data


async def failure(url: str, **options: object) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetch(url, **options)  # type: ignore[arg-type]
    assert caught.value.reason.isprintable()
    assert "sig=" not in caught.value.reason
    return caught.value


async def test_bytes_come_as_they_are_and_nothing_of_ours_goes_along(serve, send, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    body = random.Random(1).randbytes(500_000)
    async with serve(send(body, "Set-Cookie: a=b", "Content-Type: text/html")) as server:
        fetcher = HttpFetcher(guarded_transport(LOCAL))
        for _ in range(2):
            sink = Download()
            url = f"http://user:secret@127.0.0.1:{server.port}/a%2Fb.png?sig=x#part"
            assert await fetcher.fetch(url, sink, max_bytes=MIB) == len(body)
            assert sink.data == body
        await fetcher.aclose()
    for head in server.heads:
        lines = head.decode().lower().split("\r\n")
        assert lines[0] == "get /a%2fb.png?sig=x http/1.1"
        names = {line.partition(":")[0] for line in lines[1:] if line}
        assert names == {"host", "accept", "accept-encoding", "user-agent"}
        assert "accept-encoding: identity" in lines
        assert f"host: 127.0.0.1:{server.port}" in lines


async def test_chunked_bodies_and_bodies_that_end_with_the_connection(serve, send) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serve(send(chunked, raw=True)) as server:
        assert await fetch(server.url) == b"abcde"
    async with serve(send(b"HTTP/1.0 200 OK\r\n\r\nabcde", raw=True)) as server:
        assert await fetch(server.url) == b"abcde"
    async with serve(send(b"")) as server:
        assert await fetch(server.url) == b""


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, FetchKind.EXPIRED) for status in (400, 401, 403, 404, 410, 451)),
        *((status, FetchKind.TRANSIENT) for status in (408, 425, 500, 502, 503, 504)),
        (429, FetchKind.THROTTLED),
        *((status, FetchKind.TRANSIENT) for status in (202, 204, 206, 300, 304)),
    ],
)
async def test_what_each_status_means(serve, send, status: int, kind: FetchKind) -> None:
    async with serve(send(b"", status=f"{status} \x1b[31mWhatever")) as server:
        error = await failure(f"{server.url}/x?sig=1")
    assert (error.kind, error.reason, error.retry_after) == (kind, f"HTTP {status}", None)


@pytest.mark.parametrize(("status", "kind"), [(429, FetchKind.THROTTLED), (503, FetchKind.TRANSIENT)])
async def test_how_long_to_wait_is_passed_on(serve, send, status: int, kind: FetchKind) -> None:
    async with serve(send(b"", "Retry-After: 17", status=f"{status} Busy")) as server:
        error = await failure(server.url)
    assert (error.kind, error.retry_after) == (kind, 17.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 5 ", 5.0),
        ("99999999999999999999999999", 3600.0),
        ("1" * 5000, 3600.0),
        ("1e9", None),
        ("-5", None),
        ("٣", None),
        ("5.5", None),
        ("Fri, 01 Jan 2027 00:01:00 GMT", 60.0),
        ("Fri, 01 Jan 2027 00:01:00 -0000", 60.0),
        ("Fri, 01 Jan 2027 02:01:00 +0200", 60.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 3600.0),
        ("Fri, 01 Jan 1999 00:00:00 GMT", None),
        ("Fri, 99 Jan 2027 00:00:00 GMT", None),
        ("Fri, 01 Jan 99999999999 00:00:00 GMT", None),
        ("soon", None),
    ],
)
def test_retry_after_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2027, 1, 1, tzinfo=UTC).timestamp(), None, LONGEST_WAIT) == seconds


async def test_no_host_is_left_alone_for_longer_than_an_hour(serve, send) -> None:
    async with serve(send(b"", "Retry-After: 99999", status="429 Slow")) as server:
        error = await failure(server.url)
    assert error.retry_after == 3600.0


async def test_a_date_to_wait_for_is_by_the_hosts_own_clock(serve, send) -> None:
    when = "Retry-After: Fri, 01 Jan 1999 00:01:00 GMT"
    async with serve(send(b"", when, "Date: Fri, 01 Jan 1999 00:00:18 GMT", status="429 Slow")) as server:
        error = await failure(server.url)
    assert error.retry_after == 42.0


async def test_redirects_are_followed_and_their_bodies_left_alone(serve, send) -> None:
    async with serve(send(b"image")) as last:

        async def answer(stream: SocketStream, head: bytes) -> None:
            await stream.send(f"HTTP/1.1 302 Found\r\nLocation: {last.url}/moved?sig=2\r\n\r\n".encode())
            while True:
                await stream.send(b"an endless page saying so" * 1000)

        async with serve(answer) as first:
            with anyio.fail_after(20):
                assert await fetch(f"{first.url}/x?sig=1") == b"image"
    assert last.heads[0].startswith(b"GET /moved?sig=2 ")


async def test_relative_redirects_up_to_five(serve) -> None:
    async def answer(stream: SocketStream, head: bytes) -> None:
        left = int(head.split()[1].rpartition(b"/")[2])
        if left:
            await stream.send(f"HTTP/1.1 307 On\r\nLocation: ../r/{left - 1}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with serve(answer) as server:
        assert await fetch(f"{server.url}/r/5") == b"ok"
        error = await failure(f"{server.url}/r/6")
    assert (error.kind, error.reason) == (FetchKind.REFUSED, "more than 5 redirects")


@pytest.mark.parametrize(
    "location",
    [
        *(
            "http://169.254.169.254/latest/meta-data?sig=1",
            "file:///etc/passwd",
            "http://[::ffff:a9fe:a9fe]/",
            "http://",
        ),
        *(
            "data:image/png;base64,AAAA",
            "http://10.0.0.1/",
            "http://a\x00b/",
            "http://[/",
            "//0.0.0.0/x",
            "ftp://h/x",
        ),
    ],
)
async def test_redirects_to_where_nobody_may_go(serve, send, location: str) -> None:
    async with serve(send(b"", f"Location: {location}", status="302 Found")) as server:
        error = await failure(f"{server.url}/x?sig=1")
    # A header with NUL is not HTTP; that is found before it is a redirect.
    assert error.kind is (FetchKind.TRANSIENT if "\0" in location else FetchKind.REFUSED)


async def test_a_redirect_to_loopback_from_outside_is_refused(serve, send) -> None:
    async with serve(send(b"inside")) as server:

        def outside(request: httpx.Request) -> httpx.Response:
            return httpx.Response(302, headers={"Location": f"{server.url}/"})

        fetcher = HttpFetcher(GuardedTransport(httpx.MockTransport(outside), Policy()))
        with pytest.raises(FetchError, match=r"127\.0\.0\.1 is a loopback address") as caught:
            await fetcher.fetch("http://8.8.8.8/", Download(), max_bytes=MIB)
    assert caught.value.kind is FetchKind.REFUSED
    assert server.heads == []


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "ftp://h/x",
            "javascript:alert(1)",
            "",
            "http://",
            "http:///x",
            "http://[",
            "a b",
            "//h/x",
        ),
        *(
            "http://0177.0.0.1/",
            "http://h\x1b[31m/?sig=1",
            "x" * 100_000,
            "http://h:99999999/?sig=1",
            "http://\ud800/",
            "HTTP:x",
        ),
    ],
)
async def test_urls_that_are_none_of_ours(url: str) -> None:
    assert (await failure(url)).kind is FetchKind.REFUSED


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> HttpFetcher:
    """In the process, as with the simulator: no guard and no pool behind it."""
    return HttpFetcher(httpx.MockTransport(answer))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x", "javascript:alert(1)"])
async def test_other_schemes_reach_no_transport(url: str) -> None:
    fetcher = answering(lambda request: pytest.fail("must not be reached"))
    with pytest.raises(FetchError, match="only http and https"):
        await fetcher.fetch(url, Download(), max_bytes=MIB)


async def test_what_a_transport_says_is_told_without_secrets() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("at https://h/x?sig=canary with sk-canary-0123456789")

    with pytest.raises(FetchError, match="the connection failed: at https://h/x") as caught:
        await answering(broken).fetch("http://h/", Download(), max_bytes=MIB)
    assert "canary" not in caught.value.reason


async def test_loopback_is_refused_unless_the_service_is_there(serve, send) -> None:
    async with serve(send(b"inside")) as server:
        error = await failure(f"{server.url}/?sig=1", policy=Policy())
    assert error.kind is FetchKind.REFUSED
    assert server.heads == []


async def test_an_endless_body_is_cut_at_the_cap(serve) -> None:
    async def answer(stream: SocketStream, head: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(100):  # an end all the same, for those who would read on
            await stream.send(bytes(65536))

    async with serve(answer) as server:
        error = await failure(server.url, max_bytes=300_000)
    assert (error.kind, error.reason) == (FetchKind.REFUSED, "larger than the 300,000 bytes allowed")


@pytest.mark.parametrize("length", [1001, 99_999_999_999, 10**18])
async def test_what_is_announced_too_large_is_not_begun(serve, length: int) -> None:
    async def answer(stream: SocketStream, head: bytes) -> None:
        await stream.send(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
        await stream.receive()  # waits for the client to hang up

    async with serve(answer) as server:
        with anyio.fail_after(20):
            error = await failure(server.url, max_bytes=1000)
    assert error.kind is FetchKind.REFUSED


async def test_exactly_as_much_as_allowed_is_allowed(serve, send) -> None:
    async with serve(send(bytes(1000))) as server:
        assert len(await fetch(server.url, max_bytes=1000)) == 1000


async def test_a_short_body_is_found(serve, send) -> None:
    async with serve(send(b"x" * 500, length=1000)) as server:
        assert (await failure(server.url)).kind is FetchKind.TRANSIENT


async def test_a_short_body_is_found_over_any_transport() -> None:
    """In the process, as with the simulator, nobody else counts."""

    def short(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Length": "1000"}, stream=httpx.ByteStream(b"x" * 500))

    with pytest.raises(FetchError, match="500 of 1,000 bytes came") as caught:
        await answering(short).fetch("http://h/", Download(), max_bytes=MIB)
    assert caught.value.kind is FetchKind.TRANSIENT


@pytest.mark.parametrize("encoding", ["gzip", "GZIP, br", "deflate", "\x1b"])
async def test_encoded_bodies_are_refused_unopened(serve, send, encoding: str) -> None:
    bomb = gzip.compress(bytes(20 * MIB))
    async with serve(send(bomb, f"Content-Encoding: {encoding}")) as server:
        error = await failure(server.url)
    assert error.kind in (FetchKind.REFUSED, FetchKind.TRANSIENT if encoding == "\x1b" else FetchKind.REFUSED)


async def test_an_identity_encoding_is_none(serve, send) -> None:
    async with serve(send(b"ok", "Content-Encoding: Identity")) as server:
        assert await fetch(server.url) == b"ok"


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx"])
async def test_the_deadline_is_for_the_whole_download(serve, begin: bytes) -> None:
    async def answer(stream: SocketStream, head: bytes) -> None:
        await stream.send(begin)
        while True:  # something comes all the time, so that no read ever times out
            await anyio.sleep(0.01)
            await stream.send(b"x" if begin.endswith(b"x") else b"")

    async with serve(answer) as server:
        with anyio.fail_after(20):
            error = await failure(server.url, limits=FetchLimits(deadline=0.2))
    assert (error.kind, error.reason) == (FetchKind.TRANSIENT, "not downloaded within 0.2 s")


async def test_a_server_that_says_nothing(serve) -> None:
    async def answer(stream: SocketStream, head: bytes) -> None:
        await stream.receive()

    async with serve(answer) as server:
        error = await failure(server.url, limits=FetchLimits(read=0.1, deadline=2.0))
    assert (error.kind, error.reason) == (FetchKind.TRANSIENT, "no answer in time (ReadTimeout)")


async def test_resets_refusals_and_nonsense(serve, send) -> None:
    async def reset(stream: SocketStream, head: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
        sock = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        import socket
        import struct

        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with serve(reset) as server:
        assert (await failure(server.url)).kind is FetchKind.TRANSIENT
        closed = server.url
    assert (await failure(closed)).kind is FetchKind.TRANSIENT
    hostile = [
        b"",
        b"\x1b[31mSSH-2.0\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxxxxxx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
    ]
    for data in hostile:
        async with serve(send(data, raw=True)) as server:
            assert (await failure(f"{server.url}/?sig=1")).kind is FetchKind.TRANSIENT


async def test_errors_of_the_sink_are_its_own(serve, send) -> None:
    async def full(piece: bytes) -> None:
        raise StoreError("a.png: disk full")

    async with serve(send(b"x" * 1000)) as server:
        fetcher = HttpFetcher(guarded_transport(LOCAL))
        with pytest.raises(StoreError, match="disk full"):
            await fetcher.fetch(server.url, full, max_bytes=MIB)
        with pytest.raises(StoreError, match="disk full"):
            await fetcher.fetch("data:;base64,AAAA", full, max_bytes=MIB)
        await fetcher.aclose()


async def test_connections_are_given_back_after_every_kind_of_end(serve, send) -> None:
    """A pool that loses slots stops for good (encode/httpcore#1093)."""

    async def stuck(stream: SocketStream, head: bytes) -> None:
        if b"/ok" in head:
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        elif b"/big" in head:
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5000))
        else:
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
            await stream.receive()

    async with serve(stuck) as server:
        fetcher = HttpFetcher(guarded_transport(LOCAL))
        for _ in range(10):
            with anyio.move_on_after(0.02):
                await fetcher.fetch(f"{server.url}/stuck", Download(), max_bytes=MIB)
            with pytest.raises(FetchError):
                await fetcher.fetch(f"{server.url}/big", Download(), max_bytes=1000)
        with anyio.fail_after(20):
            for _ in range(10):
                assert await fetcher.fetch(f"{server.url}/ok", Download(), max_bytes=MIB) == 2
        await fetcher.aclose()


async def test_images_of_one_host_come_over_one_connection(serve) -> None:
    """A new one costs CPU time, and with TLS two round trips."""

    async def thrice(stream: SocketStream, head: bytes) -> None:
        for body in (b"one", b"two", b"three"):
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await stream.receive()

    async with serve(thrice) as server:
        fetcher = HttpFetcher(guarded_transport(LOCAL))
        got = []
        for name in ("a", "b", "c"):
            sink = Download()
            await fetcher.fetch(f"{server.url}/{name}", sink, max_bytes=MIB)
            got.append(sink.data)
        await fetcher.aclose()
    assert got == [b"one", b"two", b"three"]
    assert len(server.heads) == 1


async def test_a_kept_connection_that_was_dropped_costs_no_attempt(serve) -> None:
    """What the host closes in the moment it is used again is asked for once more, over a new one."""

    async def once(stream: SocketStream, head: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        if b"/first" in head:
            await stream.receive()  # the second request: this host has no answer for it

    async with serve(once) as server:
        fetcher = HttpFetcher(guarded_transport(LOCAL))
        for name in ("first", "second"):
            assert await fetcher.fetch(f"{server.url}/{name}", Download(), max_bytes=MIB) == 2
        await fetcher.aclose()
    assert [head.split()[1] for head in server.heads] == [b"/first", b"/second"]


async def test_many_kept_connections_that_were_dropped_cost_no_attempt(serve) -> None:
    """A host that closes one closes the others, too: what is asked for again goes over none of them."""
    both = [anyio.Event(), anyio.Event()]

    async def once(stream: SocketStream, head: bytes) -> None:
        name = head.split()[1]
        if name in (b"/0", b"/1"):
            both[int(name[1:])].set()
            for event in both:
                await event.wait()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await stream.receive()  # this host has no answer for a second request

    async with serve(once) as server:
        fetcher = HttpFetcher(guarded_transport(LOCAL))
        async with anyio.create_task_group() as group:
            for name in ("0", "1"):
                group.start_soon(partial(fetcher.fetch, f"{server.url}/{name}", Download(), max_bytes=MIB))
        assert await fetcher.fetch(f"{server.url}/third", Download(), max_bytes=MIB) == 2
        await fetcher.aclose()
    assert len(server.heads) == 3


async def test_an_answer_that_was_not_read_to_its_end_is_no_part_of_the_next(serve) -> None:
    """Its connection is closed: what is left in it must not be taken for another image."""

    async def answer(stream: SocketStream, head: bytes) -> None:
        body = b"x" * 5000 if b"/big" in head else b"image"
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await stream.receive()

    async with serve(answer) as server:
        fetcher = HttpFetcher(guarded_transport(LOCAL))
        with pytest.raises(FetchError, match="larger"):
            await fetcher.fetch(f"{server.url}/big", Download(), max_bytes=1000)
        sink = Download()
        await fetcher.fetch(f"{server.url}/image", sink, max_bytes=1000)
        await fetcher.aclose()
    assert sink.data == b"image"
    assert len(server.heads) == 2


async def test_redirects_give_their_connections_back(serve, send) -> None:
    async with serve(send(b"image")) as last:
        location = f"Location: {last.url}"
        async with serve(send(b"never read" * 10_000, location, status="302 Found")) as first:
            answers: list[httpx.Response] = []
            inner = guarded_transport(LOCAL)

            class Noting(httpx.AsyncBaseTransport):
                async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                    answers.append(await inner.handle_async_request(request))
                    return answers[-1]

            assert await HttpFetcher(Noting()).fetch(first.url, Download(), max_bytes=MIB) == 5
            assert [(answer.status_code, answer.is_closed) for answer in answers] == [(302, True), (200, True)]
            await inner.aclose()


async def test_signed_urls_reach_no_log(serve, send, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve(send(b"ok")) as server:
        await fetch(f"{server.url}/x?sig=canary")
    assert "canary" not in caplog.text


async def test_data_urls_are_decoded_here() -> None:
    for data in (b"", b"a", b"ab", b"abc", random.Random(1).randbytes(900_000)):
        text = base64.b64encode(data).decode()
        wrapped = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
        for form in (text, text.rstrip("="), text.replace("+", "%2B"), wrapped):
            assert await fetch(f"data:image/png;base64,{form}") == data
        assert await fetch(f"DATA:;base64,{base64.urlsafe_b64encode(data).decode()}") == data


@pytest.mark.parametrize(
    "url", ["data:", "data:,hello", "data:,QUJD", "data:image/png,x", "data:;base64", "data:;base64,A"]
)
async def test_data_urls_that_are_no_images(url: str) -> None:
    assert (await failure(url)).kind is FetchKind.REFUSED


@pytest.mark.parametrize("text", ["AA AA!", "猫", "AAAA=AAAA", "\x1b[31m", "\ud800AAA"])
async def test_data_urls_that_are_not_base64(text: str) -> None:
    assert (await failure(f"data:image/png;base64,{text}")).kind is FetchKind.REFUSED


async def test_data_urls_have_the_same_cap() -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(3000)).decode()
    assert len(await fetch(url, max_bytes=3000)) == 3000
    assert (await failure(url, max_bytes=2999)).kind is FetchKind.REFUSED
    assert (await failure(url + "A" * 100_000, max_bytes=3000)).kind is FetchKind.REFUSED
