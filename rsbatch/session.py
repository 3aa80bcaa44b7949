"""Where a run is put together: manifest, ledger and edges, in the one order that is safe.

Rule: nothing is created before the manifest is known to be right, and nothing is submitted before the ledger is
locked, read whole and found to be this manifest's own. This is the only module that knows every edge. What a run alone
needs is imported there: `plan` and `status` do without asyncio, which takes 4 MB.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rsbatch import __version__
from rsbatch.body import ImageChanged, wire_bytes
from rsbatch.clock import Clock, SystemClock
from rsbatch.errors import Interrupted, ManifestError, Problem, RsbatchError, StoreError, UsageError
from rsbatch.keys import find_key
from rsbatch.ledger import records
from rsbatch.ledger.local import NAME, RESERVE, LocalLedgerFile, open_ledger, read_ledger
from rsbatch.ledger.mend import ends_before_a_job
from rsbatch.ledger.state import History, LedgerState
from rsbatch.manifest.check import check
from rsbatch.manifest.expand import Manifest
from rsbatch.manifest.load import load_manifest
from rsbatch.model import Limits, LocalImage, Rules, Selection, Task
from rsbatch.planning import Action, Matcher, Terms, decide
from rsbatch.progress.interface import Observer, Silent
from rsbatch.progress.work import working
from rsbatch.unrecorded import Lookout, find_sidecars

if TYPE_CHECKING:
    from rsbatch.asking import QuerySchedule
    from rsbatch.ledger.writer import Ledger
    from rsbatch.net.fetch import Fetcher
    from rsbatch.net.service import Service
    from rsbatch.runner import RunPlan
    from rsbatch.summary import Result

    Connect = Callable[["Project", Clock, str | None], AbstractAsyncContextManager[tuple[Service, Fetcher]]]

SIMULATED_URL = "http://127.0.0.1:8765"
SIMULATED_SUFFIX = "-simulated"
SIMULATOR_STATE = "simulator.jsonl"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line, or a caller from Python, says over the manifest. Times in seconds; None: as the manifest.

    `output` is relative to the working directory. `simulate` runs against the built-in simulator.
    """

    simulate: bool = False
    output: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)
    date: str | None = None
    selection: Selection = field(default_factory=Selection)
    limits: dict[str, object] = field(default_factory=dict)
    rules: dict[str, object] = field(default_factory=dict)
    grace: float = 30.0


@dataclass(frozen=True, slots=True)
class Project:
    """A manifest as one command sees it: with the options applied. `folder` is the output folder."""

    manifest: Manifest
    options: Options
    folder: Path
    service: str
    limits: Limits
    rules: Rules

    def read_state(self) -> LedgerState:
        """Read the ledger without a lock; raises StoreError where it is damaged or another's."""
        state = read_ledger(self.folder)
        check_owner(self, state)
        return state


def open_project(path: Path, options: Options) -> Project:
    """Load the manifest and apply the options; raises ManifestError."""
    manifest = load_manifest(path, variables=options.variables, date=options.date, output=options.output)
    folder, service = manifest.output_dir, manifest.api.base_url.rstrip("/")
    if options.simulate:
        if not folder.name:
            raise UsageError(f"{folder} cannot be the output folder of a simulation: name a folder inside")
        folder, service = folder.with_name(folder.name + SIMULATED_SUFFIX), "simulator"
    limits = replace(manifest.limits, **options.limits)  # type: ignore[arg-type]
    rules = replace(manifest.rules, **options.rules)  # type: ignore[arg-type]
    return Project(manifest, options, folder, service, limits, rules)


def check_owner(project: Project, state: LedgerState) -> None:
    """Raise StoreError if the ledger is another service's or another manifest's, or lost while its images are there."""
    path = project.folder / NAME
    if state.service is not None and state.service != project.service:
        raise StoreError(
            f"{path} belongs to the service {state.service}, and this run is for {project.service}; "
            f"give this one another folder (output.dir or --output)"
        )
    if state.name is not None and state.name != project.manifest.name:
        raise StoreError(
            f"{path} belongs to the manifest named {state.name}, and this one is named {project.manifest.name}; "
            f"give it another folder (output.dir or --output), or its old name back"
        )
    if state.seq == 0 and ledger_is_lost(project.folder):
        raise StoreError(
            f"{path} is gone, and what was beside it is there ({RESERVE}): jobs may be out that it knew of. Put it "
            f"back, or make one that holds every task: `rsbatch repair` with this manifest. If nothing of it is "
            f"wanted any more, delete {RESERVE}, too"
        )
    if state.seq == 0 and (found := next(find_sidecars(project.folder), None)) is not None:
        raise StoreError(
            f"{project.folder} has images of rsbatch ({found.name}) and no ledger: what was paid for them is not "
            f"known. `rsbatch repair` with this manifest rebuilds the ledger from the files beside the images"
        )


