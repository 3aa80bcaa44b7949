"""The order of a task's writes, and what is said when it is broken off: each habit by itself."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import anyio
import httpx
import pytest

from rsbatch.errors import Exit, StoreError
from rsbatch.ledger.memory import MemoryLedgerFile
from rsbatch.lifecycle import State
from rsbatch.model import Limits, Rules, Task
from rsbatch.session import render
from rsbatch.sidecar import MOST_BYTES
from rsbatch.simulator import Settings, wire
from tests.runner.world import Killed, World, signal_at, task, tasks, within
from torture.mishaps import Network, Weather


class Watching(httpx.AsyncBaseTransport):
    """Notes at every request what the ledger's disk has by then."""

    def __init__(self, inner: httpx.AsyncBaseTransport, world: World) -> None:
        self.inner = inner
        self.world = world
        self.seen: list[tuple[str, bytes]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        kind = {wire.SUBMIT: "submit", wire.QUERY: "query"}.get(request.url.path, "image")
        self.seen.append((kind, bytes(self.world.disk.data)))
        return await self.inner.handle_async_request(request)


def test_each_step_is_durable_before_the_next_request(world: World) -> None:
    watching: list[Watching] = []

    def wrap(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        watching.append(Watching(inner, world))
        return watching[0]

    world.wrap = wrap
    world.disk_latency = lambda: 0.5
    assert world.run([task("a")]).exit_code is Exit.OK
    (watched,) = watching
    needs = {"submit": b'"submitting"', "query": b'"submitted"', "image": b'"generated"'}
    assert {kind for kind, _ in watched.seen} == set(needs)
    for kind, data in watched.seen:
        assert needs[kind] in data, kind


def test_an_intent_that_cannot_be_recorded_is_not_sent(world: World) -> None:
    world.fuse.fails = 2
    world.wrap = lambda inner: Network(inner, weather, world.fuse)
    weather = Weather()
    assert world.run([task("a")]).exit_code is Exit.STORE
    assert not weather.sent


class Redirects(httpx.AsyncBaseTransport):
    def __init__(self, location: str) -> None:
        self.location = location
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(307, headers={"Location": self.location}, request=request)


@pytest.mark.parametrize("location", ["http://[", "https://elsewhere.example/x", "//\x7f", "https://:99999/", ""])
def test_a_redirect_is_a_wrong_address_and_no_task_is_charged(world: World, location: str) -> None:
    there = Redirects(location)
    world.wrap = lambda inner: there
    result = world.run([task("a")])
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "wrong_address")
    assert [h.state for h in world.state.histories()] == [State.NOT_SUBMITTED]
    assert [request.url.host for request in there.requests] == ["127.0.0.1"], "the key goes nowhere else"


def test_what_we_gave_up_ourselves_is_not_told_as_a_service_that_cannot_be_reached(world: World) -> None:
    twice = ((1.0, signal.SIGINT), (1.0, signal.SIGINT))
    world.wrap = lambda inner: Network(inner, Weather(delay=lambda: 5.0), world.fuse)
    world.run([task("a")], signals=signal_at(*twice))
    notes = world.observer.notes
    assert "a was not sent: interrupted before it was sent" in notes
    assert not any("reached" in note or "trying again" in note for note in notes)


def test_an_answer_at_the_last_moment_is_recorded(world: World) -> None:
    """Two signals give open submissions two seconds; whenever the answer comes, what was accepted is known."""

    class Late(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport, after: float) -> None:
            self.inner = inner
            self.after = after

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await self.inner.handle_async_request(request)
            if request.url.path == wire.SUBMIT:
                await anyio.sleep_until(self.after)
            return answer

    for milliseconds in range(2980, 3000, 2):
        here = World()
        here.wrap = lambda inner, at=milliseconds / 1000: Late(inner, at)  # type: ignore[misc]
        # One of them waits for the sync of the other, past the two seconds.
        here.disk_latency = lambda: 0.5 if anyio.current_time() > 2 else 0.0
        here.launch = within(1000)
        here.run(tasks(2), signals=signal_at((1.0, signal.SIGINT), (1.0, signal.SIGINT)))
        assert [history.state for history in here.state.histories()] == [State.SUBMITTED] * 2, milliseconds


class Counting(httpx.AsyncBaseTransport):
    """Counts the requests that are open at once, by path, and notes their headers."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.open: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.headers: dict[str, httpx.Headers] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.headers[path] = request.headers
        self.open[path] = self.open.get(path, 0) + 1
        self.most[path] = max(self.most.get(path, 0), self.open[path])
        try:
            await anyio.sleep(1)
            return await self.inner.handle_async_request(request)
        finally:
            self.open[path] -= 1


def test_requests_never_queue_in_the_pool_and_submissions_are_on_fresh_connections() -> None:
    import trio
    import trio.testing

    from rsbatch.clock import SystemClock
    from rsbatch.net.service import MAX_OPEN_QUERIES, MAX_OPEN_SUBMITS, HttpService

    class Never(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json={"status": "WAIT"}, request=request)

    counting = Counting(Never())

    async def main() -> None:
        service = HttpService("http://127.0.0.1:1", "sk-x", clock=SystemClock(), max_answer=100, transport=counting)
        async with service, anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(service.submit, b"{}")
                group.start_soon(service.query, "job")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert counting.most == {wire.SUBMIT: MAX_OPEN_SUBMITS, wire.QUERY: MAX_OPEN_QUERIES}
    assert counting.headers[wire.SUBMIT]["Connection"] == "close"
    assert {headers["Accept-Encoding"] for headers in counting.headers.values()} == {"identity"}


class Answers(httpx.AsyncBaseTransport):
    """Answers submissions, or queries, with a body that never ends or never comes."""

    def __init__(self, inner: httpx.AsyncBaseTransport, path: str, piece: bytes) -> None:
        self.inner = inner
        self.path = path
        self.piece = piece
        self.pieces = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != self.path:
            return await self.inner.handle_async_request(request)
        return httpx.Response(200, content=self._body(), request=request)

    async def _body(self) -> AsyncIterator[bytes]:
        for _ in range(10_000):  # an end all the same, for those who would read on
            self.pieces += 1
            await anyio.sleep(1)
            yield self.piece


# Trio tells of generators that are left in their middle, as httpx's are where an answer is not read to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("path", "size"), [(wire.SUBMIT, 10**6), (wire.QUERY, 10**6), (wire.SUBMIT, 1), (wire.QUERY, 1)]
)
def test_answers_without_end_are_cut_off(world: World, path: str, size: int) -> None:
    there: list[Answers] = []

    def wrap(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        there.append(Answers(inner, path, b" " * size))
        return there[0]

    world.wrap = wrap
    result = world.run([task("a")], limits=Limits(task_timeout=100.0))
    state = State.HELD if path == wire.SUBMIT else State.PARKED
    assert [h.state for h in world.state.histories()] == [state]
    assert there[0].pieces < 500
    assert result.seconds < 400


def test_an_order_that_fits_is_reserved_while_others_are_open(world: World) -> None:
    world.disk_latency = lambda: 0.5
    result = world.run(tasks(8), rules=Rules(budget=Decimal("0.03")))
    assert result.reason == "budget"
    assert sum(world.paid().values()) == 3


def test_a_run_whose_reserve_was_spent_comes_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryLedgerFile, "nearly_full", property(lambda file: file.size > 3000))
    result = world.run(tasks(30))
    assert (result.exit_code, "disk is full" in result.message) == (Exit.STORE, True)
    assert sum(world.paid().values()) < 30


def test_an_order_whose_intent_took_the_reserve_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(MemoryLedgerFile, "nearly_full", property(lambda file: b'"submitting"' in world.disk.data))
        result = world.run(tasks(3))
    assert (result.exit_code, "disk is full" in result.message) == (Exit.STORE, True)
    assert (world.paid(), result.this_run.submitted) == ({}, 0)
    assert {h.state for h in world.state.histories()} == {State.NOT_SUBMITTED}
    assert world.run(tasks(3)).exit_code is Exit.OK
    assert list(world.paid().values()) == [1, 1, 1]


def test_nothing_is_written_after_a_failed_write(world: World) -> None:
    world.fuse.fails = 6
    assert world.run(tasks(6)).exit_code is Exit.STORE
    assert world.fuse.appends == 6, "what is left goes to the rescue"
    assert world.disk.rescued
    before = sum(world.paid().values())
    assert world.run(tasks(6)).exit_code is Exit.OK
    assert set(world.paid().values()) == {1}, before


def test_the_key_is_in_no_text_that_a_service_made_of_it(world: World) -> None:
    class Repeats(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            body: dict[str, Any] = {"code": "bad", "message": f"no: {request.headers['Authorization']}"}
            return httpx.Response(400, json=body, request=request)

    world.key = "0123456789-without-a-form"
    world.wrap = lambda inner: Repeats()
    world.run([task("a")])
    assert world.key.encode() not in bytes(world.disk.data)
    assert not any(world.key in note for note in world.observer.notes)


class Storing:
    """Notes what is done to a storage, and what the ledger's disk has by then."""

    def __init__(self, inner: Any, world: World) -> None:
        self._inner = inner
        self._world = world
        self.steps: list[tuple[str, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @asynccontextmanager
    async def open_part(self, name: str) -> AsyncIterator[Any]:
        async with self._inner.open_part(name) as part:
            sync = part.sync

            async def noted(check: Any) -> Any:
                found = await sync(check)
                self.steps.append(("sync", bytes(self._world.disk.data)))
                return found

            part.sync = noted
            yield part

    async def publish(self, name: str, path: str, sidecar: bytes | None = None) -> bool:
        self.steps.append(("publish", bytes(self._world.disk.data)))
        written: bool = await self._inner.publish(name, path, sidecar)
        return written

    async def settle(self, path: str) -> None:
        self.steps.append(("settle", b""))
        await self._inner.settle(path)


def test_a_part_is_synced_and_recorded_before_it_has_its_name(world: World) -> None:
    storing = Storing(world.storage, world)
    world.storage = storing  # type: ignore[assignment]
    world.disk_latency = lambda: 0.5
    assert world.run([task("a")]).exit_code is Exit.OK
    assert [step for step, _ in storing.steps] == ["sync", "publish"]
    assert [b'"downloaded"' in data for _, data in storing.steps] == [False, True]


def _killed_before(world: World, where: str) -> None:
    """Run until just before the named touch, and die there."""
    for at in range(1, 200):
        world.fuse.at = at
        with contextlib.suppress(Killed, BaseExceptionGroup):
            world.run([task("a")])
        if world.fuse.where == where:
            world.fuse.at, world.fuse.blown, world.fuse.where, world.fuse.count = None, False, "", 0
            return
        world.__init__(world.settings)  # type: ignore[misc]
    raise AssertionError(f"no touch is called {where}")


@pytest.mark.parametrize("where", ["publish", "write_atomic"])
def test_what_a_crash_left_is_taken_over_only_by_its_hash(where: str) -> None:
    world = World(Settings(service_time=5))
    _killed_before(world, f"before {where}")
    places: dict[str, Any] = world.storage._parts if where == "publish" else world.storage._files
    ((name, right),) = places.items()
    places[name] = type(right)(b"\x00" * len(right))
    assert world.run([task("a")]).exit_code is Exit.OK
    assert world.storage._files["a.png"] == bytes(right)
    assert sum(world.paid().values()) == 1


def test_what_stands_in_place_after_a_crash_is_settled() -> None:
    world = World(Settings(service_time=5))
    _killed_before(world, "before write_atomic")
    storing = Storing(world.storage, world)
    world.storage = storing  # type: ignore[assignment]
    assert world.run([task("a")]).exit_code is Exit.OK
    assert "settle" in [step for step, _ in storing.steps]


def test_a_job_is_of_one_task(world: World) -> None:
    class Same(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner
            self.first: dict[str, Any] = {}

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await self.inner.handle_async_request(request)
            if request.url.path == wire.SUBMIT:
                await answer.aread()
                self.first = self.first or answer.json()
                return httpx.Response(200, json=self.first, request=request)
            return answer

    world.wrap = Same
    world.run(tasks(2))
    assert sorted(str(h.state) for h in world.state.histories()) == ["held", "saved"]


def test_a_strangers_sidecar_makes_way(world: World) -> None:
    world.storage._put("a.png.json", b"mine")
    assert world.run([task("a")]).exit_code is Exit.OK
    assert b"mine" in world.storage._files.values()
    assert b'"sidecar": 1' in world.storage._files["a.png.json"]


def test_a_submission_is_brought_to_its_end_whatever_ends_the_run(world: World) -> None:
    async def broken() -> AsyncIterator[int]:
        await anyio.sleep(1)
        raise RuntimeError("a bug")
        yield 0

    class Slow(Watching):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            await anyio.sleep(5)
            return answer

    world.wrap = lambda inner: Slow(inner, world)
    with pytest.raises(BaseExceptionGroup):
        world.run([task("a")], signals=broken)
    assert [h.state for h in world.state.histories()] == [State.SUBMITTED]


def test_a_key_that_is_cut_or_in_an_error_is_told_nowhere(world: World) -> None:
    world.key = "0123456789-without-a-form"

    class Cut(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if b"picture a" in request.content:
                return httpx.Response(200, text="x" * 290 + world.key, request=request)
            raise httpx.ReadError(f"while {world.key} was sent", request=request)

    world.wrap = lambda inner: Cut()
    world.run([task("a"), task("b")])
    assert [h.state for h in world.state.histories()] == [State.HELD, State.HELD]
    told = bytes(world.disk.data).decode() + "\n".join(world.observer.notes)
    assert world.key[:8] not in told


def test_what_comes_to_its_turn_after_the_stop_is_not_submitted(world: World) -> None:
    async def slow(one: Task) -> bytes:
        await anyio.sleep(1)  # its images are read
        return await render(one)

    world.render = slow
    world.run([task("a")], signals=signal_at((0.5, signal.SIGINT)))
    assert not world.paid()
    assert not world.records("submitting")


def test_a_job_whose_record_could_not_be_written_ends_the_run_and_is_rescued(world: World) -> None:
    world.fuse.fails = 3
    world.launch = within(1000)
    assert world.run([task("a")]).exit_code is Exit.STORE
    assert b'"submitted"' in world.disk.rescued
    assert world.run([task("a")]).exit_code is Exit.OK
    assert world.paid() == {"picture a": 1}


class Hanging(Watching):
    """Images never come."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if self.seen[-1][0] == "image":
            await anyio.sleep_forever()
        return answer


def test_downloads_do_not_outlast_the_grace_time() -> None:
    world = World(Settings(service_time=5))
    world.wrap = lambda inner: Hanging(inner, world)
    result = world.run([task("a")], signals=signal_at((20.0, signal.SIGINT)), grace=5.0)
    assert result.seconds < 30


def test_downloads_do_not_outlast_a_failure_of_the_disk() -> None:
    world = World(Settings(service_time=5))
    world.wrap = lambda inner: Hanging(inner, world)
    world.fuse.fails = 30
    result = world.run(tasks(100))
    assert result.exit_code is Exit.STORE
    assert result.seconds < 60


def test_an_output_that_fails_ends_the_run(world: World) -> None:
    class Full(Storing):
        async def publish(self, name: str, path: str, sidecar: bytes | None = None) -> bool:
            raise StoreError("the disk is full")

    storage, world.storage = world.storage, Full(world.storage, world)  # type: ignore[assignment]
    result = world.run([task("a")])
    assert (result.exit_code, result.message) == (Exit.STORE, "the disk is full")
    world.storage = storage
    assert world.run([task("a")]).exit_code is Exit.OK
    assert world.paid() == {"picture a": 1}


def _killed_while_its_answer_is_on_the_way(world: World) -> None:
    class Kills(Watching):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await super().handle_async_request(request)
            raise Killed

    world.wrap = lambda inner: Kills(inner, world)
    with pytest.raises((Killed, BaseExceptionGroup)):
        world.run([task("a")])
    world.wrap = lambda inner: inner


def test_an_intent_whose_answer_a_crash_took_is_recorded_as_a_doubt(world: World) -> None:
    _killed_while_its_answer_is_on_the_way(world)
    assert [h.state for h in world.state.histories()] == [State.SUBMITTING]
    assert world.run([task("a")]).this_run.submitted == 0
    assert [record["reason"] for record in world.records("in_doubt")] == [
        "a crash came between its submission and the answer"
    ]
    assert world.run([task("a")], rules=Rules(in_doubt="resubmit")).exit_code is Exit.OK
    assert world.paid() == {"picture a": 2}


@pytest.mark.parametrize("where", ["publish", "write_atomic"])
def test_what_is_on_the_disk_is_not_asked_for_again(where: str) -> None:
    world = World(Settings(service_time=5))
    _killed_before(world, f"before {where}")
    watching: list[Watching] = []

    def wrap(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        watching.append(Watching(inner, world))
        return watching[0]

    world.wrap = wrap
    assert world.run([task("a")]).exit_code is Exit.OK
    assert not watching[0].seen


def test_an_image_and_its_sidecar_are_in_place_before_it_counts_as_saved(world: World) -> None:
    class Noting(Storing):
        async def write_atomic(self, path: str, data: bytes, *, replace: bool = True) -> None:
            await self._inner.write_atomic(path, data, replace=replace)
            self.steps.append(("sidecar", bytes(self._world.disk.data)))

    storing = Noting(world.storage, world)
    world.storage = storing  # type: ignore[assignment]
    assert world.run([task("a")]).exit_code is Exit.OK
    assert [step for step, _ in storing.steps] == ["sync", "publish", "sidecar"]
    assert not any(b'"saved","task"' in data for _, data in storing.steps)
    assert b'"saved","task"' in world.disk.data


class Whole(httpx.AsyncBaseTransport):
    """Answers at `path` with as much as may come in good order, and more: white space round what it says."""

    def __init__(self, inner: httpx.AsyncBaseTransport, path: str, pieces: int) -> None:
        self.inner = inner
        self.path = path
        self.pieces = pieces
        self.ended = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self.inner.handle_async_request(request)
        if request.url.path != self.path:
            return answer
        return httpx.Response(200, content=self._body(await answer.aread()), request=request)

    async def _body(self, said: bytes) -> AsyncIterator[bytes]:
        yield said
        for _ in range(self.pieces):
            await anyio.sleep(0)
            yield b" " * 1024 * 1024
        self.ended = True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("path", "pieces"), [(wire.SUBMIT, 3), (wire.QUERY, 12)])
def test_answers_have_a_byte_cap(world: World, path: str, pieces: int) -> None:
    there: list[Whole] = []

    def wrap(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        there.append(Whole(inner, path, pieces))
        return there[0]

    world.wrap = wrap
    world.run([task("a")], limits=Limits(task_timeout=100.0))
    (history,) = world.state.histories()
    if path == wire.SUBMIT:
        assert (history.state, "more than 1048576 bytes" in history.message) == (State.HELD, True)
    assert not there[0].ended


def test_images_have_the_byte_cap_of_the_manifest(world: World) -> None:
    world.run([task("a")], limits=Limits(max_image_bytes=100))
    (history,) = world.state.histories()
    assert (history.state, history.message) == (State.FAILED_DOWNLOAD, "larger than the 100 bytes allowed")


def test_a_connection_that_does_not_close_holds_no_run_up(world: World) -> None:
    class Sticks(Watching):
        async def aclose(self) -> None:
            await anyio.sleep(1000)

    world.wrap = lambda inner: Sticks(inner, world)
    began = world.elapsed
    result = world.run([task("a")])
    assert world.elapsed - began < result.seconds + 20


def test_a_huge_file_in_a_sidecars_place_makes_way_unread(world: World) -> None:
    huge = b"x" * (MOST_BYTES + 1)
    world.storage._put("a.png.json", huge)
    assert world.run([task("a")]).exit_code is Exit.OK
    assert huge in world.storage._files.values()


def test_a_sidecar_of_another_task_makes_way(world: World) -> None:
    world.run([task("b")])
    theirs = world.storage._files["b.png.json"]
    world.storage._put("a.png.json", theirs)
    assert world.run([task("a")]).exit_code is Exit.OK
    assert list(world.storage._files.values()).count(theirs) == 2
