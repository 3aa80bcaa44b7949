"""Downloads of finished images, from URLs that the service names and nobody vouches for.

Rule: no key, no cookie and no environment goes along; every hop passes the guard; bytes are passed on as they
come and never decoded; the whole download has one byte cap and one deadline; no URL's query reaches a log or
an error. What is not an image is found out elsewhere (`rsbatch.images`).
"""

from __future__ import annotations

import binascii
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from urllib.parse import unquote_to_bytes

import anyio
import httpx

from rsbatch import __version__
from rsbatch.net.guard import AddressRefused, GuardedTransport, Policy, Resolve, resolve_host
from rsbatch.net.transport import AiohttpTransport
from rsbatch.text import printable, redact
from rsbatch.wire import retry_after

LONGEST_WAIT = 3600.0
"""Seconds that a host of images is left alone at most, whatever it asks for."""
_DIGITS = re.compile("[0-9]+")

Sink = Callable[[bytes], Awaitable[None]]
"""Takes the bytes of an image as they come; what it raises ends the fetch and goes through as it is."""


class FetchKind(Enum):
    """What a failed download means for the next step."""

    EXPIRED = "expired"
    """The URL is no good any more (401, 403, 404, 410, other 4xx): ask the service for a fresh one."""
    REFUSED = "refused"
    """We will not take it: address, scheme, too large, encoded. The same URL is not worth another try."""
    TRANSIENT = "transient"
    """5xx, 408, 425, reset, timeout, short body: the same URL may work later."""
    THROTTLED = "throttled"
    """429: the host wants fewer requests for now, of all images. A 503 may be of one image, and is TRANSIENT."""


class FetchError(Exception):
    """A download that failed. `reason` is fit for the ledger and the terminal (no query, no key).

    `retry_after` is what the server asked for, in seconds from now, capped at an hour; None if it did not.
    """

    def __init__(self, reason: str, kind: FetchKind, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.retry_after = retry_after


class Fetcher(Protocol):
    """Gets the bytes behind a URL."""

    async def fetch(self, url: str, sink: Sink, *, max_bytes: int) -> int:
        """Pass the body of `url` to `sink`, piece by piece, and return its size in bytes.

        `data:` URLs work too. After an error the sink has part of a body, of no use: begin anew.
        Raises `FetchError`, and whatever `sink` raises.
        """


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How long a download may take; times in seconds.

    `deadline` is for the whole of it, redirects and a slow sink included; `connect` and `read` are per
    address and per piece. `redirects` is how many hops are followed.
    """

    deadline: float = 300.0
    connect: float = 10.0
    read: float = 60.0
    redirects: int = 5


DEFAULT_LIMITS = FetchLimits()


class HttpFetcher:
    """Fetches over one transport, which does the guarding and holds the connections; see `Fetcher`.

    The transport is used without `httpx.AsyncClient` round it: a client would keep cookies, read whole bodies
    of redirects, make passwords in URLs into headers, and log every signed URL at INFO.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, limits: FetchLimits = DEFAULT_LIMITS) -> None:
        self._transport = transport
        self._limits = limits

    async def fetch(self, url: str, sink: Sink, *, max_bytes: int) -> int:
        """See `Fetcher`."""
        with anyio.move_on_after(self._limits.deadline):
            if url[:5].lower() == "data:":
                return await _decode_data_url(url, sink, max_bytes)
            return await self._follow(url, sink, max_bytes)
        raise FetchError(f"not downloaded within {self._limits.deadline:g} s", FetchKind.TRANSIENT)

    async def aclose(self) -> None:
        """Close the transport and its connections."""
        await self._transport.aclose()

    async def _follow(self, url: str, sink: Sink, max_bytes: int) -> int:
        target = _parse(url)
        for _ in range(self._limits.redirects + 1):
            response = await self._get(target)
            try:
                redirect = _redirect(target, response)
                if redirect is None:
                    _check_answer(response, max_bytes)
                    return await _pump(response, sink, max_bytes)
                target = redirect
            finally:
                await response.aclose()
        raise FetchError(f"more than {self._limits.redirects} redirects", FetchKind.REFUSED)

    async def _get(self, url: httpx.URL) -> httpx.Response:
        limits = self._limits
        timeout = httpx.Timeout(limits.read, connect=limits.connect)
        with _translated():
            request = httpx.Request("GET", url, headers=_HEADERS, extensions={"timeout": timeout.as_dict()})
            return await self._transport.handle_async_request(request)


_HEADERS = {
    "Accept": "image/*",
    # Compressed images gain nothing, and 194 KB of gzip can be 200 MB.
    "Accept-Encoding": "identity",
    "User-Agent": f"rsbatch/{__version__}",
}


