"""Row 2: every I/O operation fails in every way, in a run and in its recovery; and some for real.

A seed is a world of row 1. Its operations are counted; then the run is made again for each of them, with each error,
once and for good. Whatever happens: the run ends by itself with 0 or 4, every job id that was accepted is in the
ledger, in a rescue or on standard error, and the next run on a sound disk completes without paying twice, once the
rescue lies where the program said that it belongs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rsbatch.disk import REAL
from rsbatch.ledger.local import NAME, RESCUE, read_ledger
from rsbatch.lifecycle import State
from rsbatch.model import Task
from rsbatch.simulator import Settings
from torture import site
from torture.crashes import Before, Inspector, judge, read, scenario
from torture.disk import Disk, FakeFileSystem, Fault, File
from torture.rows import Figure, Params
from torture.site import LEDGER, OUT, Place, Protocol, recover, task
from torture.world import Recorder

ALL = frozenset(
    [
        "open",
        "create",
        "close",
        "read",
        "write",
        "truncate",
        "sync",
        "lock",
        "stat",
        "mkdir",
        "link",
        "rename",
        "unlink",
    ]
)
GROWING = frozenset({"create", "write", "mkdir", "link", "rename"})
ERRORS: dict[str, tuple[int | None, frozenset[str]]] = {
    "EIO": (errno.EIO, ALL),
    "ENOSPC": (errno.ENOSPC, GROWING),
    "EDQUOT": (errno.EDQUOT, GROWING),
    "EROFS": (errno.EROFS, GROWING | {"truncate", "unlink"}),
    "EMFILE": (errno.EMFILE, frozenset({"open", "create"})),
    "EINTR": (errno.EINTR, frozenset()),
    "short write": (None, frozenset({"write"})),
}
"""What each is called: its number, and the operations that it strikes from then on if it is for good."""


@dataclass
class Report:
    """What was found for one seed: how many cases, of what kinds, and what was wrong."""

    cases: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def _worlds(seed: int) -> Iterator[tuple[str, Place, list[Task]]]:
    """A run, and the recoveries of three that broke off: killed twice, and once with its disk full."""
    world = scenario(seed)
    yield "run", world.place, world.work
    rng = Random(seed)
    inspector = Inspector(world.work, rng, 2)
    site.run(world.place.copy(), world.work, Protocol(), inspector)
    for instant in inspector.instants:
        yield f"recovery from a kill at {instant.where}", instant.place, world.work
    place = world.place.copy()
    code, kinds = ERRORS["EIO"]
    fs = FakeFileSystem(place.disk, fault=Fault(rng.randint(60, 140), code, lasting=True, kinds=kinds - {"open"}))
    _put_back(place, site.run(place, world.work, Protocol(), None, fs).said)
    yield "recovery with a rescue", place, world.work


def explore(
    seed: int,
    step: int,
    protocol: Protocol | None = None,
    *,
    errors: Sequence[str] = tuple(ERRORS),
    most: int | None = None,
) -> Report:
    """Try the operations of a seed's worlds: all, or every `step`-th from one drawn by lot."""
    report, protocol = Report(), protocol or Protocol()
    rng = Random(seed)
    for phase, place, work in _worlds(seed):
        sound = place.copy()
        operations = site.run(sound, work, Protocol(), None, FakeFileSystem(sound.disk)).fs.count
        for name in errors:
            code, kinds = ERRORS[name]
            for lasting in (False, True):
                for at in range(1 + rng.randrange(step), operations + 1, step):
                    fault = Fault(at, code, lasting, kinds if lasting else frozenset())
                    label = f"{name} {'for good' if lasting else 'once'} at {at} of {operations} in a {phase}"
                    _try(report, place.copy(), work, fault, protocol, f"seed {seed}: {label}")
                    if most is not None and len(report.violations) >= most:
                        return report
    return report


