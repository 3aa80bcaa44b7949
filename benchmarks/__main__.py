"""Runs the rows, prints their figures, and writes the table. Its exit code says nothing of the figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.rows import ROWS, Figure, load
from torture.commit import commit_of

RESULTS = Path(__file__).with_name("results.md")
DATA = Path(__file__).with_name("results.json")
"""What the table is made of: a row that is measured anew replaces its own part only."""
WORDS = {
    "FALLS SHORT": "Short of its goal",
    "OUT OF REACH": "Short of its goal, and so is the best that is to be had (see its notes)",
    "not measured": "Not measured",
}


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one or more of: {', '.join(ROWS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small and few rounds, to try a row; writes no table")
    args = parser.parse_args()
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]}; there are {', '.join(ROWS)}")
    short: list[str] = []
    for name in args.rows or ROWS:
        print(f"{name}: {ROWS[name]} …", flush=True)
        start = time.perf_counter()
        figures = _measure(name, args.quick)
        for figure in figures:
            print(f"  {figure.name}: {figure.shown} (goal {figure.shown_goal}): {figure.verdict}", flush=True)
            if figure.shown_note:
                print(f"    {figure.shown_note}", flush=True)
            if figure.verdict != "reached":
                short.append(f"{name}: {figure.name}: {figure.shown}, goal {figure.shown_goal}: {figure.verdict}")
        if not args.quick:
            _keep(name, figures, time.perf_counter() - start)
    print("\n".join(["", "Short of their goals:", *short] if short else ["", "Every figure is at its goal."]))
    if not args.quick:
        print(f"written to {RESULTS}")
    return 0


def _measure(name: str, quick: bool) -> list[Figure]:
    try:
        figures: list[Figure] = load(name).run(quick)
        return figures
    except Exception as exc:  # the other rows go on, and this one is named
        traceback.print_exc()
        return [Figure(ROWS[name], 0, (), note=f"the row broke off: {type(exc).__name__}: {exc}")]


def _keep(name: str, figures: list[Figure], seconds: float) -> None:
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    data[name] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit_of("rsbatch", "benchmarks/*.py"),
        "machine": _machine(),
        "seconds": round(seconds),
        "figures": [asdict(figure) for figure in figures],
    }
    data = {row: data[row] for row in ROWS if row in data}
    DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.write_text("\n".join(_table(data)) + "\n", encoding="utf-8")


def _table(data: dict[str, Any]) -> Iterator[str]:
    yield "# Figures"
    yield ""
    yield "Made by `make bench`; the median of the rounds, with the least and the most. Goals are ratios where a ratio"
    yield "can be had, both sides measured in turns in one run."
    measured = {row: [Figure(**figure) for figure in kept["figures"]] for row, kept in data.items()}
    every = [figure for figures in measured.values() for figure in figures]
    for verdict, words in WORDS.items():
        names = [figure.name for figure in every if figure.verdict == verdict]
        if names or verdict == "FALLS SHORT":
            yield ""
            yield f"{words}: {'; '.join(names) or 'none'}."
    for row, kept in data.items():
        yield ""
        yield f"## {row}: {ROWS[row]}"
        yield ""
        yield f"{kept['date']}, commit {kept['commit']}, {kept['machine']}; took {kept['seconds']} s."
        yield ""
        yield "| what | figure | goal | verdict | notes |"
        yield "|---|---|---|---|---|"
        for figure in measured[row]:
            yield f"| {figure.name} | {figure.shown} | {figure.shown_goal} | {figure.verdict} | {figure.shown_note} |"


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} × {_processor()}, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
