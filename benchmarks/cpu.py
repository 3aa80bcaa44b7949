"""CPU a task: against a script that does the same, and against the one that most people would write.

The service is as far away as in the rows about scheduling: what a pool of connections costs depends on how many
requests are open.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.meter import Cost, run_metered
from benchmarks.rows import Figure, brief, in_turns, ratios
from benchmarks.service import picture, serving
from benchmarks.virtual import DOWNLOAD, LATENCY

IN_FLIGHT = 64
MANY_IN_FLIGHT = 256
"""What an account of many slots takes: the scripts get dearer with it, by their pool and by what they hold."""
QUERIES = 3
PEERS = Path(__file__).with_name("peers")
KEY = {"ROUTESCOPE_API_KEY": "sk-bench"}


def run(quick: bool) -> list[Figure]:
    """Submit, 3 queries, one image of 1.5 MB that is checked, every sync, the ledger."""
    # The usual script's own time spreads by a third, as its pool happens to fill: five rounds say little of a median.
    tasks, rounds, wide_rounds = (100, 2, 1) if quick else (300, 11, 3)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        image = folder / "image.png"
        image.write_bytes(picture(1024, 1024, 8))
        with serving(image, QUERIES, LATENCY, DOWNLOAD) as url, serving(image, QUERIES) as near:
            usual = _compare(folder, image, url, near, tasks, IN_FLIGHT, rounds)
            wide = _compare(folder, image, url, near, 3 * tasks, MANY_IN_FLIGHT, wide_rounds)
    ours, careful, script, bare = usual.costs
    cheap = "CPU a task ÷ aiohttp script that does the same"
    figures = []
    for compared, where in ((usual, ""), (wide, f", {MANY_IN_FLIGHT} in flight")):
        against = "usual httpx script" + ("" if where else ", which checks and syncs nothing")
        limit = compared.cpu(bare, script)
        figures += [
            Figure(f"{cheap}{where}", 1.2, compared.cpu(ours, careful), note=compared.note),
            Figure(f"CPU a task ÷ {against}{where}", 0.55, compared.cpu(ours, script), note=compared.note, limit=limit),
            Figure(
                f"peak memory ÷ usual httpx script's{where}", 1.0, compared.peak(ours, script), note=compared.memory
            ),
            Figure(f"peak memory ÷ aiohttp script's{where}", 1.0, compared.peak(ours, careful), note=compared.memory),
        ]
    return figures


@dataclass(frozen=True, slots=True)
class Compared:
    """What each side cost in each round, by its name, ours first; `note` says what the figures are of."""

    costs: dict[str, list[Cost]]
    note: str

    def cpu(self, side: str, other: str) -> list[float]:
        """Give the ratio of the CPU times, round by round."""
        return ratios([cost.cpu for cost in self.costs[side]], [cost.cpu for cost in self.costs[other]])

    def peak(self, side: str, other: str) -> list[float]:
        """Give the ratio of the memory at the peak, round by round."""
        return ratios([cost.peak for cost in self.costs[side]], [cost.peak for cost in self.costs[other]])

    @property
    def memory(self) -> str:
        """Say how much memory each took."""
        return "MB at the peak: " + ", ".join(
            f"{who} {brief(max(c.peak for c in of))}" for who, of in self.costs.items()
        )


def _compare(folder: Path, image: Path, url: str, near: str, tasks: int, in_flight: int, rounds: int) -> Compared:
    """Let all sides do the same tasks; the bare one, which does one at a time, at an address that answers at once."""
    costs: dict[str, list[Cost]] = {}

    def side(who: str, command: Callable[[Path], list[str]]) -> Callable[[], float]:
        def measure() -> float:
            place = Path(tempfile.mkdtemp(dir=folder))
            cost = run_metered(*command(place), cwd=place, env=KEY)
            found = len(list(place.rglob("task-*.png")))
            assert found == tasks, f"{who} saved {found} of {tasks}"
            _empty(place)
            costs.setdefault(who, []).append(cost)
            return cost.cpu

        return measure

    def peer(script: str) -> Callable[[Path], list[str]]:
        return lambda place: [str(PEERS / script), str(write_tasks(place, tasks)), url, str(in_flight), "0.5"]

    in_turns(
        rounds,
        side("rsbatch", lambda place: [*OURS, str(write_manifest(place, tasks, url, in_flight)), "0.5"]),
        side("aiohttp", peer("aiohttp_script.py")),
        side("httpx", peer("httpx_script.py")),
        side("bare sockets", lambda place: [str(PEERS / "bare_script.py"), str(write_tasks(place, tasks)), near]),
    )
    each = ", ".join(f"{who} {min(c.cpu for c in of) / tasks * 1000:.1f}" for who, of in costs.items())
    size = image.stat().st_size / 1e6
    return Compared(
        {who: costs[who] for who in ("rsbatch", "aiohttp", "httpx", "bare sockets")},
        f"{tasks} tasks, {in_flight} in flight, {size:.1f} MB an image, {LATENCY:g} s a request and {DOWNLOAD:g} s "
        f"more a download; ms of CPU a task at best: {each}",
    )


def _empty(place: Path) -> None:
    """Free what the files take, and leave the files: all go at the end, with the folder round them.

    To make a file where others were removed within the last minutes takes ext4 longer, by 3% of a task.
    """
    for path in place.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


OURS = ["-m", "benchmarks.ours"]


def write_tasks(place: Path, tasks: int, size: str = "1024x1024") -> Path:
    """Write the tasks as the peers read them: a line each."""
    path = place / "tasks.jsonl"
    path.write_text("".join(json.dumps({"id": f"task-{n}", "body": body(n, size)}) + "\n" for n in range(tasks)))
    return path


def body(number: int, size: str) -> dict[str, str]:
    """Give the request of a task."""
    return {"model": "gpt-image-2", "prompt": f"A cat in ink style, number {number}", "size": size}


def write_manifest(
    place: Path, tasks: int, url: str, in_flight: int, size: str = "1024x1024", per_second: float = 1000
) -> Path:
    """Write the same tasks as a manifest with a table; it waits for none of the limits but downloads, the default."""
    path = place / "manifest.yaml"
    rows = place / "rows.jsonl"
    rows.write_text("".join(f'{{"n": {n}}}\n' for n in range(tasks)))
    path.write_text(f"""\
version: 1
defaults: {{model: gpt-image-2, size: {size}}}
tasks:
  - id: "task-{{{{ row.n }}}}"
    rows: rows.jsonl
    prompt: A cat in ink style, number {{{{ row.n }}}}
output: {{dir: out}}
limits:
  in_flight: {in_flight}
  submits_per_second: {per_second}
  queries_per_second: {per_second}
  downloads: 8
api: {{base_url: "{url}"}}
""")
    return path
