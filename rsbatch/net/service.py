"""The service as the runner sees it, and its form over HTTP.

Rule: this edge sends and receives bytes and translates httpx's errors; `rsbatch.wire` says what answers mean. The
key lives in the headers of requests to the API and nowhere else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from math import ceil
from typing import Protocol, TypeVar
from urllib.parse import quote

import anyio
import httpx

from rsbatch import __version__, wire
from rsbatch.clock import Clock
from rsbatch.net.transport import AiohttpTransport, tls_context
from rsbatch.text import redact

Outcome = TypeVar("Outcome", wire.SubmitOutcome, wire.QueryOutcome)

SUBMIT_SECONDS = 120.0
QUERY_SECONDS = 30.0
CONNECT_SECONDS = 20.0
_STEP = 5.0
"""Seconds; a stop of the process counts as no more."""
MAX_OPEN_SUBMITS = 32
MAX_OPEN_QUERIES = 16
"""A query takes a fraction of a second, so 16 open ones carry 50 to 500 a second."""

_SUBMIT_ANSWER_MOST = 1024 * 1024
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.ProxyError,
)


class Service(Protocol):
    """Takes request bodies, gives outcomes; raises nothing of its own."""

    async def submit(self, body: bytes) -> wire.SubmitOutcome:
        """Order one image; `body` is the exact JSON."""
        ...

    async def query(self, job_id: str) -> wire.QueryOutcome:
        """Ask how a job is doing."""
        ...


class HttpService:
    """RouteScope over HTTPS. Use as an async context manager.

    `max_answer` bounds a query's answer in bytes (it may hold images in base64). `transport` replaces the network.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        clock: Clock,
        max_answer: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"rsbatch/{__version__}",
        }
        self._clock = clock
        self._watch = _Watch()
        self._max_answer = max_answer
        self._secrets = _forms(key)
        url = httpx.URL(base_url.rstrip("/"))
        # Submissions go on fresh connections: on a reused one that the server just dropped, nobody can tell
        # whether the request arrived. With fresh ones that doubt does not arise.
        close = headers | {"Connection": "close"}
        submits = queries = transport
        if submits is None or queries is None:
            if url.scheme == "https":
                tls_context()  # a list that cannot be read is told before anything begins
            submits, queries = AiohttpTransport(keep=False), AiohttpTransport(keep=True)
        self._submits = _Endpoint(submits, url, wire.SUBMIT_PATH, close, MAX_OPEN_SUBMITS)
        self._queries = _Endpoint(queries, url, wire.QUERY_PATH, headers, MAX_OPEN_QUERIES)

    async def __aenter__(self) -> HttpService:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._watch.run)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)  # what ended the block goes on as it is, in no group
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 5):
                await self._submits.aclose()
                await self._queries.aclose()

    async def submit(self, body: bytes) -> wire.SubmitOutcome:
        """Order one image; takes at most SUBMIT_SECONDS. A cancellation becomes the outcome that can be proved."""
        return self._redacted(await self._submit(body))

    async def _submit(self, body: bytes) -> wire.SubmitOutcome:
        exchange = _Exchange()
        try:
            async with self._submits.places:
                with self._watch.limit(SUBMIT_SECONDS):
                    await self._submits.post(body, _SUBMIT_ANSWER_MOST, exchange)
        except (anyio.get_cancelled_exc_class(), httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            if not exchange.complete:  # else only the closing of the connection was disturbed
                unsent = isinstance(exc, _NOT_SENT) or not exchange.begun
                return wire.NotSent(_reason(exc, "it was sent")) if unsent else wire.Doubt(_reason(exc))
        return wire.read_submit(self._without_key(exchange.answer), self._clock.wall())

    async def query(self, job_id: str) -> wire.QueryOutcome:
        """Ask how a job is doing; takes at most QUERY_SECONDS."""
        return self._redacted(await self._query(job_id))

    async def _query(self, job_id: str) -> wire.QueryOutcome:
        exchange = _Exchange()
        async with self._queries.places:
            try:
                with anyio.fail_after(QUERY_SECONDS):
                    await self._queries.post(wire.query_body(job_id), self._max_answer, exchange)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
                return wire.Trouble(_reason(exc))
        return wire.read_query(self._without_key(exchange.answer), self._clock.wall())

    def _without_key(self, answer: wire.Answer) -> wire.Answer:
        """Take the key out of what came back, before anything cuts it into pieces that nobody would know again."""
        body = answer.body
        for form in self._secrets:
            body = body.replace(form.encode(), b"(key)")
        return answer if body == answer.body else replace(answer, body=body)

    def _redacted(self, outcome: Outcome) -> Outcome:
        """Take secrets out of all texts for people: they go to the ledger and to the terminal."""
        texts = {
            field.name: clean
            for field in fields(outcome)
            if isinstance(value := getattr(outcome, field.name), str)
            and field.name != "job_id"
            and (clean := redact(value, self._secrets)) != value
        }
        return replace(outcome, **texts) if texts else outcome  # type: ignore[arg-type]  # only texts are replaced, by texts


class _Endpoint:
    """One address that bodies are posted to, `count` at a time.

    Without `httpx.AsyncClient`, which would keep cookies, follow hints of redirects and log.
    """

    def __init__(
        self, transport: httpx.AsyncBaseTransport, base: httpx.URL, path: str, headers: dict[str, str], count: int
    ) -> None:
        self.places = anyio.Semaphore(count, fast_acquire=True)
        self._transport = transport
        self._url = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + path.encode())
        self._headers = httpx.Headers({"Host": self._url.netloc.decode(), "Accept": "*/*", **headers})
        # The whole of a request has a deadline of ours.
        self._timeout = httpx.Timeout(None, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS).as_dict()

    async def aclose(self) -> None:
        """Close the transport and its connections."""
        await self._transport.aclose()

    async def post(self, body: bytes, most: int, exchange: _Exchange) -> None:
        """Send one body and read the answer into `exchange`. Raises httpx's errors."""
        # With `content` httpx would find out the first and the last header by itself, in twice the time.
        request = httpx.Request(
            "POST",
            self._url,
            headers=self._headers,
            stream=httpx.ByteStream(body),
            extensions={"timeout": self._timeout, "trace": exchange.trace},
        )
        request.headers["Content-Length"] = str(len(body))
        request.read()
        exchange.begun = True  # until the transport tells that it is still connecting; not every one does
        response = await self._transport.handle_async_request(request)
        try:
            exchange.status = response.status_code
            exchange.headers = response.headers
            response.stream = stream = _ToItsEnd(response.stream, exchange)
            # `aiter_bytes` takes a tenth of a query's CPU, where it has nothing to decode. (It closes the connection
            # before it ends, so the end is told by `_ToItsEnd`.)
            encoded = "Content-Encoding" in response.headers
            size = 0
            async for chunk in response.aiter_bytes() if encoded else stream:
                size += len(chunk)
                if size > most:
                    raise httpx.ReadError(f"an answer of more than {most} bytes")
                exchange.chunks.append(chunk)
        finally:
            await response.aclose()


