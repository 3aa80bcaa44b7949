"""A run on a fake disk: the real runner, ledger and storage, the simulator's engine, virtual time.

Rule: everything that outlives a process is in `Place` and can be copied, so that a run may begin at any instant of
another. The engine is asked directly, without HTTP in between: what is tried here is the disk. `Protocol` names the
classes that the run is made of, so that a broken one can be put in the place of each.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import anyio
import trio
import trio.testing
from anyio.lowlevel import checkpoint

from rsbatch import sidecar, wire
from rsbatch.disk import FileSystem
from rsbatch.errors import LedgerDamaged, RsbatchError
from rsbatch.identity import task_key
from rsbatch.ledger import records
from rsbatch.ledger.local import NAME, LocalLedgerFile, lock_ledger, open_ledger, replace_ledger
from rsbatch.ledger.mend import Rebuild, salvage
from rsbatch.ledger.replay import lines
from rsbatch.ledger.state import LedgerState
from rsbatch.ledger.writer import Ledger
from rsbatch.model import EXT, Limits, Origin, Rules, Selection, Task
from rsbatch.net.fetch import FetchError, FetchKind, Sink
from rsbatch.planning import Matcher
from rsbatch.runner import Edges, Runner, RunPlan
from rsbatch.session import render
from rsbatch.simulator import Engine, Settings
from rsbatch.simulator.brief import Picture
from rsbatch.simulator.painter import paint
from rsbatch.simulator.wire import Request
from rsbatch.storage.local import LocalStorage
from rsbatch.summary import Result
from torture.disk import Disk, FakeFileSystem, named
from torture.parts import BothWays
from torture.world import BASE, Recorder

OUT = Path("/out/deep/pictures")
LEDGER = f"{OUT}/{NAME}"
HEADERS = {"authorization": "Bearer sk-virtual", "content-type": "application/json"}
ORIGIN = "http://127.0.0.1:8765"
LONGEST = 200_000.0
"""Seconds of virtual time that no run takes."""


def task(name: str, prompt: str) -> Task:
    request = {"prompt": prompt, "size": "64x64"}
    return Task(name, task_key(request, 1), 1, request, f"{name}.{EXT}", Decimal("0.01"), Origin(0, 1))


class Place:
    """What outlives a process: the disk, the service and its jobs, the time of day, what was sent so far."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.disk = Disk()
        named(self.disk)
        self.engine = Engine(settings or Settings(service_time=2.0, sigma=0.2))
        self.elapsed = 0.0
        self.runs = 0
        self.sent: Counter[str] = Counter()
        """Submissions that left, by prompt."""

    def copy(self, disk: Disk | None = None) -> Place:
        new = copy.copy(self)
        new.disk = disk or self.disk.copy()
        new.engine = _clone(self.engine)
        new.sent = self.sent.copy()
        return new

    def digest(self) -> bytes:
        """Tell crash states apart."""
        jobs = sorted(self.engine.jobs)
        mark = blake2b(self.disk.digest(_reserve), digest_size=16)
        mark.update(repr((jobs, sorted(self.sent.items()))).encode())
        return mark.digest()

    def paid(self) -> dict[str, list[str]]:
        """Jobs that the service accepted, by prompt."""
        found: dict[str, list[str]] = {}
        for line in self.engine.audit(BASE + self.elapsed)["jobs"]:
            found.setdefault(line["prompt"], []).append(line["job_id"])
        return found

    def jobs(self) -> dict[str, str]:
        """The prompt of each accepted job."""
        return {job: prompt for prompt, jobs in self.paid().items() for job in jobs}


def _reserve(path: str) -> bool:
    return path.endswith(".reserve")


def _clone(engine: Engine) -> Engine:
    new = copy.copy(engine)
    new.jobs = {name: copy.copy(job) for name, job in engine.jobs.items()}
    for name in ("_attempts", "_orders", "_struck", "_slots", "_ends"):
        setattr(new, name, getattr(engine, name).copy())
    new._requests = {kind: counts.copy() for kind, counts in engine._requests.items()}
    return new


_PAINTED: dict[str, bytes] = {}


def _painted(picture: Picture) -> bytes:
    name = repr(picture.brief)
    if name not in _PAINTED:
        _PAINTED[name] = paint(picture)
    return _PAINTED[name]


