"""Row 5: a signal, two signals, or a cancellation at every step of the scheduler, on trio and on asyncio.

Rule: a task may be held only if the first byte of its request had left and the answer was not back; then nobody can
know. Everything else is an avoidable doubt. Nothing is paid twice, and what was accepted and answered is saved.

A case's seed is its number: way, backend and step in one (`_Case.of`).
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio

from rsbatch.lifecycle import State
from rsbatch.model import Limits
from rsbatch.simulator import Settings
from rsbatch.summary import Result
from torture.loops import Steps, stepped_on_asyncio, stepped_on_trio
from torture.mishaps import Network, Weather
from torture.rows import Figure, Params
from torture.world import Main, World, tasks

TASKS = 7
WAYS = ("one signal", "two signals", "two signals, 2 s ago", "cancelled scope", "cancelled task")
"""The third is the end of the patience after a second signal; the last is asyncio's own `Task.cancel`."""
BACKENDS = ("trio", "asyncio")
_STEP_MOST = 100_000
SHORT_CASES = 25
"""Steps for each way and backend in the short form, spread evenly."""

_LIMITS = Limits(in_flight=4, submits_per_second=20, queries_per_second=20)


@dataclass(frozen=True)
class _Case:
    way: int
    backend: int
    step: int

    @property
    def seed(self) -> int:
        return (self.way * len(BACKENDS) + self.backend) * _STEP_MOST + self.step

    @staticmethod
    def of(seed: int) -> _Case:
        kind, step = divmod(seed, _STEP_MOST)
        way, backend = divmod(kind, len(BACKENDS))
        return _Case(way, backend, step)

    def __str__(self) -> str:
        return f"{WAYS[self.way]} before step {self.step} on {BACKENDS[self.backend]}"


def run(params: Params) -> Figure:
    """Try every case, or the one of the seed."""
    failures: list[str] = []
    cases = held = 0
    for case in _cases(params):
        cases += 1
        stopped = _Stopped(case)
        wrong = stopped.find_wrong()
        held += stopped.held
        failures += [f"{case}: {text} (python -m torture cancel --seed {case.seed})" for text in wrong]
    return Figure(
        f"{cases} cancellations ({len(WAYS)} ways, {', '.join(BACKENDS)}), {len(failures)} wrong; "
        f"{held} doubts, each with its request on the way",
        f"every step{' (here a sample)' if params.short else ''}, 0 avoidable doubts",
        failures,
    )


def _cases(params: Params) -> Iterator[_Case]:
    if params.seed is not None:
        yield _Case.of(params.seed)
        return
    for backend in range(len(BACKENDS)):
        steps = _Stopped(_Case(0, backend, _STEP_MOST)).count()
        stride = max(1, steps // SHORT_CASES) if params.short else 1
        for way in range(len(WAYS)):
            if WAYS[way] == "cancelled task" and BACKENDS[backend] != "asyncio":
                continue
            # another offset for each way, so that together they see more of the steps
            for step in range(1 + way % stride, steps + 1, stride):
                yield _Case(way, backend, step)


class _Stopped:
    """One run that is stopped, and the quiet one after it."""

    def __init__(self, case: _Case) -> None:
        self._case = case
        self._steps = Steps(self._act, case.step)
        self._weather = Weather(delay=lambda: 0.3)
        self._world = World(Settings(service_time=2.0, sigma=0.2, slots=4))
        self._world.disk_latency = lambda: 0.2
        self._world.wrap = lambda inner: Network(inner, self._weather, self._world.fuse)
        self._scope: anyio.CancelScope | None = None
        self._task: asyncio.Task[Any] | None = None
        self._mail: list[int] = []
        self._rings: anyio.Event | None = None
        self.held = 0

    def count(self) -> int:
        """How many steps the run has if nothing stops it."""
        self._first()
        return self._steps.count

    def find_wrong(self) -> list[str]:
        """Run, stop, run again; gives what is wrong, in sentences."""
        try:
            self._first()
        except BaseException as exc:  # whatever it is, it is a finding
            if isinstance(exc, KeyboardInterrupt):
                raise
            return [f"the run ended with {exc!r}"]
        if not self._steps.acted:  # trio swallows what an instrument raises
            return ["nothing was stopped: this case tried nothing"]
        wrong = list(self._avoidable())
        self._world.wrap = lambda inner: inner
        self._world.disk_latency = None
        self._world.launch = _plain
        self._world.run(tasks(TASKS), limits=_LIMITS)
        return wrong + list(self._lost_or_twice())

    def _first(self) -> None:
        self._world.launch = self._launch
        self._world.run(tasks(TASKS), limits=_LIMITS, signals=self._signals, grace=3.0)

    def _launch(self, main: Main) -> Result:
        async def stoppable() -> Any:
            self._rings = anyio.Event()
            if BACKENDS[self._case.backend] == "asyncio":
                self._task = asyncio.current_task()
            try:
                with anyio.CancelScope() as self._scope:
                    self._steps.counting = True
                    return await main()
            except asyncio.CancelledError:
                if WAYS[self._case.way] != "cancelled task":
                    raise
                return None

        on = stepped_on_trio if BACKENDS[self._case.backend] == "trio" else stepped_on_asyncio
        return on(stoppable, self._steps)

    async def _signals(self) -> AsyncIterator[int]:
        while True:
            assert self._rings is not None
            await self._rings.wait()
            self._rings = anyio.Event()
            while self._mail:
                yield self._mail.pop(0)

    def _act(self) -> None:
        way = WAYS[self._case.way]
        if way == "cancelled scope":
            assert self._scope is not None
            self._scope.cancel()
        elif way == "cancelled task":
            if self._task is not None:
                self._task.cancel()
        else:
            self._mail += [signal.SIGINT] * (1 if way == "one signal" else 2)
            if self._rings is not None:
                self._rings.set()
            if way == "two signals, 2 s ago" and self._world.runner is not None:
                for scope in list(self._world.runner._submitter._open):
                    scope.cancel()

    # what must hold

    def _avoidable(self) -> Iterator[str]:
        """Doubts after the first run that need not be, and answers that came and are not recorded."""
        notes = {json.loads(sent.body)["prompt"]: sent for sent in self._weather.sent}
        for history in self._world.state.histories():
            note = notes.get(f"picture {history.task}")
            if history.state in {State.HELD, State.SUBMITTING}:
                self.held += 1
                if note is None or not note.sent:
                    yield f"{history.task} is {history.state}, and nothing had been sent"
                elif note.returned:
                    yield f"{history.task} is {history.state}, and its answer was back"
            elif note is not None and note.returned and history.job_id not in self._world.engine.jobs:
                yield f"{history.task} is {history.state}, and its answer was back"

    def _lost_or_twice(self) -> Iterator[str]:
        world = self._world
        for prompt, count in world.paid().items():
            if count > 1:
                yield f"{prompt} was paid {count} times"
        known = {history.task: history for history in world.state.histories()}
        for one in tasks(TASKS):
            history = known.get(one.id)
            if history is None or history.state not in {State.SAVED, State.HELD}:
                yield f"{one.id} is {history.state if history else 'unknown'} after the quiet run"
            elif history.state is State.SAVED and any(f.path not in world.files for f in history.files):
                yield f"{one.id} is saved without its file"


def _plain(main: Callable[[], Any]) -> Any:
    return stepped_on_trio(main, Steps(lambda: None))
