"""The ledger: how many records a second become durable, and what reading a large one costs."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import orjson

from benchmarks.meter import run_metered
from benchmarks.rows import Figure, in_turns, ratios
from rsbatch.clock import SystemClock
from rsbatch.disk import REAL, FileSystem, RealFileSystem
from rsbatch.ledger import records
from rsbatch.ledger.local import NAME, open_ledger
from rsbatch.ledger.records import Record, encode
from rsbatch.ledger.writer import Ledger
from rsbatch.model import SavedFile

WRITERS = 256
SYNC = 0.002
"""Seconds that a sync takes: what a disk takes that writes through its cache."""
RECORDS_A_TASK = 5


def run(quick: bool) -> list[Figure]:
    """Write with 256 writers ÷ a sync for each record; replay ÷ what orjson needs for the same lines."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        return [
            _writing(folder, quick, Steady(), f"where each takes {SYNC * 1000:g} ms"),
            _writing(folder, quick, REAL, "on the disk of this machine"),
            *_replaying(folder, quick),
        ]


# writing


class Steady(RealFileSystem):
    """The disk, a sync of which always takes the same: a real one's may take fifty times as long a minute later."""

    def sync_file(self, fd: int) -> None:
        time.sleep(SYNC)


@dataclass(frozen=True, slots=True)
class Written:
    """How many records became durable, in how many seconds, and the CPU time that they took, in seconds."""

    records: int
    seconds: float
    cpu: float

    @property
    def per_second(self) -> float:
        return self.records / self.seconds


def _writing(folder: Path, quick: bool, fs: FileSystem, where: str) -> Figure:
    seconds, rounds = (1.0, 2) if quick else (3.0, 7)
    grouped: list[Written] = []

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            grouped.append(_write_grouped(Path(name), seconds, fs))
        return grouped[-1].per_second

    mine, each, bare = in_turns(
        rounds, ours, lambda: _synced_each(folder, seconds, fs), lambda: _write_bare(folder, seconds, fs)
    )
    cpu = median(one.cpu / one.records for one in grouped) * 1e6
    note = (
        f"{WRITERS} writers, each waits for its record; records a second at best: {max(mine):,.0f}, {max(each):,.0f}; "
        f"µs of CPU a record {cpu:.0f}, of a sync for each {1e6 / max(each):,.0f} to {1e6 / min(each):,.0f}"
    )
    name = f"ledger records/s ÷ one sync for each, {where}"
    return Figure(name, 40, ratios(mine, each), at_least=True, note=note, limit=ratios(bare, each))


def _write_grouped(folder: Path, seconds: float, fs: FileSystem) -> Written:
    """Write intents as a submission does: `put`, then `commit`, which a cancellation may break off.

    The records after an answer wait in a shielded scope of anyio, which is 12 µs more.
    """
    file, state, _ = open_ledger(folder, fs)
    ledger = Ledger(file, state, clock=SystemClock(), run="20261122T010203Z-abcdef")
    written = 0

    async def writer(number: int) -> None:
        nonlocal written
        for n in range(10**9):
            await ledger.commit(ledger.put(_intent(number * 10**6 + n)))
            written += 1
            if time.perf_counter() > end:
                return

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(writer(number))
        await ledger.close()

    cpu, start = time.process_time(), time.perf_counter()
    end = start + seconds
    asyncio.run(main())
    return Written(written, time.perf_counter() - start, time.process_time() - cpu)


def _intent(number: int) -> Record:
    body = {"model": "gpt-image-2", "prompt": "A cat in ink style", "size": "1024x1024"}
    return records.submitting(
        f"task-{number}", f"{number:064x}", attempt=1, request=body, usd=None, path=f"task-{number}.{{ext}}"
    )


