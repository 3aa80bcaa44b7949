"""A whole world in memory on virtual time: the simulator's engine as the service, real runner, real ledger code.

Rule: nothing here stands in for code of ours: storage and ledger file are the shipped in-memory ones, and what
breaks them (`torture.mishaps`) stands round them. The service has a clock of its own; ours may jump.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from random import Random
from typing import Any

import anyio
import httpx
import trio
import trio.testing

from rsbatch.identity import task_key
from rsbatch.ledger import records
from rsbatch.ledger.memory import MemoryDisk
from rsbatch.ledger.replay import records as replayed
from rsbatch.ledger.replay import replay
from rsbatch.ledger.state import LedgerState
from rsbatch.ledger.writer import Ledger
from rsbatch.model import EXT, Limits, Origin, Rules, Selection, Task
from rsbatch.net.fetch import HttpFetcher
from rsbatch.net.service import HttpService
from rsbatch.planning import Matcher
from rsbatch.progress.interface import Snapshot
from rsbatch.runner import Edges, Runner, RunPlan
from rsbatch.session import render
from rsbatch.simulator import Engine, Settings, SimulatorTransport
from rsbatch.simulator.delivery import Draw
from rsbatch.storage.memory import MemoryStorage
from rsbatch.summary import Result
from torture.mishaps import Fuse, FusedFile, FusedStorage

BASE = 1_780_000_000.0
"""The time of day when a world begins, seconds since 1970."""

Main = Callable[[], Coroutine[Any, Any, Result]]


def task(name: str, prompt: str | None = None, *, usd: str | None = "0.01", **body: Any) -> Task:
    request = {"prompt": prompt or f"picture {name}", "size": "64x64", **body}
    price = None if usd is None else Decimal(usd)
    return Task(name, task_key(request, 1), 1, request, f"{name}.{EXT}", price, Origin(0, 1))


def tasks(count: int, **body: Any) -> list[Task]:
    return [task(f"t{n:04}", **body) for n in range(count)]


@dataclass
class Recorder:
    """An observer that remembers."""

    notes: list[str] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)

    def begin(self, total: int, already: int) -> None: ...

    def update(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None: ...


def on_trio(main: Main, *instruments: trio.abc.Instrument, seed: int = 0) -> Result:
    """Run on trio; time stands still while anything can be done, and jumps when nothing can.

    The order in which trio takes what is ready comes from `seed` alone.
    """
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[attr-defined]
    trio._core._run._r.seed(seed)  # type: ignore[attr-defined]
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=instruments)


def within(seconds: float) -> Callable[[Main], Result]:
    """Give a launch that raises TimeoutError where a run takes longer: one that waits for ever would go on for ever."""

    def launch(main: Main) -> Result:
        async def bounded() -> Result:
            with anyio.fail_after(seconds):
                return await main()

        return on_trio(bounded)

    return launch


class World:
    """What outlives a run: disk, storage, service, the time of day.

    `fuse` counts every touch of disk, storage and network, and may kill the run at one. `wrap` puts something
    between us and the service. `jumps` are leaps of our clock: (seconds of the run, by how much).
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.disk = MemoryDisk()
        self.storage = MemoryStorage()
        self.settings = settings or Settings(service_time=30.0)
        self.engine = Engine(self.settings)
        self.elapsed = 0.0
        self.observer = Recorder()
        self.key = "sk-virtual"
        self.wrap: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] = lambda transport: transport
        self.launch: Callable[[Main], Result] = on_trio
        self.fuse = Fuse()
        self.skew = 0.0
        self.jumps: Sequence[tuple[float, float]] = ()
        self.runner: Runner | None = None
        self.live: LedgerState | None = None
        self.disk_latency: Callable[[], float] | None = None
        self.render = render
        self.draw: Draw | None = None
        self.seed = 7

    def now(self) -> float:
        """The service's time of day, which is right."""
        return BASE + self.elapsed + anyio.current_time()

    def wall(self) -> float:
        """Our time of day."""
        passed = anyio.current_time()
        return self.now() + self.skew + sum(leap for at, leap in self.jumps if at <= passed)

    def use(self, **changes: Any) -> None:
        """Change the service's settings; its jobs stay."""
        self.settings = replace(self.settings, **changes)
        self._renew(self.settings)

    def restart_service(self) -> None:
        """End the service and start it again: it remembers its jobs, and its faults are drawn anew."""
        self._renew(self.settings)
        self.engine.restarts += 1

    def _renew(self, settings: Settings) -> None:
        old = self.engine
        self.engine = Engine(settings, keep=old._keep)
        for name in (
            "jobs",
            "restarts",
            "_charged",
            "_attempts",
            "_orders",
            "_slots",
            "_ends",
            "_lately",
            "_max_in_flight",
        ):
            setattr(self.engine, name, getattr(old, name))

    def run(
        self,
        work: Sequence[Task],
        *,
        limits: Limits | None = None,
        rules: Rules | None = None,
        selection: Selection | None = None,
        signals: Callable[[], AsyncIterator[int]] | None = None,
        restore: Callable[[LedgerState], Iterable[Any]] | None = None,
        **more: Any,
    ) -> Result:
        """Run once, on virtual time that goes on where the last run stopped."""
        selection = selection or Selection()

        async def main() -> Result:
            self.disk.locked = False  # a lock dies with its process
            file, state = self.disk.open()
            self.live = state
            fused = FusedFile(file, self.disk, self.fuse, self.disk_latency)
            ledger = Ledger(fused, state, clock=self, run=f"run-{state.runs + 1}", say=self.observer.note)
            matcher = Matcher(state, selection)
            for one in work:
                matcher.visit(one)
            matcher.settle()
            simulator = SimulatorTransport(self.engine, clock=self.now)
            if self.draw is not None:
                simulator._draw = self.draw
            transport = self.wrap(simulator)
            try:
                async with HttpService(
                    "http://127.0.0.1:8765", self.key, clock=self, max_answer=10**7, transport=transport
                ) as service:
                    fetcher = HttpFetcher(transport)
                    rng = Random(self.seed)
                    storage = FusedStorage(self.storage, self.fuse)
                    edges = Edges(service, fetcher, storage, ledger, self.render, self.observer, self, rng)
                    started = records.run_started(
                        service="sim", name="n", manifest="m.yaml", manifest_sha256="0", version="0", tasks=len(work)
                    )
                    plan = RunPlan(
                        tasks=more.pop("tasks", iter(work)),
                        matcher=matcher,
                        limits=limits or Limits(),
                        rules=rules or Rules(),
                        selection=selection,
                        started=started,
                        manifest="m.yaml",
                        ledger="ledger.jsonl",
                        output="out",
                        service="sim",
                        name="n",
                        restore=tuple(restore(state)) if restore else (),
                        **more,
                    )
                    self.runner = Runner(plan, edges)
                    return await self.runner.run(signals() if signals else None)
            finally:
                passed = anyio.current_time()
                self.skew += sum(leap for at, leap in self.jumps if at <= passed)
                self.jumps = ()
                self.elapsed += passed
                await ledger.close()

        return self.launch(main)

    # what can be asked afterwards

    @property
    def state(self) -> LedgerState:
        return replay(io.BytesIO(bytes(self.disk.data)), "memory").state

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        values = list(replayed(io.BytesIO(bytes(self.disk.data)), "memory"))
        return [v for v in values if kind is None or v["type"] == kind]

    @property
    def audit(self) -> dict[str, Any]:
        return self.engine.audit(BASE + self.elapsed)

    def paid(self) -> Counter[str]:
        """How many jobs the service accepted, by prompt."""
        return Counter(job["prompt"] for job in self.audit["jobs"])

    @property
    def files(self) -> dict[str, bytes]:
        return {path: data for path, data in self.storage._files.items() if not path.endswith(".json")}


def signal_at(*moments: tuple[float, int]) -> Callable[[], AsyncIterator[int]]:
    async def signals() -> AsyncIterator[int]:
        for at, number in moments:
            await anyio.sleep_until(at)
            yield number
        await anyio.sleep_forever()

    return signals
