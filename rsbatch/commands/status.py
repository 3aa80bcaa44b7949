"""`rsbatch status`: what the ledger says, at a glance. Reads without the lock, also while a run goes on.

Rule: imports neither httpx nor Pillow.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable

from rsbatch.commands.common import add_manifest_arguments, command_words, print_json, project_of, say
from rsbatch.ledger.local import NAME
from rsbatch.ledger.state import History
from rsbatch.lifecycle import State
from rsbatch.planning import Category, category
from rsbatch.session import match
from rsbatch.summary import spend_json, spend_words, undelivered_words

SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch status`."""
    add_manifest_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the status; gives the exit code."""
    project = project_of(args)
    state = project.read_state()
    matcher, _, _ = match(project, state, buying=False)
    mine = [h for h in state.histories() if matcher.owns(h)]
    counts = Counter(category(h.state) for h in mine)
    counts[Category.PENDING] += matcher.total - len(mine)
    orphaned = len(state) - len(mine)
    errors = Counter((h.code, h.message) for h in mine if category(h.state) is Category.FAILED).most_common(SHOWN)
    held = [h for h in mine if category(h.state) is Category.HELD]
    out = [h for h in state.histories() if h.out]
    if args.json:
        print_json(
            {
                "manifest": str(project.manifest.path),
                "tasks": {
                    "total": matcher.total,
                    **{c.value: counts[c] for c in Category},
                    "orphaned": orphaned,
                },
                "spend": spend_json(state.spend),
                "errors": [{"code": code, "message": text, "tasks": n} for (code, text), n in errors],
                "held": [_brief(h) for h in held],
                "out": [_brief(h) for h in out],
                "runs": state.runs,
                "running_or_cut_off": bool(state.runs) and not state.ended,
                "ledger": str(project.folder / NAME),
                "output": str(project.folder),
            }
        )
        return 0
    words = [f"{counts[c]} {c.value}" for c in Category if counts[c]]
    say(f"{matcher.total} tasks: {', '.join(words)}" + (f", {orphaned} orphaned" if orphaned else ""))
    say(spend_words(state.spend))
    _print_list("jobs still out", out, lambda h: f"{h.task}  job {h.job_id}  {state_word(h)}")
    _print_list("held", held, lambda h: f"{h.task}  {h.message or 'a crash came before the answer'}")
    for (code, message), count in errors:
        say(f"{count} failed: {code}: {message}")
    if held:
        say(f"settle a held task: rsbatch resolve {command_words(args)} TASK --attach JOB_ID | --not-sent | --resubmit")
    if undelivered := sum(h.state is State.FAILED_DOWNLOAD for h in mine):
        say(undelivered_words(undelivered, command_words(args), command_words(args)))
    if state.runs and not state.ended:
        say("the newest run goes on, or was cut off")
    say(f"ledger: {project.folder / NAME}")
    return 0


def state_word(history: History) -> str:
    """Give a state as people read it."""
    return "" if history.state is None else history.state.value.replace("_", " ")


def _brief(history: History) -> dict[str, object]:
    return {
        "task": history.task,
        "key": history.key,
        "state": history.state.value if history.state is not None else None,
        "job_id": history.job_id,
        "reason": history.message,
    }


def _print_list(title: str, histories: Iterable[History], line: Callable[[History], str]) -> None:
    listed = list(histories)
    if not listed:
        return
    say(f"{title}: {len(listed)}")
    for history in listed[:SHOWN]:
        say("  " + line(history))
    if len(listed) > SHOWN:
        say(f"  … and {len(listed) - SHOWN} more (--json prints all)")
