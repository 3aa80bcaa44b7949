"""httpx's transport over aiohttp: a third of the CPU time of httpx's own (docs/performance.md).

Rule: what is asked for goes out byte for byte (a URL's signature is of its bytes), and nothing of aiohttp's goes along:
no cookies, no headers of its own, no decoding, no redirects, no environment, no retries (but one of a GET whose
connection was closed before it was answered; that one goes over a new connection). An answer is to the request before
it: a kept connection on which one came that nobody had asked for is not used again. What aiohttp raises becomes httpx's
errors, without URLs, and it tells `trace` of its steps as httpcore does: while it connects nothing was sent.
"""

from __future__ import annotations

import re
import select
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakSet

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace as Steps
from multidict import CIMultiDict
from yarl import URL

Trace = Callable[[str, Any], Awaitable[None]]
"""Takes the steps of a request, by httpcore's names."""

_BUFFER = 256 * 1024
"""Bytes that are read ahead at most, twice: what asyncio reads from a socket at once."""
_HEADER_MOST = 64 * 1024
"""Bytes of one header: signed URLs in `Location` are longer than aiohttp's own 8 KB."""
_OWN_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What aiohttp would add."""


@cache
def tls_context() -> ssl.SSLContext:
    """Give the context of every https connection, one for all: to read the authorities' list takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Plain HTTP/1.1 requests with bodies of bytes; needs asyncio.

    `keep` says whether connections stay open for the next request; `tls` is the context of https, by default
    `tls_context`, once it is needed. There is no limit of connections: who asks has places of its own.
    """

    def __init__(self, *, keep: bool, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._keep = keep
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; the extensions `timeout` (connect, read), `sni_hostname` and `trace` count."""
        if self._session is None:
            self._session = self._open()
        trace: Trace | None = request.extensions.get("trace")
        if trace is not None:
            await trace("connection.connect_tcp.started", {})
        body = await request.aread()
        timeout = request.extensions["timeout"]
        url = request.url
        place = f"{url.scheme}://{url.netloc.decode()}{url.raw_path.decode()}"
        headers = CIMultiDict((name.decode(), value.decode("latin-1")) for name, value in request.headers.raw)
        asked = _Asked(trace)
        _asked.set(asked)
        try:
            with _translated():
                response = await self._session.request(
                    request.method,
                    URL(place, encoded=True),
                    headers=headers,
                    data=body or None,
                    allow_redirects=False,
                    ssl=(self._tls or tls_context()) if url.scheme == "https" else True,
                    server_hostname=request.extensions.get("sni_hostname"),
                    timeout=aiohttp.ClientTimeout(sock_connect=timeout["connect"], sock_read=timeout["read"]),
                )
        finally:
            asked.trace = None  # a kept connection's context holds what was asked, and with it would hold the answer
        if response.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":  # aiohttp would not tell
            response.close()
            raise httpx.RemoteProtocolError("a transfer encoding that nobody asked for")
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response), request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(limit=0, force_close=not self._keep),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_OWN_HEADERS,
            read_bufsize=_BUFFER,
            max_line_size=_HEADER_MOST,
            max_field_size=_HEADER_MOST,
        )


@dataclass(slots=True)
class _Asked:
    """A request on its way; `reused` once it has had a kept connection."""

    trace: Trace | None
    reused: bool = False


_asked: ContextVar[_Asked] = ContextVar("_asked")
"""That of this task: aiohttp's own way to hand it on, `TraceConfig`, tells of ten more steps, which costs CPU."""


class _Connector(aiohttp.TCPConnector):
    """Takes no connection from its pool on which an answer came meanwhile.

    aiohttp would take that for the answer to the next request, and each answer from then on for the one after it: a
    job would be given the state or the image of another. (httpcore and urllib3 look for it, too.) Not seen is half a
    head that was read already: aiohttp's parser has it, and tells nobody.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Steps],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # the name is aiohttp's
    ) -> Connection:
        """Give a kept connection that was silent, or a new one, which may speak first: a host that is full does.

        A request whose kept connection was closed gets a new one: a host that closed one is likely to close them all.
        """
        asked = _asked.get()
        while True:  # each turn takes one out of the pool
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            kept = protocol in self._known
            if protocol is None or not kept or not (asked.reused or _spoke(protocol)):
                break
            connection.close()
        asked.reused = kept
        if protocol is not None:
            self._known.add(protocol)
        if asked.trace is not None:  # from here on the request may be on its way
            await asked.trace("http11.send_request_headers.started", {})
        return connection


def _spoke(protocol: ResponseHandler) -> bool:
    """Tell if an answer was read that nobody took, or anything is in the socket; the connection's end counts, too."""
    if protocol.should_close or protocol.transport is None:
        return True
    waiting = select.poll()
    waiting.register(protocol.transport.get_extra_info("socket"), select.POLLIN)
    return bool(waiting.poll(0))


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for piece in self._response.content.iter_any():
                yield piece

    async def aclose(self) -> None:
        self._response.close()  # a connection whose answer has come whole went back before


_FIRST_WORDS = re.compile(r"[^:\n]{0,100}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as exc:
        raise httpx.ConnectTimeout("") from exc
    except TimeoutError as exc:
        raise httpx.ReadTimeout("") from exc
    except aiohttp.ClientConnectorCertificateError as exc:
        raise httpx.ConnectError(str(exc.certificate_error)) from exc
    except aiohttp.ClientConnectorError as exc:
        raise httpx.ConnectError(str(exc.os_error)) from exc
    except aiohttp.ClientResponseError as exc:
        # After its first words come pieces of the answer, and the URL: nobody would find a key in those.
        raise httpx.RemoteProtocolError(_FIRST_WORDS.match(exc.message)[0]) from exc  # type: ignore[index]
    except aiohttp.ClientPayloadError as exc:
        raise httpx.RemoteProtocolError("the body was cut off") from exc
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise httpx.ReadError(str(exc)) from exc
