"""Row 6: whole nights simulated from seeds: faults, storms, outages, crashes, clock jumps, edits between the runs.

Rule: everything random comes from the night's seed, and nothing here trusts the ledger where the service itself, or
the log of the network, can be asked (`torture.judge`). A night is a few runs with pauses between them, then a quiet
run that must bring in everything that can be. Every other night has a service, an account and limits as they really
are; in the rest images take seconds, and outages, signals and leaps of the clock hit the same few minutes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from random import Random
from types import FrameType

from rsbatch.errors import Exit
from rsbatch.model import Limits, Rules, Selection
from rsbatch.simulator import Settings
from rsbatch.simulator.faults import BY_NAME
from rsbatch.summary import Result
from torture.judge import Judge
from torture.mishaps import Fuse, Killed, Network, Weather
from torture.people import Manifest, draw_tiny
from torture.rows import Figure, Params
from torture.world import World, on_trio, signal_at

NIGHTS, SHORT_NIGHTS = 2000, 25
TWICE_EVERY = 40
"""Two of so many nights are played twice and must leave the same ledger."""
HANG_SECONDS = 300
"""Real seconds after which a night counts as hanging; most take less than one."""
KINDS = (("as they are", True), ("made to collide", False))
DAY = 86_400.0
SERVICE_TIME = (30.0, 180.0)
"""Seconds that an image takes (the service's documentation)."""
SLOTS = (1, 2, 4, 8, 16)
"""Of an account: the least is one, a paying one has more."""
HOURS, MINUTES = 3 * 3600.0, 300.0
"""Seconds of a run in which signals, outages and leaps of the clock are placed."""


def is_plain(seed: int) -> bool:
    """Tell which nights have a service and limits as they really are; the others are made to collide."""
    return seed % 2 == 0


@dataclass(frozen=True)
class Report:
    """What one night came to. Times in seconds: `virtual` with the pauses, `inside` runs only."""

    seed: int
    failures: tuple[str, ...]
    runs: int
    kills: int
    accepted: int
    virtual: float
    inside: float
    real: float
    ledger: bytes


def run(params: Params) -> Figure:
    """Play the nights, or the one of the seed (twice)."""
    count = params.scale(NIGHTS, SHORT_NIGHTS)
    seeds = [params.seed] if params.seed is not None else range(count)
    began = time.perf_counter()
    reports = list(_play_all(seeds, alone=params.short or params.seed is not None))
    seconds = time.perf_counter() - began
    failures = [
        f"night {report.seed}: {text} (python -m torture nights --seed {report.seed})"
        for report in reports
        for text in report.failures
    ]
    again = sum(_twice(seed, alone=params.seed is not None) for seed in seeds)
    workers = sum(r.real for r in reports) / seconds
    virtual = sum(r.virtual for r in reports)
    factor = virtual / seconds
    speeds = [_speed(kind, [r for r in reports if is_plain(r.seed) is plain], workers) for kind, plain in KINDS]
    if params.seed is None and not params.short and factor < 10_000:  # a busy machine is no fault of the code
        failures.append(f"only {factor:,.0f} times real time")
    return Figure(
        f"{len(reports)} nights ({sum(r.runs for r in reports)} runs, {sum(r.kills for r in reports)} of them killed, "
        f"{sum(r.accepted for r in reports)} jobs), {len(failures)} wrong; {virtual / DAY:,.0f} days at "
        f"{factor:,.0f} times real time (without the pauses between runs, {', '.join(speeds)}); {again} replayed",
        f"{NIGHTS:,} nights, 0 wrong, at 10,000 times real time, a sample replayed to identical ledgers",
        failures,
    )


def _speed(kind: str, reports: list[Report], workers: float) -> str:
    """Tell how fast nights of a kind went by, of their runs alone; `workers` of them at a time."""
    if not reports:
        return f"{kind}: none"
    inside, real = sum(r.inside for r in reports), sum(r.real for r in reports) / workers
    return f"{kind}: {len(reports)} nights, {inside / 3600:,.0f} hours at {inside / real:,.0f}"


def _twice(seed: int, *, alone: bool) -> bool:
    return alone or seed % TWICE_EVERY < 2  # one of each kind


def _play_all(seeds: Iterable[int], *, alone: bool) -> Iterable[Report]:
    one = partial(_play, always_twice=alone and len(list(seeds)) == 1)
    if alone:
        return [one(seed) for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, seeds, chunksize=8))


