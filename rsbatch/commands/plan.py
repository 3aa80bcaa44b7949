"""`rsbatch plan`: what a run would do with each task, and why. Writes nothing.

Rule: tasks are judged and printed as they come; nothing holds all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rsbatch.commands.common import add_manifest_arguments, add_run_arguments, print_json, project_of, say
from rsbatch.planning import Action, Planned
from rsbatch.preview import judge_all
from rsbatch.units import format_duration, format_money

SHOWN = 200
"""Lines of tasks on a terminal; more are counted. `--json` gives all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch plan`."""
    add_manifest_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--json", action="store_true", help="a line a task, and a last line with the summary")
    parser.add_argument("--requests", action="store_true", help="with --json: each exact request body too")


@dataclass(slots=True)
class Totals:
    """What a plan adds up to; `usd` in US dollars, `unpriced` submissions have no price."""

    actions: Counter[Action] = field(default_factory=Counter)
    usd: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, planned: Planned) -> None:
        """Count one task."""
        self.actions[planned.action] += 1
        if planned.action is Action.SUBMIT:
            if planned.usd is None:
                self.unpriced += 1
            else:
                self.usd += planned.usd


def run(args: argparse.Namespace) -> int:
    """Print the plan; gives the exit code."""
    project = project_of(args)
    state = project.read_state()
    plan = judge_all(project, state)
    for warning in plan.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    totals = Totals()
    if args.json or args.requests:
        _print_json(plan.tasks, totals, requests=args.requests)
    else:
        _print_text(plan.tasks, totals)
    in_flight = project.limits.in_flight
    seconds = estimate_seconds(totals.actions[Action.SUBMIT], in_flight)
    if args.json or args.requests:
        print_json({"summary": _summary(totals, seconds, spent=state.spend.total)})
        return 0
    _print_totals(totals, seconds, in_flight, state.spend.total, project.rules.budget)
    return 0


def estimate_seconds(submissions: int, in_flight: int) -> tuple[float, float]:
    """Give the least and the most seconds to expect: 30 to 180 s an image, `in_flight` at a time."""
    rounds = -(-submissions // in_flight)
    return rounds * 30.0, rounds * 180.0


def _summary(totals: Totals, seconds: tuple[float, float], *, spent: Decimal) -> dict[str, Any]:
    return {
        "total": totals.actions.total(),
        **{action.value: totals.actions[action] for action in Action},
        "submissions": totals.actions[Action.SUBMIT],
        "usd": str(totals.usd),
        "usd_known": totals.unpriced == 0,
        "spent": str(spent),
        "seconds_least": seconds[0],
        "seconds_most": seconds[1],
    }


def _print_json(tasks: Iterator[Planned], totals: Totals, *, requests: bool) -> None:
    from rsbatch.body import wire_bytes
    from rsbatch.session import read_image

    for planned in tasks:
        totals.add(planned)
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


def _print_text(tasks: Iterator[Planned], totals: Totals) -> None:
    hidden = 0
    for planned in tasks:
        totals.add(planned)
        if totals.actions.total() > SHOWN:
            hidden += 1
            continue
        price = ""
        if planned.action is Action.SUBMIT:
            price = "price unknown" if planned.usd is None else format_money(planned.usd)
        say(f"{planned.action.value:<9}{planned.task.id}  {price + '  ' if price else ''}{planned.reason}")
    if hidden:
        say(f"… and {hidden} more tasks (--json prints all)")


def _print_totals(
    totals: Totals, seconds: tuple[float, float], in_flight: int, spent: Decimal, budget: Decimal | None
) -> None:
    actions = totals.actions
    counts = ", ".join(f"{actions[a]} to {a.value}" for a in Action if actions[a])
    say(f"{actions.total()} tasks: {counts or 'nothing'}")
    if actions[Action.SUBMIT]:
        cost = format_money(totals.usd)
        if totals.unpriced:
            cost += f", and {totals.unpriced} submissions without a known price"
        say(f"cost: {cost}")
        least, most = (format_duration(s) for s in seconds)
        say(f"time: about {least} to {most}, at 30 to 180 s an image and {in_flight} at a time")
    if spent:
        say(f"spent so far: {format_money(spent)}")
    if budget is not None and spent + totals.usd > budget:
        say(f"the budget of {format_money(budget)} is not enough: the run stops at the first task that does not fit")