class Watch:
    """Is told what happens in a run as it happens; does nothing."""

    def begin(self, place: Place, fs: FakeFileSystem) -> None:
        """A process begins."""

    def changing(self, kind: str) -> None:
        """The disk is about to be changed."""

    def submitting(self, prompt: str) -> None:
        """A submission is about to leave."""

    def querying(self, job_id: str) -> None:
        """A query is about to leave."""

    def instant(self, kind: str) -> None:
        """Something happened outside of the disk."""


class EngineService:
    """The engine as a `Service`."""

    def __init__(self, place: Place, now: Callable[[], float], watch: Watch) -> None:
        self._place = place
        self._now = now
        self._watch = watch

    async def _ask(self, path: str, body: bytes) -> wire.Answer:
        await anyio.sleep(0.01)
        answer = self._place.engine.handle(Request("POST", path, ORIGIN, "", HEADERS, body), self._now())
        content = answer.body
        if answer.envelope is not None:
            import base64

            from rsbatch.simulator.wire import dump

            data = [{"b64_json": base64.b64encode(_painted(p)).decode()} for p in answer.pictures]
            content = dump({**answer.envelope, "data": data})
        return wire.Answer(answer.status, {"content-type": answer.content_type, **dict(answer.headers)}, content)

    async def submit(self, body: bytes) -> wire.SubmitOutcome:
        from pydantic_core import from_json

        prompt = from_json(body)["prompt"]
        self._watch.submitting(prompt)
        self._place.sent[prompt] += 1
        answer = await self._ask(wire.SUBMIT_PATH, body)
        self._watch.instant("accepted")
        await anyio.sleep(0.01)
        return wire.read_submit(answer, self._now())

    async def query(self, job_id: str) -> wire.QueryOutcome:
        self._watch.querying(job_id)
        return wire.read_query(await self._ask(wire.QUERY_PATH, wire.query_body(job_id)), self._now())


class EngineFetcher:
    """The engine's images as a `Fetcher`."""

    def __init__(self, place: Place, now: Callable[[], float]) -> None:
        self._place = place
        self._now = now

    async def fetch(self, url: str, sink: Sink, *, max_bytes: int) -> int:
        await checkpoint()
        if url.startswith("data:"):
            import base64

            data = base64.b64decode(url.partition(",")[2])
        else:
            path, _, query = url.removeprefix(ORIGIN).partition("?")
            answer = self._place.engine.handle(Request("GET", path, ORIGIN, query, {}, b""), self._now())
            if answer.status != 200:
                raise FetchError("no such image", FetchKind.EXPIRED)
            data = _painted(answer.pictures[0])
        half = len(data) // 2
        for piece in (data[:half], data[half:]):
            await sink(piece)
        return len(data)


@dataclass
class Protocol:
    """What a run is made of. A broken one has another class, or another file system round the real one.

    `sick` ones show only where a sync fails.
    """

    name: str = "as shipped"
    runner: type[Runner] = Runner
    ledger: type[Ledger] = Ledger
    storage: type[LocalStorage] = BothWays
    fs: Callable[[FakeFileSystem], FileSystem] = lambda fs: fs
    open: Callable[[Path, FileSystem], tuple[LocalLedgerFile, LedgerState, str]] = open_ledger
    rules: Rules = field(default_factory=Rules)
    sick: bool = False


@dataclass
class Outcome:
    """How a run ended: `result`, or what was raised. `fs` is its view of the disk, `said` its standard error."""

    fs: FakeFileSystem
    result: Result | None = None
    raised: BaseException | None = None
    notes: list[str] = field(default_factory=list)
    repaired: str = ""
    said: str = ""

    @property
    def code(self) -> int | None:
        """The exit code that the command would have."""
        if self.result is not None:
            return int(self.result.exit_code)
        return int(code) if (code := getattr(self.raised, "exit_code", None)) is not None else None


