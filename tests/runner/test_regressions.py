"""What the torture suite found, one case each."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import anyio
import httpx
import pytest
import trio
import trio.testing

from rsbatch import sidecar
from rsbatch.errors import Exit, StoreError
from rsbatch.ledger import records
from rsbatch.ledger.memory import MemoryDisk
from rsbatch.ledger.mend import Rebuild
from rsbatch.ledger.records import BadLine
from rsbatch.ledger.replay import replay
from rsbatch.ledger.writer import Ledger
from rsbatch.lifecycle import State
from rsbatch.model import Selection
from rsbatch.simulator import Settings, wire
from tests.runner.world import BASE, Killed, World, signal_at, task, tasks, within
from torture.mishaps import Fuse, FusedFile, Network, Weather

TWICE = ((1.0, signal.SIGINT), (1.0, signal.SIGINT))
"""Two signals at once, after 1 s: open submissions are given up at 3 s."""


def _behind(world: World, weather: Weather) -> None:
    world.wrap = lambda inner: Network(inner, weather, world.fuse)


def test_a_submission_given_up_while_its_intent_is_synced_is_not_held(world: World) -> None:
    world.disk_latency = iter([0.0, 5.0, *[0.0] * 50]).__next__
    _behind(world, weather := Weather())
    world.run([task("a")], signals=signal_at(*TWICE))
    assert [h.state for h in world.state.histories()] == [State.NOT_SUBMITTED]
    assert not weather.sent


def test_a_submission_given_up_while_it_waits_for_the_sync_of_another_is_not_held(world: World) -> None:
    world.disk_latency = iter([0.0, 5.0, *[0.0] * 50]).__next__
    world.launch = within(1000)
    _behind(world, weather := Weather())
    world.run(tasks(2), signals=signal_at(*TWICE))
    assert [h.state for h in world.state.histories()] == [State.NOT_SUBMITTED, State.NOT_SUBMITTED]
    assert not weather.sent


def test_a_submission_given_up_while_it_connects_is_not_held(world: World) -> None:
    _behind(world, weather := Weather(delay=lambda: 5.0))
    world.run([task("a")], signals=signal_at(*TWICE))
    assert [h.state for h in world.state.histories()] == [State.NOT_SUBMITTED]
    assert [note.sent for note in weather.sent] == [False]


def test_a_submission_given_up_on_its_way_is_held(world: World) -> None:
    _behind(world, weather := Weather(delay=lambda: 1.2))
    world.run([task("a")], signals=signal_at(*TWICE))
    assert [h.state for h in world.state.histories()] == [State.HELD]
    assert [note.sent for note in weather.sent] == [True]


def test_an_answer_is_taken_though_closing_its_connection_was_interrupted(world: World) -> None:
    class Lingers(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            yield json.dumps({"job_id": "task_1", "request_id": "r"}).encode()

        async def aclose(self) -> None:
            await anyio.sleep(10)

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Lingers(), request=request)

    world.wrap = lambda inner: Slow()
    world.launch = within(1000)
    world.run([task("a")], signals=signal_at(*TWICE))
    assert [(h.state, h.job_id) for h in world.state.histories()] == [(State.SUBMITTED, "task_1")]


def test_a_submission_that_was_open_while_the_process_was_stopped_is_no_doubt(world: World) -> None:
    """Ctrl-Z for an hour: the answer came meanwhile, and waits in the socket."""

    class Stopped(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await inner.handle_async_request(request)
            if request.url.path == wire.SUBMIT:
                come = anyio.Event()
                async with anyio.create_task_group() as group:
                    group.start_soon(come.wait)
                    await anyio.sleep(1)
                    clock = trio.lowlevel.current_clock()
                    assert isinstance(clock, trio.testing.MockClock)
                    clock.jump(3600)
                    come.set()
                await anyio.sleep(1)  # more than one read
            return response

    inner: httpx.AsyncBaseTransport

    def wrap(transport: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        nonlocal inner
        inner = transport
        return Stopped()

    world.wrap = wrap
    world.run([task("a"), task("b")])
    assert {h.state for h in world.state.histories()} == {State.SAVED}
    assert len(world.audit["jobs"]) == 2


def test_a_submission_that_is_never_answered_is_in_doubt_after_two_minutes(world: World) -> None:
    class Never(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await anyio.sleep_forever()

    world.wrap = lambda inner: Never()
    world.run([task("a")])
    assert [(h.state, h.message) for h in world.state.histories()] == [(State.HELD, "TimeoutError")]
    assert 120 <= world.elapsed <= 130


class Says(httpx.AsyncBaseTransport):
    """Answers at `path` what `answer` gives for the number of the request there, from 1, if it gives anything."""

    def __init__(self, inner: httpx.AsyncBaseTransport, path: str, answer: Callable[[int], Any]) -> None:
        self.inner = inner
        self.path = path
        self.answer = answer
        self.count = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.path not in request.url.path:
            return await self.inner.handle_async_request(request)
        self.count += 1
        status, body = self.answer(self.count) or (0, None)
        if status:
            return httpx.Response(status, json=body, request=request)
        return await self.inner.handle_async_request(request)


def test_done_without_images_counts_only_three_times_in_a_row(world: World) -> None:
    """It says DONE without images at every other query until the job is done."""
    done = 200, {"status": "DONE", "data": []}
    world.wrap = lambda inner: Says(inner, wire.QUERY, lambda number: done if number % 2 and number < 9 else None)
    assert world.run([task("a")]).exit_code is Exit.OK


def test_a_job_that_is_forgotten_now_and_then_is_waited_for(world: World) -> None:
    world.use(service_time=1200, sigma=0)
    unknown = 404, {"code": "job_not_found", "message": "?"}
    world.wrap = lambda inner: Says(inner, wire.QUERY, lambda number: unknown if number % 2 else None)
    assert world.run([task("a")]).exit_code is Exit.OK


def test_a_deleted_file_that_had_made_way_does_not_take_the_next_ones_sidecar(world: World) -> None:
    old, new = task("a", "one"), task("a", "two")
    world.run([old])
    world.run([new])
    moved = f"a~{old.key[:8]}.png"
    for gone in ([moved], [moved, f"{moved}.json"]):
        for path in gone:
            world.storage._files.pop(path, None)
        assert world.run([new]).exit_code is Exit.OK
        found = sidecar.parse(world.storage._files["a.png.json"])
        assert found is not None
        assert found.key == new.key


def test_what_stands_where_a_moved_file_stood_is_left_alone(world: World) -> None:
    old, new = task("a", "one"), task("a", "two")
    world.run([old])
    size = len(world.files["a.png"])
    world.run([new])
    del world.storage._files[f"a~{old.key[:8]}.png"]
    world.storage._files["a.png"] = edited = b"x" * size
    world.run([new])
    assert world.storage._files["a.png"] == edited


def test_a_saved_image_whose_job_failed_since_stays_saved(world: World) -> None:
    world.run([task("a")])
    del world.storage._files["a.png"]
    world.wrap = lambda inner: Says(inner, wire.QUERY, lambda number: (200, {"status": "FAIL"}))
    result = world.run([task("a")])
    assert (result.exit_code, result.differing.gone) == (Exit.SOME_FAILED, ["a"])
    assert [h.state for h in world.state.histories()] == [State.SAVED]


def test_a_missing_image_is_not_bought_again_for_one_answer_that_its_job_is_unknown(world: World) -> None:
    world.run([task("a")])
    del world.storage._files["a.png"]
    unknown = {"code": "job_not_found", "message": "?"}
    world.wrap = lambda inner: Says(inner, wire.QUERY, lambda number: (404, unknown) if number == 1 else None)
    result = world.run([task("a")], selection=Selection(rebuy_missing=True))
    assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 0)


def test_an_address_that_expired_is_not_asked_again(world: World) -> None:
    class Expired(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner
            self.first: httpx.URL | None = None

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                self.first = self.first or request.url
                if request.url == self.first:
                    return httpx.Response(403, request=request)
            return await self.inner.handle_async_request(request)

    world.wrap = Expired
    assert world.run([task("a")]).exit_code is Exit.OK


def test_queries_do_not_outlast_the_grace_time(world: World) -> None:
    class Silent(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == wire.QUERY:
                await anyio.sleep_forever()
            return await self.inner.handle_async_request(request)

    world.use(service_time=5)
    world.wrap = Silent
    world.launch = within(1000)
    assert world.run(tasks(2), signals=signal_at((20.0, signal.SIGINT)), grace=5.0).seconds < 30


def test_a_saved_image_comes_back_to_its_place_whatever_the_manifest_says_by_now(world: World) -> None:
    one = task("a")
    world.run([one])
    del world.storage._files["a.png"]
    assert world.run([replace(one, path="elsewhere/{ext}.{ext}")]).exit_code is Exit.OK
    assert set(world.files) == {"a.png"}


def test_two_images_of_the_same_bytes_are_two_files(world: World) -> None:
    class Same(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await self.inner.handle_async_request(request)
            if request.method == "GET":
                kept.append(await answer.aread())
                return httpx.Response(200, stream=httpx.ByteStream(kept[0]), request=request)
            return answer

    kept: list[bytes] = []
    world.wrap = Same
    old, new = task("a", "one"), task("a", "two")
    world.run([old])
    world.run([new])
    assert set(world.files) == {"a.png", f"a~{old.key[:8]}.png"}


def test_a_move_that_a_crash_cut_off_takes_its_sidecar_along() -> None:
    old, new = task("a", "one"), task("a", "two")
    for kill in range(1, 200):
        world = World(Settings(service_time=5))
        world.run([old])
        world.fuse = replace(world.fuse, at=kill, count=0)
        try:
            world.run([new])
        except BaseExceptionGroup:
            assert world.fuse.blown
        except Killed:
            pass
        else:
            break
        world.fuse = replace(world.fuse, at=None, blown=False)
        world.run([new], selection=Selection(), rules=None)
        for history in world.state.histories():
            for file in history.files:
                found = sidecar.parse(world.storage._files[f"{file.path}.json"])
                assert found is not None, kill
                assert found.key == history.key, kill
    else:
        pytest.fail("the run never ended by itself")


def test_an_image_is_ours_though_the_record_that_made_way_for_it_is_lost() -> None:
    """A `moved` that rotted, after a crash before `saved`: the ledger says that another image stands there."""
    old, new, tried = task("a", "one"), task("a", "two"), 0
    for kill in count(1):
        world = World(Settings(service_time=5))
        world.run([old])
        world.fuse = replace(world.fuse, at=kill, count=0)
        try:
            world.run([new])
        except (Killed, BaseExceptionGroup):
            world.fuse = replace(world.fuse, at=None, blown=False)
        else:
            break
        rebuild = Rebuild(BASE, "repair")
        for value in world.records():
            if value["type"] != "moved":
                rebuild.keep(value)
        world.disk.data[:] = b"".join(rebuild.lines)
        history = rebuild.state.get(new.id, new.key)
        if history is not None and history.state is State.DOWNLOADED:
            tried += 1
            world.run([new])
            saved = world.state.get(new.id, new.key)
            assert saved is not None
            assert saved.state is State.SAVED, kill
            assert {hashlib.sha256(data).hexdigest() for data in world.files.values()} == {
                file.sha256 for one in world.state.histories() for file in one.files
            }
    assert tried > 5


@pytest.mark.parametrize("status", [400, 401, 429, 502])
def test_a_key_that_the_service_repeats_is_told_nowhere(world: World, status: int) -> None:
    world.key = "canary/5f0e+9d'1c"

    class Echo(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            told = request.headers["authorization"]
            body = {"code": "invalid" if status != 502 else "", "message": f"you sent {told}"}
            return httpx.Response(status, json=body, request=request)

    world.wrap = lambda inner: Echo()
    world.run(tasks(2))
    assert b"you sent" in world.disk.data
    assert b"canary" not in world.disk.data
    assert not any("canary" in note for note in world.observer.notes)


def test_after_an_interrupted_write_nothing_counts_as_recorded() -> None:
    class Interrupted(BaseException):
        """As asyncio's own Task.cancel, which goes through shields."""

    disk = MemoryDisk()

    class File:
        def __init__(self) -> None:
            self.inner, self.state = disk.open()
            self.appends = 0

        async def append(self, data: bytes) -> None:
            self.appends += 1
            if self.appends == 1:
                raise Interrupted
            await self.inner.append(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    class Clock:
        def wall(self) -> float:
            return 1.0

    async def main() -> None:
        file = File()
        ledger = Ledger(file, file.state, clock=Clock(), run="r")  # type: ignore[arg-type]
        started = records.run_started(service="s", name="n", manifest="m", manifest_sha256="0", version="0", tasks=1)
        with pytest.raises(Interrupted):
            await ledger.write(started)
        with pytest.raises(StoreError):
            await ledger.write(records.run_ended({}))
        with pytest.raises(StoreError):
            await ledger.commit(1)

    trio.run(main)
    assert replay(io.BytesIO(bytes(disk.data)), "memory").state.seq == 0


def test_an_image_in_the_place_of_a_deleted_one_is_not_taken_for_it(world: World) -> None:
    old, new = task("a", "one"), task("a", "two")
    world.run([old])
    first = world.storage._files.pop("a.png")
    world.run([new])
    second = world.files["a.png"]
    result = world.run([old])
    assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 0)
    assert world.files["a.png"] == first
    assert second in world.files.values()


def test_no_form_of_the_key_is_told_that_a_query_or_a_submission_brings_back(world: World) -> None:
    world.key = "0123456789/without a form"
    encoded = base64.b64encode(world.key.encode()).decode()

    class Encoded(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == wire.SUBMIT and b"picture a" in request.content:
                return httpx.Response(200, json={"job_id": "task_1"}, request=request)
            if request.url.path == wire.SUBMIT:
                return httpx.Response(400, json={"code": "bad", "message": f"who is {encoded}?"}, request=request)
            told = "see https://x.example/log?sig=canary"
            return httpx.Response(200, json={"status": "FAIL", "error_message": told}, request=request)

    world.wrap = lambda inner: Encoded()
    world.run([task("a"), task("b")])
    assert {h.state for h in world.state.histories()} == {State.FAILED_FINAL}
    told = bytes(world.disk.data).decode() + "\n".join(world.observer.notes)
    assert "who is (key)" in told
    assert encoded[:12] not in told
    assert "canary" not in told


def test_a_service_that_takes_no_connection_is_tried_again(world: World) -> None:
    """Also over a transport that does not tell of its steps."""

    class Refuses(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner
            self.times = 3

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.times -= 1
            if self.times >= 0:
                raise httpx.ConnectError("refused", request=request)
            return await self.inner.handle_async_request(request)

    world.wrap = Refuses
    assert world.run([task("a")]).exit_code is Exit.OK


def _ledger(disk: MemoryDisk, latency: float = 0.0) -> Ledger:
    inner, state = disk.open()

    class Clock:
        def wall(self) -> float:
            return 1.0

    file = FusedFile(inner, disk, Fuse(), lambda: latency)
    return Ledger(file, state, clock=Clock(), run="r")


STARTED = records.run_started(service="s", name="n", manifest="m", manifest_sha256="0", version="0", tasks=1)


def test_what_is_written_is_durable_though_the_writer_was_given_up() -> None:
    disk = MemoryDisk()

    async def main() -> None:
        ledger = _ledger(disk, 1.0)
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.write, STARTED)
            await anyio.sleep(0.5)
            with anyio.move_on_after(0.1):  # while it waits for the other's sync
                await ledger.write(records.run_ended({}))
            assert b"run_ended" in disk.data

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_ledger_that_is_closed_has_all_that_was_put_and_nothing_else() -> None:
    disk = MemoryDisk()

    async def main() -> None:
        ledger = _ledger(disk)
        ledger.put(STARTED)
        with pytest.raises(BadLine):
            ledger.put(records.submitted("a", "k", attempt=1, job_id="j", request_id=None))
        await ledger.close()

    trio.run(main)
    assert replay(io.BytesIO(bytes(disk.data)), "memory").state.runs == 1