def _try(report: Report, place: Place, work: list[Task], fault: Fault, protocol: Protocol, label: str) -> None:
    fs = FakeFileSystem(place.disk, fault=fault)
    outcome = site.run(place, work, protocol, None, fs)
    if not fault.struck or (fault.code is None and fault.struck != "write" and not fault.lasting):
        return  # nothing was written there to be cut short
    report.cases += 1
    report.kinds[fault.struck] += 1
    report.codes[str(outcome.code)] += 1
    label = f"{label} ({fault.struck})"
    if outcome.code not in {0, 4}:
        report.violations.append(f"it ended with {outcome.code}: {outcome.raised!r} {outcome.notes[-3:]} [{label}]")
    if fs.open_files:
        report.violations.append(f"{fs.open_files} files were left open [{label}]")
    kept = _kept(place.disk) + outcome.said.encode()
    report.violations += [f"{job} is nowhere [{label}]" for job in place.jobs() if job.encode() not in kept]
    _put_back(place, outcome.said)
    after = recover(place, work, Protocol())
    if after.repaired:
        report.violations.append(f"the next run was refused: {after.repaired} [{label}]")
    before = Before(None, Before.of(place).precious)
    report.violations += [f"{what} [{label}]" for what in judge(before, place, work, after)]
    state = read(place)
    if state is not None:
        held = [h.task for h in state.histories() if h.state is State.HELD and h.run == f"run-{place.runs - 1}"]
        report.violations += [f"{name} is held, and nobody crashed [{label}]" for name in held]


def _kept(disk: Disk) -> bytes:
    """Every whole line of the ledger and of the rescues."""
    files = {path: f.data for path, f in disk.files().items() if path == LEDGER or RESCUE in path}
    return b"".join(data[: data.rfind(b"\n") + 1] for data in files.values())