def _synced_each(folder: Path, seconds: float, fs: FileSystem) -> float:
    """The same lines, each with a sync of its own: what a ledger without group commit does."""
    fd = os.open(folder / "each.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    start = time.perf_counter()
    written = 0
    while time.perf_counter() < start + seconds:
        line, _ = encode(_intent(written), seq=written + 1, ts=time.time(), run="20261122T010203Z-abcdef")
        os.write(fd, line)
        fs.sync_file(fd)
        written += 1
    os.close(fd)
    return written / (time.perf_counter() - start)


def _write_bare(folder: Path, seconds: float, fs: FileSystem) -> float:
    """As many writers that share syncs as they do, of lines that orjson makes of a dict, and nothing else."""
    fd = os.open(folder / "bare.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lines: list[bytes] = []
    waiting: list[asyncio.Future[None]] = []
    syncing = False
    written = 0

    def append(data: bytes) -> None:
        os.write(fd, data)
        fs.sync_file(fd)

    async def sync() -> None:
        nonlocal syncing
        while lines:
            taken, data = waiting.copy(), b"".join(lines)
            waiting.clear()
            lines.clear()
            await asyncio.to_thread(append, data)
            for one in taken:
                one.set_result(None)
            await asyncio.sleep(0)
        syncing = False

    async def writer(number: int, group: asyncio.TaskGroup) -> None:
        nonlocal syncing, written
        while time.perf_counter() < end:
            intent = _intent(number * 10**6 + written)
            line = orjson.dumps({"seq": written, "type": intent.type, "task": intent.task, **intent.fields})
            lines.append(b'%s,"crc":"%08x"}\n' % (line[:-1], zlib.crc32(line[:-1])))
            waiting.append(done := asyncio.get_running_loop().create_future())
            if not syncing:
                syncing = True
                group.create_task(sync())
            await done
            written += 1

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(writer(number, group))

    start = time.perf_counter()
    end = start + seconds
    asyncio.run(main())
    os.close(fd)
    return written / (time.perf_counter() - start)


# reading


def _replaying(folder: Path, quick: bool) -> list[Figure]:
    # Both spread by a third on a shared machine, where others take of the processor's cache.
    count, rounds = (250_000, 2) if quick else (1_000_000, 11)
    path = write_ledger(folder / "large", count // RECORDS_A_TASK)
    module = "benchmarks.ledger"
    replays = []

    def ours() -> float:
        replays.append(run_metered("-m", module, "replay", str(path.parent)))
        return replays[-1].cpu

    mine, theirs = in_turns(rounds, ours, lambda: run_metered("-m", module, "orjson", str(path)).cpu)
    note = f"{count:,} records of {count // RECORDS_A_TASK:,} tasks, {path.stat().st_size / 1e6:.0f} MB"
    return [
        Figure(
            "replay ÷ orjson's time to parse the lines",
            2.0,
            ratios(mine, theirs),
            note=f"{note}; at best {min(mine):.1f} s of CPU",
        ),
        Figure("memory that a replay takes", 100, [cost.growth for cost in replays], "MB", note=note),
    ]


def write_ledger(
    folder: Path,
    tasks: int,
    ident: Callable[[int], tuple[str, str]] | None = None,
    service: str = "simulator",
    name: str = "manifest",
) -> Path:
    """Write a ledger with five records a task, all saved, as a run with 64 jobs in flight interleaves them."""
    folder.mkdir()
    path = folder / NAME
    ident = ident or (lambda number: (f"task-{number}", f"{number:064x}"))
    seq = 0
    with path.open("wb") as file:

        def put(record: Record) -> None:
            nonlocal seq
            seq += 1
            file.write(encode(record, seq=seq, ts=1_790_000_000 + seq * 0.1, run="20261122T010203Z-abcdef")[0])

        put(
            records.run_started(
                service=service,
                name=name,
                manifest="manifest.yaml",
                manifest_sha256="0" * 64,
                version="0",
                tasks=tasks,
            )
        )
        for first in range(0, tasks, 64):
            made = [task_records(number, *ident(number)) for number in range(first, min(first + 64, tasks))]
            for stage in range(RECORDS_A_TASK):
                for of_task in made:
                    put(of_task[stage])
    return path


def task_records(number: int, task: str = "", key: str = "") -> list[Record]:
    """Give the five records of a task whose image is saved."""
    task, key, job = task or f"task-{number}", key or f"{number:064x}", f"task_20260529{number:012d}"
    body = {"model": "gpt-image-2", "prompt": f"A cat in ink style, number {number}", "size": "1024x1024"}
    files = [SavedFile(f"{task}.png", 1_500_000 + number, f"{number:064x}", "png", 1024, 1024)]
    return [
        records.submitting(task, key, attempt=1, request=body, usd=None, path=f"{task}.{{ext}}"),
        records.submitted(task, key, attempt=1, job_id=job, request_id=f"req_{number:010d}"),
        records.generated(task, key, job_id=job, images=1, waited_s=45.125, queries=5),
        records.downloaded(task, key, job_id=job, files=files),
        records.saved(task, key, job_id=job, files=files),
    ]


def _main(what: str, path: Path) -> None:
    from benchmarks.meter import metered
    from rsbatch.ledger.local import read_ledger

    read = partial(read_ledger, path) if what == "replay" else partial(_parse, path)
    with metered():
        kept = read()  # noqa: F841 - what was read is held while memory is measured


def _parse(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            orjson.loads(line)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