def guarded_transport(
    policy: Policy, tls: ssl.SSLContext | None = None, resolve: Resolve = resolve_host
) -> GuardedTransport:
    """Make the transport that is fit for downloads: HTTP/1.1, no proxy.

    Connections are kept: most images come from one host, and a new one takes 3% of a task's CPU; with TLS it takes
    more, and two round trips.
    """
    return GuardedTransport(AiohttpTransport(keep=True, tls=tls), policy, resolve)


def _parse(url: str) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError) as exc:
        # The message of httpx would repeat parts of the URL.
        raise FetchError("the service named something that is not a URL", FetchKind.REFUSED) from exc
    _check_target(target)
    return target


def _check_target(url: httpx.URL) -> None:
    if url.scheme not in ("http", "https"):
        shown = printable(url.scheme, 20)
        raise FetchError(f"only http and https URLs are fetched, not {shown!r}", FetchKind.REFUSED)
    # httpx percent-encodes what cannot be in a name, and lets any port pass.
    if not _HOST.fullmatch(url.raw_host) or (url.port or 1) > 65535:
        raise FetchError("the URL has no host that could be asked", FetchKind.REFUSED)


_HOST = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def _redirect(url: httpx.URL, response: httpx.Response) -> httpx.URL | None:
    """Give where the answer points to, None if it is no redirect. Its body is never read."""
    location = response.headers.get("Location")
    if response.status_code not in (301, 302, 303, 307, 308) or location is None:
        return None
    try:
        target = url.join(location).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError) as exc:
        raise FetchError("redirected to something that is not a URL", FetchKind.REFUSED) from exc
    _check_target(target)
    return target


def _check_answer(response: httpx.Response, max_bytes: int) -> None:
    status = response.status_code
    if status != 200:
        answer = f"HTTP {status}"
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise FetchError(answer, FetchKind.EXPIRED)
        kind = FetchKind.THROTTLED if status == 429 else FetchKind.TRANSIENT
        raise FetchError(answer, kind, _wait(response))
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError(f"sent encoded ({printable(encoding, 40)}) though asked not to", FetchKind.REFUSED)
    announced = _content_length(response)
    if announced is not None and announced > max_bytes:
        raise _too_large(max_bytes)


def _wait(response: httpx.Response) -> float | None:
    asked, date = response.headers.get("Retry-After"), response.headers.get("Date")
    return retry_after(asked, time.time(), date, LONGEST_WAIT)


def _content_length(response: httpx.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    # Not `isdigit`: other scripts have digits too. 19 digits are more than any disk.
    return int(value[:19]) if _DIGITS.fullmatch(value) else None


async def _pump(response: httpx.Response, sink: Sink, max_bytes: int) -> int:
    received = 0
    pieces = response.aiter_raw()
    while True:
        with _translated():  # not round the sink: its errors are its own
            piece = await anext(pieces, None)
        if piece is None:
            break
        received += len(piece)
        if received > max_bytes:
            raise _too_large(max_bytes)
        await sink(piece)
    announced = _content_length(response)
    if announced is not None and received != announced:
        raise FetchError(f"{received:,} of {announced:,} bytes came", FetchKind.TRANSIENT)
    return received


def _too_large(max_bytes: int) -> FetchError:
    return FetchError(f"larger than the {max_bytes:,} bytes allowed", FetchKind.REFUSED)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except AddressRefused as exc:
        raise FetchError(str(exc), FetchKind.REFUSED) from exc
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as exc:
        raise FetchError("the URL cannot be requested", FetchKind.REFUSED) from exc
    except httpx.TimeoutException as exc:
        raise FetchError(f"no answer in time ({type(exc).__name__})", FetchKind.TRANSIENT) from exc
    except httpx.TransportError as exc:
        detail = printable(redact(str(exc)), 200) or type(exc).__name__
        raise FetchError(f"the connection failed: {detail}", FetchKind.TRANSIENT) from exc


_DATA_PIECE = 1 << 20
"""Characters decoded at a time; a multiple of 4, because 4 characters are 3 bytes."""


async def _decode_data_url(url: str, sink: Sink, max_bytes: int) -> int:
    head, comma, _ = url[:200].partition(",")
    if not comma or not head.lower().endswith(";base64") or not url.isascii():
        raise FetchError("the service sent a data: URL that is not base64", FetchKind.REFUSED)
    # A little slack for padding and line breaks, before anything is copied.
    if len(url) > max_bytes * 3 // 2 + 1000:
        raise _too_large(max_bytes)
    text = unquote_to_bytes(url[len(head) + 1 :]).translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
    if len(text) * 3 // 4 > max_bytes:
        raise _too_large(max_bytes)
    size = 0
    for at in range(0, len(text), _DATA_PIECE):
        piece = text[at : at + _DATA_PIECE]
        try:
            data = binascii.a2b_base64(piece + b"=" * (-len(piece) % 4), strict_mode=True)
        except binascii.Error as exc:
            raise FetchError("the service sent a data: URL that is not base64", FetchKind.REFUSED) from exc
        size += len(data)
        await sink(data)
    return size


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
