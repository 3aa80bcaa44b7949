"""The first half of a task: from an order to a job, or to the certainty or the doubt that there is none.

Rule: money-safety rests on two habits here: an intent is durable before its request leaves, and between an answer
and its queued record there is no `await`.
"""

from __future__ import annotations

import anyio

from rsbatch import retry, wire
from rsbatch.asking import kind_of
from rsbatch.body import ImageChanged, ledger_form
from rsbatch.course import HALTS, Course
from rsbatch.errors import StoreError
from rsbatch.ledger import records
from rsbatch.lifecycle import State
from rsbatch.model import Task
from rsbatch.scheduler import Halt, Job, Order

SECOND_SIGNAL_SECONDS = 2.0
"""How long a second signal waits for open submissions."""


class Submitter:
    """Submits orders, each in a shielded scope of its own."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._open: set[anyio.CancelScope] = set()
        self._doubts = 0
        self._unreachable = False

    def hurry(self) -> None:
        """Give open submissions SECOND_SIGNAL_SECONDS more; then they are in doubt."""
        deadline = anyio.current_time() + SECOND_SIGNAL_SECONDS
        for scope in self._open:
            scope.deadline = min(scope.deadline, deadline)

    async def submit(self, order: Order) -> None:
        """Submit one order and record what came of it; the scheduler is told once."""
        with anyio.CancelScope(shield=True) as scope:  # bounded by the submission's own time limit
            self._open.add(scope)
            try:
                await self._submit_order(order)
            except StoreError as exc:
                self._course.store_failed(exc)
        self._open.discard(scope)
        self._course.news.set()

    async def _submit_order(self, order: Order) -> None:
        task = order.task
        body: bytes | ImageChanged
        try:
            body = await self._course.edges.render(task)
        except ImageChanged as exc:
            body = exc
        try:
            history = self._course.state.get(task.id, task.key)
        except StoreError:  # of an image that is to be bought again: what was saved is read from the ledger's file
            self._drop(order)
            raise
        state = history.state if history is not None else None
        if self._course.scheduler.halted is not None or state is not order.expected:
            # Stopped meanwhile; or its table was edited during the run and gives the task a second time.
            self._drop(order)
            return
        attempt = (history.attempt if history is not None else 0) + 1
        if state is State.HELD:
            self._course.put(records.resolved(task.id, task.key, how="resubmit"))
        order.expected = State.NOT_SUBMITTED
        request = ledger_form(task.body) if attempt == 1 else None
        seq = self._course.put(
            records.submitting(task.id, task.key, attempt=attempt, request=request, usd=task.usd, path=task.path)
        )
        self._course.unreserve(order)  # the fold counts it from here on
        outcome = await self._send(seq, body)
        await self._settle(order, attempt, outcome, anyio.current_time())

    def _drop(self, order: Order) -> None:
        """Give up an order of which nothing was recorded."""
        self._course.unreserve(order)
        self._course.scheduler.dropped(anyio.current_time())

    async def _send(self, intent: int, body: bytes | ImageChanged) -> wire.SubmitOutcome | ImageChanged:
        """Make the intent durable, then send. Whatever interrupts this is an outcome, so that it is recorded."""
        cancelled = anyio.get_cancelled_exc_class()
        if isinstance(body, ImageChanged):
            return body
        try:
            await self._course.ledger.commit(intent)
        except StoreError:
            return wire.NotSent("the intent could not be recorded")
        except cancelled:
            return wire.NotSent("interrupted before it was sent")
        if self._course.end_if_full():  # its intent took the reserve: there is no room for its image
            return wire.NotSent("the disk is full")
        try:
            return await self._course.edges.service.submit(body)
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
                self._course.scheduler.throttled(order, reason, after, now, limit=True)
                await self._course.commit(seq)
            case wire.NotSent(reason):
                seq = self._refuse(task, attempt, reason, None)
                if self._course.scheduler.halted is not None:  # nothing is tried again; perhaps we gave it up
                    self._course.edges.observer.note(f"{task.id} was not sent: {reason}")
                elif not self._unreachable:
                    self._unreachable = True
                    self._course.edges.observer.note(
                        f"the service cannot be reached, trying again (nothing is charged for that): {reason}"
                    )
                self._course.scheduler.throttled(order, reason, None, now, limit=False)
                await self._course.commit(seq)
            case wire.Stop(kind, message, status):
                seq = self._refuse(task, attempt, message, status)
                self._course.halt(HALTS[kind], f"{kind.value}: {message}")
                self._course.scheduler.dropped(now)
                await self._course.commit(seq)
            case wire.Refused():
                await self._refused(order, attempt, outcome, now)
            case ImageChanged():
                self._refuse(task, attempt, str(outcome), None)
                self._course.scheduler.dropped(now)
                await self._course.fail(
                    task.id, task.key, "submit", final=False, code="image_changed", message=str(outcome)
                )

    def _refuse(self, task: Task, attempt: int, reason: str, status: int | None) -> int:
        return self._course.put(records.not_submitted(task.id, task.key, attempt=attempt, reason=reason, status=status))

    async def _accepted(self, order: Order, attempt: int, answer: wire.Accepted, now: float) -> None:
        task = order.task
        other = self._who_has(answer.job_id)
        if other is not None:
            await self._doubted(task, attempt, f"the service gave job {answer.job_id}, which {other} has")
            return
        record = records.submitted(
            task.id, task.key, attempt=attempt, job_id=answer.job_id, request_id=answer.request_id
        )
        seq = self._course.put(record)
        self._course.this_run.submitted += 1
        self._unreachable = False
        try:
            await self._course.commit(seq)  # durable before the first query
        except StoreError:
            self._course.scheduler.dropped(now)
            raise
        history = self._course.state.get(task.id, task.key)
        if history is not None:
            self._course.scheduler.accepted(Job(history, task.path, fresh=True, kind=kind_of(task.body)), now)

    def _who_has(self, job_id: str) -> str | None:
        """Name the task that has a job, if any. It raises nothing: an answer is there that is not recorded yet."""
        try:
            history = self._course.state.of_job(job_id)
        except StoreError:  # its line cannot be read; only what seems to have the job is read
            return "another task"
        return None if history is None else history.task

    async def _doubted(self, task: Task, attempt: int, reason: str) -> None:
        seq = self._course.put(records.in_doubt(task.id, task.key, attempt=attempt, reason=reason))
        self._course.scheduler.dropped(anyio.current_time())
        self._course.this_run.submitted += 1
        self._course.edges.observer.note(
            f"{task.id} is in doubt and held: {reason} (it may have been charged, and is not sent again unasked)"
        )
        self._doubts += 1
        if self._doubts >= self._course.plan.rules.max_in_doubt:
            self._course.halt(Halt.MAX_IN_DOUBT, f"{self._doubts} submissions in this run are in doubt")
        await self._course.commit(seq)

    async def _refused(self, order: Order, attempt: int, answer: wire.Refused, now: float) -> None:
        task = order.task
        seq = self._refuse(task, attempt, f"{answer.code}: {answer.message}", answer.status)
        order.refusals += 1
        step = retry.GiveUp() if answer.final else retry.after_refusal(order.refusals, self._course.edges.rng)
        if isinstance(step, retry.Again):
            self._course.scheduler.retry(order, step.after, now)
            await self._course.commit(seq)
            return
        self._course.scheduler.dropped(now)
        await self._course.fail(
            task.id, task.key, "submit", final=answer.final, code=answer.code, message=answer.message
        )
