"""Real runs in real processes, and what must hold afterwards: shared by the rows kills, power and overlap.

Rule: a child is forked from a process that has everything imported (multiprocessing's fork server), so that a
thousand of them take minutes; from there on nothing is simulated but the service: real files, real locks, real
signals. The service's own journal is the judge: what it accepted is what was paid.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import anyio
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.WebPImagePlugin  # noqa: F401 - all three: imported here, once, and not in every child

import rsbatch.commands.repair
import rsbatch.commands.resolve
import rsbatch.commands.run
import rsbatch.commands.status
import rsbatch.commands.verify
import rsbatch.net.guard
import rsbatch.progress.choose
import rsbatch.runner
import rsbatch.simulator.server
import rsbatch.storage.local  # noqa: F401 - see above
from rsbatch import cli, session, sidecar
from rsbatch.asking import FixedInterval
from rsbatch.clock import Clock
from rsbatch.errors import RsbatchError, StoreError
from rsbatch.ledger.local import NAME, read_ledger
from rsbatch.ledger.mend import salvage
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.net.fetch import Fetcher, HttpFetcher
from rsbatch.net.service import HttpService, Service
from rsbatch.progress.interface import Silent
from rsbatch.session import Options, Project
from rsbatch.simulator import Settings, SimulatorTransport, open_simulator
from rsbatch.simulator.brief import Brief, Picture
from rsbatch.simulator.painter import paint
from torture.parts import BothWays
from torture.switch import KillAt, Switch

KEY = "sk-torture-2c8e41"
URL = "http://127.0.0.1:8765"
"""Where the service is said to be when it is inside of the child."""
SERVICE_TIME = 0.03
QUERY_INTERVAL = 0.02
SHAPES = {"done-several": 0.15, "done-b64": 0.1}
"""Jobs with several images, and with images inside of the answer: all of them good."""

PERSONS = b"not of rsbatch"
"""What a person's own file holds that stands in the way."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torture.real"])


@dataclass(frozen=True)
class Site:
    """One project on disk: `folder` has the manifest and its output, `memory` is the service's journal."""

    folder: Path
    memory: Path
    url: str = ""

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.yaml"

    @property
    def output(self) -> Path:
        return self.folder / "outputs" / "manifest"

    def write(self, tasks: dict[str, str]) -> None:
        """Write the manifest: prompts by id."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            "version: 1",
            "defaults: {size: 64x64, quality: low}",
            "limits: {in_flight: 16, submits_per_second: 500, queries_per_second: 500}",
            "prices: [{usd: 0.01}]",
            f'api: {{base_url: "{self.url or URL}"}}',
            "tasks:",
            *(f'  - {{id: "{name}", prompt: "{prompt}"}}' for name, prompt in tasks.items()),
        ]
        self.manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def moved_to(self, folder: Path) -> Site:
        """Give a copy of this site, with the service's memory, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        memory = folder.with_name(folder.name + ".service.jsonl")
        shutil.copy(self.memory, memory)
        return Site(folder, memory)

    def jobs(self, about: str = "") -> list[dict[str, Any]]:
        """Everything the service accepted whose prompt begins with `about`: what was paid."""
        lines = self.memory.read_bytes().split(b"\n")[:-1] if self.memory.exists() else []
        values = [json.loads(line) for line in lines]
        return [v for v in values if v["type"] == "job" and v["brief"]["prompt"].startswith(about)]


# children


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended. `code` is rsbatch's exit code, None if the process died; `killed`: by SIGKILL, midway."""

    code: int | None
    killed: bool
    said: str = ""


