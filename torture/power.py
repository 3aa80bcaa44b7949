"""Row 4: real power cuts on ext4: what was acknowledged is there when the power is back.

Rule: a run goes on in a file system of its own (a file, a loop device); in its midst the process is stopped and the
file system shut down without a flush of its journal (EXT4_IOC_SHUTDOWN), as a power cut does; then it is mounted
again. What the ledger's `append` returned from must stand at its place, what `publish` and `write_atomic` returned
from must have its bytes, and every job that the service took must have its intent. The service's memory is on
another disk. The control runs the same code with `os.fsync` doing nothing: a row that cannot lose shows nothing.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rsbatch import session
from rsbatch.ledger.local import NAME, LocalLedgerFile, open_ledger
from rsbatch.storage.interface import sidecar_path
from rsbatch.storage.local import LocalStorage
from torture.real import Child, Site, judge, one_run, records
from torture.rows import Figure, Params
from torture.switch import KillAt

FULL, SHORT = 1000, 30
CONTROL_FULL, CONTROL_SHORT = 100, 10
MUST_LOSE = 0.9
GOAL = f"{FULL:,} cuts, 0 acknowledged records lost; the control loses in at least {MUST_LOSE:.0%}"
_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), fs/ext4/ext4.h
_NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_IMAGE_BYTES = 64 * 1024 * 1024


class Cannot(Exception):
    """This machine cannot cut the power of a file system; says why."""


class Disk:
    """An ext4 file system in a file, with a power switch."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "disk"
        self.place.mkdir()
        self._image = folder / "disk.img"
        self._mounted = False

    def make(self) -> None:
        """Make it anew, empty, and mount it."""
        self.off()
        with self._image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        _do("mkfs.ext4", "-q", "-F", str(self._image))
        self.on()

    def on(self) -> None:
        """Mount it; ext4 replays its journal."""
        _do("mount", "-t", "ext4", "-o", "loop", str(self._image), str(self.place))
        self._mounted = True

    def cut(self) -> None:
        """Take the power away: nothing that is not on the disk yet will ever be."""
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        except OSError as exc:
            raise Cannot(f"EXT4_IOC_SHUTDOWN is refused: {exc.strerror}") from exc
        finally:
            os.close(fd)

    def off(self) -> None:
        """Unmount it; its loop device goes with it."""
        if not self._mounted:
            return
        for _ in range(50):  # a process just killed may hold it for a moment
            done = subprocess.run(["umount", str(self.place)], capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(0.02)
        else:
            _do("umount", "--lazy", str(self.place))
        self._mounted = False


def _do(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        raise Cannot(f"{words[0]} is not installed") from None
    if done.returncode:
        raise Cannot(f"{words[0]}: {done.stderr.strip()}")


@contextmanager
def disk() -> Iterator[tuple[Disk, Path]]:
    """Give a mounted disk and a folder that no power cut touches; nothing of either stays. Raises Cannot."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise Cannot("it needs root, to mount a file system of its own")
    folder = Path(tempfile.mkdtemp(prefix="rsbatch-power-"))
    made = Disk(folder)
    try:
        made.make()
        yield made, folder
    finally:
        made.off()
        shutil.rmtree(folder)


# in the child


def _acknowledge(pipe: str, synced: bool) -> None:
    """Write a line to `pipe` for all that is durable, once the real code has returned."""
    out = os.open(pipe, os.O_WRONLY)
    write = os.write
    if not synced:
        os.fsync = lambda fd: None

    def tell(*words: object) -> None:
        write(out, (" ".join(map(str, words)) + "\n").encode())

    appended = LocalLedgerFile.append

    def opening(folder: Path) -> Any:
        found = open_ledger(folder)
        tell("opened", found[0].size)
        return found

    async def append(self: LocalLedgerFile, data: bytes) -> None:
        at = self.size
        await appended(self, data)
        tell("record", at, data.hex())

    def publishing(real: Callable[..., Any], given: int) -> Callable[..., Any]:
        @functools.wraps(real)
        async def published(self: LocalStorage, *args: Any, **options: Any) -> Any:
            beside = await real(self, *args, **options)
            path = args[given]
            for there in [path, sidecar_path(path)] if beside else [path]:
                tell("file", hashlib.sha256((self._root / there).read_bytes()).hexdigest(), there)
            return beside

        return published

    session.open_ledger = opening  # type: ignore[assignment,attr-defined]
    LocalLedgerFile.append = append  # type: ignore[method-assign]
    LocalStorage.publish = publishing(LocalStorage.publish, 1)  # type: ignore[method-assign]
    LocalStorage.write_atomic = publishing(LocalStorage.write_atomic, 0)  # type: ignore[method-assign]


# the cuts


@dataclass
class Promises:
    """What a site's runs acknowledged, over all its cuts."""

    opened: bool = False
    records: dict[int, bytes] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def take(self, lines: bytes) -> None:
        """Take in what came through the pipe; a line cut off was never said."""
        for line in lines.split(b"\n")[:-1]:
            kind, first, *rest = line.decode().split(" ", 2)
            if kind == "opened":
                self.opened = True
                # What was not acknowledged before this may be gone; what was is below this size.
            elif kind == "record":
                self.records[int(first)] = bytes.fromhex(rest[0])
            else:
                self.files[rest[0]] = first

    def broken(self, output: Path) -> list[str]:
        """Say which of them the disk does not keep."""
        path = output / NAME
        if not path.exists():
            return ["the ledger is gone, name and all"] if self.opened else []
        data = path.read_bytes()
        lost = [at for at, line in self.records.items() if data[at : at + len(line)] != line]
        problems = [f"{len(lost)} acknowledged groups of records are lost, from byte {min(lost)} on"] if lost else []
        for name, sha256 in self.files.items():
            file = output / name
            if not file.is_file():
                problems.append(f"{name} was published and is gone")
            elif hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
                problems.append(f"{name} was published and has other bytes")
        return problems


class Bench:
    """A disk, and the runs whose power is cut on it."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self._pipe = folder / "acknowledged"
        os.mkfifo(self._pipe)
        self.totals: Counter[str] = Counter()

    def site(self, name: str) -> Site:
        """Lay out a site on the disk, itself durable."""
        site = Site(self._disk.place / name, self._folder / f"{name}.service.jsonl")
        site.write({f"task-{n}": f"{name} picture {n}" for n in range(4)})
        with site.manifest.open("rb") as file:
            os.fsync(file.fileno())
        for folder in (site.folder, self._disk.place):
            fd = os.open(folder, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        return site

    def cut(self, site: Site, promises: Promises, rng: Random, *, synced: bool = True) -> bool:
        """Cut the power in the midst of a run and mount the disk again; False if the run had ended before."""
        reader = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)
        child = Child(one_run, site, None, _acknowledge, str(self._pipe), synced)
        heard = bytearray()
        try:
            wanted = rng.randint(1, 9)
            delay = rng.choice((0.0, rng.uniform(0, 0.003), rng.uniform(0, 0.02))) if synced else 0.0
            while not child.wait(0) and heard.count(b"\nrecord") < wanted:
                _drain(reader, heard)
                time.sleep(0.0005)
            time.sleep(delay)
            ended = child.wait(0)
            if not ended:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGSTOP)
                _wait_for_stop(child)
            self._disk.cut()
            child.kill()
            killed = child.end().killed
            _drain(reader, heard)
        finally:
            child.kill()
            os.close(reader)
        self._disk.off()
        self._disk.on()
        promises.take(bytes(heard))
        return killed

    def chain(self, seed: int) -> list[str]:
        """Cut the power of one to four runs of one site, then let one end and judge it by the service's journal."""
        rng = Random(seed)
        site, promises = self.site(f"seed-{seed}"), Promises()
        problems: list[str] = []
        for _ in range(rng.randint(1, 4)):
            if rng.random() < 0.3:  # a kill between making and syncing, and only then a power cut
                self.totals["kills"] += Child(one_run, site, KillAt(rng.randint(1, 30))).end().killed
            if self.cut(site, promises, rng):
                self.totals["cuts"] += 1
            self.totals["groups"] = self.totals["groups"] + len(promises.records)
            problems += promises.broken(site.output)
            intents = {r["request"]["prompt"] for r in records(site) if r["type"] == "submitting"}
            bare = {job["brief"]["prompt"] for job in site.jobs()} - intents
            problems += [f"{prompt} was submitted, and its intent is gone" for prompt in sorted(bare)]
        ended = Child(one_run, site).end()
        problems += judge(site).problems
        if ended.code not in {0, 1}:
            problems.append(f"the last run exited {ended.code}: {ended.said[-1500:]}")
        self.totals["jobs"] += len(site.jobs())
        shutil.rmtree(site.folder)
        return problems

    def control(self, seed: int) -> bool | None:
        """Cut the power of a run that does not sync; tells whether it lost what it had acknowledged."""
        site, promises = self.site(f"control-{seed}"), Promises()
        if not self.cut(site, promises, Random(seed), synced=False) or not promises.records:
            return None
        return any("record" in text or "ledger" in text for text in promises.broken(site.output))

    def anew(self) -> None:
        """Begin with an empty disk."""
        self._disk.make()


def _drain(reader: int, heard: bytearray) -> None:
    with suppress(BlockingIOError):
        while data := os.read(reader, 65536):
            heard += data


def _wait_for_stop(child: Child) -> None:
    """Wait until all threads stand still, so that nothing is said after the cut that was done before it."""
    for _ in range(200):
        states = set()
        with suppress(OSError):  # it may end just now
            for stat in Path(f"/proc/{child.pid}/task").glob("*/stat"):
                states.add(stat.read_text().rpartition(") ")[2][:1])
        if states <= {"T", "t", "Z", "X"}:
            return
        time.sleep(0.0005)


def run(params: Params) -> Figure:
    """Cut the power until there were enough cuts, then of the control; without root this is skipped, loudly."""
    try:
        with disk() as (made, folder):
            return _run(Bench(made, folder), params)
    except Cannot as exc:
        return Figure("not tried", GOAL, skipped=f"NO POWER WAS CUT: {exc}")


def _run(bench: Bench, params: Params) -> Figure:
    failures: list[str] = []
    target, seed = params.scale(FULL, SHORT), params.seed or 1
    while bench.totals["cuts"] < target and len(failures) < 20:
        again = f"   again: python -m torture power --seed {seed}"
        failures += [problem + again for problem in bench.chain(seed)]
        if params.seed is not None:
            return Figure(f"{bench.totals['cuts']} cuts, {len(failures)} problems", GOAL, failures)
        seed += 1
        if seed % 200 == 0:
            bench.anew()
    lost = tried = 0
    wanted = params.scale(CONTROL_FULL, CONTROL_SHORT)
    for number in range(2 * wanted):
        if number % 20 == 0:
            bench.anew()
        found = bench.control(number)
        tried += found is not None
        lost += found is True
        if tried >= wanted:
            break
    share = lost / tried if tried else 0.0
    if share < MUST_LOSE:
        failures.append(f"the control without fsync loses in {lost} of {tried} cuts only: this row shows nothing here")
    totals = bench.totals
    text = (
        f"{totals['cuts']:,} cuts, {len(failures)} problems ({totals['groups']:,} acknowledged groups looked for, "
        f"{totals['jobs']:,} jobs, {totals['kills']} kills before); the control lost in {lost} of {tried}"
    )
    return Figure(text, GOAL, failures)