def run(
    place: Place, work: Sequence[Task], protocol: Protocol, watch: Watch | None = None, fs: FakeFileSystem | None = None
) -> Outcome:
    """Run once on virtual time; `place` is changed."""
    fs = fs or FakeFileSystem(place.disk)
    watch = watch or Watch()
    watch.begin(place, fs)
    fs.before = watch.changing
    outcome = Outcome(fs)
    observer = Recorder()
    outcome.notes = observer.notes
    place.runs += 1

    async def main() -> None:
        with anyio.fail_after(LONGEST):
            outcome.result = await run_in(place, work, protocol, watch, protocol.fs(fs), observer)

    async def bounded() -> None:
        start = anyio.current_time()
        try:
            await main()
        finally:
            place.elapsed += anyio.current_time() - start

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))
    except (RsbatchError, TimeoutError, OSError, BaseExceptionGroup) as exc:
        if _is_ours(exc):
            raise
        outcome.raised = exc
    outcome.said = told.getvalue()
    return outcome


def _is_ours(exc: BaseException) -> bool:
    """True for what a mistake in the torture suite looks like: such a thing catches no broken protocol."""
    if isinstance(exc, BaseExceptionGroup):
        return any(map(_is_ours, exc.exceptions))
    return isinstance(exc, AttributeError | NameError | TypeError)


async def run_in(
    place: Place,
    work: Sequence[Task],
    protocol: Protocol,
    watch: Watch,
    fs: FileSystem,
    observer: Recorder,
    out: Path = OUT,
) -> Result:
    """Run once on the event loop that is there; raises what a run raises."""
    began = anyio.current_time()

    def now() -> float:
        return BASE + place.elapsed + anyio.current_time() - began

    class Time:
        def wall(self) -> float:
            return now()

    file, state, said = protocol.open(out, fs)
    if said:
        observer.note(said)
    ledger = protocol.ledger(file, state, clock=Time(), run=f"run-{place.runs}", say=observer.note)
    try:
        matcher = Matcher(state)
        for one in work:
            matcher.visit(one)
        matcher.settle()
        service, fetcher = EngineService(place, now, watch), EngineFetcher(place, now)
        storage = protocol.storage(out, fs)
        edges = Edges(service, fetcher, storage, ledger, render, observer, Time(), Random(7))
        plan = RunPlan(
            tasks=iter(work),
            matcher=matcher,
            limits=Limits(),
            rules=protocol.rules,
            selection=Selection(),
            started=_started(len(work)),
            manifest="m.yaml",
            ledger="ledger.jsonl",
            output="out",
            service="sim",
            name="n",
        )
        return await protocol.runner(plan, edges).run()
    finally:
        await ledger.close()


def _started(tasks: int) -> Any:
    return records.run_started(
        service="sim", name="n", manifest="m.yaml", manifest_sha256="0", version="0", tasks=tasks
    )


def recover(place: Place, work: Sequence[Task], protocol: Protocol, watch: Watch | None = None) -> Outcome:
    """Run quietly; where the ledger is refused as damaged, do what `rsbatch repair` does, and run again."""
    outcome = run(place, work, protocol, watch)
    if isinstance(outcome.raised, LedgerDamaged):
        told = str(outcome.raised)
        repair(place, work, watch)
        outcome = run(place, work, protocol, watch)
        outcome.repaired = told
    return outcome


def repair(place: Place, work: Sequence[Task], watch: Watch | None = None) -> None:
    """Do as `rsbatch repair` does."""
    fs, watch = FakeFileSystem(place.disk), watch or Watch()
    watch.begin(place, fs)
    fs.before = watch.changing
    path = OUT / NAME
    with lock_ledger(path, fs) as fd:
        with fs.reader(fs.dup(fd)) as file:
            found = salvage(lines(file))
        if not found.problems and found.values:
            return
        rebuild = Rebuild(BASE + place.elapsed, f"repair-{place.runs}")
        if not found.values or found.values[0]["type"] != "run_started":
            rebuild.put(_started(0))
        for value in found.values:
            rebuild.keep(value)
        _adopt(place, rebuild)
        matcher = Matcher.over(rebuild.state, work)
        rebuild.doubt_the_rest([(t.id, t.key) for t in work if matcher.of(t) is None])
        replace_ledger(path, b"".join(rebuild.lines), fs)


def _adopt(place: Place, rebuild: Rebuild) -> None:
    found = []
    for path, file in place.disk.files().items():
        one = sidecar.parse(file.data) if path.endswith(".png.json") and "/.parts/" not in path else None
        if one is not None:
            where = str(PurePosixPath(path).relative_to(OUT)).removesuffix(".json")
            one = replace(one, file=replace(one.file, path=where))
            found.append(one)
    rebuild.adopt_all(found)