class Child:
    """A process forked warm, that calls `work(*args)`, which gives an exit code."""

    def __init__(self, work: Callable[..., int], *args: object) -> None:
        self._receive, send = _CONTEXT.Pipe(duplex=False)
        self.process: ForkServerProcess = _CONTEXT.Process(target=_begin, args=(send, work, *args))
        self.process.start()
        send.close()

    @property
    def pid(self) -> int:
        pid = self.process.pid
        assert pid is not None
        return pid

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; False if it did not come in `seconds`."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def kill(self) -> None:
        """Kill it now, if it still lives."""
        self.process.kill()

    def end(self, seconds: float = 120.0) -> Ended:
        """Wait and say how it ended; one that hangs is killed and raises."""
        if not self.wait(seconds):
            self.kill()
            self.wait()
            raise TimeoutError(f"a run did not end in {seconds} s")
        try:
            code, said = self._receive.recv() if self._receive.poll() else (None, "")
        except EOFError:
            code, said = None, ""
        self._receive.close()
        killed = code is None and self.process.exitcode == -signal.SIGKILL
        return Ended(code, killed, said)


def _begin(send: Connection, work: Callable[..., int], *args: object) -> None:
    os.environ["ROUTESCOPE_API_KEY"] = KEY
    os.environ["RSBATCH_BASE_URL"] = URL
    said = io.StringIO()
    sys.stdout = sys.stderr = said
    try:
        code = work(*args)
    except BaseException:
        traceback.print_exc(file=said)
        code = 70
    send.send((code, said.getvalue()[-4000:]))


def one_run(site: Site, at: KillAt | None = None, prepare: Callable[..., None] | None = None, *args: object) -> int:
    """Run a site's manifest in this process, a child; gives the exit code. `at` is when it kills itself.

    `prepare(*args)` is called first: what the row wants to change in the child.
    """
    if prepare is not None:
        prepare(*args)
    session.LocalStorage = BothWays  # type: ignore[attr-defined]
    switch = Switch(at)
    connect = None if site.url else functools.partial(_connect, site.memory)
    try:
        project = session.open_project(site.manifest, Options())
        code = anyio.run(functools.partial(_run, project, connect))
    except BaseException as exc:
        known = next((e for e in _leaves(exc) if isinstance(e, RsbatchError)), None)
        if known is None:
            raise
        print(known)
        code = known.exit_code
    switch.disarm()
    return int(code)


async def _run(project: Project, connect: Any) -> int:
    result = await session.run(project, Telling(), connect=connect, schedule=FixedInterval(QUERY_INTERVAL))
    return int(result.exit_code)


class Telling(Silent):
    """An observer that keeps the notes, for the report of a failure."""

    def note(self, text: str) -> None:
        print(text)


@asynccontextmanager
async def _connect(
    memory: Path, project: Project, clock: Clock, key: str | None
) -> AsyncIterator[tuple[Service, Fetcher]]:
    settings = Settings(slots=32, service_time=SERVICE_TIME, faults=SHAPES)
    transport = SimulatorTransport(open_simulator(settings, memory, clock.wall), clock=clock.wall)
    async with HttpService(URL, key or KEY, clock=clock, max_answer=10**7, transport=transport) as service:
        yield service, HttpFetcher(transport)


def one_command(site: Site, words: Sequence[str], at: KillAt | None = None) -> int:
    """Give `words` to the `rsbatch` command in this process, a child; gives the exit code. `at`: see `one_run`."""
    os.chdir(site.folder)
    os.environ["RSBATCH_BASE_URL"] = site.url or URL
    switch = Switch(at)
    code = cli.main(words)
    switch.disarm()
    return code


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


@contextmanager
def server(memory: Path) -> Iterator[str]:
    """Serve the simulator on loopback from a process of its own; gives its URL."""
    faults = ",".join(f"{name}={rate}" for name, rate in SHAPES.items())
    words = ["--port", "0", "--slots", "64", "--service-time", f"{SERVICE_TIME * 1000:g}ms", "--faults", faults]
    command = [sys.executable, "-m", "rsbatch", "simulate", "--state", str(memory), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"the simulator did not start: {line}")
        yield line[line.index("http://") :].split()[0]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