def ledger_is_lost(folder: Path) -> bool:
    """Tell if there was a ledger and is none: its reserve is made after it and stays."""
    return os.path.lexists(folder / RESERVE) and not os.path.lexists(folder / NAME)


def with_redos(project: Project, state: LedgerState) -> Project:
    """Give the project with the new samples that the ledger says were asked for, by the manifest's ids."""
    if not state.redos:
        return project
    plain = replace(project.manifest, redos={})
    matcher = Matcher.over(state, plain.tasks([]))
    names = {(history.task, history.key): task for task, history in matcher.settle()}
    redos = {(names.get((task, key), task), key): number for (task, key), number in state.redos.items()}
    return replace(project, manifest=replace(plain, redos=redos))


def match(
    project: Project, state: LedgerState, *, buying: bool = True, go_on: Callable[[], None] = lambda: None
) -> tuple[Matcher, list[str]]:
    """Pass over the whole manifest once: check it, and give its tasks their histories.

    Without `buying`, prices need not be there, and nothing is looked for that was paid for without a record. `go_on` is
    called with every task, and may raise.

    Gives the matcher and warnings. Raises ManifestError with every problem, UsageError where a budget is set and a
    task to be submitted has no price, and StoreError where the image of one was paid for without a record.
    """
    selection = project.options.selection
    matcher = Matcher(state, selection)
    lookout = Lookout(project.folder, state, project.service, project.manifest.name)
    unsettled = state.unsettled() if buying else ()
    ends_here = {(h.task, h.key): h for h in unsettled if ends_before_a_job(h)}
    names_fit = None if sys.getfilesystemencoding() == "utf-8" else _check_name
    unpriced: list[Task] = []

    def visit(task: Task) -> None:
        go_on()
        tick(1)
        last = ends_here.get((task.id, task.key))
        if (not matcher.visit(task) or last is not None) and buying:
            lookout.check(task.key, task.path, last)
        if names_fit is not None:
            names_fit(task)
        if buying and project.rules.budget is not None and task.usd is None and len(unpriced) < _UNPRICED_KEPT:
            history = state.get(task.id, task.key)
            if history is None or _submits(project, state, history, task):
                unpriced.append(task)

    with working("checking the manifest", "tasks") as tick:
        try:
            checked = check(project.manifest, visit)
        except ManifestError as exc:
            raise _of_redos(project.manifest, exc) from exc
    matcher.settle()
    for name, key, path in matcher.sought:
        go_on()
        if buying:
            lookout.check(key, path, matcher.named(name, key))
    matcher.sought.clear()  # a million of them would be kept as long as the run
    if selection.patterns and not matcher.selected:
        raise UsageError(
            f"--select {' '.join(selection.patterns)} matches no task of {project.manifest.path.name}; "
            f"nothing was submitted. `rsbatch plan` lists the ids"
        )
    _check_prices(project, matcher, state, unpriced)
    warnings = [
        f"{', '.join(ids)} are the same request under several ids: each is bought by itself (leave one to pay once)"
        for ids in checked.same_key_groups
    ]
    return matcher, warnings


def _of_redos(manifest: Manifest, error: ManifestError) -> ManifestError:
    """Say where a problem is that the manifest by itself does not have; raises ManifestError if it has one."""
    if not manifest.redos:
        return error
    check(replace(manifest, redos={}))
    note = (
        "The manifest by itself is right: this is about new samples in the place of rejected images, `cat-r2` for "
        "`cat`, whose `sample` in templates is 10001 and more. Give another task that has such an id another one, or "
        "make the templates fit for any `sample`; if the new samples are still to be asked for, leave these out"
    )
    return ManifestError(error.problems, note)


_UNPRICED_KEPT = 1000


def _check_prices(project: Project, matcher: Matcher, state: LedgerState, unpriced: Iterable[Task]) -> None:
    for task in unpriced:
        if _submits(project, state, matcher.of(task), task):
            raise UsageError(
                f"there is a budget, and {task.id} (line {task.origin.line} of {project.manifest.path.name}) has no "
                f"price: add one that matches it under `prices`; nothing was submitted"
            )


def _submits(project: Project, state: LedgerState, history: History | None, task: Task) -> bool:
    terms = Terms(project.options.selection, project.rules.in_doubt)
    sizes = [f.bytes for f in history.files] if history is not None else []
    return decide(task, history, state, terms, sizes).action is Action.SUBMIT


