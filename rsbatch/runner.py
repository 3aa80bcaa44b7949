"""The runner: the only task group, round the pure scheduler.

Rule: it starts what the scheduler names, carries outcomes into records and reports the end of each step; it judges
nothing itself and knows no YAML, no tqdm and no httpx. Money-safety rests on two habits here: an intent is durable
before its request leaves, and between an answer and its queued record there is no `await`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from random import Random

import anyio
from anyio.abc import TaskGroup

from rsbatch import retry, wire
from rsbatch.body import ImageChanged, ledger_form
from rsbatch.clock import Clock
from rsbatch.errors import Problem, StoreError
from rsbatch.images import BadImage
from rsbatch.ledger import records
from rsbatch.ledger.records import Record
from rsbatch.ledger.state import JOB_NOT_FOUND, History
from rsbatch.ledger.writer import Ledger
from rsbatch.lifecycle import State
from rsbatch.model import Limits, Rules, Selection, Task
from rsbatch.net.fetch import Fetcher, FetchError, FetchKind
from rsbatch.net.service import MAX_OPEN_QUERIES, MAX_OPEN_SUBMITS, Service
from rsbatch.pacing import AdaptiveInFlight, FixedInterval, InFlightLimit, QuerySchedule
from rsbatch.planning import Action, Category, Differs, Matcher, Planned, Terms, category, decide, selects, unfinished
from rsbatch.progress.interface import Observer, Snapshot
from rsbatch.saver import Saver, SaverOptions
from rsbatch.scheduler import (
    Finished,
    Halt,
    Idle,
    Job,
    Order,
    Policies,
    Scheduler,
    StartDownload,
    StartQuery,
    StartSubmit,
)
from rsbatch.storage.interface import Storage
from rsbatch.summary import Differing, Result, ThisRun

_BATCH = 256
"""Tasks judged between two looks at the rest of the run."""
SECOND_SIGNAL_SECONDS = 2.0
REFRESH_SECONDS = 1.0


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

    `started` is the `run_started` record, `grace` seconds of harvest after a signal, `manifest`, `ledger` and
    `output` are texts for the summary. `selected` is how many tasks `--select` lets through. `restore` are saved
    histories to fetch again; without `harvest` jobs that are out are left alone. `problems` fills as `tasks`
    is read.
    """

    tasks: Iterator[Task]
    matcher: Matcher
    selected: int
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
    schedule: QuerySchedule = field(default_factory=FixedInterval)
    in_flight: InFlightLimit | None = None


