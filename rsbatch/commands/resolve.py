"""`rsbatch resolve`: a person settles what the program cannot know.

Rule: writes one decision into the ledger, under its lock, and sends nothing.
"""

from __future__ import annotations

import argparse

from rsbatch.commands.common import add_manifest_arguments, command_words, project_of, say
from rsbatch.errors import UsageError
from rsbatch.ledger import records
from rsbatch.ledger.records import How
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import SETTLED_BY_HAND, State
from rsbatch.session import Project, match, with_redos, writing
from rsbatch.units import format_money


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch resolve`."""
    add_manifest_arguments(parser)
    parser.add_argument("task", metavar="TASK", help="the task's id")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--attach", metavar="JOB_ID", help="it has this job, found in the provider's records")
    how.add_argument(
        "--not-sent", action="store_true", help="it was never sent: frees its money, the next run submits it"
    )
    how.add_argument("--resubmit", action="store_true", help="submit it again; its money stays counted as unknown")


def run(args: argparse.Namespace) -> int:
    """Record the decision; gives the exit code."""
    import anyio

    project = project_of(args)
    anyio.run(_resolve, project, args)
    what = {
        "attached": f"job {args.attach} is its job; the next run fetches it",
        "not_sent": "counted as never sent; the next run submits it",
        "resubmit": "the next run submits it again",
    }[_how(args)]
    say(f"{args.task}: {what}: rsbatch run {command_words(args, project.manifest)}")
    return 0


def _how(args: argparse.Namespace) -> How:
    if args.attach is not None:
        return "attached"
    return "not_sent" if args.not_sent else "resubmit"


async def _resolve(project: Project, args: argparse.Namespace) -> None:
    async with writing(project) as ledger:
        history = find(project, ledger.state, args.task)
        if history.state is State.FAILED_DOWNLOAD and not args.resubmit:
            raise UsageError(
                f"{args.task} has job {history.job_id}, which was paid; every run tries to download its image. "
                f"`--resubmit` gives that image up and orders another"
            )
        if args.attach is not None:
            _check_job(ledger.state, history, args.attach)
        new = []
        if history.state is State.SUBMITTING:
            reason = "a crash came between its submission and the answer"
            new.append(records.in_doubt(history.task, history.key, attempt=history.attempt, reason=reason))
        new.append(records.resolved(history.task, history.key, how=_how(args), job_id=args.attach))
        await ledger.write(*new)
        if args.not_sent and history.usd is not None:
            say(f"{format_money(history.usd)} is no longer counted as spent")


def find(project: Project, state: LedgerState, task: str) -> History:
    """Give the history of `task` that can be settled by hand; raises UsageError where there is none."""
    histories = state.of_id(task)
    open_ = [h for h in histories if h.state in SETTLED_BY_HAND]
    if not histories:
        raise UsageError(f"the ledger has no task {task}; `rsbatch status` lists what is held")
    if not open_:
        word = histories[-1].state.value.replace("_", " ") if histories[-1].state else "new"
        raise UsageError(f"{task} is {word}: only held, parked and failed tasks are settled by hand")
    if len(open_) > 1:
        matcher, _ = match(with_redos(project, state), state, buying=False)
        open_ = [h for h in open_ if matcher.owns(h)] or open_
    return open_[-1]


def _check_job(state: LedgerState, history: History, job_id: str) -> None:
    if not job_id or len(job_id) > 512 or not job_id.isprintable():
        raise UsageError("--attach takes a job id as the provider's records show it")
    other = state.of_job(job_id)
    if other is not None and other is not history:
        raise UsageError(f"job {job_id} is the job of {other.task}; a job is of one task")
