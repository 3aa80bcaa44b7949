from __future__ import annotations

import httpx
import pytest

from rsbatch.net.ping import ping

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_ping_names_its_moment_and_nothing_else() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    assert await ping("https://hc.example/uuid/", "start", transport=httpx.MockTransport(answer)) == ""
    assert str(seen[0].url) == "https://hc.example/uuid/start"
    assert "authorization" not in seen[0].headers


async def test_a_ping_that_fails_is_a_sentence() -> None:
    refused = httpx.MockTransport(lambda request: httpx.Response(503))
    assert "503" in await ping("https://hc.example/uuid", "0", transport=refused)
    assert "not delivered" in await ping("http://127.0.0.1:1/uuid", "0")
