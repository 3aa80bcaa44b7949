from __future__ import annotations

import base64
import io
from typing import Any

import anyio
import httpx
import pytest
import trio
import trio.testing
from PIL import Image
from simulator_help import CAT, HEADERS, ORIGIN

from rsbatch.simulator import Engine, Settings, SimulatorTransport, create_app
from rsbatch.simulator.wire import AUDIT, QUERY, SUBMIT


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Asyncio as it ships; trio on virtual time, where no test waits."""
    if request.param == "asyncio":
        return "asyncio"
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Service:
    """A client on an engine of its own, whose clock stands where it is put."""

    def __init__(self, **settings: Any) -> None:
        self.engine = Engine(Settings(**{"service_time": 1, "sigma": 0, **settings}))
        self.now = 1000.0
        self.transport = SimulatorTransport(self.engine, clock=lambda: self.now)
        self.client = httpx.AsyncClient(transport=self.transport, base_url=ORIGIN, headers=HEADERS, timeout=30)

    async def url(self) -> str:
        job_id = (await self.client.post(SUBMIT, json=CAT)).json()["job_id"]
        self.now += 100
        data = (await self.client.post(QUERY, json={"job_id": job_id})).json()["data"]
        return str(data[0]["url"])


@pytest.mark.anyio
async def test_from_submission_to_image() -> None:
    service = Service()
    url = await service.url()
    assert url.startswith(ORIGIN)
    async with service.client.stream("GET", url) as response:
        assert response.status_code == 200
        chunks = [chunk async for chunk in response.aiter_raw()]
    body = b"".join(chunks)
    assert response.headers["content-length"] == str(len(body))
    with Image.open(io.BytesIO(body)) as image:
        assert image.size == (64, 64)
    assert (await service.client.get(AUDIT)).json()["totals"]["charged"] == 1


@pytest.mark.anyio
async def test_urls_of_images_follow_the_host_that_was_asked() -> None:
    service = Service()
    job_id = (await service.client.post(SUBMIT, json=CAT)).json()["job_id"]
    service.now += 100
    answer = await service.client.post(f"https://api.example.com{QUERY}", json={"job_id": job_id})
    url = answer.json()["data"][0]["url"]
    assert url.startswith("https://api.example.com/simulator/images/")
    assert (await service.client.get(url)).status_code == 200


@pytest.mark.anyio
async def test_large_images_come_in_pieces() -> None:
    service = Service()
    job_id = (await service.client.post(SUBMIT, json=CAT | {"size": "2048x2048"})).json()["job_id"]
    service.now += 100
    url = (await service.client.post(QUERY, json={"job_id": job_id})).json()["data"][0]["url"]
    async with service.client.stream("GET", url) as response:
        sizes = [len(chunk) async for chunk in response.aiter_raw()]
    assert sum(sizes) == int(response.headers["content-length"])
    assert max(sizes) <= 64 * 1024
    assert len(sizes) > 1


@pytest.mark.anyio
async def test_resets_and_cut_files_are_httpx_errors() -> None:
    with pytest.raises(httpx.ReadError):
        await Service(faults={"reset-after": 1}).client.post(SUBMIT, json=CAT)
    cut = Service(faults={"image-cut-length": 1})
    url = await cut.url()
    with pytest.raises(httpx.RemoteProtocolError):
        await cut.client.get(url)
    clean = Service(faults={"image-cut-clean": 1})
    half = await clean.client.get(await clean.url())
    assert half.status_code == 200
    with pytest.raises(OSError), Image.open(io.BytesIO(half.content)) as image:
        image.load()


@pytest.mark.anyio
async def test_images_inside_the_answer() -> None:
    service = Service(faults={"done-b64": 1})
    job_id = (await service.client.post(SUBMIT, json=CAT)).json()["job_id"]
    service.now += 100
    answer = (await service.client.post(QUERY, json={"job_id": job_id})).json()
    assert answer["status"] == "DONE"
    with Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as image:
        image.load()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # virtual time allows no threads
async def test_drawing_in_a_thread() -> None:
    service = Service()
    url = await service.url()
    threaded = SimulatorTransport(service.engine, clock=lambda: service.now, paint_in_thread=True)
    async with httpx.AsyncClient(transport=threaded) as client:
        assert (await client.get(url)).content == (await service.client.get(url)).content


async def _virtual() -> None:
    hung = Service(faults={"hang-after": 1}, hang=150)
    start = anyio.current_time()
    with pytest.raises(httpx.ReadTimeout):
        await hung.client.post(SUBMIT, json=CAT)
    assert anyio.current_time() - start == pytest.approx(30)
    assert len(hung.engine.jobs) == 1
    with pytest.raises(httpx.ReadError):
        await hung.client.post(SUBMIT, json=CAT, timeout=None)
    assert anyio.current_time() - start == pytest.approx(180)

    slow = Service(faults={"image-slow": 1}, stall=20)
    url, start = await slow.url(), anyio.current_time()
    assert (await slow.client.get(url)).status_code == 200
    assert anyio.current_time() - start == pytest.approx(20)
    with pytest.raises(httpx.ReadTimeout):
        await slow.client.get(url, timeout=5)

    far = Service(latency=4, download_time=10, speed=2, service_time=0)
    start = anyio.current_time()
    url = await far.url()
    assert anyio.current_time() - start == pytest.approx(4), "a submission and a query, 2 s each"
    assert (await far.client.get(url)).status_code == 200
    assert anyio.current_time() - start == pytest.approx(4 + 2 + 5)


def test_hanging_answers_and_slow_images_in_virtual_time() -> None:
    trio.run(_virtual, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.anyio
async def test_the_application_under_another_server() -> None:
    engine = Engine(Settings(faults={"reset-before": 1}))
    app = create_app(engine, clock=lambda: 1000.0)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
        assert (await client.get(AUDIT)).json()["totals"]["accepted"] == 0
        assert (await client.post(SUBMIT, json={})).status_code == 401
        with pytest.raises(ConnectionResetError):
            await client.post(SUBMIT, json=CAT, headers=HEADERS)


@pytest.mark.anyio
async def test_the_application_from_submission_to_image() -> None:
    now = [1000.0]
    app = create_app(Engine(Settings()), clock=lambda: now[0])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=HEADERS) as client:
        job_id = (await client.post(SUBMIT, json=CAT)).json()["job_id"]
        now[0] += 100
        url = (await client.post(QUERY, json={"job_id": job_id})).json()["data"][0]["url"]
        assert url.startswith(ORIGIN)
        image = await client.get(url)
        assert image.headers["content-type"] == "image/png"
        assert len(image.content) == int(image.headers["content-length"])


@pytest.mark.anyio
@pytest.mark.parametrize("latency", [0, 8])
async def test_the_application_takes_half_of_the_latency_each_way(latency: float) -> None:
    engine, told = Engine(Settings(service_time=0, latency=latency, download_time=3)), list[object]()

    async def sleep(seconds: float) -> None:
        told.append(seconds)

    def clock() -> float:
        told.append("accepted")
        return 1000.0

    app = create_app(engine, clock=clock, sleep=sleep)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN, headers=HEADERS)
    job_id = (await client.post(SUBMIT, json=CAT)).json()["job_id"]
    assert told == ([4.0, "accepted", 4.0] if latency else ["accepted"])
    url = (await client.post(QUERY, json={"job_id": job_id})).json()["data"][0]["url"]
    del told[:]
    assert (await client.get(url)).status_code == 200
    assert [seconds for seconds in told if seconds != "accepted"] == ([4.0, 4.0, 3.0] if latency else [3.0])


async def _sent(app: Any, *messages: dict[str, Any], **scope: Any) -> list[dict[str, Any]]:
    """Give the application a request by hand; return what it sends."""
    waiting, sent = list(messages), list[dict[str, Any]]()

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": SUBMIT, "headers": [], **scope}, receive, send)
    return sent


@pytest.mark.anyio
async def test_the_application_by_hand() -> None:
    ended: list[bool] = []
    engine = Engine(Settings(faults={"reset-after": 1}))
    app = create_app(engine, clock=lambda: 1000.0)
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    half, rest = b'{"prompt": ', b'"A cat"}'
    gone = {"type": "http.disconnect"}
    pieces = ({"type": "http.request", "body": half, "more_body": True}, {"type": "http.request", "body": rest})
    offer = {"rsbatch.hang_up": ended.append}

    assert await _sent(app, pieces[0], gone, headers=headers) == []
    assert not engine.jobs
    assert await _sent(app, *pieces, {"type": "http.request"}, gone, headers=headers, extensions=offer) == []
    assert ended == [True]
    assert len(engine.jobs) == 1
    (start, *_) = await _sent(app, {"type": "http.request"})
    assert start["status"] == 401
    with pytest.raises(RuntimeError, match="http only"):
        await _sent(app, type="websocket")


@pytest.mark.anyio
async def test_a_file_cut_by_hand() -> None:
    ended: list[bool] = []
    service = Service(faults={"image-cut-length": 1})
    url = httpx.URL(await service.url())
    app = create_app(service.engine, clock=lambda: service.now)
    messages = ({"type": "http.request"}, {"type": "http.disconnect"})
    scope = {
        "method": "GET",
        "path": url.path,
        "query_string": url.query,
        "extensions": {"rsbatch.hang_up": ended.append},
    }
    start, *pieces = await _sent(app, *messages, **scope)
    promised = int(dict(start["headers"])[b"content-length"])
    assert sum(len(piece["body"]) for piece in pieces) == promised // 2
    assert ended == [False]
