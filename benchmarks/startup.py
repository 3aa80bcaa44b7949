"""How long `rsbatch` takes to start, against an interpreter that does nothing, and what it imports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.rows import Figure, in_turns, ratios

RSBATCH = Path(sys.executable).with_name("rsbatch")


def run(quick: bool) -> list[Figure]:
    """`--version` and `--help` ÷ `python -c pass`."""
    rounds = 5 if quick else 40
    nothing, version, help_ = in_turns(
        rounds,
        lambda: _seconds(sys.executable, "-c", "pass"),
        lambda: _seconds(str(RSBATCH), "--version"),
        lambda: _seconds(str(RSBATCH), "--help"),
    )
    note = f"python -c pass: {min(nothing) * 1000:.0f} ms at best"
    return [
        Figure("`rsbatch --version` ÷ `python -c pass`", 2.5, ratios(version, nothing), note=note),
        Figure("`rsbatch --help` ÷ `python -c pass`", 2.5, ratios(help_, nothing), note=note),
    ]


def _seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
