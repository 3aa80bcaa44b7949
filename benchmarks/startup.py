"""What starting `rsbatch` takes, against an interpreter that does nothing.

In CPU time, which is nearly all of it: a machine that does other things, too, then matters least. With the bytecode
that every installation has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.rows import Figure, in_turns, ratios

RSBATCH = Path(sys.executable).with_name("rsbatch")
_ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(quick: bool) -> list[Figure]:
    """`--version` and `--help` ÷ `python -c pass`."""
    rounds = 5 if quick else 40
    _seconds(str(RSBATCH), "--help")  # leaves the bytecode
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
    nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    _, status, used = os.wait4(os.posix_spawn(command[0], command, _ENVIRON, file_actions=nowhere), 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime
