"""How long a batch takes in real time, against the usual script: same service, same limits, same way to it.

As many jobs in flight as the service has slots, so that what counts is how soon a free slot is noticed. Nothing here is
scaled, for the script's 3 seconds are not. So all sides run at once, each with a simulator of its own: a minute of this
costs seconds of CPU. The rows of `schedule`, in virtual time and with more tasks, say the same with less noise.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cpu import KEY, OURS, PEERS, body, write_manifest, write_tasks
from benchmarks.meter import run_metered
from benchmarks.nights import simulating
from benchmarks.rows import Figure, brief
from benchmarks.virtual import LATENCY, Case, Race, best_seconds, told
from rsbatch.simulator import Engine, Settings

SLOTS = 8
PER_SECOND = 10.0
"""Submissions and queries, each, that rsbatch may send; the script sends 3 queries a second."""
SIZE = "256x256"
DOWNLOAD = Case.download


def run(quick: bool) -> list[Figure]:
    """Makespan ÷ that of the httpx script, which asks for each job every 3 s."""
    tasks, median, rounds = (16, 6, 1) if quick else (96, 30, 2)
    with ThreadPoolExecutor() as pool:
        races = list(pool.map(lambda seed: _race(seed, tasks, median), range(rounds)))
    seconds = " and ".join(", ".join(map(brief, side)) for side in ([r.ours for r in races], [r.script for r in races]))
    note = (
        f"{tasks} tasks, {SLOTS} slots and {SLOTS} in flight, {median} s at the median, {LATENCY:g} s a request and "
        f"{DOWNLOAD:g} s more a download; {told(races)}; seconds: {seconds}"
    )
    name, limit = "makespan ÷ usual httpx script's, real time", [race.limit for race in races]
    return [Figure(name, 0.95, [race.ratio for race in races], note=note, limit=limit)]


def _race(seed: int, tasks: int, median: int) -> Race:
    options = [
        *("--slots", str(SLOTS), "--refuse", "--service-time", f"{median}s", "--seed", str(seed)),
        *("--latency", f"{LATENCY}s", "--download-time", f"{DOWNLOAD}s"),
    ]

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, simulating(*options) as (url, _):
            manifest = write_manifest(Path(name), tasks, url, SLOTS, SIZE, per_second=PER_SECOND)
            return run_metered(*OURS, str(manifest), cwd=Path(name), env=KEY).seconds

    def usual() -> float:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, simulating(*options) as (url, _):
            words = [str(PEERS / "httpx_script.py"), str(write_tasks(Path(name), tasks, SIZE)), url, str(SLOTS), "3"]
            return run_metered(*words, cwd=Path(name)).seconds

    engine = Engine(Settings(slots=SLOTS, service_time=median, seed=seed, latency=LATENCY, download_time=DOWNLOAD))
    best = best_seconds(engine, [body(n, SIZE) for n in range(tasks)], PER_SECOND)
    with ThreadPoolExecutor() as pool:
        mine, theirs = pool.submit(ours), pool.submit(usual)
        return Race(mine.result(), theirs.result(), best)
