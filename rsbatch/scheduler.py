"""What to start next: a pure scheduler that is told what happened and says what to do.

Rule: no IO, no clock, no coroutine; every method is given `now` (the event loop's time, seconds) where it matters.
The runner asks `next`, starts what it names, and reports the end of it. A slot is free when its job has ended, not
when its image is saved. Jobs wait in one heap by due time, not in coroutines.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from random import Random
from typing import Generic, TypeVar

from rsbatch.asking import QuerySchedule
from rsbatch.ceiling import InFlightLimit
from rsbatch.ledger.state import History
from rsbatch.lifecycle import State
from rsbatch.line import Line, Place
from rsbatch.model import Limits, SavedFile, Task
from rsbatch.pacing import Quota, RateGate
from rsbatch.retry import DOWNLOAD_SECONDS, UNAVAILABLE_SECONDS, backoff
from rsbatch.units import format_rate

SLOT_PRICE = 0.006
"""Seconds of delay that a query is worth where a slot idles until we notice its end: next to nothing, so that with few
slots `queries_per_second` is what bounds the queries; see docs/performance.md for what follows."""
COVERED_PRICE = 1.4
"""The same where jobs of ours wait at the service and take the slot: a delay costs nothing but part of the buffer."""
LAST_PRICE = 0.02
"""The same for the last job of a run, whose delay is the run's; where several are left, each of them may be it."""
QUERY_SHARE = 0.8
"""How much of the rate of queries the schedule plans with; the rest evens out bursts."""
QUERIES_SLOWEST = 2.0
"""Seconds between two queries at most where the service wants fewer: they bring in what was paid."""
ASKED_SECONDS = 5.0
"""How often each job may be asked for in any case: a service that wants less is waited for, refusal by refusal."""
FILL_SECONDS = 20.0, 60.0
"""How long it may take in any case to submit `in_flight` jobs, or FEWEST of them where refusals come REFUSED_OFTEN: as
long as a job takes, else slots idle, within these bounds; the second where that is not known."""
FEWEST = 8
REFUSED_OFTEN = 2
"""Fewer acceptances than this since the rate was lowered are of one that is still far too high."""
WAITING_SECONDS = 15.0
"""How long a job that is presumed to wait is left alone, unless the end of another tells that it has begun."""
DOWNLOADS_AHEAD = 4
"""How many images may wait for each download at a time, `in_flight` at least, before no more are bought: what is paid
and not fetched can be lost, and addresses of images expire."""
REFUSED_SECONDS = 1.0
"""The pause after a refusal without `Retry-After` while jobs are out: their ends, not time, make room. Of a host of
images, too, since each image that it refused waits longer by itself."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Order:
    """A task to submit. `refusals` counts the passing ones of this run; `expected` is the state it was judged in.

    `pressed` is true where it was sent as soon after the one before as the rate allowed.
    """

    task: Task
    expected: State | None = None
    refusals: int = 0
    pressed: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """A submitted task on its way to its files.

    `path` is where its image goes, with EXT; `since` the time its timeout counts from (None: from its first query);
    `ended` is true once the service holds it no more; `orphan` that no task of the manifest is its own; `restore`
    that it was saved before and its file is gone; `rebuy` what to submit if it does not
    answer; `fresh` that this run submitted it; `fetched` those of `images` that are here; `refusals` how often their
    host wanted fewer requests, `refused_since` from when it kept this job waiting for that; `kind` its class of
    durations; `age` how long it is out already, in seconds; `place` where it stands among the jobs that are out.
    """

    history: History
    path: str
    since: float | None = None
    ended: bool = False
    orphan: bool = False
    restore: bool = False
    fresh: bool = False
    rebuy: Order | None = None
    queries: int = 0
    troubles: int = 0
    empties: int = 0
    unknown_since: float | None = None
    download_attempts: int = 0
    download_since: float | None = None
    refusals: int = 0
    refused_since: float | None = None
    images: tuple[str, ...] = ()
    fetched: tuple[SavedFile, ...] = ()
    kind: str = ""
    age: float = 0.0
    place: Place | None = None


_WAIT, _RUN = "WAIT", "RUN"
"""The service's words; where others come, nothing is concluded from them."""


