"""The course of one run: what its parts share.

Rule: the one place where a run's records are put and its tasks counted, so that the counts follow the ledger and
nothing else. It starts nothing and sends nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from random import Random
from typing import Any

import anyio

from rsbatch import wire
from rsbatch.asking import LearnedTimes, QuerySchedule
from rsbatch.ceiling import Ceiling, InFlightLimit
from rsbatch.clock import Clock
from rsbatch.errors import Problem, StoreError
from rsbatch.estimate import learned_by
from rsbatch.ledger import records
from rsbatch.ledger.records import Record
from rsbatch.ledger.state import History
from rsbatch.ledger.writer import Ledger
from rsbatch.lifecycle import State
from rsbatch.model import Limits, Rules, Selection, Task
from rsbatch.net.fetch import Fetcher
from rsbatch.net.service import MAX_OPEN_QUERIES, MAX_OPEN_SUBMITS, Service
from rsbatch.pacing import Quota
from rsbatch.planning import Category, Matcher, category, selects
from rsbatch.progress.interface import Observer
from rsbatch.scheduler import Halt, Order, Policies, Scheduler
from rsbatch.storage.interface import Storage
from rsbatch.summary import Differing, ThisRun


@dataclass(frozen=True, slots=True)
class Edges:
    """What a run touches the world with. `render` turns a task's body into the exact bytes to send."""

    service: Service
    fetcher: Fetcher
    storage: Storage
    ledger: Ledger
    render: Callable[[Task], Awaitable[bytes]]
    observer: Observer
    clock: Clock
    rng: Random


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is to do. `tasks` yields the manifest's tasks, all of which `matcher` has seen and settled.

    `matcher` and this have the same `selection`. `started` is the `run_started` record, `grace` seconds of harvest
    after a signal, `manifest`, `ledger` and `output` are texts for the summary. `restore` are saved histories to fetch
    again; without `harvest` jobs that are out are left alone. `problems` fills as `tasks` is read. `schedule` and
    `in_flight` take the place of what is learned.
    """

    tasks: Iterator[Task]
    matcher: Matcher
    limits: Limits
    rules: Rules
    selection: Selection
    started: Record
    manifest: str
    ledger: str
    output: str
    service: str
    name: str
    sidecar: bool = True
    grace: float = 30.0
    restore: Sequence[History] = ()
    harvest: bool = True
    problems: Sequence[Problem] = ()
    schedule: QuerySchedule | None = None
    in_flight: InFlightLimit | None = None


class Course:
    """Plan, edges, scheduler, records and counts of one run. Its parts read the attributes; only `put` counts."""

    def __init__(self, plan: RunPlan, edges: Edges) -> None:
        self.plan = plan
        self.edges = edges
        self.ledger = edges.ledger
        self.state = edges.ledger.state
        self.began = anyio.current_time()
        earlier = learned_by(self.state.last_run_ended)
        self.ceiling = Ceiling(plan.limits.in_flight, earlier.get("ceiling"))
        self.times = LearnedTimes(earlier.get("times"))
        self.quota = Quota(earlier.get("per_minute"), self.began)
        policies = Policies(
            plan.in_flight or self.ceiling,
            plan.schedule or self.times,
            MAX_OPEN_SUBMITS,
            MAX_OPEN_QUERIES,
            edges.rng,
            self.quota,
        )
        self.scheduler = Scheduler(plan.limits, policies, self.began)
        self.this_run = ThisRun()
        self.differing = Differing()
        self.counts: Counter[Category] = Counter()
        self.selected: Counter[Category] = Counter()
        self.orphaned = 0
        self.undelivered = 0
        """Of the paid jobs, those whose images could not be downloaded."""
        self.beyond_limit = 0
        self.failures_in_a_row = 0
        self.message = ""
        self.news = anyio.Event()
        self._offered = 0
        self._reserved = Decimal(0)
        self._harvests: set[anyio.CancelScope] = set()

    @property
    def learned(self) -> dict[str, Any]:
        """What this run and earlier ones found out about the service, for the next one to start from."""
        return {
            "ceiling": self.ceiling.as_json(),
            "times": self.times.as_json(),
            "per_minute": self.quota.per_minute,
        }

    # counts

    def count_all(self) -> None:
        """Count the manifest's tasks by category, as they are at rest, and what is orphaned; nothing is read for it."""
        matcher = self.plan.matcher
        states: Counter[State | None] = Counter()
        selected: Counter[State | None] = Counter()
        unsettled = ((history.since, history.state) for history in self.state.unsettled())
        for since, state in chain(unsettled, ((since, State.SAVED) for since in self.state.settled())):
            claimed, chosen = matcher.claims(since)
            states[state] += claimed
            selected[state] += chosen
        self.orphaned = len(self.state) - states.total()
        self.undelivered = states[State.FAILED_DOWNLOAD]
        for counts, by_state, total in (
            (self.counts, states, matcher.total),
            (self.selected, selected, matcher.selected),
        ):
            counts.clear()
            for state, count in by_state.items():
                counts[category(state)] += count
            counts[Category.PENDING] += total - counts.total()

    # orders

    def order(self, order: Order) -> None:
        """Offer an order to the scheduler, unless `--limit` keeps it back."""
        limit = self.plan.selection.limit
        if limit is not None and self._offered >= limit:
            self.beyond_limit += 1
            return
        self._offered += 1
        self.scheduler.offer(order)

    def reserve(self, order: Order) -> bool:
        """Set the price aside; the first order that does not fit stops the run."""
        budget, usd = self.plan.rules.budget, order.task.usd
        if budget is None:
            return True
        if usd is None:  # a table that grew meanwhile, or one of more unpriced tasks than are checked beforehand
            self.halt(Halt.BUDGET, f"there is a budget, and {order.task.id} has no price; it was not submitted")
            self.scheduler.dropped(anyio.current_time())
            return False
        spent = self.state.spend.total + self._reserved
        if spent + usd > budget:
            self.halt(Halt.BUDGET, f"{order.task.id} costs ${usd}, and of the budget of ${budget} ${spent} is spent")
            self.scheduler.dropped(anyio.current_time())
            return False
        self._reserved += usd
        return True

    def unreserve(self, order: Order) -> None:
        """Give the price that was set aside free again."""
        if self.plan.rules.budget is not None and order.task.usd is not None:
            self._reserved -= order.task.usd

    # records

    async def write(self, *new: Record) -> None:
        """Put records, keep the counts, and wait until they are durable."""
        await self.commit(self.put(*new))

    def put(self, *new: Record) -> int:
        """Put records and keep the counts, without waiting; gives the last `seq` for `commit`."""
        seq = self.state.seq
        for record in new:
            history = self.state.get(record.task, record.key)
            before = _live(history.state if history else None)
            seq = self.ledger.put(record)
            if history is None:
                history = self.state.get(record.task, record.key)
                if history is not None:
                    self.plan.matcher.adopt(history)
            if history is not None and self.plan.matcher.owns(history):
                self._recount(record.task, before, _live(history.state))
        return seq

    def _recount(self, task: str, before: Category, after: Category) -> None:
        self.counts[before] -= 1
        self.counts[after] += 1
        if selects(self.plan.selection, task):
            self.selected[before] -= 1
            self.selected[after] += 1

    async def commit(self, seq: int) -> None:
        """Return when all up to `seq` is durable, cancelled or not; raises StoreError."""
        with anyio.CancelScope(shield=True):  # bounded by one sync of the disk
            await self.ledger.commit(seq)

    # trouble

    async def fail(self, task: str, key: str, stage: records.Stage, *, final: bool, code: str, message: str) -> None:
        """Record that a task failed; too many in a row halt the run."""
        seq = self.put(records.failed(task, key, stage=stage, final=final, code=code, message=message))
        self.this_run.failed += 1
        self.failures_in_a_row += 1
        self.edges.observer.note(f"{task} failed ({stage}): {code}: {message} ({_MONEY[stage]})")
        if self.failures_in_a_row >= self.plan.rules.max_failures:
            self.halt(Halt.MAX_FAILURES, f"{self.failures_in_a_row} tasks failed in a row; the last: {message}")
        await self.commit(seq)

    def halt(self, reason: Halt, message: str, *, harvest: bool = True) -> None:
        """Submit no more, for a reason that the summary names; without `harvest` start nothing else either."""
        if not self.message or reason is Halt.STORE:
            self.message = message
            then = "; what is out is still brought in" if harvest else ""
            self.edges.observer.note(f"no more is submitted: {message}{then}")
        self.scheduler.halt(reason, harvest=harvest)
        self.news.set()

    def store_failed(self, exc: StoreError) -> None:
        """End the run: the ledger or the output failed."""
        self.halt(Halt.STORE, str(exc), harvest=False)
        self.stop_harvest()

    def end_if_full(self) -> bool:
        """End the run where a full disk took the ledger's reserve; tells if it did."""
        if self.ledger.nearly_full and self.scheduler.halted is not Halt.STORE:
            self.store_failed(StoreError("the disk is full; what was under way has just been recorded"))
        return self.ledger.nearly_full

    def stop_harvest(self) -> None:
        """Break off all queries and downloads, and start no more."""
        self.scheduler.halt(self.scheduler.halted or Halt.SIGNAL, harvest=False)
        for scope in list(self._harvests):
            scope.cancel()
        self.news.set()

    @contextmanager
    def harvesting(self) -> Iterator[None]:
        """A scope that the end of the grace time cancels: nothing in it costs money."""
        with anyio.CancelScope() as scope:
            self._harvests.add(scope)
            try:
                yield
            except StoreError as exc:
                self.store_failed(exc)
            finally:
                self._harvests.discard(scope)
                self.news.set()


def _live(state: State | None) -> Category:
    """Count a state while the run goes on: a submission under way is not in doubt yet."""
    return Category.PENDING if state is State.SUBMITTING else category(state)


_MONEY: dict[records.Stage, str] = {
    "submit": "not charged",
    "generate": "its price stays counted as spent",
    "download": "it is paid; the next run downloads it again",
}
"""What a failure means for the money."""

HALTS = {wire.Fatal.KEY: Halt.KEY, wire.Fatal.BALANCE: Halt.BALANCE, wire.Fatal.ADDRESS: Halt.ADDRESS}
"""How the service's fatal answers halt a run."""
