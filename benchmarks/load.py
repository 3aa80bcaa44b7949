"""Many jobs in flight: what a request costs then, and how much memory they take."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from benchmarks.cpu import KEY, OURS, write_manifest
from benchmarks.meter import Cost, run_metered
from benchmarks.rows import Figure, brief, in_turns, ratios
from benchmarks.service import picture, serving
from rsbatch.ledger.local import NAME
from rsbatch.ledger.records import decode

QUERIES = 5


def run(quick: bool) -> list[Figure]:
    """CPU a request with 1,024 jobs in flight ÷ with 16; memory with 10,000 over that with 10."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        image = folder / "image.png"
        image.write_bytes(picture(64, 64, 8))
        return [_cpu(folder, image, quick), _memory(folder, image, quick)]


def _cpu(folder: Path, image: Path, quick: bool) -> Figure:
    many, rounds = (256, 2) if quick else (1024, 5)
    tasks = 2 * many
    with serving(image, QUERIES) as url:
        wide, narrow = in_turns(
            rounds,
            _side(folder, url, many, tasks, lambda cost: cost.cpu, interval=1.0),
            _side(folder, url, 16, tasks, lambda cost: cost.cpu, interval=0.05),
        )
    each = tasks * (QUERIES + 2)
    note = (
        f"{tasks} tasks of {QUERIES + 2} requests and five synced records, small images; ms of CPU a request at best: "
        f"{min(wide) / each * 1000:.2f} with {many}, {min(narrow) / each * 1000:.2f} with 16"
    )
    return Figure(f"CPU a request with {many:,} jobs in flight ÷ with 16", 1.3, ratios(wide, narrow), note=note)


def _memory(folder: Path, image: Path, quick: bool) -> Figure:
    many = 1000 if quick else 10_000
    out: list[int] = []
    with serving(image, 2) as url:
        wide, narrow = in_turns(
            1,  # which differs by less than a megabyte from the next
            _side(folder, url, many, many, lambda cost: cost.peak, interval=many / 250, out=out),
            _side(folder, url, 10, many, lambda cost: cost.peak, interval=0.02),
        )
    note = (
        f"{many:,} tasks; MB at the peak: {brief(max(wide))} with {max(out):,} of them in flight at once, "
        f"{brief(max(narrow))} with 10"
    )
    over = [a - b for a, b in zip(wide, narrow, strict=True)]
    return Figure(f"memory of `run` with {many:,} jobs in flight over that with 10", 100, over, "MB", note=note)


def _side(
    folder: Path,
    url: str,
    in_flight: int,
    tasks: int,
    value: Callable[[Cost], float],
    *,
    interval: float,
    out: list[int] | None = None,
) -> Callable[[], float]:
    """Measure a run; `out` is told how many jobs were in flight at once, as its ledger says."""

    def measure() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            manifest = write_manifest(Path(place), tasks, url, in_flight)
            cost = run_metered(*OURS, str(manifest), str(interval), cwd=Path(place), env=KEY)
            if out is not None:
                out.append(_most_in_flight(Path(place) / "out" / NAME))
            return value(cost)

    return measure


def _most_in_flight(ledger: Path) -> int:
    with ledger.open("rb") as file:
        kinds = (decode(line[:-1])["type"] for line in file)
        return max(accumulate({"submitted": 1, "generated": -1}.get(kind, 0) for kind in kinds))