class Halt(Enum):
    """Why a run submits no more. The value is the machine-readable reason of the summary."""

    BUDGET = "budget"
    STOP_AFTER = "stop_after"
    MAX_FAILURES = "max_failures"
    MAX_IN_DOUBT = "max_in_doubt"
    KEY = "key_refused"
    BALANCE = "balance"
    ADDRESS = "wrong_address"
    UNAVAILABLE = "unavailable"
    SIGNAL = "signal"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class StartSubmit:
    """Submit this order."""

    order: Order


@dataclass(frozen=True, slots=True)
class StartQuery:
    """Ask for this job."""

    job: Job


@dataclass(frozen=True, slots=True)
class StartDownload:
    """Download this job's images."""

    job: Job


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing may start before `until` (None: before something ends)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left that this run may do."""


Step = StartSubmit | StartQuery | StartDownload | Idle | Finished


class _DueHeap(Generic[T]):
    """Things by the time they are due; equal times in the order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._tick = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, due: float, item: T) -> None:
        heapq.heappush(self._heap, (due, next(self._tick), item))

    def due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def first(self) -> T | None:
        return self._heap[0][2] if self._heap else None

    def pop(self, now: float) -> T | None:
        """Take the first thing that is due, None if nothing is."""
        return heapq.heappop(self._heap)[2] if self._heap and self._heap[0][0] <= now else None

    def hasten(self, due: Callable[[T], float]) -> None:
        """Make each thing due at the time that `due` gives for it, where that is earlier."""
        self._heap = [(min(at, due(item)), tick, item) for at, tick, item in self._heap]
        heapq.heapify(self._heap)


@dataclass(slots=True)
class _Host:
    """A host of images that wants fewer requests: none before `until`. It gave one at `since`, or refused first."""

    since: float
    until: float = float("-inf")


@dataclass(slots=True)
class Open:
    """How many requests of each kind are under way."""

    submits: int = 0
    queries: int = 0
    downloads: int = 0

    def __bool__(self) -> bool:
        return bool(self.submits or self.queries or self.downloads)


@dataclass(frozen=True, slots=True)
class Policies:
    """The replaceable judgements, and how many requests may be open at once."""

    in_flight: InFlightLimit
    queries: QuerySchedule
    open_submits: int
    open_queries: int
    rng: Random = field(default_factory=Random)
    quota: Quota = field(default_factory=Quota)


