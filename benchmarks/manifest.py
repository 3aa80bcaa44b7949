"""Large manifests: what loading and expanding them costs."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ledger import write_ledger
from benchmarks.meter import metered, run_metered
from benchmarks.rows import Figure, in_turns, ratios
from rsbatch.model import DEFAULT_BASE_URL

MODULE = "benchmarks.manifest"
MILLION = """\
version: 1
defaults: {{model: gpt-image-2, size: 1024x1024}}
tasks:
  - id: "{id}"
    {items}
    prompt: A {prompt} in ink style
output: {{dir: out}}
"""


def run(quick: bool) -> list[Figure]:
    """10 MB of YAML ÷ PyYAML alone; `plan` of a million tasks in three forms, with an empty and a full ledger."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        return [*_yaml(Path(name), quick), *_plans(Path(name), quick)]


def _yaml(folder: Path, quick: bool) -> list[Figure]:
    items, rounds = (10_000, 2) if quick else (100_000, 3)
    path = folder / "large.yaml"
    with path.open("w", encoding="utf-8") as file:
        file.write("version: 1\ntasks:\n")
        for n in range(items):
            file.write(f"  - id: item-{n}\n    prompt: A cat in ink style on a warm day, number {n}, soft light\n")
            file.write("    quality: high\n")
    mine, theirs = in_turns(
        rounds,
        lambda: run_metered("-m", MODULE, "load", str(path)),
        lambda: run_metered("-m", MODULE, "pyyaml", str(path)),
    )
    size = f"{path.stat().st_size / 1e6:.0f} MB"
    note = f"{items:,} items; CPU s at best {min(c.cpu for c in mine):.1f} and {min(c.cpu for c in theirs):.1f}"
    memory = f"MB at most {max(c.growth for c in mine):.0f} and {max(c.growth for c in theirs):.0f}"
    name = f"{size} of YAML, validated and compiled with places ÷ plain CSafeLoader"
    return [
        Figure(f"{name}: time", 1.0, ratios([c.cpu for c in mine], [c.cpu for c in theirs]), note=note),
        Figure(f"{name}: memory", 1.0, ratios([c.growth for c in mine], [c.growth for c in theirs]), note=memory),
    ]


def _plans(folder: Path, quick: bool) -> list[Figure]:
    tasks = 20_000 if quick else 1_000_000
    side = round(tasks**0.5)
    tasks = side * side
    axis = ", ".join(str(n) for n in range(side))
    (folder / "rows.csv").write_text("n,word\n" + "".join(f"{n},cat{n}\n" for n in range(tasks)))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"n": n, "word": f"cat{n}"}) + "\n" for n in range(tasks)))
    row = {"id": "t-{{ row.n }}", "prompt": "{{ row.word }}"}
    forms = {
        "matrix": {
            "id": "t-{{ a }}-{{ b }}",
            "prompt": "cat {{ a }} {{ b }}",
            "items": f"matrix: {{a: [{axis}], b: [{axis}]}}",
        },
        "csv": {**row, "items": "rows: rows.csv"},
        "jsonl": {**row, "items": "rows: rows.jsonl"},
    }
    figures = []
    for form, texts in forms.items():
        manifest = folder / f"{form}.yaml"
        manifest.write_text(MILLION.format(**texts))
        cost = run_metered("-m", "benchmarks.command", "plan", str(manifest))
        note = f"{cost.cpu:.0f} s of CPU, {cost.cpu / tasks * 1e6:.0f} µs a task"
        figures.append(Figure(f"`plan` of {tasks:,} tasks ({form}), peak memory", 60, [cost.peak], "MB", note=note))
    with (folder / "ids.txt").open("w") as ids:
        run_metered("-m", MODULE, "ids", str(folder / "csv.yaml"), str(ids.name))
    known = [tuple(line.split()) for line in (folder / "ids.txt").read_text().splitlines()]
    write_ledger(folder / "out", tasks, lambda number: (known[number][0], known[number][1]), DEFAULT_BASE_URL, "csv")
    cost = run_metered("-m", "benchmarks.command", "plan", str(folder / "csv.yaml"))
    note = f"{5 * tasks:,} records; {cost.cpu:.0f} s of CPU"
    name = f"`plan` of {tasks:,} tasks (csv) with all of them in the ledger, peak memory"
    return [*figures, Figure(name, 200, [cost.peak], "MB", note=note)]


def _main(what: str, path: str, *more: str) -> None:
    from rsbatch.manifest.load import load_manifest

    kept: Any = None
    if what == "load":
        with metered():
            kept = load_manifest(Path(path))
    elif what == "pyyaml":
        import yaml

        with metered(), open(path, "rb") as file:
            kept = yaml.load(file, Loader=yaml.CSafeLoader)
    else:
        with open(more[0], "w", encoding="utf-8") as out, metered():
            out.writelines(f"{task.id} {task.key}\n" for task in load_manifest(Path(path)).tasks([]))
    del kept


if __name__ == "__main__":
    _main(*sys.argv[1:])
