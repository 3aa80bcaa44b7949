"""A service on virtual time for the rows about scheduling: durations and ceilings as a row wants them.

Rule: the runner, the service's engine and the client are the real ones; only time is virtual. A task's duration
depends on its prompt and the seed alone, so that everyone who runs the same tasks meets the same durations.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from random import Random
from statistics import NormalDist, fmean, median

import anyio
import httpx
import trio
import trio.testing

from rsbatch.ledger.records import seconds_of
from rsbatch.model import Limits, Task
from rsbatch.simulator import Engine, Settings, SimulatorTransport, wire
from rsbatch.simulator.brief import Brief
from rsbatch.summary import Result
from torture.world import BASE, World, tasks

LATENCY = 0.2
"""Seconds that a request takes to a service on another continent."""
DOWNLOAD = 1.0
"""Seconds that an image's bytes take besides: over a new connection, 1.5 MB take 7 round trips, as 14 KB go with the
first and twice as much with each after it. One of those is in `LATENCY`, and the others would take 1.2 s.
"""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Mixture:
    """Durations: lognormals of (share, median in seconds, sigma)."""

    name: str
    parts: tuple[tuple[float, float, float], ...]

    def cdf(self, t: float) -> float:
        """The share of jobs that take `t` seconds at most."""
        return sum(p * _NORMAL.cdf((log(t) - log(m)) / s) for p, m, s in self.parts) if t > 0 else 0.0

    def draw(self, seed: str) -> float:
        """One duration in seconds, always the same for a seed."""
        rng = Random(seed)
        _, median, sigma = rng.choices(self.parts, [p for p, _, _ in self.parts])[0]
        return median * exp(sigma * max(-3.7, min(3.7, rng.gauss(0, 1))))


def lognormal(seconds: float) -> Mixture:
    """Durations with a median of `seconds`, spread as the simulator's are by default."""
    return Mixture(f"lognormal {seconds:g} s", ((1.0, seconds, Settings().sigma),))


LOGNORMAL = lognormal(45.0)
BIMODAL = Mixture("bimodal 20 s and 120 s", ((0.5, 20.0, 0.15), (0.5, 120.0, 0.15)))


def delay_times_queries(mixture: Mixture) -> float:
    """The least product of mean delay (seconds) and mean number of queries a job, for a known distribution.

    With n(t) queries a second at age t, delay is ∫ f/(2n) and queries are ∫ nS (f density, S survival), so by Cauchy
    and Schwarz their product is at least ½ (∫ √(fS))², reached by n ~ √(f/S), the hazard's root (Keller, "Optimum
    checking schedules for systems subject to random failure", Management Science 21, 1974). It counts queries as
    dense; the best schedule of discrete queries, by dynamic programming on the true distribution, comes to 0.97
    to 1.03 of it at 4 to 20 queries a job.
    """
    step, total = 0.05, 0.0
    before = mixture.cdf(0.0)
    for number in range(1, round(600 / step)):
        now = mixture.cdf(number * step)
        total += sqrt((now - before) / step * (1 - (now + before) / 2)) * step
        before = now
    return total * total / 2


class TimedEngine(Engine):
    """The engine with durations from a mixture, and slots that change at times: (seconds of the run, slots)."""

    def __init__(self, settings: Settings, mixture: Mixture, changes: Sequence[tuple[float, int]] = ()) -> None:
        super().__init__(settings)
        self.mixture = mixture
        self.changes = sorted(changes)
        self.refused = 0
        self.answers = 0

    def handle(self, request, now):  # type: ignore[no-untyped-def]
        while self.changes and now - BASE >= self.changes[0][0]:
            self.settings = replace(self.settings, slots=self.changes.pop(0)[1])
        answer = super().handle(request, now)
        self.answers += 1
        self.refused += answer.status == 429
        return answer

    def _accept(self, brief: Brief, about: tuple[str, int, int], now: float, lost: str):  # type: ignore[no-untyped-def]
        while len(self._slots) > self.settings.slots:  # fewer than before: what runs goes on, and what comes waits
            heapq.heappop(self._slots)
        return super()._accept(brief, (brief.sha256, 0, 0), now, lost)

    def _service_time(self, about: tuple[str, int, int]) -> float:
        return self.mixture.draw(f"{self.settings.seed} {about[0]}")