def _check_name(task: Task) -> None:
    """Refuse, before anything is paid, a file name that this system's encoding cannot write."""
    try:
        os.fsencode(task.path)
    except UnicodeEncodeError:
        raise UsageError(
            f"the file of {task.id} cannot be named in this locale's encoding ({sys.getfilesystemencoding()}); "
            f"set LANG=C.UTF-8 or PYTHONUTF8=1; nothing was submitted"
        ) from None


@asynccontextmanager
async def open_edges(project: Project, clock: Clock, key: str | None) -> AsyncIterator[tuple[Service, Fetcher]]:
    """Connect to the service, or to the simulator in this process where `key` is None."""
    from rsbatch.net.fetch import HttpFetcher, guarded_transport
    from rsbatch.net.guard import Remembering, policy_for_url
    from rsbatch.net.service import HttpService

    # A query may answer with an image in base64: a third larger, and some air for the JSON around it.
    most = project.limits.max_image_bytes * 4 // 3 + 1024 * 1024
    async with AsyncExitStack() as stack:
        fetcher: HttpFetcher
        if key is None:
            from rsbatch.simulator import Settings, SimulatorTransport, open_simulator

            engine = open_simulator(Settings(models=("*",)), project.folder / SIMULATOR_STATE, clock.wall)
            transport = SimulatorTransport(engine, clock=clock.wall, paint_in_thread=True)
            service = HttpService(SIMULATED_URL, "sk-simulated", clock=clock, max_answer=most, transport=transport)
            fetcher = HttpFetcher(transport)
        else:
            service = HttpService(project.service, key, clock=clock, max_answer=most)
            policy = await policy_for_url(project.service)
            fetcher = HttpFetcher(guarded_transport(policy, resolve=Remembering()))
        stack.push_async_callback(fetcher.aclose)
        yield await stack.enter_async_context(service), fetcher


async def run(
    project: Project,
    observer: Observer | None = None,
    signals: AsyncIterator[int] | None = None,
    *,
    clock: Clock | None = None,
    connect: Connect | None = None,
    schedule: QuerySchedule | None = None,
) -> Result:
    """Run a project to its end on asyncio and say how it ended; raises RsbatchError where it cannot begin.

    `connect` opens the service and the fetcher (default: `open_edges`), `schedule` says when jobs are asked for.
    """
    clock = clock or SystemClock()
    return await _execute(project, observer or Silent(), signals, clock, connect=connect, schedule=schedule)


def _keep_freed_memory() -> None:
    """Let the next image use the memory of the last one, where the C library is glibc; elsewhere it does no harm.

    Images come in pieces of 256 KiB. glibc gives such memory back to the system at once and asks for it again, page by
    page, until a larger block was freed: from then on it keeps up to twice that. So one of the largest that count
    (mallopt(3), M_MMAP_THRESHOLD) is made here and freed, of pages that nobody touches.
    """
    bytes(32 * 2**20 - 2**16)


async def restore(project: Project, wanted: Callable[[LedgerState], Sequence[History]], observer: Observer) -> Result:
    """Fetch saved images again whose files are missing or altered; submits nothing and takes up nothing else."""
    return await _execute(project, observer, None, SystemClock(), wanted)


async def _execute(
    project: Project,
    observer: Observer,
    signals: AsyncIterator[int] | None,
    clock: Clock,
    wanted: Callable[[LedgerState], Sequence[History]] | None = None,
    *,
    connect: Connect | None = None,
    schedule: QuerySchedule | None = None,
) -> Result:
    import anyio.to_thread

    from rsbatch.ledger.writer import Ledger
    from rsbatch.runner import Edges, Runner
    from rsbatch.storage.local import LocalStorage

    _keep_freed_memory()
    key = None if project.options.simulate else find_key(project.manifest.api, os.environ, Path.cwd())
    project, file, state, matcher = await _opened(project, observer, signals, buying=wanted is None)
    ledger = Ledger(file, state, clock=clock, run=new_run_id(clock), say=observer.note)
    try:
        async with (connect or open_edges)(project, clock, key) as (service, fetcher):
            storage = LocalStorage(project.folder)
            rng = Random()  # noqa: S311 - it spreads retries, it keeps no secret
            edges = Edges(service, fetcher, storage, ledger, render, observer, clock, rng)
            plan = _run_plan(project, matcher)
            if schedule is not None:
                plan = replace(plan, schedule=schedule)
            if wanted is not None:
                restoring = tuple(await anyio.to_thread.run_sync(wanted, state))
                plan = replace(plan, tasks=iter(()), restore=restoring, harvest=False)
                return await Runner(plan, edges).run(signals)
            if project.manifest.ping is None or project.options.simulate:
                return await Runner(plan, edges).run(signals)
            from rsbatch.net.ping import around

            return await around(project.manifest.ping, lambda: Runner(plan, edges).run(signals), observer.note)
    finally:
        await ledger.close()
        observer.close()


