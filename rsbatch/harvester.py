"""The second half of a task: from a job to its files.

Rule: nothing here costs money, so all of it may be broken off at any moment; nothing here submits.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from rsbatch import retry, wire
from rsbatch.asking import QUERY_INTERVAL
from rsbatch.course import HALTS, Course
from rsbatch.images import BadImage
from rsbatch.ledger import records
from rsbatch.ledger.state import JOB_NOT_FOUND, History
from rsbatch.net.fetch import FetchError, FetchKind
from rsbatch.saver import Saver
from rsbatch.scheduler import Job


class Harvester:
    """Asks for jobs and brings in their images."""

    def __init__(self, course: Course, saver: Saver) -> None:
        self._course = course
        self._saver = saver

    async def query(self, job: Job) -> None:
        """Ask for one job and carry its answer on; the scheduler is told once."""
        done = False
        with self._course.harvesting():
            try:
                self._course.this_run.queries += 1
                outcome = await self._course.edges.service.query(_known(job.history.job_id))
                done = True
                await self._take_answer(job, outcome, anyio.current_time())
            finally:
                if not done:
                    self._course.scheduler.abandoned(job, anyio.current_time())

    async def _take_answer(self, job: Job, outcome: wire.QueryOutcome, now: float) -> None:
        """Carry a query's outcome on. Each branch reports the query's end to the scheduler exactly once."""
        if not isinstance(outcome, wire.UnknownJob):
            job.unknown_since = None
        if not isinstance(outcome, wire.Trouble):
            job.troubles = 0
        if not isinstance(outcome, wire.Throttled | wire.Trouble | wire.Stop):
            self._course.scheduler.answered(now)
        if isinstance(outcome, wire.Waiting):  # a DONE that came too early meant nothing
            job.empties = 0
        match outcome:
            case wire.Done(images):
                await self._done(job, images, now)
            case wire.Failed(code, message) if not job.restore:
                self._course.scheduler.ended(job, now)
                await self._fail_job(job, "generate", code=code, message=message)
            case wire.UnknownJob(message) if not job.restore or job.rebuy is not None:
                await self._unknown(job, message, now)
            case wire.Failed() | wire.UnknownJob():
                self._course.scheduler.ended(job, now)
                self._gone(job)
            case wire.Stop(kind, message, _):
                self._course.scheduler.abandoned(job, now)
                self._course.halt(HALTS[kind], f"{kind.value}: {message}", harvest=False)
            case wire.Throttled() | wire.Trouble() | wire.Waiting():
                if not await self._park_if_over(job, now):
                    self._goes_on(job, outcome, now)

    def _goes_on(self, job: Job, outcome: wire.Throttled | wire.Trouble | wire.Waiting, now: float) -> None:
        match outcome:
            case wire.Throttled(_, _, after):
                self._course.scheduler.queries_throttled(job, after, now)
            case wire.Trouble():
                job.troubles += 1
                self._course.scheduler.asked(job, now, after=min(30.0, 3.0 * 1.5**job.troubles))
            case wire.Waiting(state):
                self._course.scheduler.asked(job, now, state=state)

    async def _park_if_over(self, job: Job, now: float) -> bool:
        since = job.since if job.since is not None else now
        if now - since < self._course.plan.limits.task_timeout:
            return False
        self._course.scheduler.ended(job, now)
        history = job.history
        if not job.restore and history.state is not None:
            record = records.parked(history.task, history.key, job_id=_known(history.job_id), waited_s=now - since)
            await self._course.write(record)
        return True

    async def _done(self, job: Job, images: Sequence[str], now: float) -> None:
        if not images:
            job.empties += 1
            if job.empties < retry.EMPTY_DONE_QUERIES:
                self._course.scheduler.asked(job, now, after=QUERY_INTERVAL)  # its images may take a moment
                return
            self._course.scheduler.ended(job, now)
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
        seq = self._course.put(record)
        self._course.scheduler.finished(job, now)
        inline = any(url.startswith("data:") for url in images)
        try:
            await self._course.commit(seq)
            if inline:  # its bytes are in memory: they are saved while this query's place is still taken
                self._course.scheduler.begin_inline()
                await self.download(job)
            else:
                self._course.scheduler.deliver(job)
        finally:
            self._course.scheduler.ended(job, now)

    def _waited(self, history: History) -> float:
        """Seconds since a submission of an earlier run, by the time of day: never negative, whatever the clock did."""
        return max(0.0, self._course.edges.clock.wall() - history.submitted_at)

    async def _unknown(self, job: Job, message: str, now: float) -> None:
        if job.unknown_since is None:
            job.unknown_since = now
        step = retry.after_unknown(now - job.unknown_since)
        if isinstance(step, retry.Again):
            self._course.scheduler.asked(job, now, after=step.after)
            return
        self._course.scheduler.ended(job, now)
        if job.restore:
            self._gone(job)
        else:
            await self._fail_job(job, "generate", code=JOB_NOT_FOUND, message=message)

    def _gone(self, job: Job) -> None:
        """Report a saved file that is gone for good, or buy it again where that was asked for."""
        if job.rebuy is not None:
            self._course.order(job.rebuy)
            return
        self._course.differing.gone.append(job.history.task)
        self._course.edges.observer.note(f"{job.history.task}: its file is gone and its job no longer answers")

    async def download(self, job: Job) -> None:
        """Download one job's images; the scheduler is told once."""
        now = anyio.current_time()
        if job.download_since is None:
            job.download_since = now
        failure: FetchError | BadImage | None = None
        ended, had = False, len(job.fetched)
        try:
            with self._course.harvesting():
                try:
                    await self._saver.save(job)
                    self._course.this_run.saved += 1
                    self._course.failures_in_a_row = 0
                except (FetchError, BadImage) as exc:
                    failure = exc
                if len(job.fetched) > had:  # another of its images may have been refused
                    self._course.scheduler.host_delivered(job, anyio.current_time())
                if failure is not None:
                    ended = True
                    await self._download_failed(job, failure)
        finally:  # inside of a query that is broken off, too
            if not ended:
                self._course.scheduler.downloaded()

    async def _download_failed(self, job: Job, failure: FetchError | BadImage) -> None:
        now = anyio.current_time()
        since = now if job.download_since is None else job.download_since
        asked_for = failure.retry_after if isinstance(failure, FetchError) else None
        inline = any(url.startswith("data:") for url in job.images)
        step: retry.Again | retry.GiveUp = retry.GiveUp()
        if isinstance(failure, FetchError) and failure.kind is FetchKind.THROTTLED and not inline:
            if self._course.scheduler.download_refused(job, asked_for, now):
                return
        else:
            job.download_attempts += 1
            step = retry.after_download(job.download_attempts, now - since, self._course.edges.rng, asked_for or 0.0)
        same_url = isinstance(failure, FetchError) and failure.kind is FetchKind.TRANSIENT
        if isinstance(step, retry.GiveUp):
            self._course.scheduler.downloaded()
            code = "download" if isinstance(failure, FetchError) else "bad_image"
            await self._fail_job(job, "download", code=code, message=str(failure))
        elif same_url and not inline:
            self._course.scheduler.download_later(job, now + step.after)
        else:
            job.images = job.fetched = ()
            self._course.scheduler.ask_fresh(job, now + step.after)

    async def _fail_job(self, job: Job, stage: records.Stage, *, code: str, message: str) -> None:
        history = job.history
        await self._course.fail(history.task, history.key, stage, final=stage == "generate", code=code, message=message)


def _known(job_id: str | None) -> str:
    if job_id is None:  # only histories with a job are watched
        raise AssertionError("a job without an id")
    return job_id