@dataclass(frozen=True)
class Case:
    """One service and one batch. `changes` are (seconds of the run, slots); times in seconds.

    `chance` is the share of submissions and queries, each, that are refused without a reason; `per_minute` how many
    submissions are taken in any minute, None for any number.
    """

    count: int
    slots: int
    queueing: bool
    mixture: Mixture = LOGNORMAL
    changes: tuple[tuple[float, int], ...] = ()
    latency: float = LATENCY
    download: float = DOWNLOAD
    seed: int = 0
    refuse_after: float = 2.0
    chance: float = 0.0
    per_minute: int | None = None

    def engine(self) -> TimedEngine:
        settings = Settings(
            slots=self.slots,
            queueing=self.queueing,
            per_minute=self.per_minute,
            seed=self.seed,
            retry_after=self.refuse_after,
            latency=self.latency,
            download_time=self.download,
            faults={"429": self.chance, "query-429": self.chance},
        )
        return TimedEngine(settings, self.mixture, self.changes)

    def tasks(self) -> list[Task]:
        return tasks(self.count)

    def slots_at(self, now: float) -> int:
        """How many slots the service has `now` seconds after the run began."""
        return [self.slots, *(slots for at, slots in self.changes if at <= now)][-1]

    def capacity(self, seconds: float) -> float:
        """Slot-seconds that the service offers in the first `seconds`."""
        edges = [0.0, *(at for at, _ in self.changes if at < seconds), seconds]
        return sum((b - a) * self.slots_at(a) for a, b in itertools.pairwise(edges))


@dataclass(frozen=True)
class Outcome:
    """What came of a case; times in seconds, `queries` and `delay` are means a job, `refused` 429s a job.

    `used` is the share of the slot-seconds offered until the last job ended that jobs ran in.
    """

    seconds: float
    queries: float
    delay: float
    refused: float
    used: float
    spans: list[tuple[float, float]]


def run(case: Case, limits: Limits, world: World | None = None, **more: object) -> Outcome:
    """Run a case by rsbatch, with `limits`."""
    world = world or World(Settings())
    engine = world.engine = case.engine()
    result: Result = world.run(case.tasks(), limits=limits, **more)
    if result.this_run.saved != case.count:
        raise RuntimeError(f"{result.this_run.saved} of {case.count} saved: {result.reason}")
    seen = {r["job_id"]: seconds_of(r["ts"]) for r in world.records("generated")}
    delay = fmean(seen[job.job_id] - job.end - case.latency / 2 for job in engine.jobs.values())
    return _outcome(case, engine, result.seconds, result.this_run.queries / case.count, delay)


def _outcome(case: Case, engine: TimedEngine, seconds: float, queries: float, delay: float) -> Outcome:
    spans = [(job.start - BASE, job.end - BASE) for job in engine.jobs.values()]
    used = sum(end - start for start, end in spans) / case.capacity(max(end for _, end in spans))
    return Outcome(seconds, queries, delay, engine.refused / case.count, used, spans)


def run_script(case: Case, at_once: int, sleep: float = 3.0) -> Outcome:
    """Run a case by the script that most people would write; see `benchmarks.peers`."""
    engine = case.engine()
    found: list[float] = []

    async def main() -> None:
        transport = SimulatorTransport(engine, clock=lambda: BASE + anyio.current_time())
        headers = {"Authorization": "Bearer sk-virtual"}
        async with httpx.AsyncClient(base_url="http://127.0.0.1:8765", headers=headers, transport=transport) as client:
            places = anyio.Semaphore(at_once)

            async def one(task: Task) -> None:
                async with places:
                    while (answer := await client.post(SUBMIT, json=dict(task.body))).status_code == 429:
                        await anyio.sleep(sleep)
                    job = {"job_id": answer.json()["job_id"]}
                    while (state := (await client.post(QUERY, json=job)).json())["status"] != "DONE":
                        await anyio.sleep(sleep)
                    found.append(anyio.current_time() - engine.jobs[job["job_id"]].end + BASE - case.latency / 2)
                    (await client.get(state["data"][0]["url"])).raise_for_status()

            async with anyio.create_task_group() as group:
                for task in case.tasks():
                    group.start_soon(one, task)
        ended.append(anyio.current_time())

    ended: list[float] = []
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    queries = sum(job.queries for job in engine.jobs.values()) / case.count
    return _outcome(case, engine, ended[0], queries, fmean(found))


