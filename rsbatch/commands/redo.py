"""`rsbatch redo`: new samples of the images that were rejected in the report.

Rule: what is asked for is recorded before anything is bought, so that every later command knows it, and asking twice
buys once. The purchase itself is an ordinary run of just these tasks.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rsbatch.commands import run as run_command
from rsbatch.commands.common import add_manifest_arguments, add_term_arguments, command_words, project_of
from rsbatch.errors import UsageError
from rsbatch.keys import find_key
from rsbatch.ledger import records
from rsbatch.ledger.mend import LOST
from rsbatch.planning import Action
from rsbatch.redo import Reject, Verdict, judge, read_rejects
from rsbatch.session import Project, match, with_redos, writing
from rsbatch.text import printable
from rsbatch.units import format_money

if TYPE_CHECKING:
    from rsbatch.ledger.state import LedgerState

MOST_BYTES: Final = 256 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch redo`."""
    add_manifest_arguments(parser)
    parser.add_argument(
        "--from",
        metavar="FILE",
        dest="rejects",
        type=Path,
        required=True,
        help="the rejects.json that the report's page wrote",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say how many would be bought, and the cost; write nothing"
    )
    parser.add_argument("--json", action="store_true", help="the run's summary as one JSON object on standard output")
    add_term_arguments(parser)
    parser.set_defaults(**_as_run())


def _as_run() -> dict[str, object]:
    """Give the options of `run` that redo does not have, as they are there if not given; its page is written anew."""
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    options = vars(parser.parse_args([""]))
    del options["manifest"]
    return options | {"report": True}


def run(args: argparse.Namespace) -> int:
    """Record what is asked for, and buy it; gives the exit code."""
    import anyio

    rejects = _read(args.rejects)
    project = project_of(args)
    state = project.read_state()
    if not state.seq:
        raise UsageError(f"there is no ledger in {project.folder}; name the --simulate and --output of the report")
    project = with_redos(project, state)
    matcher, _ = match(project, state, buying=False)
    verdict = judge(project.manifest.tasks([]), matcher, rejects, state.repaired_at)
    for text in verdict.left:
        sys.stderr.write(printable(f"left out: {text}") + "\n")
    if not verdict.asked:
        raise UsageError("no image of this ledger is rejected there; nothing was submitted")
    project = _asking(project, verdict)
    stream = sys.stderr if args.json else sys.stdout
    stream.write(_words(project, state, verdict) + "\n")
    if verdict.doubtful and project.rules.in_doubt == "hold":
        stream.write(
            f"{len(verdict.doubtful)} may have been bought by records that are lost: held, not submitted. Compare with "
            f"the provider's records, then settle each with `rsbatch resolve`\n"
        )
    if args.dry_run:
        return 0
    if not args.simulate:
        find_key(project.manifest.api, os.environ, Path.cwd())  # without one nothing is to be recorded either
    if verdict.new:
        anyio.run(_record, project, verdict)
    command = command_words(args, project.manifest)
    stays = f"the new samples that are still to come stay asked for: `rsbatch run {command}` buys them, too"
    return run_command.execute(args, project, pending=stays)


def _read(path: Path) -> list[Reject]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to read a pipe may take for ever, and to go on takes the file again
            raise UsageError(f"--from {path}: is not a file; save the rejects in one. Nothing was submitted")
        with path.open("rb") as file:
            return read_rejects(file.read(MOST_BYTES))
    except OSError as exc:
        raise UsageError(f"--from {path}: {exc.strerror or exc}; nothing was submitted") from exc
    except ValueError as exc:
        raise UsageError(f"--from {path}: {exc}; nothing was submitted") from exc


def _asking(project: Project, verdict: Verdict) -> Project:
    """Give the project with all that is asked for, restricted to it."""
    manifest = replace(project.manifest, redos={**project.manifest.redos, **verdict.redos})
    selection = replace(project.options.selection, only=frozenset(verdict.asked))
    return replace(project, manifest=manifest, options=replace(project.options, selection=selection))


def _words(project: Project, state: LedgerState, verdict: Verdict) -> str:
    """Say what will be submitted; raises as `match` does, before anything is recorded."""
    from rsbatch.preview import judge_with

    wanted = [
        planned
        for planned in judge_with(project, state).tasks
        if planned.action is Action.SUBMIT
        and (project.rules.in_doubt == "resubmit" or planned.task.id not in verdict.doubtful)
    ]
    prices = [planned.usd for planned in wanted]
    cost = format_money(sum((usd for usd in prices if usd is not None), Decimal(0)))
    if None in prices:
        cost += f", and {prices.count(None)} without a known price"
    known = len(verdict.asked) - len(verdict.new)
    earlier = f"; {known} were asked for before" if known else ""
    samples = "sample" if len(wanted) == 1 else "samples"
    return f"{len(wanted)} new {samples} to submit: {cost}{earlier}"


async def _record(project: Project, verdict: Verdict) -> None:
    async with writing(project) as ledger:
        known = ledger.state.redos  # another may have asked for the same since we looked
        doubts = (
            records.in_doubt(task.id, task.key, attempt=1, reason=LOST)
            for task in (project.manifest.tasks([]) if verdict.doubtful else ())
            if task.id in verdict.doubtful and ledger.state.get(task.id, task.key) is None
        )
        await ledger.write(
            *doubts,  # first: a doubt without its redo buys nothing
            *(
                records.redo(task, key, number=number)
                for task, key, number in verdict.new
                if known.get((task, key), 0) == number - 1
            ),
        )
