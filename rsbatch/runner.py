"""The runner: the only task group, round the pure scheduler.

Rule: it starts what the scheduler names and judges nothing itself; it knows no YAML, no tqdm and no httpx.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import islice

import anyio
from anyio.abc import TaskGroup

from rsbatch.course import Course, Edges, RunPlan
from rsbatch.errors import StoreError
from rsbatch.estimate import seconds_left, seconds_left_of_downloads
from rsbatch.harvester import Harvester
from rsbatch.ledger import records
from rsbatch.ledger.writer import Ledger
from rsbatch.lifecycle import State
from rsbatch.model import Task
from rsbatch.planning import Action, Category, Differs, Matcher, Planned, Terms, decide, unfinished
from rsbatch.progress.interface import Snapshot
from rsbatch.saver import Saver, SaverOptions
from rsbatch.scheduler import Finished, Halt, Idle, Job, Order, StartDownload, StartQuery, StartSubmit
from rsbatch.storage.interface import Storage
from rsbatch.submitter import Submitter
from rsbatch.summary import Result

__all__ = ["Edges", "RunPlan", "Runner", "judge"]

_BATCH = 256
"""Tasks judged between two looks at the rest of the run."""
REFRESH_SECONDS = 1.0
"""How often progress is shown at least."""
SHOWN_SECONDS = 0.1
"""How often it is shown at most, but for the end: to find out what to show takes 1% of a task's CPU."""