SUBMIT = "/v1/aiart/openai/image/submit"
QUERY = "/v1/aiart/openai/image/query"


def oracle_seconds(case: Case, submits_per_second: float) -> float:
    """How long it takes one who knows every duration and the ceiling: the same tasks in the same order, each begun the
    moment a slot is free, no faster than submissions may go out, each end noticed at once and its image fetched.
    """
    return best_seconds(case.engine(), [task.body for task in case.tasks()], submits_per_second)


def waiting_seconds(case: Case, limits: Limits) -> float:
    """About the least time of those who know the ceiling and how durations are spread, and submit only once an answer
    has told that a job has ended; the service is one that refuses.

    Each slot is empty until the question comes, on average for `delay_times_queries` ÷ the queries a job that `limits`
    allow, and then for a `latency`, until the answer is back and the next request is there. An oracle needs no answer,
    and whoever submits on suspicion needs none either, but is refused dozens of times a task.
    """
    bodies, empty = [task.body for task in case.tasks()], case.latency
    seconds = best_seconds(case.engine(), bodies, limits.submits_per_second, empty)
    empty += delay_times_queries(case.mixture) * (case.count - case.slots) / (limits.queries_per_second * seconds)
    return best_seconds(case.engine(), bodies, limits.submits_per_second, empty)


def best_seconds(
    engine: Engine, bodies: Sequence[Mapping[str, object]], submits_per_second: float, empty: float = 0.0
) -> float:
    """Give `oracle_seconds` for any engine and requests; each slot is `empty` seconds between two jobs."""
    there, free, last = engine.settings, [0.0] * engine.settings.slots, 0.0
    for number, body in enumerate(bodies):
        begin = max(number / submits_per_second, heapq.heappop(free))
        end = begin + engine._service_time((wire.canonical_sha256(dict(body)), 0, 0))
        heapq.heappush(free, end + empty)
        last = max(last, end)
    return last + 2.5 * there.latency + there.download_time  # to submit, to ask, to fetch; the first half is in `begin`


@dataclass(frozen=True)
class Race:
    """The same batch by rsbatch, by the usual script and by an oracle, in seconds."""

    ours: float
    script: float
    oracle: float

    @property
    def ratio(self) -> float:
        """Ours ÷ the script's."""
        return self.ours / self.script

    @property
    def limit(self) -> float:
        """The oracle's ÷ the script's, which no ratio can be below."""
        return self.oracle / self.script


def told(races: Sequence[Race]) -> str:
    """Say how much of what can be had, which is what an oracle has, was had."""
    had = median((race.script - race.ours) / (race.script - race.oracle) for race in races)
    return f"of what an oracle has, {had:.0%} is had"


class KnownCeiling:
    """An in-flight limit that is told the truth: the fixed oracle that a limit found out by itself is held against."""

    def __init__(self, ceiling: Callable[[], int]) -> None:
        self._ceiling = ceiling

    covered = False

    def opens_at(self, held: int) -> float | None:
        return float("-inf") if held < self._ceiling() else None

    def queued(self, rank: int) -> bool:
        return False

    def accepted(self, held: int, now: float) -> bool:
        return False

    def refused(self, held: int, now: float, pause: float = 0.0) -> None: ...

    def ended(self, alive_at: float, now: float) -> None: ...

    def seen(self, *, waiting: bool, rank: int, running: int) -> None: ...
