"""Requests to the API as they leave over a real socket, and answers as they come."""

from __future__ import annotations

import gc
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from anyio.abc import SocketStream

from rsbatch import wire
from rsbatch.clock import SystemClock
from rsbatch.net.service import HttpService, _Exchange
from tests.net.conftest import Serve, response

pytestmark = pytest.mark.anyio
WAITING = json.dumps({"status": "WAIT"}).encode()


async def test_a_request_is_whole_and_says_where_it_goes(serve: Serve, send: Callable[..., Any]) -> None:
    async with serve(send(WAITING)) as server:
        url = f"{server.url}/base"
        async with HttpService(url, "sk-x", clock=SystemClock(), max_answer=100) as service:
            assert await service.query("job") == wire.Waiting("WAIT")
            await service.submit('{"prompt": "Ä"}'.encode())
    for head, path, size in zip(server.heads, (wire.QUERY_PATH, wire.SUBMIT_PATH), (16, 16), strict=True):
        first, *lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        assert first == f"POST /base{path} HTTP/1.1".encode()
        assert len(lines) == len(headers), "each once"
        assert headers[b"host"] == f"127.0.0.1:{server.port}".encode()
        assert headers[b"content-length"] == str(size).encode()
        assert headers[b"authorization"] == b"bearer sk-x"


@pytest.mark.parametrize("size", [0, 1_000_000])
async def test_no_answer_is_held_once_it_was_read(serve: Serve, size: int) -> None:
    """It may be 86 MB of base64, and each kept connection would hold one."""

    async def twice(stream: SocketStream, head: bytes) -> None:
        for _ in range(2):
            await stream.send(response(WAITING + b" " * size))
            await stream.receive()

    async with (
        serve(twice) as server,
        HttpService(server.url, "sk-x", clock=SystemClock(), max_answer=size + 100) as service,
    ):
        for _ in range(2):
            assert await service.query("job") == wire.Waiting("WAIT")
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, _Exchange)]


@pytest.mark.parametrize("body", [WAITING, b'{"status": "WAIT", "x": "%s"}' % (b"x" * 10**6)], ids=["small", "bomb"])
async def test_an_answer_that_is_encoded_unasked_is_read_up_to_the_cap(
    serve: Serve, send: Callable[..., Any], body: bytes
) -> None:
    async with (
        serve(send(gzip.compress(body), "Content-Encoding: gzip")) as server,
        HttpService(server.url, "sk-x", clock=SystemClock(), max_answer=10_000) as service,
    ):
        outcome = await service.query("job")
    if body is WAITING:
        assert outcome == wire.Waiting("WAIT")
    else:
        assert outcome == wire.Trouble("ReadError: an answer of more than 10000 bytes")