def _play(seed: int, always_twice: bool = False) -> Report:
    report = play(seed)
    if _twice(seed, alone=always_twice):
        again = play(seed)
        if again.ledger != report.ledger:
            report = replace(report, failures=(*report.failures, "played again it left another ledger"))
        report = replace(report, real=report.real + again.real)
    return report


def play(seed: int, *, large: bool = False) -> Report:
    """Play one night; the ledger may be read as large ones are."""
    began = time.perf_counter()
    night = Night(seed)
    night.world.disk.large = large
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(HANG_SECONDS)
    try:
        night.play()
    except Exception as exc:  # a finding, whatever it is
        night.judge.wrong(f"{type(exc).__name__}: {exc}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Report(
        seed,
        tuple(night.judge.failures),
        night.runs,
        night.kills,
        sum(night.judge.accepted.values()),
        night.world.elapsed,
        night.inside,
        time.perf_counter() - began,
        bytes(night.world.disk.data),
    )


def _hangs(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"it hangs: {HANG_SECONDS} s and no end")


class Night:
    """One night. `play` once."""

    def __init__(self, seed: int) -> None:
        self._rng = rng = Random(seed)
        self._seed = seed
        self._plain = is_plain(seed)
        self._scope = HOURS if self._plain else MINUTES
        size = rng.choice((rng.randint(5, 20), rng.randint(5, 20), rng.randint(20, 50), rng.randint(50, 120)))
        self.world = world = World(self._settings(size))
        world.draw = draw_tiny
        world.seed = seed
        world.launch = partial(on_trio, seed=seed)
        self.judge = Judge(world)
        self._manifest = Manifest(rng, size)
        self.runs = self.kills = 0
        self.inside = 0.0

    def play(self) -> None:
        """Some runs, each judged, with edits and pauses between them; then the quiet ones."""
        rng = self._rng
        for number in range(rng.randint(2, 4)):
            if number:
                self._between()
            self._one()
        self._between(edits=False)
        self._quiet()

    def _between(self, *, edits: bool = True) -> None:
        rng, world = self._rng, self.world
        world.elapsed += rng.choice((1.0, 300.0, rng.uniform(60, 4 * 3600), rng.uniform(3600, DAY)))
        if rng.random() < 0.2:
            world.skew += rng.uniform(-3, 3) * DAY
        if edits and rng.random() < 0.6:
            self._manifest.edit(world, self.judge)
        if rng.random() < 0.3:
            world.restart_service()
        if rng.random() < 0.5:
            world.use(**self._trouble())
        if rng.random() < 0.05 and world.engine.jobs:
            self.judge.forget_job(rng.choice(sorted(world.engine.jobs)))

    # what a run is given

    def _settings(self, size: int) -> Settings:
        rng = self._rng
        longest = 150.0 if size < 30 else 20.0  # so that no night takes minutes of real time
        slots, service_time = rng.choice((1, 2, 4, 8, 16, 64)), rng.choice((1.0, 5.0, rng.uniform(5, longest)))
        if self._plain:
            slots, service_time = rng.choice(SLOTS), rng.uniform(*SERVICE_TIME)
        return Settings(
            slots=slots,
            queueing=rng.random() < 0.6,
            service_time=service_time,
            sigma=rng.choice((0.0, 0.35, 1.0)),
            url_ttl=rng.choice((3600.0, 60.0)),
            seed=self._seed,
            **self._trouble(),  # type: ignore[arg-type]
        )

    def _trouble(self) -> dict[str, object]:
        rng = self._rng
        names = [n for n, f in BY_NAME.items() if f.family not in {"fatal", "hang"} or rng.random() < 0.1]
        some = rng.sample(names, rng.randint(0, min(len(names), 10)))
        rate = rng.choice((0.01, 0.05, 0.3))
        faults = {name: rate * (0.1 if BY_NAME[name].family == "fatal" else 1.0) for name in some}
        return {"faults": faults, "balance": rng.randint(0, 100) if rng.random() < 0.1 else None}

    def _limits(self) -> Limits:
        rng = self._rng
        if self._plain:
            return Limits(task_timeout=rng.choice((600.0, 1800.0)))
        return Limits(
            in_flight=rng.choice((1, 2, 4, 8, 16, 64)),
            submits_per_second=rng.choice((0.5, 2.0, 5.0, 20.0, 100.0)),
            queries_per_second=rng.choice((2.0, 10.0, 50.0)),
            downloads=rng.choice((1, 4, 8)),
            task_timeout=rng.choice((60.0, 600.0, 1800.0)),
        )

    def _rules(self) -> Rules:
        rng = self._rng
        budget = Decimal(rng.randint(0, 150)) / 100 if rng.random() < 0.3 and self._manifest.priced else None
        return Rules(
            budget=budget,
            stop_after=rng.uniform(10, 3600) if rng.random() < 0.2 else None,
            max_failures=rng.choice((3, 50, 1000)),
            in_doubt="resubmit" if rng.random() < 0.3 else "hold",
            max_in_doubt=rng.choice((1, 3, 1000)),
        )

    def _selection(self) -> Selection:
        rng = self._rng
        return Selection(
            patterns=(f"*{rng.randint(0, 9)}",) if rng.random() < 0.15 else (),
            limit=rng.randint(0, 10) if rng.random() < 0.15 else None,
            retry_failed=rng.random() < 0.2,
            rebuy_missing=rng.random() < 0.2,
        )

    def _signals(self) -> Callable[[], AsyncIterator[int]] | None:
        rng = self._rng
        if rng.random() > 0.3:
            return None
        first = rng.choice((rng.uniform(0, 5), rng.uniform(0, self._scope)))
        moments = [(first, signal.SIGINT)]
        if rng.random() < 0.5:
            moments.append((first + rng.choice((0.0, rng.uniform(0, 20))), signal.SIGTERM))
        return signal_at(*moments)

    def _fuse(self) -> Fuse:
        rng, size = self._rng, len(self._manifest.tasks())
        draw = rng.random()
        if draw < 0.45:
            return Fuse(at=int(size * 40 * rng.random() ** 2) + 1, torn=rng.random())
        if draw < 0.55:
            return Fuse(fails=rng.randint(1, size * 3), fails_late=rng.random() < 0.5)
        return Fuse()

    def _weather(self) -> Weather:
        rng = self._rng

        def windows() -> list[tuple[float, float]]:
            if rng.random() > 0.2:
                return []
            begins = [rng.uniform(0, self._scope) for _ in range(rng.randint(1, 3))]
            return [(begin, begin + rng.choice((5.0, 60.0, 1200.0))) for begin in begins]

        slow = Random(self._rng.random())
        delay = (lambda: slow.uniform(0, 1.0)) if rng.random() < 0.4 else None
        return Weather(outages=windows(), storms=windows(), delay=delay)

    # runs

    def _one(self) -> None:
        rng, world = self._rng, self.world
        limits, rules, selection, weather = self._limits(), self._rules(), self._selection(), self._weather()
        world.fuse = self._fuse()
        slow = Random(rng.random())
        world.disk_latency = (lambda: slow.uniform(0, 0.05)) if rng.random() < 0.4 else None
        if rng.random() < 0.25:
            moments = [rng.uniform(0, self._scope) for _ in range(3)]
            world.jumps = [(at, rng.uniform(-1, 1) * 10 ** rng.uniform(0, 6)) for at in moments]
        grace = rng.choice((0.0, 5.0, 30.0))
        self._run(limits, rules, selection, weather, grace=grace, signals=self._signals())

    def _run(
        self,
        limits: Limits,
        rules: Rules,
        selection: Selection,
        weather: Weather,
        *,
        grace: float = 30.0,
        signals: Callable[[], AsyncIterator[int]] | None = None,
    ) -> Result | None:
        world, work = self.world, self._manifest.tasks()
        world.wrap = lambda inner: Network(inner, weather, world.fuse)
        self.judge.before(work, limits, rules, selection, weather)
        began, result = world.elapsed, None
        try:
            result = world.run(work, limits=limits, rules=rules, selection=selection, signals=signals, grace=grace)
        except BaseException as exc:
            if not _only_killed(exc):
                raise
            self.kills += 1
        self.runs += 1
        self.inside += world.elapsed - began
        self.judge.after(result)
        return result

    def _quiet(self) -> None:
        world = self.world
        world.use(faults={}, balance=None, queueing=True)
        world.fuse, world.disk_latency = Fuse(), None
        limits = Limits(task_timeout=100 * DAY)
        if not self._plain:
            world.use(slots=64, service_time=5.0)
            limits = replace(limits, in_flight=64, submits_per_second=100, queries_per_second=100)
        rules = Rules(max_failures=10**6, max_in_doubt=10**6)
        for again in (False, True):
            result = self._run(limits, rules, Selection(), Weather())
            if result is None or result.exit_code not in {Exit.OK, Exit.SOME_FAILED}:
                self.judge.wrong(f"the quiet run ended with {result and result.exit_code!r}")
            elif again and result.this_run.submitted:
                self.judge.wrong(f"the second quiet run submitted {result.this_run.submitted}")
        self.judge.finally_()


def _only_killed(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_only_killed, exc.exceptions))
    return isinstance(exc, Killed)
