"""rsbatch from Python: for notebooks, pipelines and services.

Rule: a handful of names over the same session that the command uses, so that a run from Python and a run from
cron can share a ledger. Everything raises RsbatchError with a sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import anyio

from rsbatch.ledger.local import NAME, read_ledger
from rsbatch.ledger.replay import records
from rsbatch.ledger.state import History, LedgerState, Spend
from rsbatch.lifecycle import State
from rsbatch.model import InDoubt, SavedFile, Selection
from rsbatch.planning import Planned
from rsbatch.preview import judge_all
from rsbatch.progress.interface import Observer
from rsbatch.session import Options, Project, open_project
from rsbatch.session import run as run_project
from rsbatch.summary import Result

T = TypeVar("T")


class Manifest:
    """A manifest file, with the options that decide which ledger is meant.

    `output` replaces the output folder, `variables` the manifest's `vars`, `date` (`YYYY-MM-DD`) is `run.date`.
    `simulate` runs against the built-in simulator. Raises ManifestError with every problem of the file.

    >>> manifest = Manifest("manifests/quickstart.yaml", simulate=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        *,
        output: str | Path | None = None,
        variables: dict[str, str] | None = None,
        date: str | None = None,
        simulate: bool = False,
    ) -> None:
        options = Options(
            simulate=simulate,
            output=None if output is None else Path(output),
            variables=dict(variables or {}),
            date=date,
        )
        self._project = open_project(Path(path), options)

    @property
    def name(self) -> str:
        """The manifest's name, to which its ledger belongs."""
        return self._project.manifest.name

    @property
    def output(self) -> Path:
        """The output folder."""
        return self._project.folder

    @property
    def ledger(self) -> Ledger:
        """The ledger as it is now."""
        return Ledger(self.output)


def plan(
    manifest: Manifest, *, selection: Selection | None = None, in_doubt: InDoubt | None = None
) -> Iterator[Planned]:
    """Judge every task as `run` would, in the manifest's order; writes nothing and sends nothing."""
    project = _with(manifest, selection, {"in_doubt": in_doubt})
    yield from judge_all(project, project.read_state()).tasks


def run(
    manifest: Manifest,
    *,
    selection: Selection | None = None,
    in_doubt: InDoubt | None = None,
    budget: Decimal | str | None = None,
    stop_after: float | None = None,
    observer: Observer | None = None,
) -> Result:
    """Do what is left and say how it ended; `budget` in US dollars, `stop_after` in seconds.

    Works with or without a running event loop (in a notebook it waits in a thread of its own). Signals are the
    caller's. Raises RsbatchError where the run cannot begin; how it ended is in `Result.exit_code` and `.reason`.
    """
    rules = {"in_doubt": in_doubt, "budget": None if budget is None else Decimal(budget), "stop_after": stop_after}
    project = _with(manifest, selection, rules)

    async def main() -> Result:
        return await run_project(project, observer)

    return _in_own_loop(main)


class Ledger:
    """What the ledger in an output folder says, read without its lock.

    Raises LedgerDamaged or StoreError.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        self._state = read_ledger(Path(folder))

    @property
    def state(self) -> LedgerState:
        """Everything that follows from the records."""
        return self._state

    @property
    def spend(self) -> Spend:
        """US dollars spent, by what became of them."""
        return self._state.spend

    def histories(self) -> Iterator[History]:
        """Give every task's history, oldest first."""
        return iter(self._state.histories())

    def saved(self) -> Iterator[tuple[str, SavedFile]]:
        """Give every saved file with the id of its task; paths are relative to the output folder."""
        for history in self._state.histories():
            if history.state is State.SAVED:
                for file in history.files:
                    yield history.task, file

    def records(self) -> Iterator[dict[str, Any]]:
        """Give every record as it stands in the file."""
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from records(file, str(self.path))


def _with(manifest: Manifest, selection: Selection | None, rules: dict[str, Any]) -> Project:
    project = manifest._project
    given = {name: value for name, value in rules.items() if value is not None}
    options = replace(project.options, selection=selection or Selection())
    return replace(project, options=options, rules=replace(project.rules, **given))


def _in_own_loop(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` on a new event loop, in a thread of its own where this one has a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(main)
    with ThreadPoolExecutor(1, thread_name_prefix="rsbatch") as pool:
        return pool.submit(anyio.run, main).result()
