"""What is worth saying before a run begins.

Rule: reads, never writes, and never stops a run.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from rsbatch.errors import RsbatchError
from rsbatch.ledger.local import NAME, read_ledger
from rsbatch.ledger.state import LedgerState
from rsbatch.lifecycle import State
from rsbatch.session import Project, open_project


def yesterday(project: Project, manifest: Path) -> str | None:
    """Say how to finish the day before's run, where `run.date` is in `output.dir` and that run is unfinished."""
    if not project.manifest.dated_output:
        return None
    try:
        day = (date.fromisoformat(project.manifest.run_date) - timedelta(days=1)).isoformat()
        before = open_project(manifest, replace(project.options, date=day))
        if before.folder == project.folder or not (before.folder / NAME).exists():
            return None
        state = read_ledger(before.folder)
    except (RsbatchError, ValueError, OverflowError):
        return None
    if not is_unfinished(state):
        return None
    words = [str(manifest), "--date", day, *(["--simulate"] if project.options.simulate else [])]
    words += [word for name, value in project.options.variables.items() for word in ("--var", f"{name}={value}")]
    return f"the run of {day} is unfinished, paid jobs of it may be out; to finish it: rsbatch run {shlex.join(words)}"


def is_unfinished(state: LedgerState) -> bool:
    """Tell if a ledger's newest run was cut off or stopped early, or left jobs out."""
    if not state.runs:
        return False
    if not state.ended or state.last_run_ended is None:
        return True
    if state.last_run_ended.get("exit_code") not in (0, 1):
        return True
    return any(h.out or h.state is State.SUBMITTING for h in state.unsettled())
