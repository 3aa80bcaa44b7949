"""Runs on a ledger that is held as places in its file do what they do on one that is held whole."""

from __future__ import annotations

from random import Random

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsbatch.errors import Exit, StoreError
from rsbatch.ledger.memory import MemoryDisk
from rsbatch.lifecycle import State
from rsbatch.model import Limits, Selection
from rsbatch.simulator import Settings, wire
from rsbatch.summary import Result
from tests.runner.world import World, task, tasks, within
from torture.nights import play


class Failing(MemoryDisk):
    """A large ledger of which line number `fails_at` (1-based; 0: none) cannot be read back, nor any later one."""

    fails_at = read = 0

    def line_at(self, offset: int) -> bytes:
        self.read += 1
        if self.fails_at and self.read >= self.fails_at:
            raise StoreError("the disk cannot be read")
        return super().line_at(offset)


def rows(world: World) -> int:
    """How many histories the newest run's state has as places."""
    assert world.live is not None
    return len(list(world.live.settled()))


# Runs that are broken off in the middle of an answer leave generators of httpx and the simulator half read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("seed", range(8))
def test_a_night_of_mishaps_leaves_the_same_ledger(seed: int) -> None:
    whole, large = play(seed), play(seed, large=True)
    assert not large.failures
    assert large.ledger == whole.ledger


def two_runs(seed: int, names: list[str], chosen: list[str], removed: set[str], *, large: bool) -> tuple[World, Result]:
    """A run with faults, an edit of the manifest and the folder, and another run."""
    rng = Random(seed)
    faults = {"fail-message": 0.2, "504-after": 0.1, "image-404": 0.2, "done-several": 0.3, "query-5xx": 0.1}
    world = World(Settings(service_time=5.0, seed=seed, faults={k: v for k, v in faults.items() if rng.random() < 0.5}))
    world.disk.large = large
    world.run([task(name) for name in names])
    for path in sorted(removed & set(world.files)):
        del world.storage._files[path]
    work = [
        task(name if rng.random() < 0.8 else f"new-{name}", f"picture {name}") for name in names if name not in "ab"
    ]
    world.use(faults={})
    selection = Selection(patterns=tuple(chosen), rebuy_missing=seed % 2 == 0, limit=3 if seed % 3 == 0 else None)
    return world, world.run([*work, task("more")], selection=selection)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**20),
    st.lists(st.sampled_from("abcdefghij"), min_size=1, unique=True),
    st.lists(st.sampled_from(["*", "new-*", "[a-e]", "more"]), max_size=2),
    st.sets(st.sampled_from([f"{name}.png" for name in "abcdefghij"]), max_size=3),
)
def test_any_two_runs(seed: int, names: list[str], chosen: list[str], removed: set[str]) -> None:
    (world, whole), (other, large) = (two_runs(seed, names, chosen, removed, large=flag) for flag in (False, True))
    assert other.disk.data == world.disk.data
    assert large.as_json() == whole.as_json()
    assert (large.selected, large.undelivered) == (whole.selected, whole.undelivered)
    assert other.files == world.files
    assert other.paid() == world.paid()


def test_a_run_with_nothing_to_do_reads_what_it_judges_and_no_more() -> None:
    world = World()
    world.disk = disk = Failing(large=True)
    world.run(tasks(5))
    assert rows(world) == 5  # what a run itself records is held no longer than until it is durable
    before, disk.read = disk.read, 0
    assert before
    result = world.run(tasks(3), selection=Selection(patterns=("t0001",)))
    assert (rows(world), disk.read) == (5, 9)
    assert (result.orphaned, result.selected.total(), result.exit_code) == (2, 1, Exit.OK)


def test_no_line_that_cannot_be_read_leads_to_a_submission() -> None:
    """Each read of a run that has a lost image to buy again and a task that is new fails once, and all after it."""
    count = 0
    for number in range(1, 1000):
        world = World()
        world.disk = disk = Failing(large=True)
        world.run(tasks(3))
        del world.storage._files["t0001.png"]
        world.engine.jobs.clear()
        disk.read, disk.fails_at = 0, number
        limits, selection = Limits(in_flight=1), Selection(rebuy_missing=True)
        result = world.run(tasks(4), limits=limits, selection=selection)
        if disk.read < number:
            assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 2)
            break
        count += 1
        assert result.exit_code is Exit.STORE
        paid = world.paid().total()
        assert paid == result.this_run.submitted
        disk.fails_at = 0
        after = world.run(tasks(4), limits=limits, selection=selection)
        assert after.exit_code is Exit.OK
        assert world.paid().total() == 2, "something was paid twice"
        assert {h.state for h in world.state.histories()} == {State.SAVED}
    assert count > 8


@pytest.mark.parametrize("readable", [True, False])
def test_a_job_that_another_task_has_is_not_lost(readable: bool) -> None:
    """The service gives an id a second time. The line of who has it may be past reading: that must not hide the id."""
    world = World()
    world.disk = disk = Failing(large=True)
    world.run([task("a")])
    (first,) = world.state.jobs()

    class Again(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await self.inner.handle_async_request(request)
            if request.url.path != wire.SUBMIT:
                return response
            if not readable:
                disk.fails_at = disk.read + 1
            value = (await response.aread()).decode()
            (new,) = set(world.engine.jobs) - {first}
            return httpx.Response(200, text=value.replace(new, first), request=request)

    world.wrap = Again
    world.launch = within(1000)
    result = world.run([task("b")])
    assert result.this_run.submitted == 1
    (held,) = (h for h in world.state.histories() if h.task == "b")
    assert held.state is State.HELD
    assert held.message == f"the service gave job {first}, which {'a' if readable else 'another task'} has"