# what must hold


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is found at rest: `problems` must be empty."""

    problems: list[str]
    jobs: int = 0
    held: int = 0
    saved: int = 0


def judge(site: Site, about: str = "", *, tidy: bool = True) -> Verdict:
    """Judge a site after its last, quiet run against what the service accepted of prompts that begin with `about`.

    Each accepted job is saved, or its task held; none was accepted twice; each file is, byte for byte, what its job
    gives; the ledger is valid; with `tidy` nothing lies about that nobody knows.
    """
    jobs = site.jobs(about)
    problems = [
        f"paid {paid} times: {prompt}"
        for prompt, paid in Counter(job["brief"]["prompt"] for job in jobs).items()
        if paid > 1
    ]
    try:
        state = read_ledger(site.output)
    except StoreError as exc:
        return Verdict([*problems, str(exc)], len(jobs))
    problems += ledger_problems(site)
    known = _keys_by_prompt(site)
    for job in jobs:
        problems += _lost(job, state, known)
    by_id = {job["job_id"]: job for job in jobs}
    for history in state.histories():
        if history.state is State.SAVED:
            problems += _bad_files(site, history, by_id)
    if tidy:
        problems += _litter(site, state)
    states = Counter(history.state for history in state.histories())
    return Verdict(problems, len(jobs), states[State.HELD], states[State.SAVED])


def ledger_problems(site: Site) -> list[str]:
    """Everything that is wrong with the ledger's bytes, line by line."""
    with (site.output / NAME).open("rb") as file:
        found = salvage(file)
    torn = [f"a torn tail of {len(found.torn)} bytes"] if found.torn else []
    return [f"ledger: {problem}" for problem in [*found.problems, *torn]]


def records(site: Site) -> list[dict[str, Any]]:
    """Every whole record of the ledger."""
    path = site.output / NAME
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _keys_by_prompt(site: Site) -> dict[str, str]:
    return {r["request"]["prompt"]: r["key"] for r in records(site) if r["type"] == "submitting" and r.get("request")}


def _lost(job: dict[str, Any], state: LedgerState, known: dict[str, str]) -> Iterator[str]:
    name = f"job {job['job_id']} ({job['brief']['prompt']})"
    history = state.of_job(job["job_id"])
    if history is not None:
        if history.state is not State.SAVED:
            yield f"lost: {name} is in the ledger and {history.state}"
        return
    key = known.get(job["brief"]["prompt"])
    if key is None:
        yield f"lost: {name} was accepted without an intent on disk"
    elif not any(h.state is State.HELD for h in state.of_key(key)):
        yield f"lost: {name} is not in the ledger, and its task is {[h.state for h in state.of_key(key)]}"


def _bad_files(site: Site, history: History, jobs: dict[str, dict[str, Any]]) -> Iterator[str]:
    job = jobs.get(history.job_id or "")
    if job is None:
        yield f"{history.task} is saved from job {history.job_id}, which nobody ordered"
        return
    wanted = 3 if job["shape"] == "done-several" else 1
    if len(history.files) != wanted:
        yield f"{history.task} has {len(history.files)} files, its job gave {wanted}"
    for number, file in enumerate(history.files):
        path = site.output / file.path
        data = path.read_bytes() if path.is_file() else None
        if data is None:
            yield f"{history.task}: {file.path} is not there"
        elif not _sha256(data) == file.sha256 == _painted(json.dumps(job["brief"]), number):
            yield f"{history.task}: {file.path} has other bytes than its job gave"
        beside = path.with_name(path.name + ".json")
        found = sidecar.parse(beside.read_bytes()) if beside.is_file() else None
        if found is None or (found.key, found.job_id, found.image) != (history.key, history.job_id, number + 1):
            yield f"{history.task}: {file.path} has no sidecar of its own beside it"


@functools.lru_cache(maxsize=4096)
def _painted(brief: str, number: int) -> str:
    return _sha256(paint(Picture(replace(Brief.of(json.loads(brief)), index=number))))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _litter(site: Site, state: LedgerState) -> Iterator[str]:
    known = {file.path for history in state.histories() for file in history.files}
    known |= {path + ".json" for path in known}
    for path in sorted(site.output.rglob("*")):
        name = path.relative_to(site.output).as_posix()
        if not path.is_file() or name in known or name.startswith(NAME):
            continue
        if path.read_bytes() != PERSONS:
            yield f"litter: {name} is nobody's"
