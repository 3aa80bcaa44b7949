"""`rsbatch plan`: what a run would do with each task, and why. Writes nothing.

Rule: tasks are judged and printed as they come; nothing holds all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from rsbatch.asking import kind_of
from rsbatch.commands.common import add_manifest_arguments, add_run_arguments, print_json, project_of, say
from rsbatch.estimate import Estimate
from rsbatch.outline import Totals, outline, total_lines
from rsbatch.planning import Action, Planned
from rsbatch.preview import judge_all
from rsbatch.units import format_money


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch plan`."""
    add_manifest_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--json", action="store_true", help="a line a task, and a last line with the summary")
    parser.add_argument("--requests", action="store_true", help="with --json: each exact request body too")


def run(args: argparse.Namespace) -> int:
    """Print the plan; gives the exit code."""
    project = project_of(args)
    state = project.read_state()
    plan = judge_all(project, state)
    for warning in plan.warnings:
        _warn(warning, as_json=getattr(args, "log_format", "text") == "json")
    totals, estimate = Totals(), Estimate.of(state.last_run_ended, project.limits.in_flight)

    def counted() -> Iterator[Planned]:
        for planned in plan.tasks:
            totals.add(planned, state, project.options.selection)
            if planned.action is Action.SUBMIT:
                estimate.add(kind_of(planned.task.body))
            yield planned

    if args.json or args.requests:
        _print_json(counted(), requests=args.requests)
        print_json({"summary": _summary(totals, estimate, spent=state.spend.total)})
    else:
        for line in outline(counted(), project.manifest.title, totals):
            say(line)
        _print_totals(totals, estimate, state.spend.total, project.rules.budget)
    return 0


def _warn(text: str, *, as_json: bool) -> None:
    if not as_json:
        sys.stderr.write(f"warning: {text}\n")
        return
    from rsbatch.progress.log import now_utc, write_json

    write_json(sys.stderr, now_utc(), "warning", "note", text)


def _summary(totals: Totals, estimate: Estimate, *, spent: Decimal) -> dict[str, Any]:
    least, most = estimate.seconds or (None, None)
    return {
        "total": totals.count,
        **{action.value: one.count for action, one in totals.actions.items()},
        "submissions": totals.submissions.count,
        "usd": str(totals.submissions.usd),
        "usd_known": totals.submissions.unpriced == 0,
        "spent": str(spent),
        "seconds_least": least,
        "seconds_most": most,
    }


def _print_json(tasks: Iterator[Planned], *, requests: bool) -> None:
    from rsbatch.body import wire_bytes
    from rsbatch.session import read_image

    for planned in tasks:
        line: dict[str, Any] = {
            "task": planned.task.id,
            "key": planned.task.key,
            "state": planned.state,
            "action": planned.action.value,
            "reason": planned.reason,
            "usd": None if planned.usd is None else str(planned.usd),
        }
        if requests:
            import json

            line["request"] = json.loads(wire_bytes(planned.task.body, read_image))
        print_json(line)


def _print_totals(totals: Totals, estimate: Estimate, spent: Decimal, budget: Decimal | None) -> None:
    for line in total_lines(totals):
        say(line)
    if totals.submissions.count:
        say(estimate.in_words())
    if spent:
        say(f"spent so far: {format_money(spent)}")
    if budget is not None and spent + totals.submissions.usd > budget:
        say(
            f"the budget of {format_money(budget)} is not enough: the run stops at the first task that does not fit; "
            f"raise run.budget (or --budget), or buy less with --limit or --select"
        )
