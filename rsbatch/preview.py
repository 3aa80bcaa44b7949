"""Judging a whole manifest against its ledger without touching either: what `plan` shows.

Rule: reads only, and one task at a time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rsbatch.ledger.state import LedgerState
from rsbatch.lifecycle import State
from rsbatch.model import SavedFile
from rsbatch.planning import Action, Matcher, Planned, Terms, decide
from rsbatch.session import Project, match, with_redos


@dataclass(frozen=True, slots=True)
class Preview:
    """A judged manifest: `tasks` in the manifest's order, read once, and what is worth a warning."""

    tasks: Iterator[Planned]
    total: int
    warnings: Sequence[str]


def judge_all(project: Project, state: LedgerState, *, buying: bool = True) -> Preview:
    """Judge every task as `run` would; raises ManifestError before the first one if the manifest is wrong.

    Without `buying`, prices need not be there.
    """
    return judge_with(with_redos(project, state), state, buying=buying)


def judge_with(project: Project, state: LedgerState, *, buying: bool = True) -> Preview:
    """Judge the tasks of a project as it is, without a look at what the ledger says was asked for again."""
    matcher, warnings = match(project, state, buying=buying)
    return Preview(_judged(project, state, matcher), matcher.total, warnings)


def _judged(project: Project, state: LedgerState, matcher: Matcher) -> Iterator[Planned]:
    terms = Terms(project.options.selection, project.rules.in_doubt)
    left = project.options.selection.limit
    for task in project.manifest.tasks([]):
        history = matcher.of(task)
        files = history.files if history is not None and history.state is State.SAVED else ()
        planned = decide(task, history, state, terms, file_sizes(project, files))
        if planned.action is Action.SUBMIT and left is not None:
            if left == 0:
                planned = replace(planned, action=Action.SKIP, reason=f"beyond --limit ({planned.reason})")
            else:
                left -= 1
        yield planned


def file_sizes(project: Project, files: Sequence[SavedFile]) -> list[int | None]:
    """Sizes in bytes of saved files as they are now; None for one that is not there, -1 for what is no file."""
    sizes: list[int | None] = []
    for file in files:
        try:
            status = os.lstat(project.folder / file.path)
        except FileNotFoundError:
            sizes.append(None)
        except OSError:
            sizes.append(-1)
        else:
            sizes.append(status.st_size if stat.S_ISREG(status.st_mode) else -1)
    return sizes
