"""`rsbatch repair`: makes a damaged or lost ledger usable again.

Rule: the damaged file is kept; the new one takes its place in one step; nothing is sent. What cannot be shown to
be harmless is held, so that nothing is paid for twice.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsbatch import __version__, sidecar
from rsbatch.clock import SystemClock
from rsbatch.commands.common import add_manifest_arguments, command_words, project_of, say
from rsbatch.errors import StoreError
from rsbatch.ledger import records
from rsbatch.ledger.local import NAME, lock_ledger, replace_ledger
from rsbatch.ledger.mend import Rebuild, Salvage, salvage
from rsbatch.ledger.replay import lines
from rsbatch.ledger.state import LedgerState
from rsbatch.lifecycle import State
from rsbatch.manifest.check import check
from rsbatch.planning import Matcher
from rsbatch.session import Project, ledger_is_lost, new_run_id, with_redos
from rsbatch.unrecorded import Lookout, find_sidecars, read_sidecar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch repair`."""
    add_manifest_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Repair; gives the exit code."""
    project = project_of(args)
    path = project.folder / NAME
    check(project.manifest)
    sidecars = list(find_sidecars(project.folder))
    lost = bool(sidecars) or ledger_is_lost(project.folder)
    if not os.path.lexists(path) and not lost:
        project.read_state()  # it raises where the folder is out of reach
        say(f"there is no ledger in {project.folder} and no image of rsbatch: nothing to repair")
        return 0
    with lock_ledger(path) as fd:
        with os.fdopen(os.dup(fd), "rb") as file:
            file.seek(0)
            found = salvage(lines(file))
        if not found.problems:
            found.problems += _lost_end(project, found)
        if not found.problems and (found.values or not (lost or found.begun)):
            say(f"{path} is sound ({len(found.values)} records): nothing to repair")
            return 0
        rebuild = _rebuild(project, found, sidecars)
        kept = replace_ledger(path, b"".join(rebuild.lines))
    _tell(command_words(args, project.manifest), path, kept, found, rebuild)
    return 0


def _rebuild(project: Project, found: Salvage, sidecars: list[Path]) -> Rebuild:
    clock = SystemClock()
    rebuild = Rebuild(clock.wall(), new_run_id(clock))
    if not found.values or not _says_whose(found.values[0]):
        started = records.run_started(
            service=project.service,
            name=project.manifest.name,
            manifest=str(project.manifest.path),
            manifest_sha256=project.manifest.sha256,
            version=__version__,
            tasks=0,
        )
        rebuild.put(started)
    for value in found.values:
        rebuild.keep(value)
    _check_owner(project, rebuild.state)
    if not found.values and sidecars and not any(_ours(project, path) for path in sidecars):
        raise StoreError(f"the images in {project.folder} are of another manifest; repair it with that one")
    _adopt(project, rebuild, sidecars)
    rebuild.doubt_the_rest(_unseen(project, rebuild.state))
    return rebuild


def _says_whose(value: dict[str, Any]) -> bool:
    alone = Rebuild(0.0, "")
    alone.keep(value)
    return alone.state.service is not None


def _lost_end(project: Project, found: Salvage) -> list[str]:
    """Give what is wrong with a ledger whose lines are sound: images of its tasks were paid for after the last one."""
    state = found.state
    project = with_redos(project, state)
    lookout = Lookout(project.folder, state, project.service, project.manifest.name)
    places = []
    for task in project.manifest.tasks([]):
        there = lookout.find(task.key, task.path, state.get(task.id, task.key))
        if there is not None:
            places.append(there[0].relative_to(project.folder).as_posix().removesuffix(".json"))
    return [f"it knows nothing of the image {place}" for place in places]


def _ours(project: Project, path: Path) -> sidecar.Sidecar | None:
    """Read a sidecar; None where it is another manifest's or service's."""
    one = read_sidecar(path)
    return one if one is not None and one.is_of(project.service, project.manifest.name) else None


def _check_owner(project: Project, state: LedgerState) -> None:
    if state.service != project.service or state.name != project.manifest.name:
        raise StoreError(
            f"{project.folder / NAME} belongs to the manifest named {state.name} and the service {state.service}; "
            f"repair it with that manifest"
        )


def _adopt(project: Project, rebuild: Rebuild, paths: list[Path]) -> None:
    """Take in images whose records are lost, from the files beside them."""
    found = []
    for path in paths:
        one = _ours(project, path)
        if one is not None:  # where it lies is true; what it says of that was written before a move
            place = path.relative_to(project.folder).as_posix().removesuffix(".json")
            found.append(replace(one, file=replace(one.file, path=place)))
    rebuild.adopt_all(found)


def _unseen(project: Project, state: LedgerState) -> list[tuple[str, str]]:
    """Tasks of the manifest that no history is for, by id and key."""
    project = with_redos(project, state)
    matcher = Matcher(state)
    check(project.manifest, matcher.visit)
    matcher.settle()
    return [(task.id, task.key) for task in project.manifest.tasks([]) if matcher.of(task) is None]


def _tell(words: str, path: Path, kept: Path | None, found: Salvage, rebuild: Rebuild) -> None:
    for problem in found.problems[:20]:
        say(f"damaged: {problem}")
    if len(found.problems) > 20:
        say(f"… and {len(found.problems) - 20} more damaged places")
    if kept is not None:
        say(f"the damaged ledger is kept as {kept.name}")
    states = [h.state for h in rebuild.state.histories()]
    say(
        f"{path} is usable again: {len(rebuild.lines)} records, {states.count(State.SAVED)} saved, "
        f"{sum(h.out for h in rebuild.state.histories())} with a job that is still out, "
        f"{states.count(State.HELD)} held"
    )
    if State.HELD in states:
        say(
            f"held tasks may have been submitted by a record that is lost. Compare them with the provider's records, "
            f"then settle each: rsbatch resolve {words} TASK --attach JOB_ID | --not-sent | --resubmit; "
            f"or submit all of them again: rsbatch run {words} --in-doubt resubmit"
        )
    say(f"to go on: rsbatch run {words}")
