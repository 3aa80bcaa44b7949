"""How long a batch takes in real time, against the usual script: same service, same limits.

As many jobs in flight as the service has slots, so that what counts is how soon a free slot is noticed. The rows of
`schedule`, in virtual time, say how near that is to what can be had.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.cpu import KEY, OURS, PEERS, write_manifest, write_tasks
from benchmarks.meter import Cost, run_metered
from benchmarks.nights import simulating
from benchmarks.rows import Figure, brief, in_turns, ratios

SLOTS = 8
SIZE = "256x256"


def run(quick: bool) -> list[Figure]:
    """Makespan ÷ that of the httpx script, which asks for each job every 3 s."""
    tasks, median, rounds = (16, 6, 1) if quick else (64, 30, 2)
    costs: dict[str, list[Cost]] = {"rsbatch": [], "httpx": []}
    options = "--slots", str(SLOTS), "--service-time", f"{median}s"

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, simulating(*options) as (url, _):
            manifest = write_manifest(Path(name), tasks, url, SLOTS, SIZE, per_second=10)
            costs["rsbatch"].append(run_metered(*OURS, str(manifest), cwd=Path(name), env=KEY))
        return costs["rsbatch"][-1].seconds

    def usual() -> float:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, simulating(*options) as (url, _):
            words = [str(PEERS / "httpx_script.py"), str(write_tasks(Path(name), tasks, SIZE)), url, str(SLOTS), "3"]
            costs["httpx"].append(run_metered(*words, cwd=Path(name)))
        return costs["httpx"][-1].seconds

    mine, theirs = in_turns(rounds, ours, usual)
    note = (
        f"{tasks} tasks, {SLOTS} slots and {SLOTS} in flight, {median} s at the median; "
        f"seconds: {', '.join(map(brief, mine))} and {', '.join(map(brief, theirs))}"
    )
    return [Figure("makespan ÷ usual httpx script's, real time", 0.95, ratios(mine, theirs), note=note)]