class _Exchange:
    """One request on its way, and as much of the answer as is here.

    `begun` is false while no byte of the request can have left; `complete` is true once all of the answer has
    come: before the connection is closed, which may be interrupted, too.
    """

    def __init__(self) -> None:
        self.begun = False
        self.complete = False
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.chunks: list[bytes] = []

    async def trace(self, event: str, info: object) -> None:
        """Take in a step, by httpcore's names: `connection.…` while it connects, `http11.…` from then on."""
        self.begun = not event.startswith("connection.")

    @property
    def answer(self) -> wire.Answer:
        """The answer that has come."""
        return wire.Answer(self.status, self.headers, b"".join(self.chunks))


class _ToItsEnd(httpx.AsyncByteStream):
    """The body of an answer, which tells its exchange when it has come to its end."""

    def __init__(self, inner: httpx.SyncByteStream | httpx.AsyncByteStream, exchange: _Exchange) -> None:
        if not isinstance(inner, httpx.AsyncByteStream):  # httpx's own type says less than it does
            raise TypeError("a body that cannot be awaited")
        self._inner = inner
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk
        self._exchange.complete = True

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Watch:
    """Ends what has taken too much of the time in which this process ran.

    One that was stopped (Ctrl-Z, a paused machine) finds the answer in its socket when it goes on, and has the time to
    read it; with plain deadlines every submission that was open would be in doubt. One task watches all, because one
    for each takes 0.15 ms of CPU.
    """

    def __init__(self) -> None:
        self._left: dict[anyio.CancelScope, int] = {}
        self._news = anyio.Event()

    async def run(self) -> None:
        """Count down, for ever."""
        while True:
            if not self._left:
                self._news = anyio.Event()
                await self._news.wait()
            await anyio.sleep(_STEP)
            for scope in self._left:
                self._left[scope] -= 1
                if self._left[scope] <= 0:
                    scope.cancel()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Raise TimeoutError in what takes more than so many seconds, up to a `_STEP` sooner; `run` must be running."""
        with anyio.CancelScope() as scope:
            self._left[scope] = ceil(seconds / _STEP)
            self._news.set()
            try:
                yield
            finally:
                del self._left[scope]
        if scope.cancelled_caught:
            raise TimeoutError


def _forms(key: str) -> list[str]:
    """Give the key in the forms in which a server may repeat it: as it is, escaped in JSON or a URL, in base64."""
    encoded = {base64.b64encode(text.encode()).decode().rstrip("=") for text in (key, f"Bearer {key}")}
    escaped = {json.dumps(key)[1:-1], key.replace("/", "\\/"), quote(key, safe=""), quote(key)}
    return sorted({key, *encoded, *escaped}, key=len, reverse=True)


def _reason(exc: BaseException, before: str = "the answer came") -> str:
    if not isinstance(exc, Exception):
        return f"interrupted before {before}"
    name = type(exc).__name__
    text = str(exc)
    return f"{name}: {text}" if text else name