class Scheduler:
    """Holds what waits and what is under way in one run that began at `now`."""

    def __init__(self, limits: Limits, policies: Policies, now: float) -> None:
        self.limits = limits
        self.halted: Halt | None = None
        self.harvesting = True
        self.exhausted = False
        self.in_flight = 0
        """Jobs the service holds, as far as we know, and submissions under way."""
        self.open = Open()
        self._policies = policies
        self._ready: deque[Order] = deque()
        self._delayed: _DueHeap[Order] = _DueHeap()
        self._jobs: _DueHeap[Job] = _DueHeap()
        self._downloads: deque[Job] = deque()
        self._later_downloads: _DueHeap[Job] = _DueHeap()
        self._refusing: dict[str, _Host] = {}
        """Hosts of images that wanted fewer requests."""
        self._unfetched: set[Job] = set()
        """Jobs that ended well and are asked for once more, since we have no address of their images that is good."""
        self._submit_gate = RateGate(limits.submits_per_second)
        self._query_gate = RateGate(limits.queries_per_second, QUERIES_SLOWEST)
        self._submits_from = self._queries_from = float("-inf")
        self._submit_pauses = self._query_pauses = 0
        self._hopeful_at = now
        self._line = Line()
        self._pressed = False
        """Whether the last submission that was refused was sent as soon as the rate allowed."""
        self._draining = False
        self._put_off: str | None = None
        self._asked_to_wait: str | None = None
        """The refusal that `_submits_from` comes from, if it came with a `Retry-After`."""
        self._awaited: str | None = None
        """What the next submission waits for, in words, where that is a quota or a `Retry-After`."""
        self._behind = False

    # what is left

    @property
    def paused(self) -> str | None:
        """Why nothing is submitted, or downloaded, for now; None if that is not so."""
        behind = bool(self._ready) and self._fetching_first
        if self._put_off is not None and not behind:
            return self._put_off
        if self._awaited is not None and not behind and self.halted is None:
            return self._awaited
        later = self._later_downloads.first()
        if later is not None and _host_of(later) in self._refusing and not self.open.downloads:
            return "downloads: HTTP 429"
        return "downloads are behind" if behind else None

    @property
    def hungry(self) -> bool:
        """True while more orders should be offered."""
        return not self.exhausted and self.halted is None and len(self._ready) < self._policies.open_submits

    @property
    def waiting_downloads(self) -> int:
        """Jobs that have ended well and are not saved yet."""
        return len(self._downloads) + len(self._later_downloads) + self.open.downloads

    @property
    def _fetching_first(self) -> bool:
        """Whether so many images wait that no more are bought until some are here."""
        waiting = self.waiting_downloads + len(self._unfetched)
        return waiting >= max(self.limits.in_flight, DOWNLOADS_AHEAD * self.limits.downloads)

    @property
    def jobs_waiting(self) -> int:
        """Jobs in the query heap."""
        return len(self._jobs)

    # what comes in

    def offer(self, order: Order) -> None:
        """Add an order at the end of the line."""
        self._ready.append(order)

    def watch(self, job: Job, due: float) -> None:
        """Ask for `job` from the time `due` on; it counts as in flight until it is reported as ended."""
        if job.ended:
            self._await_address(job)
        else:
            self.in_flight += 1
            if job.place is None:
                job.place = self._line.enter(job.kind, due, due - job.age)
        self._jobs.push(due, job)

    def halt(self, reason: Halt, *, harvest: bool = True) -> None:
        """Submit no more; without `harvest` start nothing else either. The first reason stays, but STORE wins."""
        if self.halted is None or reason is Halt.STORE:
            self.halted = reason
        self.harvesting = self.harvesting and harvest

    # what to do

    def next(self, now: float) -> Step:
        """Say what to start at `now`, and count it as under way; downloads first, new submissions last."""
        if self.harvesting:
            self._drain()
            step = self._next_download(now) or self._next_query(now)
            if step is not None:
                return step
        behind, self._behind = self._behind, self._fetching_first
        if behind or self._behind or not (self._ready or len(self._delayed) or self.in_flight):
            self._hopeful_at = now  # nothing was there to be accepted, or it was held up here
        if self.halted is None:
            if self._unavailable(now):
                self.halt(Halt.UNAVAILABLE)
            elif (submit := self._next_submit(now)) is not None:
                return submit
        if self._over():
            return Finished()
        return Idle(self._next_time())

    def _next_download(self, now: float) -> StartDownload | None:
        while self.open.downloads < self.limits.downloads:
            job = self._later_downloads.pop(now) or (self._downloads.popleft() if self._downloads else None)
            if job is None:
                break
            host = self._refusing.get(_host_of(job))
            if host is None or host.until <= now:
                self.open.downloads += 1
                return StartDownload(job)
            if job.refused_since is None:
                job.refused_since = now
            self._later_downloads.push(host.until, job)
        return None

    def _next_query(self, now: float) -> StartQuery | None:
        while (at := self._query_time()) is not None and at <= now:
            job = self._jobs.pop(now)
            if job is not None and job.place is not None and job.place.not_before > now:
                self._jobs.push(job.place.not_before, job)  # it has begun to run since, and has some time
                continue
            return None if job is None else self._start_query(job, now)
        return None

    def _start_query(self, job: Job, now: float) -> StartQuery:
        self._query_gate.take(now)
        self.open.queries += 1
        if job.since is None:
            job.since = now
        if job.place is not None:
            job.place.asked = now
        job.queries += 1
        return StartQuery(job)

    def _next_submit(self, now: float) -> StartSubmit | None:
        while (order := self._delayed.pop(now)) is not None:
            self._ready.append(order)
        at = self._submit_time()
        self._awaited = None
        if at is None:
            return None
        if at > now:
            self._awaited = self._waits_for(at, now)
            return None
        self._ready[0].pressed = self._submit_gate.take(now)
        self._put_off = None
        self.open.submits += 1
        self.in_flight += 1
        return StartSubmit(self._ready.popleft())

    def _waits_for(self, at: float, now: float) -> str | None:
        quota, room = self._policies.quota, self._policies.in_flight.opens_at(self.in_flight)
        if quota.opens_at(self.open.submits) == at:
            return format_rate(quota.per_minute)
        return self._asked_to_wait if at == self._submits_from and room is not None and room <= now else None

    def _submit_time(self) -> float | None:
        """When the first order in line may go, None if that waits for something to end."""
        if not self._ready or self.open.submits >= self._policies.open_submits or self._fetching_first:
            return None
        limit = self._policies.in_flight.opens_at(self.in_flight)
        if limit is None or self.in_flight >= self.limits.in_flight:
            return None
        quota = self._policies.quota.opens_at(self.open.submits)
        return max(limit, quota, self._submits_from, self._submit_gate.opens_at())

    def _drain(self) -> None:
        """Once nothing is left to submit, ask for what is out more often than was planned."""
        if not self._draining and self._nothing_to_submit:
            self._draining = True
            self._jobs.hasten(self._last_due)

    def _last_due(self, job: Job) -> float:
        if job.place is None:
            return float("inf")
        job.place.not_before = float("-inf")
        return job.place.alive + self._delay(job.place)

    @property
    def _nothing_to_submit(self) -> bool:
        return self.halted is not None or (self.exhausted and not self._ready and not len(self._delayed))

    def _delay(self, place: Place | None) -> float:
        """Seconds from when a job was last known to go on to when it should be asked for."""
        price = COVERED_PRICE if self._policies.in_flight.covered else SLOT_PRICE
        if self._nothing_to_submit:
            price = min(price, LAST_PRICE * max(1, self.in_flight))
        if place is not None and place.began is None:
            return WAITING_SECONDS
        kind, age = ("", 0.0) if place is None else (place.kind, place.age)
        share = QUERY_SHARE * self._query_gate.per_second / max(1, len(self._jobs) + self.open.queries)
        return self._policies.queries.delay(kind, age, price, share)

    def _query_time(self) -> float | None:
        due = self._jobs.due()
        if due is None or self.open.queries >= self._policies.open_queries:
            return None
        return max(due, self._queries_from, self._query_gate.opens_at())

    @property
    def _hopeless_at(self) -> float | None:
        """When the service counts as unavailable, if nothing changes: nothing out, something to submit."""
        waiting = bool(self._ready or len(self._delayed)) and self.in_flight == 0 and not self._fetching_first
        return self._hopeful_at + UNAVAILABLE_SECONDS if waiting else None

    def _unavailable(self, now: float) -> bool:
        at = self._hopeless_at
        return at is not None and now >= at

    def _over(self) -> bool:
        if self.open:
            return False
        if self.harvesting and (len(self._jobs) or self._downloads or len(self._later_downloads)):
            return False
        return self._nothing_to_submit

    def _next_time(self) -> float | None:
        times: list[float | None] = []
        if self.harvesting:
            times += [self._query_time()]
            if self.open.downloads < self.limits.downloads:
                times += [self._later_downloads.due()]
        if self.halted is None:
            times += [self._delayed.due(), self._submit_time(), self._hopeless_at]
        return min((t for t in times if t is not None), default=None)

    # what happened to submissions

    def accepted(self, job: Job, now: float) -> None:
        """The order became `job`, durably recorded."""
        self.open.submits -= 1
        self._policies.quota.passed(self._held, now)
        if self._policies.in_flight.accepted(self._held, now) and self._pressed:
            often = self._submit_gate.passed_since < REFUSED_OFTEN
            fewest = min(self.limits.in_flight, FEWEST) if often else self.limits.in_flight
            least, most = FILL_SECONDS
            self._submit_gate.slower(now, fewest / min(most, max(least, self._policies.queries.overall() or most)))
        else:
            self._submit_gate.passed(now)
        self._submit_pauses = 0
        self._hopeful_at = now
        self.in_flight -= 1  # `watch` counts the job itself
        job.since = now
        job.place = self._line.enter(job.kind, now, now)
        if self._policies.in_flight.queued(self._line.rank(job.place)):
            self._line.wait(job.place)
        self.watch(job, now + self._delay(job.place))

    @property
    def _held(self) -> int:
        """How many jobs the service holds, as far as we know."""
        return self.in_flight - self.open.submits

    def throttled(self, order: Order, reason: str, retry_after: float | None, now: float, *, limit: bool) -> None:
        """The order was put off through no fault of its own; `limit`: by the service's rate or concurrency limit."""
        self._back(now)
        full = limit and self._held > 0  # what is out makes room by its end
        if now >= self._submits_from:  # several that were under way together count once
            self._submit_pauses += not full
            if limit:
                self._pressed = order.pressed
                pause = retry_after or 0.0
                if not self._policies.quota.refused(self._held, self.open.submits, now, pause):
                    self._policies.in_flight.refused(self._held, now, pause)
        wait = retry_after or (REFUSED_SECONDS if full else backoff(self._submit_pauses, self._policies.rng))
        if now + wait > self._submits_from:
            self._submits_from, self._asked_to_wait = now + wait, reason if retry_after else None
        if not full:
            self._put_off = reason
        self._ready.appendleft(order)

    def retry(self, order: Order, after: float, now: float) -> None:
        """The order is tried again after `after` seconds."""
        self._back(now)
        self._delayed.push(now + after, order)

    def dropped(self, now: float) -> None:
        """An order came to nothing: failed, in doubt, or not tried any more."""
        self._back(now)

    def _back(self, now: float) -> None:
        self.open.submits -= 1
        self.in_flight -= 1

    # what happened to jobs

    def asked(self, job: Job, now: float, *, after: float | None = None, state: str = "") -> None:
        """A query told that the job goes on; ask again by the schedule, or after `after` seconds.

        `state` is the service's word for how it goes on.
        """
        self.open.queries -= 1
        if after is None:
            after = self._delay(None) if job.place is None else self._goes_on(job.place, state, now)
        self._jobs.push(now + after, job)

    def _goes_on(self, place: Place, state: str, now: float) -> float:
        """Take in what was said of a job, and give the seconds until it should be asked for again.

        The schedule counts from the question: what the answer says held at some time since then. Where answers take
        long, a job is being asked for no more than half of the time.
        """
        self._saw(place, state, now)
        took = now - place.asked
        return max(took, self._delay(place) - took)

    def _saw(self, place: Place, state: str, now: float) -> None:
        limit = self._policies.in_flight
        if state in {_WAIT, _RUN}:
            waiting = state == _WAIT
            limit.seen(waiting=waiting, rank=self._line.rank(place), running=self._line.running - place.running)
            if not waiting:
                self._line.run(place, now)
            elif limit.queued(self._line.rank(place)):
                self._line.wait(place)
        place.alive = place.asked

    def answered(self, now: float) -> None:
        """The service took a query, whatever it said of the job; what became of the job is told next."""
        self._query_pauses = 0
        self._query_gate.passed(now)

    def queries_throttled(self, job: Job, retry_after: float | None, now: float) -> None:
        """The service wants fewer queries."""
        self.open.queries -= 1
        if now >= self._queries_from:
            if self._query_pauses == 0:  # of several in a row the others may be of an outage, not of the rate
                self._query_gate.slower(now, (1 + len(self._jobs) + self.open.queries) / ASKED_SECONDS)
            self._query_pauses += 1
        wait = retry_after if retry_after else backoff(self._query_pauses, self._policies.rng)
        self._queries_from = max(self._queries_from, now + wait)
        self._jobs.push(now, job)

    def abandoned(self, job: Job, now: float) -> None:
        """A query was broken off; the job stays out, for the next run."""
        self.open.queries -= 1
        self._unfetched.discard(job)

    def ended(self, job: Job, now: float) -> None:
        """A query told that the service holds the job no more; its slot is free."""
        self.open.queries -= 1
        self._unfetched.discard(job)
        self.release(job, now)

    def finished(self, job: Job, now: float) -> None:
        """A query told that the job has its images: learn how long it took, and free its slot."""
        place = job.place
        if job.fresh and place is not None and place.began is not None:
            self._policies.queries.ended(job.kind, place.age, now - place.began)
        self.release(job, now)

    def release(self, job: Job, now: float) -> None:
        """Free the job's slot, once."""
        job.ended, place = True, job.place
        if place is None:
            return
        job.place = None
        self.in_flight -= 1
        self._hopeful_at = now
        self._policies.in_flight.ended(place.alive, now)
        begun = self._line.leave(place, now)
        if begun is not None and begun.began is not None:
            begun.not_before = begun.began + self._delay(begun)

    # what happened to downloads

    def deliver(self, job: Job) -> None:
        """The job's images can be downloaded."""
        self._downloads.append(job)

    def begin_inline(self) -> None:
        """Count a download that did not wait in line."""
        self.open.downloads += 1

    def downloaded(self) -> None:
        """A download ended, well or for good."""
        self.open.downloads -= 1

    def download_later(self, job: Job, due: float) -> None:
        """A download ended badly and is tried again at `due`, with the same URLs."""
        self.open.downloads -= 1
        self._later_downloads.push(due, job)

    def download_refused(self, job: Job, retry_after: float | None, now: float) -> bool:
        """The host of a download wants fewer requests: the job's is tried again later, unless this gives False.

        That is where the host gave nothing for too long, what it asked to wait included; then the download is still
        under way, and the host is asked for its other images at once, so that they do not wait for the same end.
        """
        job.refusals += 1
        job.download_since = None  # what it had to wait is not its images' fault
        job.refused_since = now if job.refused_since is None else job.refused_since
        host = self._refusing.setdefault(_host_of(job), _Host(now))
        if now - max(job.refused_since, host.since) >= DOWNLOAD_SECONDS:
            return False
        host.until = max(host.until, now + (retry_after or REFUSED_SECONDS))
        self.download_later(job, now + max(backoff(job.refusals, self._policies.rng), retry_after or 0.0))
        return True

    def host_delivered(self, job: Job, now: float) -> None:
        """An image of a job came: its host is not one that gives nothing."""
        name = _host_of(job)
        host = self._refusing.get(name)
        if host is not None:
            host.since = now
            if host.until <= now:
                del self._refusing[name]

    def ask_fresh(self, job: Job, due: float) -> None:
        """A download ended badly and needs fresh URLs: the job is asked for at `due`."""
        self.open.downloads -= 1
        self._await_address(job)
        self._jobs.push(due, job)

    def _await_address(self, job: Job) -> None:
        if not job.restore:  # what was saved once holds up nothing
            self._unfetched.add(job)


def _host_of(job: Job) -> str:
    """Whom the job's first address names: what another of its hosts says counts for that one, too."""
    address = job.images[0] if job.images else ""
    return address.partition("//")[2].partition("/")[0]
