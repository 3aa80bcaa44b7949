"""A whole world in memory on virtual time: the simulator's engine as the service, real runner, real ledger code.

Nothing here stands in for code of ours: storage and ledger file are the shipped in-memory ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
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
from rsbatch.ledger.replay import replay
from rsbatch.ledger.state import LedgerState
from rsbatch.ledger.writer import Ledger
from rsbatch.model import EXT, Limits, Origin, Rules, Selection, Task
from rsbatch.net.fetch import HttpFetcher
from rsbatch.net.service import HttpService
from rsbatch.planning import Matcher, selects
from rsbatch.progress.interface import Snapshot
from rsbatch.runner import Edges, Runner, RunPlan
from rsbatch.session import render
from rsbatch.simulator import Engine, Settings, SimulatorTransport
from rsbatch.storage.memory import MemoryStorage
from rsbatch.summary import Result

BASE = 1_780_000_000.0
"""The time of day when a world begins, seconds since 1970."""


class Killed(BaseException):
    """The process is gone: raised out of the run at a moment of the test's choice."""


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


class World:
    def __init__(self, settings: Settings | None = None) -> None:
        self.disk = MemoryDisk()
        self.storage = MemoryStorage()
        self.settings = settings or Settings(service_time=30.0)
        self.engine = Engine(self.settings)
        self.elapsed = 0.0
        self.observer = Recorder()
        self.key = "sk-virtual"
        self.wrap: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] = lambda transport: transport

    def wall(self) -> float:
        return BASE + self.elapsed + anyio.current_time()

    def use(self, **changes: Any) -> None:
        """Change the service's settings; its jobs stay."""
        jobs = self.engine.jobs
        self.settings = replace(self.settings, **changes)
        self.engine.settings = self.settings
        old = self.engine
        self.engine = Engine(self.settings)
        self.engine.jobs = jobs
        self.engine._charged = old._charged

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
            file, state = self.disk.open()
            ledger = Ledger(file, state, clock=self, run=f"run-{state.runs + 1}", say=self.observer.note)
            matcher = Matcher(state)
            for one in work:
                matcher.visit(one)
            matcher.settle()
            transport = self.wrap(SimulatorTransport(self.engine, clock=self.wall))
            try:
                async with HttpService(
                    "http://127.0.0.1:8765", self.key, clock=self, max_answer=10**7, transport=transport
                ) as service:
                    fetcher = HttpFetcher(transport)
                    rng = Random(7)
                    edges = Edges(service, fetcher, self.storage, ledger, render, self.observer, self, rng)
                    started = records.run_started(
                        service="sim", name="n", manifest="m.yaml", manifest_sha256="0", version="0", tasks=len(work)
                    )
                    plan = RunPlan(
                        tasks=more.pop("tasks", iter(work)),
                        matcher=matcher,
                        selected=sum(selects(selection, one.id) for one in work),
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
                    return await Runner(plan, edges).run(signals() if signals else None)
            finally:
                self.elapsed += anyio.current_time()
                await ledger.close()

        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(main, clock=clock)

    # what can be asked afterwards

    @property
    def state(self) -> LedgerState:
        import io

        return replay(io.BytesIO(bytes(self.disk.data)), "memory").state

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        from rsbatch.ledger.records import decode

        values = [decode(line) for line in bytes(self.disk.data).splitlines()]
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