class Runner:
    """One run of one manifest. Use once."""

    def __init__(self, plan: RunPlan, edges: Edges) -> None:
        self._plan = plan
        self._edges = edges
        self._ledger = edges.ledger
        self._state = edges.ledger.state
        self._began = anyio.current_time()
        policies = Policies(
            plan.in_flight or AdaptiveInFlight(plan.limits.in_flight),
            plan.schedule,
            MAX_OPEN_SUBMITS,
            MAX_OPEN_QUERIES,
            edges.rng,
        )
        self._scheduler = Scheduler(plan.limits, policies, self._began)
        options = SaverOptions(plan.limits.max_image_bytes, plan.sidecar, plan.service, plan.name)
        self._saver = Saver(edges.storage, edges.fetcher, edges.ledger, self._write, options)
        self._terms = Terms(plan.selection, plan.rules.in_doubt)
        self._this_run = ThisRun()
        self._differing = Differing()
        self._counts: Counter[Category] = Counter()
        self._selected: Counter[Category] = Counter()
        self._reserved = Decimal(0)
        self._offered = 0
        self._beyond_limit = 0
        self._failures_in_a_row = 0
        self._doubts = 0
        self._message = ""
        self._unreachable = False
        self._signal: int | None = None
        self._grace_until: float | None = None
        self._submissions: set[anyio.CancelScope] = set()
        self._harvests: set[anyio.CancelScope] = set()
        self._news = anyio.Event()

    async def run(self, signals: AsyncIterator[int] | None = None) -> Result:
        """Do all that this run may do and say how it ended; `signals` yields the numbers of signals as they come.

        The ledger's failures end the run with exit 4 instead of being raised; bugs are raised.
        """
        try:
            await self._open()
        except StoreError as exc:
            self._store_failed(exc)
        async with anyio.create_task_group() as group:
            if signals is not None:
                group.start_soon(self._watch_signals, signals)
            await self._loop(group)
            group.cancel_scope.cancel()
        return await self._close()

    # the beginning and the end

    async def _open(self) -> None:
        plan, state = self._plan, self._state
        await self._ledger.write(plan.started)
        for task, history in plan.matcher.settle():
            self._ledger.put(records.renamed(task, history.key, from_=history.task))
        crash = "a crash came between its submission and the answer"
        for history in list(unfinished(state)):
            self._ledger.put(records.in_doubt(history.task, history.key, attempt=history.attempt, reason=crash))
        await self._ledger.commit(state.seq)
        self._count_all()
        self._edges.observer.begin(plan.matcher.total, self._counts[Category.SAVED])
        for history in list(state.histories()):
            if history.moves:
                await self._saver.redo_moves(history)
        await self._take_up_jobs()

    def _count_all(self) -> None:
        """Count the manifest's tasks by category, as they are at rest."""
        self._counts.clear()
        self._selected.clear()
        for history in self._state.histories():
            if self._plan.matcher.owns(history):
                self._counts[category(history.state)] += 1
                if selects(self._plan.selection, history.task):
                    self._selected[category(history.state)] += 1
        self._counts[Category.PENDING] += self._plan.matcher.total - self._counts.total()
        self._selected[Category.PENDING] += self._plan.selected - self._selected.total()

    async def _take_up_jobs(self) -> None:
        """Go on with every job that an earlier run left out, before anything new."""
        now = anyio.current_time()
        for history in self._plan.restore:
            self._scheduler.watch(Job(history, history.path, ended=True, restore=True), now)
        for history in list(self._state.jobs_out()) if self._plan.harvest else ():
            if history.state is State.DOWNLOADED and await self._saver.resume(history):
                self._this_run.saved += 1
                continue
            matcher = self._plan.matcher
            job = Job(history, matcher.path_of(history), orphan=not matcher.owns(history))
            job.ended = history.state not in {State.SUBMITTED, State.PARKED}
            self._scheduler.watch(job, now)

    async def _close(self) -> Result:
        self._count_all()
        result = self._result()
        if self._ledger.failure is None:
            try:
                await self._ledger.write(records.run_ended(result.as_json()))
            except StoreError as exc:
                self._store_failed(exc)
                result = self._result()
        return result

    def _result(self) -> Result:
        selected = self._selected.copy()
        if self._beyond_limit:  # what --limit keeps back is not asked for
            selected[Category.PENDING] = max(0, selected[Category.PENDING] - self._beyond_limit)
        return Result(
            manifest=self._plan.manifest,
            run=self._ledger.run,
            ledger=self._plan.ledger,
            output=self._plan.output,
            tasks=self._counts,
            selected=selected,
            orphaned=len(self._state) - sum(map(self._plan.matcher.owns, self._state.histories())),
            this_run=self._this_run,
            seconds=anyio.current_time() - self._began,
            spend=self._state.spend,
            differing=self._differing,
            halted=self._scheduler.halted,
            message=self._message,
            signal=self._signal,
        )

    # the loop

    async def _loop(self, group: TaskGroup) -> None:
        while True:
            await self._feed()
            now = anyio.current_time()
            self._check_times(now)
            step = self._scheduler.next(now)
            match step:
                case Finished():
                    break
                case StartSubmit(order):
                    if self._reserve(order):
                        group.start_soon(self._submit, order)
                case StartQuery(job):
                    group.start_soon(self._query, job)
                case StartDownload(job):
                    group.start_soon(self._download, job)
                case Idle(until):
                    self._show(now)
                    await self._wait(until, now)
        self._show(anyio.current_time())

    async def _wait(self, until: float | None, now: float) -> None:
        times = [t for t in (until, self._stop_at(), self._grace_until) if t is not None and t > now]
        with anyio.move_on_after(min([REFRESH_SECONDS, *(t - now for t in times)])):
            await self._news.wait()
        self._news = anyio.Event()

    def _stop_at(self) -> float | None:
        after = self._plan.rules.stop_after
        return None if after is None else self._began + after

    def _check_times(self, now: float) -> None:
        if self._ledger.nearly_full and self._scheduler.halted is not Halt.STORE:
            self._store_failed(StoreError("the disk is full; what was under way has just been recorded"))
        stop_at = self._stop_at()
        if stop_at is not None and now >= stop_at and self._scheduler.halted is None:
            self._halt(Halt.STOP_AFTER, "stop_after has passed")
        if self._grace_until is not None and now >= self._grace_until:
            self._grace_until = None
            self._stop_harvest()
        if self._scheduler.halted is Halt.UNAVAILABLE and not self._message:
            self._message = "the service has accepted nothing for 15 minutes"

    async def _feed(self) -> None:
        """Judge tasks until enough orders are in line, one batch at a time."""
        if not self._scheduler.hungry:
            return
        batch = list(islice(self._plan.tasks, _BATCH))
        if not batch:
            self._scheduler.exhausted = True
            for problem in self._plan.problems:  # none when the run began: a table or an image changed since
                self._edges.observer.note(f"changed while the run went on: {problem}")
            return
        try:
            for planned in await judge(batch, self._plan.matcher, self._ledger, self._terms, self._edges.storage):
                self._take_in(planned)
        except StoreError as exc:
            self._store_failed(exc)
        self._news.set()

    def _take_in(self, planned: Planned) -> None:
        task, history = planned.task, planned.history
        if planned.action is Action.SUBMIT:
            self._order(Order(task, history.state if history is not None else None))
        elif planned.differs is Differs.ALTERED:
            self._differing.altered.append(task.id)
            self._edges.observer.note(f"{task.id}: {planned.reason}")
        elif planned.differs is Differs.MISSING and history is not None:
            self._edges.observer.note(f"{task.id}: {planned.reason}")
            rebuy = Order(task, State.SAVED) if self._plan.selection.rebuy_missing else None
            job = Job(history, task.path, ended=True, restore=True, rebuy=rebuy)
            self._scheduler.watch(job, anyio.current_time())

    def _order(self, order: Order) -> None:
        limit = self._plan.selection.limit
        if limit is not None and self._offered >= limit:
            self._beyond_limit += 1
            return
        self._offered += 1
        self._scheduler.offer(order)

    def _reserve(self, order: Order) -> bool:
        """Set the price aside; the first order that does not fit stops the run."""
        budget, usd = self._plan.rules.budget, order.task.usd
        if budget is None or usd is None:
            return True
        spent = self._state.spend.total + self._reserved
        if spent + usd > budget:
            self._halt(Halt.BUDGET, f"{order.task.id} costs ${usd}, and of the budget of ${budget} ${spent} is spent")
            self._scheduler.dropped(anyio.current_time())
            return False
        self._reserved += usd
        return True

    def _unreserve(self, order: Order) -> None:
        if self._plan.rules.budget is not None and order.task.usd is not None:
            self._reserved -= order.task.usd

    # records

    async def _write(self, *new: Record) -> None:
        """Put records, keep the counts, and wait until they are durable."""
        await self._commit(self._put(*new))

    def _put(self, *new: Record) -> int:
        seq = self._state.seq
        for record in new:
            history = self._state.get(record.task, record.key)
            before = _live(history.state if history else None)
            seq = self._ledger.put(record)
            if history is None:
                history = self._state.get(record.task, record.key)
                if history is not None:
                    self._plan.matcher.adopt(history)
            if history is not None and self._plan.matcher.owns(history):
                self._recount(record.task, before, _live(history.state))
        return seq

    def _recount(self, task: str, before: Category, after: Category) -> None:
        self._counts[before] -= 1
        self._counts[after] += 1
        if selects(self._plan.selection, task):
            self._selected[before] -= 1
            self._selected[after] += 1

    async def _commit(self, seq: int) -> None:
        with anyio.CancelScope(shield=True):  # bounded by one sync of the disk
            await self._ledger.commit(seq)

    # submitting

    async def _submit(self, order: Order) -> None:
        with anyio.CancelScope(shield=True) as scope:  # bounded by the submission's own time limit
            self._submissions.add(scope)
            try:
                await self._submit_order(order)
            except StoreError as exc:
                self._store_failed(exc)
        self._submissions.discard(scope)
        self._news.set()

    async def _submit_order(self, order: Order) -> None:
        task = order.task
        body: bytes | ImageChanged
        try:
            body = await self._edges.render(task)
        except ImageChanged as exc:
            body = exc
        history = self._state.get(task.id, task.key)
        state = history.state if history is not None else None
        if self._scheduler.halted is not None or state is not order.expected:
            # Stopped meanwhile; or its table was edited during the run and gives the task a second time.
            self._unreserve(order)
            self._scheduler.dropped(anyio.current_time())
            return
        attempt = (history.attempt if history is not None else 0) + 1
        if state is State.HELD:
            self._put(records.resolved(task.id, task.key, how="resubmit"))
        order.expected = State.NOT_SUBMITTED
        request = ledger_form(task.body) if attempt == 1 else None
        seq = self._put(
            records.submitting(task.id, task.key, attempt=attempt, request=request, usd=task.usd, path=task.path)
        )
        self._unreserve(order)  # the fold counts it from here on
        outcome = await self._send(seq, body)
        await self._settle(order, attempt, outcome, anyio.current_time())

    async def _send(self, intent: int, body: bytes | ImageChanged) -> wire.SubmitOutcome | ImageChanged:
        """Make the intent durable, then send. Whatever interrupts this is an outcome, so that it is recorded."""
        cancelled = anyio.get_cancelled_exc_class()
        if isinstance(body, ImageChanged):
            return body
        try:
            await self._ledger.commit(intent)
        except StoreError:
            return wire.NotSent("the intent could not be recorded")
        except cancelled:
            return wire.NotSent("interrupted before it was sent")
        try:
            return await self._edges.service.submit(body)
        except cancelled:
            return wire.Doubt("interrupted before the answer came")

    async def _settle(self, order: Order, attempt: int, outcome: wire.SubmitOutcome | ImageChanged, now: float) -> None:
        """Record what came of a submission and tell the scheduler, once. No await stands before the first `_put`."""
        task = order.task
        match outcome:
            case wire.Accepted():
                await self._accepted(order, attempt, outcome, now)
            case wire.Doubt(reason):
                await self._doubted(task, attempt, reason)
            case wire.Throttled(reason, status, after):
                seq = self._refuse(task, attempt, reason, status)
                self._scheduler.throttled(order, reason, after, now, limit=True)
                await self._commit(seq)
            case wire.NotSent(reason):
                seq = self._refuse(task, attempt, reason, None)
                if not self._unreachable:
                    self._unreachable = True
                    self._edges.observer.note(f"the service cannot be reached, trying again: {reason}")
                self._scheduler.throttled(order, reason, None, now, limit=False)
                await self._commit(seq)
            case wire.Stop(kind, message, status):
                seq = self._refuse(task, attempt, message, status)
                self._halt(_HALT[kind], f"{kind.value}: {message}")
                self._scheduler.dropped(now)
                await self._commit(seq)
            case wire.Refused():
                await self._refused(order, attempt, outcome, now)
            case ImageChanged():
                self._refuse(task, attempt, str(outcome), None)
                self._scheduler.dropped(now)
                await self._fail(task.id, task.key, "submit", final=False, code="image_changed", message=str(outcome))

    def _refuse(self, task: Task, attempt: int, reason: str, status: int | None) -> int:
        return self._put(records.not_submitted(task.id, task.key, attempt=attempt, reason=reason, status=status))

    async def _accepted(self, order: Order, attempt: int, answer: wire.Accepted, now: float) -> None:
        task = order.task
        other = self._state.of_job(answer.job_id)
        if other is not None:
            await self._doubted(task, attempt, f"the service gave job {answer.job_id}, which {other.task} has")
            return
        record = records.submitted(
            task.id, task.key, attempt=attempt, job_id=answer.job_id, request_id=answer.request_id
        )
        seq = self._put(record)
        self._this_run.submitted += 1
        self._unreachable = False
        try:
            await self._commit(seq)  # durable before the first query
        except StoreError:
            self._scheduler.dropped(now)
            raise
        history = self._state.get(task.id, task.key)
        if history is not None:
            self._scheduler.accepted(Job(history, task.path, fresh=True), now)

    async def _doubted(self, task: Task, attempt: int, reason: str) -> None:
        seq = self._put(records.in_doubt(task.id, task.key, attempt=attempt, reason=reason))
        self._scheduler.dropped(anyio.current_time())
        self._this_run.submitted += 1
        self._edges.observer.note(f"{task.id} is in doubt and held: {reason}")
        self._doubts += 1
        if self._doubts >= self._plan.rules.max_in_doubt:
            self._halt(Halt.MAX_IN_DOUBT, f"{self._doubts} submissions in this run are in doubt")
        await self._commit(seq)

    async def _refused(self, order: Order, attempt: int, answer: wire.Refused, now: float) -> None:
        task = order.task
        seq = self._refuse(task, attempt, f"{answer.code}: {answer.message}", answer.status)
        order.refusals += 1
        step = retry.GiveUp() if answer.final else retry.after_refusal(order.refusals, self._edges.rng)
        if isinstance(step, retry.Again):
            self._scheduler.retry(order, step.after, now)
            await self._commit(seq)
            return
        self._scheduler.dropped(now)
        await self._fail(task.id, task.key, "submit", final=answer.final, code=answer.code, message=answer.message)

    # asking

    @contextmanager
    def _harvest(self) -> Iterator[None]:
        """A scope that the end of the grace time cancels: nothing in it costs money."""
        with anyio.CancelScope() as scope:
            self._harvests.add(scope)
            try:
                yield
            except StoreError as exc:
                self._store_failed(exc)
            finally:
                self._harvests.discard(scope)
                self._news.set()

    async def _query(self, job: Job) -> None:
        done = False
        with self._harvest():
            try:
                self._this_run.queries += 1
                outcome = await self._edges.service.query(_known(job.history.job_id))
                done = True
                await self._take_answer(job, outcome, anyio.current_time())
            finally:
                if not done:
                    self._scheduler.abandoned(job, anyio.current_time())

    async def _take_answer(self, job: Job, outcome: wire.QueryOutcome, now: float) -> None:
        """Carry a query's outcome on. Each branch reports the query's end to the scheduler exactly once."""
        if not isinstance(outcome, wire.UnknownJob):
            job.unknown_since = None
        if not isinstance(outcome, wire.Trouble):
            job.troubles = 0
        match outcome:
            case wire.Done(images):
                await self._done(job, images, now)
            case wire.Failed(code, message) if not job.restore:
                self._scheduler.ended(job, now)
                await self._fail_job(job, "generate", code=code, message=message)
            case wire.UnknownJob(message) if not job.restore:
                await self._unknown(job, message, now)
            case wire.Failed() | wire.UnknownJob():
                self._scheduler.ended(job, now)
                self._gone(job)
            case wire.Throttled(_, _, after):
                self._scheduler.queries_throttled(job, after, now)
            case wire.Stop(kind, message, _):
                self._scheduler.abandoned(job, now)
                self._halt(_HALT[kind], f"{kind.value}: {message}", harvest=False)
            case wire.Trouble():
                job.troubles += 1
                if not await self._park_if_over(job, now):
                    self._scheduler.asked(job, now, after=min(30.0, 3.0 * 1.5**job.troubles))
            case wire.Waiting():
                if not await self._park_if_over(job, now):
                    self._scheduler.asked(job, now)

    async def _park_if_over(self, job: Job, now: float) -> bool:
        since = job.since if job.since is not None else now
        if now - since < self._plan.limits.task_timeout:
            return False
        self._scheduler.ended(job, now)
        history = job.history
        if not job.restore and history.state is not None:
            record = records.parked(history.task, history.key, job_id=_known(history.job_id), waited_s=now - since)
            await self._write(record)
        return True

    async def _done(self, job: Job, images: Sequence[str], now: float) -> None:
        if not images:
            job.empties += 1
            if job.empties < retry.EMPTY_DONE_QUERIES:
                self._scheduler.asked(job, now)
                return
            self._scheduler.ended(job, now)
            if job.restore:
                self._gone(job)
                return
            await self._fail_job(job, "generate", code="no_images", message="the job is DONE and has no images")
            return
        history = job.history
        waited = now - job.since if job.fresh and job.since is not None else self._waited(history)
        job.images = tuple(images)
        record = records.generated(
            history.task,
            history.key,
            job_id=_known(history.job_id),
            images=len(images),
            waited_s=waited,
            queries=job.queries,
        )
        seq = self._put(record)
        self._scheduler.release(job, now)
        inline = any(url.startswith("data:") for url in images)
        try:
            await self._commit(seq)
            if inline:  # its bytes are in memory: they are saved while this query's place is still taken
                self._scheduler.begin_inline()
                await self._download(job)
            else:
                self._scheduler.deliver(job)
        finally:
            self._scheduler.ended(job, now)

    def _waited(self, history: History) -> float:
        """Seconds since a submission of an earlier run, by the time of day: never negative, whatever the clock did."""
        return max(0.0, self._edges.clock.wall() - history.submitted_at)

    async def _unknown(self, job: Job, message: str, now: float) -> None:
        if job.unknown_since is None:
            job.unknown_since = now
        step = retry.after_unknown(now - job.unknown_since)
        if isinstance(step, retry.Again):
            self._scheduler.asked(job, now, after=step.after)
            return
        self._scheduler.ended(job, now)
        await self._fail_job(job, "generate", code=JOB_NOT_FOUND, message=message)

    def _gone(self, job: Job) -> None:
        """Report a saved file that is gone for good, or buy it again where that was asked for."""
        if job.rebuy is not None:
            self._order(job.rebuy)
            return
        self._differing.gone.append(job.history.task)
        self._edges.observer.note(f"{job.history.task}: its file is gone and its job no longer answers")

    # downloading

    async def _download(self, job: Job) -> None:
        now = anyio.current_time()
        job.download_attempts += 1
        if job.download_since is None:
            job.download_since = now
        failure: FetchError | BadImage | None = None
        ended = False
        with self._harvest():
            try:
                await self._saver.save(job)
                self._this_run.saved += 1
                self._failures_in_a_row = 0
            except (FetchError, BadImage) as exc:
                failure = exc
            if failure is not None:
                ended = True
                await self._download_failed(job, failure)
        if not ended:
            self._scheduler.downloaded()

    async def _download_failed(self, job: Job, failure: FetchError | BadImage) -> None:
        now = anyio.current_time()
        since = now if job.download_since is None else job.download_since
        asked_for = failure.retry_after if isinstance(failure, FetchError) else None
        step = retry.after_download(job.download_attempts, now - since, self._edges.rng, asked_for or 0.0)
        same_url = isinstance(failure, FetchError) and failure.kind is FetchKind.TRANSIENT
        inline = any(url.startswith("data:") for url in job.images)
        if isinstance(step, retry.GiveUp):
            self._scheduler.downloaded()
            code = "download" if isinstance(failure, FetchError) else "bad_image"
            await self._fail_job(job, "download", code=code, message=str(failure))
        elif same_url and not inline:
            self._scheduler.download_later(job, now + step.after)
        else:
            job.images = ()
            self._scheduler.ask_fresh(job, now + step.after)

    # trouble

    async def _fail_job(self, job: Job, stage: records.Stage, *, code: str, message: str) -> None:
        history = job.history
        await self._fail(history.task, history.key, stage, final=stage == "generate", code=code, message=message)

    async def _fail(self, task: str, key: str, stage: records.Stage, *, final: bool, code: str, message: str) -> None:
        seq = self._put(records.failed(task, key, stage=stage, final=final, code=code, message=message))
        self._this_run.failed += 1
        self._failures_in_a_row += 1
        self._edges.observer.note(f"{task} failed ({stage}): {code}: {message}")
        if self._failures_in_a_row >= self._plan.rules.max_failures:
            self._halt(Halt.MAX_FAILURES, f"{self._failures_in_a_row} tasks failed in a row; the last: {message}")
        await self._commit(seq)

    def _halt(self, reason: Halt, message: str, *, harvest: bool = True) -> None:
        if not self._message or reason is Halt.STORE:
            self._message = message
            self._edges.observer.note(f"no more is submitted: {message}")
        self._scheduler.halt(reason, harvest=harvest)
        self._news.set()

    def _store_failed(self, exc: StoreError) -> None:
        self._halt(Halt.STORE, str(exc), harvest=False)
        self._stop_harvest()

    def _stop_harvest(self) -> None:
        self._scheduler.halt(self._scheduler.halted or Halt.SIGNAL, harvest=False)
        for scope in list(self._harvests):
            scope.cancel()
        self._news.set()

    async def _watch_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            now = anyio.current_time()
            if self._signal is None:
                self._signal = number
                self._grace_until = now + self._plan.grace
                self._halt(Halt.SIGNAL, "interrupted")
                self._edges.observer.note(
                    f"harvesting what is out for at most {self._plan.grace:g} s; interrupt again to stop now"
                )
            else:
                self._stop_harvest()
                for scope in list(self._submissions):
                    scope.deadline = min(scope.deadline, now + SECOND_SIGNAL_SECONDS)

    # telling

    def _show(self, now: float) -> None:
        counts, scheduler, spend = self._counts, self._scheduler, self._state.spend
        elapsed = now - self._began
        out = scheduler.in_flight
        downloading = scheduler.waiting_downloads
        left = counts[Category.PENDING]
        done = self._this_run.saved
        self._edges.observer.update(
            Snapshot(
                total=sum(counts.values()),
                saved=counts[Category.SAVED],
                failed=counts[Category.FAILED],
                held=counts[Category.HELD],
                parked=counts[Category.PARKED],
                out=out,
                downloading=downloading,
                pending=max(0, left - out - downloading),
                spent=spend.total if spend.total or spend.known else None,
                usd_known=spend.known,
                elapsed=elapsed,
                eta=elapsed / done * left if done and scheduler.halted is None else None,
                paused=scheduler.paused,
            )
        )


def _live(state: State | None) -> Category:
    """Count a state while the run goes on: a submission under way is not in doubt yet."""
    return Category.PENDING if state is State.SUBMITTING else category(state)


_HALT = {wire.Fatal.KEY: Halt.KEY, wire.Fatal.BALANCE: Halt.BALANCE, wire.Fatal.ADDRESS: Halt.ADDRESS}


async def judge(
    batch: Sequence[Task], matcher: Matcher, ledger: Ledger, terms: Terms, storage: Storage
) -> list[Planned]:
    """Judge a batch of tasks, asking the storage once for the sizes of all their saved files."""
    histories = [matcher.of(task) for task in batch]
    files = [h.files if h is not None and h.state is State.SAVED else () for h in histories]
    sizes = iter(await storage.sizes([f.path for saved in files for f in saved]))
    return [
        decide(task, history, ledger.state, terms, list(islice(sizes, len(saved))))
        for task, history, saved in zip(batch, histories, files, strict=True)
    ]


def _known(job_id: str | None) -> str:
    if job_id is None:  # only histories with a job are watched
        raise AssertionError("a job without an id")
    return job_id
