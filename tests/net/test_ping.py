from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import anyio
import httpx
import pytest
import trio.testing
from anyio.abc import SocketStream

from rsbatch.errors import Exit
from rsbatch.net.ping import SECONDS, around, ping
from rsbatch.summary import Result

Serve = Callable[..., Any]
URL = "https://hc.example/uuid/"


def on_trio(main: Callable[[], Any]) -> Any:
    """Run it in virtual time."""
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def bounded() -> None:
        with anyio.fail_after(1000):
            await main()

    return anyio.run(bounded, backend="trio", backend_options={"clock": clock})


@pytest.mark.anyio
async def test_a_ping_is_a_plain_request_over_a_real_socket(serve: Serve, send: Callable[..., Any]) -> None:
    async with serve(send(b"OK")) as server:
        assert await ping(f"{server.url}/uuid/", "start") == ""
    lines = server.heads[0].decode().splitlines()
    assert lines[0] == "GET /uuid/start HTTP/1.1"
    assert "authorization" not in server.heads[0].decode().lower()


@pytest.mark.anyio
@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 nonsense\r\n\r\n", b"\x16\x03\x01"])
async def test_a_monitor_that_breaks_off_or_talks_nonsense_is_a_sentence(
    serve: Serve, send: Callable[..., Any], raw: bytes
) -> None:
    async with serve(send(raw, raw=True)) as server:
        assert "start was not delivered (RemoteProtocolError)" in await ping(server.url, "start")


@pytest.mark.anyio
async def test_an_answer_is_not_read(serve: Serve) -> None:
    async def endless(stream: SocketStream, head: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        for _ in range(16):
            await stream.send(b"x" * 65536)
        await anyio.sleep_forever()  # the rest never comes: only who reads it waits for it

    async with serve(endless) as server:
        assert await ping(server.url, "0") == ""


@pytest.mark.anyio
async def test_no_proxy_is_taken_from_the_environment(
    serve: Serve, send: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(send(b"OK")) as server, serve(send(b"OK")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert await ping(server.url, "start") == ""
    assert (len(server.heads), len(proxy.heads)) == (1, 0)


@pytest.mark.anyio
async def test_a_ping_that_is_refused_is_a_sentence(serve: Serve, send: Callable[..., Any]) -> None:
    async with serve(send(b"", status="503 Service Unavailable")) as server:
        said = await ping(server.url, "0")
    assert said == "the ping 0 was not taken (HTTP 503); the run is not affected, check notify.ping"
    assert "not delivered (ConnectError)" in await ping("http://127.0.0.1:1/uuid", "0")


async def hangs(request: httpx.Request) -> httpx.Response:
    await anyio.sleep_forever()
    raise AssertionError


def test_a_monitor_that_hangs_does_not_delay_the_run() -> None:
    said: list[str] = []
    times: list[float] = []

    async def run() -> Result:
        times.append(anyio.current_time())
        return cast(Result, SimpleNamespace(exit_code=Exit.STOPPED))

    async def main() -> None:
        began = anyio.current_time()
        result = await around(URL, run, said.append, transport=httpx.MockTransport(hangs))
        assert result.exit_code == Exit.STOPPED
        times[:] = [times[0] - began, anyio.current_time() - began]

    on_trio(main)
    assert times == [0, 2 * SECONDS]
    why = "was not delivered (no answer in 10 s); the run is not affected, check notify.ping"
    assert said == [f"the ping start {why}", f"the ping 3 {why}"]


def test_the_second_ping_comes_after_the_first_whatever_happens() -> None:
    seen: list[str] = []

    async def slow_at_first(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("start"):
            await anyio.sleep(5)
        seen.append(str(request.url))
        return httpx.Response(200)

    async def bug() -> Result:
        await anyio.sleep(6)
        raise RuntimeError("boom")

    async def main() -> None:
        with pytest.raises(BaseExceptionGroup):
            await around(URL, bug, seen.append, transport=httpx.MockTransport(slow_at_first))

    on_trio(main)
    assert seen == ["https://hc.example/uuid/start", "https://hc.example/uuid/70"]


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://m.example/k/slug?create=1", "http://m.example/k/slug/?create=1#x"])
async def test_a_query_stays_behind_the_suffix(url: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        return httpx.Response(200)

    assert await ping(url, "start", transport=httpx.MockTransport(answer)) == ""
    assert asked == ["/k/slug/start?create=1"]


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["xn--", "xn--a.com", "a..b", "a" * 64])
async def test_a_name_that_no_host_can_have_is_a_sentence(host: str) -> None:
    assert "the run is not affected, check notify.ping" in await ping(f"http://{host}/uuid", "start")
