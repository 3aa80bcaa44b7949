"""The service as the runner sees it, and its form over HTTP.

Rule: this edge sends and receives bytes and translates httpx's errors; `rsbatch.wire` says what answers mean. The
key lives in the headers of the two API clients and nowhere else. Requests never queue inside httpx's pool: a
limiter of ours stands before each (cancelled requests that queue leak pool slots for good, encode/httpcore#1093).
"""

from __future__ import annotations

from typing import Protocol

import anyio
import httpx

from rsbatch import __version__, wire
from rsbatch.clock import Clock

SUBMIT_SECONDS = 120.0
QUERY_SECONDS = 30.0
CONNECT_SECONDS = 20.0
MAX_OPEN_SUBMITS = 32
MAX_OPEN_QUERIES = 16
"""httpx's pool costs time in proportion to its connections; a query takes a fraction of a second."""

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
        self._max_answer = max_answer
        # Submissions go on fresh connections: on a reused one that the server just dropped, nobody can tell
        # whether the request arrived. With fresh ones that doubt does not arise.
        self._submits = _client(base_url, headers | {"Connection": "close"}, MAX_OPEN_SUBMITS, 0, transport)
        self._queries = _client(base_url, headers, MAX_OPEN_QUERIES, MAX_OPEN_QUERIES, transport)
        self._submit_slots = anyio.CapacityLimiter(MAX_OPEN_SUBMITS)
        self._query_slots = anyio.CapacityLimiter(MAX_OPEN_QUERIES)

    async def __aenter__(self) -> HttpService:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 5):
            await self._submits.aclose()
            await self._queries.aclose()

    async def submit(self, body: bytes) -> wire.SubmitOutcome:
        """Order one image; takes at most SUBMIT_SECONDS."""
        async with self._submit_slots:
            try:
                with anyio.fail_after(SUBMIT_SECONDS):
                    answer = await self._post(self._submits, wire.SUBMIT_PATH, body, _SUBMIT_ANSWER_MOST)
            except _NOT_SENT as exc:
                return wire.NotSent(_reason(exc))
            except (httpx.HTTPError, OSError) as exc:  # TimeoutError is an OSError
                return wire.Doubt(_reason(exc))
        return wire.read_submit(answer, self._clock.wall())

    async def query(self, job_id: str) -> wire.QueryOutcome:
        """Ask how a job is doing; takes at most QUERY_SECONDS."""
        async with self._query_slots:
            try:
                with anyio.fail_after(QUERY_SECONDS):
                    body = wire.query_body(job_id)
                    answer = await self._post(self._queries, wire.QUERY_PATH, body, self._max_answer)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
                return wire.Trouble(_reason(exc))
        return wire.read_query(answer, self._clock.wall())

    async def _post(self, client: httpx.AsyncClient, path: str, body: bytes, most: int) -> wire.Answer:
        async with client.stream("POST", path, content=body) as response:
            chunks: list[bytes] = []
            size = 0
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if size > most:
                    raise httpx.ReadError(f"an answer of more than {most} bytes")
                chunks.append(chunk)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return wire.Answer(response.status_code, headers, b"".join(chunks))


def _client(
    base_url: str,
    headers: dict[str, str],
    connections: int,
    kept: int,
    transport: httpx.AsyncBaseTransport | None,
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        timeout=httpx.Timeout(SUBMIT_SECONDS, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=kept),
        follow_redirects=False,  # the key goes to no other host
        trust_env=False,
        transport=transport,
    )


def _reason(exc: Exception) -> str:
    name = type(exc).__name__
    text = str(exc)
    return f"{name}: {text}" if text else name