def _put_back(place: Place, said: str) -> None:
    """Do as the program says: bring a rescue that lies elsewhere, or that was only said, to its folder."""
    fs = FakeFileSystem(place.disk)
    rescue = f"{OUT}/{RESCUE}"
    data = b""
    for path, file in place.disk.files().items():
        if path.endswith(RESCUE) and path != rescue:
            data += file.data
            fs.unlink(path)
    there = place.disk.files().get(rescue, File()).data + data
    for line in said.splitlines():
        if line.startswith("{") and line.encode() not in there:
            data += line.encode() + b"\n"
    if data:
        fd = fs.open(rescue, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        fs.write(fd, memoryview(data))
        fs.close(fd)


# for real


async def _really(place: Place, work: list[Task], out: Path) -> int:
    from rsbatch.errors import RsbatchError

    try:
        result = await site.run_in(place, work, Protocol(), site.Watch(), REAL, Recorder(), out)
    except RsbatchError as exc:
        return int(exc.exit_code)
    return int(result.exit_code)


def real(out: Path, kind: str, room: int) -> None:
    """In a process of its own: a sound run, one with `room` bytes left, a sound one; tells of them as JSON."""
    import asyncio

    place = Place(Settings(service_time=0.05))
    works = [[task(f"t{n}", f"picture {n}") for n in range(many)] for many in (1, 5, 5)]
    codes = [asyncio.run(_really(place, works[0], out))]
    filler = out / "filler"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if kind == "RLIMIT_FSIZE":
        most = (out / NAME).stat().st_size + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    else:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, max(0, filler.stat().st_size - room))
    codes.append(asyncio.run(_really(place, works[1], out)))
    sys.stderr.flush()
    kept = b"".join(p.read_bytes() for p in out.glob("ledger.jsonl*") if "reserve" not in p.name)
    kept += b"".join(p.read_bytes() for p in Path(tempfile.gettempdir()).glob(f"*{RESCUE}"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    filler.unlink(missing_ok=True)
    jobs = list(place.jobs())
    for path in [*Path(tempfile.gettempdir()).glob(f"*{RESCUE}"), *Path.cwd().glob(f"rsbatch-*{RESCUE}")]:
        with (out / RESCUE).open("ab") as rescue:
            rescue.write(path.read_bytes())
    codes.append(asyncio.run(_really(place, works[2], out)))
    state = read_ledger(out)
    unsaved = [h.task for h in state.histories() if h.state is not State.SAVED]
    twice = [prompt for prompt, paid in place.paid().items() if len(paid) > 1]
    lost = [job for job in jobs if job.encode() not in kept]
    print(json.dumps({"codes": codes, "lost": lost, "unsaved": unsaved, "twice": twice}))


def _for_real(kind: str, room: int) -> tuple[str, list[str]]:
    """One real disk that is full; gives what it came to and what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        out.mkdir()
        (work := Path(folder, "work")).mkdir()
        with _small_disk(out) if kind == "tmpfs" else contextlib.nullcontext():
            code = (
                f"from pathlib import Path; from torture.faults import real; real(Path({str(out)!r}), {kind!r}, {room})"
            )
            root = str(Path(__file__).parent.parent)
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                timeout=120,
                cwd=work,
                env={**os.environ, "PYTHONPATH": root, "TMPDIR": str(work)},
            )
        if done.returncode:
            return "", [f"{kind} with {room} bytes left: {done.stderr[-600:]}"]
        told = json.loads(done.stdout)
    lost = [job for job in told["lost"] if job not in done.stderr]
    bad = [f"{name}: {told[name]}" for name in ("unsaved", "twice") if told[name]]
    bad += [f"lost: {lost}"] if lost else []
    bad += [] if told["codes"][0] == told["codes"][2] == 0 and told["codes"][1] in {0, 4} else [f"{told['codes']}"]
    return f"{told['codes'][1]}", [f"{kind} with {room} bytes left: {what}" for what in bad]


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def tmpfs_works() -> str:
    """Say why a small disk cannot be mounted here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a small tmpfs needs root on Linux: real full disks were NOT tried"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _small_disk(Path(folder)):
                return ""
        except subprocess.CalledProcessError as exc:
            return f"a small tmpfs cannot be mounted here ({exc.stderr!r}): real full disks were NOT tried"


def run(params: Params) -> Figure:
    """Try every operation of enough seeds, and the real ones."""
    seeds = [params.seed] if params.seed is not None else list(range(params.scale(3, 2)))
    step = params.scale(1, 61) if params.seed is None else 1
    report = Report()
    skipped = tmpfs_works()
    rooms = [("RLIMIT_FSIZE", room) for room in params_rooms(params, (10, 500, 1000, 2000, 4000, 8000))]
    if not skipped:
        rooms += [("tmpfs", room) for room in params_rooms(params, (0, 4096, 8192, 16384, 32768, 65536, 131072))]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for found in pool.map(explore, seeds, [step] * len(seeds)):
            report.cases += found.cases
            report.kinds += found.kinds
            report.codes += found.codes
            report.violations += found.violations
        done = list(pool.map(_for_real, *zip(*rooms, strict=True))) if params.seed is None else []
    for _, bad in done:
        report.violations += bad
    codes = ", ".join(f"exit {code}: {number:,}" for code, number in sorted(report.codes.items()))
    text = (
        f"{report.cases:,} failures of {len(ERRORS)} kinds ({codes}), {len(done)} real full disks, "
        f"{len(report.violations)} violations"
    )
    replays = []
    for violation in report.violations:
        seed = violation.rpartition("seed ")[2].partition(":")[0]
        replays.append(f"{violation} — python -m torture faults" + (f" --seed {seed}" if seed.isdigit() else ""))
    goal = "every operation × 7 errors × once, for good × run, recovery; 0 violations"
    return Figure(text, goal, replays, skipped)


def params_rooms(params: Params, rooms: tuple[int, ...]) -> tuple[int, ...]:
    """All of them, or two in the short form."""
    return rooms if not params.short else rooms[1:3]
