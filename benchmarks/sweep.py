"""The pure scheduler against a service of a few lines: for sweeps that would take the real runner hours.

Rule: the scheduler, the ceiling and the learned times are the real ones; the row that uses this confirms one of its
cases with the whole runner. Nothing is random but what the case's seed gives.
"""

from __future__ import annotations

import heapq
from itertools import count
from random import Random
from typing import Any

from benchmarks.virtual import Case
from rsbatch.asking import LearnedTimes
from rsbatch.ceiling import Ceiling, InFlightLimit
from rsbatch.ledger.state import History
from rsbatch.model import Limits, Origin, Task
from rsbatch.scheduler import Finished, Idle, Job, Order, Policies, Scheduler, StartQuery, StartSubmit


class Sweep:
    """One run of a case. Afterwards `used` is the share of the slot-seconds offered that jobs ran in."""

    def __init__(self, case: Case, limits: Limits, limit: InFlightLimit | None = None) -> None:
        self.now = 0.0
        self.refused = 0
        self._case = case
        self._running: set[str] = set()
        self._queue: list[str] = []
        self._spans: dict[str, tuple[float, float]] = {}
        self._events: list[tuple[float, int, str, Any, str]] = []
        self._tick = count()
        policies = Policies(limit or Ceiling(limits.in_flight), LearnedTimes(), 8, 16, Random(case.seed))
        self._scheduler = Scheduler(limits, policies, 0.0)
        for at, _ in case.changes:
            self._at(at, "slots")
        self._run()

    @property
    def used(self) -> float:
        last = max(end for _, end in self._spans.values())
        return sum(end - start for start, end in self._spans.values()) / self._case.capacity(last)

    def _at(self, time: float, what: str, about: Any = None, answer: str = "") -> None:
        heapq.heappush(self._events, (time, next(self._tick), what, about, answer))

    def _run(self) -> None:
        names = iter(range(self._case.count))
        while True:
            while self._scheduler.hungry:
                name = next(names, None)
                if name is None:
                    self._scheduler.exhausted = True
                else:
                    self._scheduler.offer(Order(Task(str(name), "", 1, {}, "", None, Origin(0, 1))))
            step, way = self._scheduler.next(self.now), self._case.latency / 2
            if isinstance(step, Finished):
                return
            if isinstance(step, StartSubmit):
                self._at(self.now + way, "submit", step.order)
            elif isinstance(step, StartQuery):
                self._at(self.now + way, "query", step.job)
            elif isinstance(step, Idle):
                if step.until is not None and (not self._events or step.until < self._events[0][0]):
                    self.now = step.until
                else:
                    self.now, _, what, about, answer = heapq.heappop(self._events)
                    getattr(self, f"_{what}")(about, answer)

    # the service

    def _slots(self, _: None, __: str) -> None:
        while self._queue and len(self._running) < self._case.slots_at(self.now):
            name = self._queue.pop(0)
            end = self.now + self._case.mixture.draw(f"{self._case.seed} {name}")
            self._spans[name] = self.now, end
            self._running.add(name)
            self._at(end, "end", name)

    def _end(self, name: str, _: str) -> None:
        self._running.remove(name)
        self._slots(None, "")

    def _submit(self, order: Order, _: str) -> None:
        full = len(self._running) + len(self._queue) >= self._case.slots_at(self.now)
        if full and not self._case.queueing:
            self.refused += 1
        else:
            self._queue.append(order.task.id)
            self._slots(None, "")
        refused = full and not self._case.queueing
        self._at(self.now + self._case.latency / 2, "refusal" if refused else "acceptance", order)

    def _query(self, job: Job, _: str) -> None:
        span = self._spans.get(job.history.task)
        state = "WAIT" if span is None else "RUN" if self.now < span[1] else "DONE"
        self._at(self.now + self._case.latency / 2, "answer", job, state)

    # its answers

    def _refusal(self, order: Order, _: str) -> None:
        self._scheduler.throttled(order, "full", self._case.refuse_after, self.now, limit=True)

    def _acceptance(self, order: Order, _: str) -> None:
        self._scheduler.accepted(Job(History(order.task.id, "", 1), "", fresh=True, kind="k"), self.now)

    def _answer(self, job: Job, state: str) -> None:
        self._scheduler.answered(self.now)
        if state == "DONE":
            self._scheduler.finished(job, self.now)
            self._scheduler.ended(job, self.now)
        else:
            self._scheduler.asked(job, self.now, state=state)
