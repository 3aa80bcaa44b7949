"""How long a batch takes in real time, against two scripts: same service, same limits, same way to it.

As many jobs in flight as the service has slots, so that what counts is how soon a free slot is noticed. Nothing here is
scaled, for the script's 3 seconds are not. So all sides run at once, each with a simulator of its own: a minute of this
costs seconds of CPU. The rows of `schedule`, in virtual time and with more tasks, say the same with less noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cpu import KEY, OURS, PEERS, body, write_manifest, write_tasks
from benchmarks.meter import run_metered
from benchmarks.nights import simulating
from benchmarks.rows import Figure, brief
from benchmarks.virtual import DOWNLOAD, LATENCY, Race, best_seconds, told
from rsbatch.simulator import Engine, Settings

SLOTS = 8
PER_SECOND = 10.0
"""Submissions and queries, each, that rsbatch may send."""
USUAL, CAREFUL = 3.0, 1.0
"""Seconds between two queries of a job: the usual script's, and those of one whose author uses what may be sent."""
SIZE = "256x256"


def run(quick: bool) -> list[Figure]:
    """Makespan ÷ that of the httpx script, which asks for each job every 3 s, and of the aiohttp script (1 s)."""
    tasks, median, rounds = (16, 6, 1) if quick else (96, 30, 2)
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda seed: _race(seed, tasks, median), range(rounds)))
    usual, careful = zip(*both, strict=True)
    about = (
        f"{tasks} tasks, {SLOTS} slots and {SLOTS} in flight, {median} s at the median, {LATENCY:g} s a request and "
        f"{DOWNLOAD:g} s more a download"
    )

    def figure(name: str, goal: float, races: Sequence[Race]) -> Figure:
        seconds = [", ".join(brief(getattr(race, side)) for race in races) for side in ("ours", "script")]
        note = f"{about}; {told(races)}; seconds: {' and '.join(seconds)}"
        return Figure(name, goal, [race.ratio for race in races], note=note, limit=[race.limit for race in races])

    return [
        figure("makespan ÷ usual httpx script's, real time", 0.95, usual),
        figure("makespan ÷ aiohttp script's, which asks every second, real time", 1.0, careful),
    ]


def _race(seed: int, tasks: int, median: int) -> tuple[Race, Race]:
    """Let all three do the same tasks at once; gives ours against the httpx script, and against the aiohttp script."""
    options = [
        *("--slots", str(SLOTS), "--refuse", "--service-time", f"{median}s", "--seed", str(seed)),
        *("--latency", f"{LATENCY}s", "--download-time", f"{DOWNLOAD}s"),
    ]

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, simulating(*options) as (url, _):
            manifest = write_manifest(Path(name), tasks, url, SLOTS, SIZE, per_second=PER_SECOND)
            return run_metered(*OURS, str(manifest), cwd=Path(name), env=KEY).seconds

    def theirs(script: str, interval: float) -> float:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, simulating(*options) as (url, _):
            lines = str(write_tasks(Path(name), tasks, SIZE))
            words = [str(PEERS / script), lines, url, str(SLOTS), str(interval)]
            return run_metered(*words, cwd=Path(name)).seconds

    engine = Engine(Settings(slots=SLOTS, service_time=median, seed=seed, latency=LATENCY, download_time=DOWNLOAD))
    best = best_seconds(engine, [body(n, SIZE) for n in range(tasks)], PER_SECOND)
    with ThreadPoolExecutor() as pool:
        mine, usual = pool.submit(ours), pool.submit(theirs, "httpx_script.py", USUAL)
        careful = pool.submit(theirs, "aiohttp_script.py", CAREFUL)
        return Race(mine.result(), usual.result(), best), Race(mine.result(), careful.result(), best)
