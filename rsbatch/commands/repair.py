"""`rsbatch repair`: makes a damaged or lost ledger usable again.

Rule: the damaged file is kept; the new one takes its place in one step; nothing is sent. What cannot be shown to
be harmless is held, so that nothing is paid for twice.
"""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsbatch import __version__
from rsbatch.clock import SystemClock
from rsbatch.commands.common import add_manifest_arguments, command_words, project_of, say
from rsbatch.errors import StoreError
from rsbatch.ledger import records
from rsbatch.ledger.local import NAME, lock_ledger, replace_ledger
from rsbatch.ledger.mend import Rebuild, Salvage, lost_jobs, salvage
from rsbatch.ledger.replay import lines
from rsbatch.ledger.state import LedgerState
from rsbatch.lifecycle import SETTLED_BY_HAND, State
from rsbatch.manifest.check import check
from rsbatch.planning import Matcher
from rsbatch.session import Project, ledger_is_lost, new_run_id, with_redos
from rsbatch.sidecar import Sidecar
from rsbatch.unrecorded import Lookout, find_sidecars, read_sidecar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch repair`."""
    add_manifest_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Repair; gives the exit code."""
    project = project_of(args)
    path = project.folder / NAME
    check(project.manifest)
    paths = list(find_sidecars(project.folder))
    lost = bool(paths) or ledger_is_lost(project.folder)
    if not os.path.lexists(path) and not lost:
        project.read_state()  # it raises where the folder is out of reach
        say(f"there is no ledger in {project.folder} and no image of rsbatch: nothing to repair")
        return 0
    with lock_ledger(path) as fd:
        with os.fdopen(os.dup(fd), "rb") as file:
            file.seek(0)
            found = salvage(lines(file))
        if found.values and not found.problems:
            found.problems += _lost_end(project, found.state, paths)
        if not found.problems and (found.values or not (lost or found.begun)):
            say(f"{path} is sound ({len(found.values)} records): nothing to repair")
            return 0
        rebuild = _rebuild(project, found, paths)
        kept = replace_ledger(path, b"".join(rebuild.lines))
    _tell(command_words(args, project.manifest), path, kept, found, rebuild)
    return 0


def _rebuild(project: Project, found: Salvage, paths: list[Path]) -> Rebuild:
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
    images = _unrecorded(project, paths, rebuild.state)
    if paths and not found.values and not images:
        raise StoreError(f"the images in {project.folder} are of another manifest; repair it with that one")
    rebuild.adopt_all(images)
    rebuild.doubt_the_rest(_unseen(project, rebuild.state))
    return rebuild


def _says_whose(value: dict[str, Any]) -> bool:
    alone = Rebuild(0.0, "")
    alone.keep(value)
    return alone.state.service is not None


def _lost_end(project: Project, state: LedgerState, paths: list[Path]) -> list[str]:
    """Give what is wrong with a ledger whose lines are sound: images were paid for after the last one."""
    project, matcher = _matched(project, state)
    lookout = Lookout(project.folder, state, project.service, project.manifest.name, locked=True)
    places = {job[0].file.path: None for job in lost_jobs(state, _unrecorded(project, paths, state))}
    for task in project.manifest.tasks([]):
        there = lookout.find(task.key, task.path, matcher.of(task))
        if there is not None:
            places[there[0].relative_to(project.folder).as_posix().removesuffix(".json")] = None
    return [f"it knows nothing of the image {place}" for place in places]


def _unrecorded(project: Project, paths: list[Path], state: LedgerState) -> list[Sidecar]:
    """Read the sidecars of this manifest and service whose jobs `state` does not know.

    Where one lies is true; what it says of that may have been written before a move. Those where both are the same
    come first.
    """
    found: list[Sidecar] = []
    moved: list[Sidecar] = []
    for path in paths:
        one = read_sidecar(path)
        if one is None or not one.is_of(project.service, project.manifest.name) or state.of_job(one.job_id) is not None:
            continue
        place = path.relative_to(project.folder).as_posix().removesuffix(".json")
        (found if place == one.file.path else moved).append(replace(one, file=replace(one.file, path=place)))
    return found + moved


def _check_owner(project: Project, state: LedgerState) -> None:
    if state.service != project.service or state.name != project.manifest.name:
        raise StoreError(
            f"{project.folder / NAME} belongs to the manifest named {state.name} and the service {state.service}; "
            f"repair it with that manifest"
        )


def _unseen(project: Project, state: LedgerState) -> list[tuple[str, str]]:
    """Tasks of the manifest that no history is for, by id and key."""
    project, matcher = _matched(project, state)
    return [(task.id, task.key) for task in project.manifest.tasks([]) if matcher.of(task) is None]


def _matched(project: Project, state: LedgerState) -> tuple[Project, Matcher]:
    """Give the tasks of the manifest, new samples included, their histories."""
    project = with_redos(project, state)
    return project, Matcher.over(state, project.manifest.tasks([]))


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
    for one in list({one.job_id: one for one in reversed(rebuild.unplaced)}.values())[:20]:
        task = rebuild.state.name_of(one.task, one.key)
        history = rebuild.state.get(task, one.key)
        if history is not None and history.state in SETTLED_BY_HAND:
            say(
                f"{one.file.path}.json names job {one.job_id}, and {task} was not given it: it may be of another "
                f"submission, or images are missing. To fetch it: "
                f"rsbatch resolve {words} {task} --attach {shlex.quote(one.job_id)}"
            )
    say(f"to go on: rsbatch run {words}")