def _run_plan(project: Project, matcher: Matcher) -> RunPlan:
    from rsbatch.runner import RunPlan

    problems: list[Problem] = []
    return RunPlan(
        tasks=project.manifest.tasks(problems),
        problems=problems,
        matcher=matcher,
        limits=project.limits,
        rules=project.rules,
        selection=project.options.selection,
        started=_run_started(project, matcher.total),
        manifest=str(project.manifest.path),
        ledger=str(project.folder / NAME),
        output=str(project.folder),
        service=project.service,
        name=project.manifest.name,
        sidecar=project.manifest.sidecar,
        grace=project.options.grace,
    )


@asynccontextmanager
async def writing(project: Project) -> AsyncIterator[Ledger]:
    """Open the project's ledger for a command that writes records and is no run; raises as `run` does."""
    from rsbatch.ledger.writer import Ledger

    if not os.path.lexists(project.folder / NAME):
        check_owner(project, LedgerState())
        raise UsageError(f"there is no ledger in {project.folder}; name the --simulate and --output of the run")
    file, state, said = open_ledger(project.folder)
    clock = SystemClock()
    if said:
        _complain(said)
    ledger = Ledger(file, state, clock=clock, run=new_run_id(clock), say=_complain)
    try:
        check_owner(project, state)
        yield ledger
    finally:
        await ledger.close()


def _complain(text: str) -> None:
    sys.stderr.write(f"rsbatch: {text}\n")


def new_run_id(clock: Clock) -> str:
    """Make the id of a run: when it began, and six random hex digits."""
    moment = records.timestamp(clock.wall())[:19].replace(":", "").replace("-", "")
    return f"{moment}Z-{secrets.token_hex(3)}"


Opened = tuple[Project, LocalLedgerFile, LedgerState, Matcher]


async def _opened(
    project: Project, observer: Observer, signals: AsyncIterator[int] | None, *, buying: bool = True
) -> Opened:
    """Open the ledger in a thread, so that a signal ends that at once; raises Interrupted.

    A million tasks take a minute to check, in which nobody would know whether the signal was heard.
    """
    import anyio.to_thread

    if signals is None:
        return await anyio.to_thread.run_sync(_open_ledger, project, observer, lambda: None, buying)
    came: list[int] = []

    async def watch() -> None:
        async for number in signals:
            came.append(number)
            return

    def go_on() -> None:
        if came:
            raise Interrupted(came[0])

    opened: Opened | RsbatchError
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            opened = await anyio.to_thread.run_sync(_open_ledger, project, observer, go_on, buying)
        except RsbatchError as exc:
            opened = exc
        group.cancel_scope.cancel()
    if isinstance(opened, RsbatchError):
        raise opened
    if came:  # since the last task was checked
        opened[1].close()
        raise Interrupted(came[0])
    return opened


def _open_ledger(project: Project, observer: Observer, go_on: Callable[[], None], buying: bool) -> Opened:
    """Check the manifest, lock the ledger, match them. A ledger that is not there yet is made last.

    `go_on` is called with every task, and may raise.
    """
    if not os.path.lexists(project.folder / NAME):
        check_owner(project, LedgerState())
        match(project, LedgerState(), buying=buying, go_on=go_on)
    file, state, said = open_ledger(project.folder)
    try:
        if said:
            observer.note(said)
        check_owner(project, state)
        project = with_redos(project, state)
        matcher, warnings = match(project, state, buying=buying, go_on=go_on)
        for warning in warnings:
            observer.note(warning)
    except BaseException:
        file.close()
        raise
    return project, file, state, matcher


def _run_started(project: Project, tasks: int) -> records.Record:
    return records.run_started(
        service=project.service,
        name=project.manifest.name,
        manifest=str(project.manifest.path),
        manifest_sha256=project.manifest.sha256,
        version=__version__,
        tasks=tasks,
    )


async def render(task: Task) -> bytes:
    """Give the exact bytes to send for a task; raises ImageChanged where a local image is not as it was."""
    if any(_has_image(value) for value in task.body.values()):
        import anyio.to_thread

        return await anyio.to_thread.run_sync(wire_bytes, task.body, read_image)
    return wire_bytes(task.body, read_image)


def _has_image(value: object) -> bool:
    return isinstance(value, LocalImage) or (isinstance(value, list | tuple) and any(map(_has_image, value)))


def read_image(image: LocalImage) -> bytes:
    """Read a local image's bytes; raises ImageChanged where that cannot be done any more."""
    if image.data is not None:
        return image.data
    try:
        return image.path.read_bytes() if image.path is not None else b""
    except OSError as exc:
        raise ImageChanged(image) from exc
