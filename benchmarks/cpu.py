"""CPU a task: against a script that does the same, and against the one that most people would write."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.meter import Cost, run_metered
from benchmarks.rows import Figure, brief, in_turns, ratios
from benchmarks.service import picture, serving

IN_FLIGHT = 64
QUERIES = 3
PEERS = Path(__file__).with_name("peers")
KEY = {"ROUTESCOPE_API_KEY": "sk-bench"}


def run(quick: bool) -> list[Figure]:
    """Submit, 3 queries, one image of 1.5 MB that is decoded, every sync, the ledger."""
    tasks, rounds = (100, 2) if quick else (500, 5)
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        image = folder / "image.png"
        image.write_bytes(picture(1024, 1024, 8))
        with serving(image, QUERIES) as url:

            def side(who: str, command: Callable[[Path], list[str]]) -> Callable[[], float]:
                def measure() -> float:
                    with tempfile.TemporaryDirectory(dir=folder) as place:
                        cost = run_metered(*command(Path(place)), cwd=Path(place), env=KEY)
                        found = len(list(Path(place).rglob("task-*.png")))
                        assert found == tasks, f"{who} saved {found} of {tasks}"
                        costs.setdefault(who, []).append(cost)
                        return cost.cpu

                return measure

            def peer(script: str) -> Callable[[Path], list[str]]:
                return lambda place: [str(PEERS / script), str(write_tasks(place, tasks)), url, str(IN_FLIGHT), "0.5"]

            ours, careful, usual = in_turns(
                rounds,
                side("rsbatch", lambda place: [*OURS, str(write_manifest(place, tasks, url, IN_FLIGHT)), "0.5"]),
                side("aiohttp", peer("aiohttp_script.py")),
                side("httpx", peer("httpx_script.py")),
            )
        size = image.stat().st_size
    note = (
        f"{tasks} tasks, {IN_FLIGHT} in flight, {size / 1e6:.1f} MB an image; ms of CPU a task at best: "
        + ", ".join(f"{who} {min(c.cpu for c in of) / tasks * 1000:.1f}" for who, of in costs.items())
    )
    memory = "MB at the peak: " + ", ".join(f"{who} {brief(max(c.peak for c in of))}" for who, of in costs.items())
    return [
        Figure("CPU a task ÷ aiohttp script that does the same", 1.5, ratios(ours, careful), note=note),
        Figure("CPU a task ÷ usual httpx script, which checks and syncs nothing", 0.55, ratios(ours, usual), note=note),
        Figure(
            "peak memory ÷ usual httpx script's",
            1.0,
            ratios([c.peak for c in costs["rsbatch"]], [c.peak for c in costs["httpx"]]),
            note=memory,
        ),
    ]


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
    """Write the same tasks as a manifest with a table, with limits that are never what a run waits for."""
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
