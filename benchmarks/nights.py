"""Whole runs against `rsbatch simulate` in a process of its own: tasks a minute, memory and pace as a run grows.

The service's own cost falls on the same cores, so the figure is what one machine does that plays both sides.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.cpu import KEY, write_manifest
from benchmarks.rows import Figure, brief
from rsbatch.simulator.wire import AUDIT

RSBATCH = str(Path(sys.executable).with_name("rsbatch"))
IN_FLIGHT = 512
POINTS = 10


@dataclass(frozen=True, slots=True)
class Point:
    """How far a run was: seconds since it began, images saved, its memory in MB and its CPU time in seconds."""

    seconds: float
    saved: int
    memory: float
    cpu: float


def run(quick: bool, tasks: int = 0) -> list[Figure]:
    """Many small images; killed in the middle and resumed."""
    tasks = tasks or (2_000 if quick else 100_000)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, simulating() as (url, service):
        folder = Path(name)
        manifest = write_manifest(folder, tasks, url, IN_FLIGHT, size="64x64")
        first = _watched(folder, manifest, tasks, until=tasks * 3 // 5)
        killed = _lines(folder, b'"type":"saved"')
        second = _watched(folder, manifest, tasks)
        submitted, held = (_lines(folder, what) for what in (b'"type":"submitted"', b'"type":"in_doubt"'))
        serving = _usage(service)[1] / tasks * 1000
        paid = json.loads(_get(url + AUDIT))["totals"]["accepted"]
    points = [*first[:-1], *second]
    pace = [(b.saved - a.saved) / (b.seconds - a.seconds) * 60 for a, b in pairwise(first) if b.seconds > a.seconds]
    late = [(b.cpu - a.cpu) / max(1, b.saved - a.saved) * 1000 for a, b in pairwise(first)]
    curve = ", ".join(f"{p.saved:,}: {p.memory:.0f} MB" for p in points)
    late = late[1:]  # the first tenth has the start in it
    each = first[-1].cpu / first[-1].saved * 1000
    overall = first[-1].saved / first[-1].seconds * 60
    again = (
        f"killed at {killed:,} saved, resumed: {submitted:,} submissions accepted for {tasks:,} tasks, {paid:,} paid, "
        f"{held} held, whose submissions were open at the kill"
    )
    return [
        Figure(
            f"{tasks:,} tasks, simulator on the same {os.cpu_count()} cores: tasks a minute up to the kill",
            5000,
            [overall],
            at_least=True,
            note=f"ms of CPU a task: {each:.1f} ours, {serving:.1f} the simulator's; "
            f"pace as it grew: {', '.join(f'{p:,.0f}' for p in pace)}; {again}",
        ),
        Figure(
            "CPU a task in the last tenth ÷ in the first (no slow-down with growth)",
            1.1,
            [late[-1] / late[0]],
            note=f"ms of CPU a task as it grew: {', '.join(map(brief, late))}",
        ),
        Figure("memory at the end", 200, [points[-1].memory], "MB", note=f"as it grew, saved: {curve}"),
        Figure("tasks paid twice over the kill", 0, [float(paid - tasks)], note=again),
    ]


@contextmanager
def simulating(*options: str) -> Iterator[tuple[str, int]]:
    """Run `rsbatch simulate`, by default as a service that is never the limit; gives its address and process id."""
    command = [RSBATCH, "simulate", "--port", "0", *(options or ("--slots", "1000", "--service-time", "1s"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.terminate()


def _watched(folder: Path, manifest: Path, total: int, until: int | None = None) -> list[Point]:
    """Run `rsbatch run`, look at it now and then, kill it once `until` images are saved."""
    command = [RSBATCH, "run", str(manifest), "--quiet"]
    points: list[Point] = []
    with subprocess.Popen(command, cwd=folder, env={**os.environ, **KEY}, stdout=subprocess.DEVNULL) as process:
        start = time.perf_counter()
        base = saved = _lines(folder, b'"type":"saved"')
        goal = until or total
        while process.poll() is None:
            time.sleep(0.5)
            saved = _lines(folder, b'"type":"saved"')
            try:
                memory, cpu = _usage(process.pid)
            except (OSError, IndexError):
                break
            if not points or saved - points[-1].saved >= (goal - base) / POINTS:
                points.append(Point(time.perf_counter() - start, saved, memory, cpu))
            if until is not None and saved >= until:
                if saved > points[-1].saved:
                    points.append(Point(time.perf_counter() - start, saved, memory, cpu))
                process.send_signal(signal.SIGKILL)
                break
        code = process.wait()
    saved = _lines(folder, b'"type":"saved"')
    held = _lines(folder, b'"type":"in_doubt"')  # which a person settles: they may be paid or not
    assert code == (-signal.SIGKILL if until is not None else int(held > 0)), f"the run ended with {code}"
    assert until is not None or saved + held == total, f"{saved:,} saved and {held} held of {total:,}"
    return points


_SEEN: dict[tuple[Path, bytes], tuple[int, int]] = {}


def _lines(folder: Path, what: bytes) -> int:
    """Count records in the ledger, from where the last look ended."""
    path = folder / "out" / "ledger.jsonl"
    at, count = _SEEN.get((path, what), (0, 0))
    if path.exists():
        with path.open("rb") as file:
            file.seek(at)
            data = file.read()
        end = data.rfind(b"\n") + 1
        at, count = at + end, count + data[:end].count(what)
        _SEEN[path, what] = at, count
    return count


def _usage(pid: int) -> tuple[float, float]:
    """Give a process's memory in MB and its CPU time in seconds, from /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, ticks / os.sysconf("SC_CLK_TCK")


def _get(url: str) -> bytes:
    from urllib.request import urlopen

    with urlopen(url) as answer:
        data: bytes = answer.read()
        return data