class Runner:
    """One run of one manifest. Use once."""

    def __init__(self, plan: RunPlan, edges: Edges) -> None:
        self._course = Course(plan, edges)
        options = SaverOptions(plan.limits.max_image_bytes, plan.sidecar, plan.service, plan.name)
        self._saver = Saver(edges.storage, edges.fetcher, edges.ledger, self._course.write, options)
        self._submitter = Submitter(self._course)
        self._harvester = Harvester(self._course, self._saver)
        self._terms = Terms(plan.selection, plan.rules.in_doubt)
        self._signal: int | None = None
        self._grace_until: float | None = None
        self._shown_at = float("-inf")

    async def run(self, signals: AsyncIterator[int] | None = None) -> Result:
        """Do all that this run may do and say how it ended; `signals` yields the numbers of signals as they come.

        The ledger's failures end the run with exit 4 instead of being raised; bugs are raised.
        """
        try:
            await self._open()
        except StoreError as exc:
            self._course.store_failed(exc)
        async with anyio.create_task_group() as group:
            if signals is not None:
                group.start_soon(self._watch_signals, signals)
            await self._loop(group)
            group.cancel_scope.cancel()
        return await self._close()

    # the beginning and the end

    async def _open(self) -> None:
        plan, state = self._course.plan, self._course.state
        await self._course.ledger.write(plan.started)
        for task, history in plan.matcher.settle():
            self._course.ledger.put(records.renamed(task, history.key, from_=history.task))
        crash = "a crash came between its submission and the answer"
        for history in list(unfinished(state)):
            self._course.ledger.put(records.in_doubt(history.task, history.key, attempt=history.attempt, reason=crash))
        await self._course.ledger.commit(state.seq)
        self._course.count_all()
        self._course.edges.observer.begin(plan.matcher.total, self._course.counts[Category.SAVED])
        for history in list(state.unsettled()):
            if history.moves:
                await self._saver.redo_moves(history)
        await self._take_up_jobs()

    async def _take_up_jobs(self) -> None:
        """Go on with every job that an earlier run left out, before anything new."""
        now = anyio.current_time()
        for history in self._course.plan.restore:
            self._course.scheduler.watch(Job(history, history.path, ended=True, restore=True), now)
        for history in list(self._course.state.jobs_out()) if self._course.plan.harvest else ():
            if history.state is State.DOWNLOADED and await self._saver.resume(history):
                self._course.this_run.saved += 1
                continue
            matcher = self._course.plan.matcher
            job = Job(history, matcher.path_of(history), orphan=not matcher.owns(history))
            job.ended = history.state not in {State.SUBMITTED, State.PARKED}
            job.age = max(0.0, self._course.edges.clock.wall() - history.submitted_at)
            self._course.scheduler.watch(job, now)

    async def _close(self) -> Result:
        self._course.count_all()
        result = self._result()
        ledger = self._course.ledger
        if ledger.failure is None:
            try:
                await ledger.commit(ledger.state.seq)  # so that an end on the disk says: all before it is there, too
                await ledger.write(records.run_ended(result.as_json() | {"learned": self._course.learned}))
            except StoreError as exc:
                self._course.store_failed(exc)
                result = self._result()
        return result

    def _result(self) -> Result:
        selected = self._course.selected.copy()
        if self._course.beyond_limit:  # what --limit keeps back is not asked for
            selected[Category.PENDING] = max(0, selected[Category.PENDING] - self._course.beyond_limit)
        return Result(
            manifest=self._course.plan.manifest,
            run=self._course.ledger.run,
            ledger=self._course.plan.ledger,
            output=self._course.plan.output,
            tasks=self._course.counts,
            selected=selected,
            orphaned=self._course.orphaned,
            this_run=self._course.this_run,
            seconds=anyio.current_time() - self._course.began,
            spend=self._course.state.spend,
            differing=self._course.differing,
            halted=self._course.scheduler.halted,
            message=self._course.message,
            signal=self._signal,
            undelivered=self._course.undelivered,
        )

    # the loop

    async def _loop(self, group: TaskGroup) -> None:
        while True:
            await self._feed()
            now = anyio.current_time()
            self._check_times(now)
            step = self._course.scheduler.next(now)
            match step:
                case Finished():
                    break
                case StartSubmit(order):
                    if self._course.reserve(order):
                        group.start_soon(self._submitter.submit, order)
                case StartQuery(job):
                    group.start_soon(self._harvester.query, job)
                case StartDownload(job):
                    group.start_soon(self._harvester.download, job)
                case Idle(until):
                    if now - self._shown_at >= SHOWN_SECONDS:
                        self._shown_at = now
                        self._show(now)
                    await self._wait(until, now)
        self._show(anyio.current_time())

    async def _wait(self, until: float | None, now: float) -> None:
        times = [t for t in (until, self._stop_at(), self._grace_until) if t is not None and t > now]
        with anyio.move_on_after(min([REFRESH_SECONDS, *(t - now for t in times)])):
            await self._course.news.wait()
        self._course.news = anyio.Event()

    def _stop_at(self) -> float | None:
        after = self._course.plan.rules.stop_after
        return None if after is None else self._course.began + after

    def _check_times(self, now: float) -> None:
        self._course.end_if_full()
        stop_at = self._stop_at()
        if stop_at is not None and now >= stop_at and self._course.scheduler.halted is None:
            self._course.halt(Halt.STOP_AFTER, "stop_after has passed")
        if self._grace_until is not None and now >= self._grace_until:
            self._grace_until = None
            self._course.stop_harvest()
        if self._course.scheduler.halted is Halt.UNAVAILABLE and not self._course.message:
            self._course.message = "the service has accepted nothing for 15 minutes, so nothing was charged meanwhile"

    async def _feed(self) -> None:
        """Judge tasks until enough orders are in line, one batch at a time."""
        if not self._course.scheduler.hungry:
            return
        batch = list(islice(self._course.plan.tasks, _BATCH))
        if not batch:
            self._course.scheduler.exhausted = True
            for problem in self._course.plan.problems:  # none when the run began: a table or an image changed since
                self._course.edges.observer.note(f"changed while the run went on: {problem}")
            return
        try:
            for planned in await judge(
                batch, self._course.plan.matcher, self._course.ledger, self._terms, self._course.edges.storage
            ):
                self._take_in(planned)
        except StoreError as exc:
            self._course.store_failed(exc)
        self._course.news.set()

    def _take_in(self, planned: Planned) -> None:
        task, history = planned.task, planned.history
        if planned.action is Action.SUBMIT:
            self._course.order(Order(task, history.state if history is not None else None))
        elif planned.differs is Differs.ALTERED:
            self._course.differing.altered.append(task.id)
            self._course.edges.observer.note(f"{task.id}: {planned.reason}")
        elif planned.differs is Differs.MISSING and history is not None:
            self._course.edges.observer.note(f"{task.id}: {planned.reason}")
            rebuy = Order(task, State.SAVED) if self._course.plan.selection.rebuy_missing else None
            job = Job(history, task.path, ended=True, restore=True, rebuy=rebuy)
            self._course.scheduler.watch(job, anyio.current_time())

    async def _watch_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            now = anyio.current_time()
            if self._signal is None:
                self._signal = number
                self._grace_until = now + self._course.plan.grace
                self._course.halt(Halt.SIGNAL, "interrupted")
                self._course.edges.observer.note(
                    f"harvesting what is out for at most {self._course.plan.grace:g} s; interrupt again to stop now"
                )
            else:
                self._course.stop_harvest()
                self._submitter.hurry()

    # telling

    def _show(self, now: float) -> None:
        counts, scheduler, spend = self._course.counts, self._course.scheduler, self._course.state.spend
        elapsed = now - self._course.began
        out = scheduler.in_flight
        downloading = scheduler.waiting_downloads
        left = counts[Category.PENDING]
        pending = max(0, left - out - downloading)
        limits = self._course.plan.limits
        slots = self._course.ceiling.slots or limits.in_flight
        if downloading > limits.downloads:  # they wait in line
            eta = seconds_left_of_downloads(left, self._course.this_run.saved, elapsed)
        else:
            to_submit = self._course.quota.last_at(pending + scheduler.open.submits, now) - now
            eta = seconds_left(pending, out, self._course.times.overall(), slots, to_submit)
        self._course.edges.observer.update(
            Snapshot(
                total=sum(counts.values()),
                saved=counts[Category.SAVED],
                failed=counts[Category.FAILED],
                held=counts[Category.HELD],
                parked=counts[Category.PARKED],
                out=out,
                downloading=downloading,
                pending=pending,
                spent=spend.total if spend.total or spend.known else None,
                usd_known=spend.known,
                elapsed=elapsed,
                eta=eta if scheduler.halted is None else None,
                paused=scheduler.paused,
            )
        )


async def judge(
    batch: Sequence[Task], matcher: Matcher, ledger: Ledger, terms: Terms, storage: Storage
) -> list[Planned]:
    """Judge a batch of tasks, asking the storage once for the sizes of all their saved files."""
    histories = [matcher.of(task) for task in batch]
    paths = [f.path for h in histories if h is not None and h.state is State.SAVED for f in h.files]
    sizes = dict(zip(paths, await storage.sizes(paths), strict=True))
    # What was saved or moved while the storage was asked stands as it was recorded a moment ago.
    return [
        decide(task, h, ledger.state, terms, [sizes.get(f.path, f.bytes) for f in h.files] if h is not None else [])
        for task, h in zip(batch, histories, strict=True)
    ]
