"""Writes the parts of the documentation that the code knows: `python docs/generate.py`.

Rule: a part stands between `<!-- generated: NAME -->` and `<!-- end -->`; whatever is there is replaced. A test holds
that every page is as this would write it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from rsbatch.cli import COMMANDS
from rsbatch.commands.common import add_manifest_arguments, add_run_arguments
from rsbatch.lifecycle import OUT, SETTLED_BY_HAND, SUBMITTABLE, TRANSITIONS, Event, State
from rsbatch.progress.metrics import GAUGES, TASKS

DOCS = Path(__file__).parent
PAGES = ("commands.md", "architecture.md", "nightly.md")
_PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def actions_of(add: Callable[[argparse.ArgumentParser], None]) -> list[argparse.Action]:
    """Give the options and arguments that a function adds to a parser."""
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    return parser._actions


def command_actions(command: str) -> list[argparse.Action]:
    """Give all options and arguments of a command."""
    return actions_of(import_module(f"rsbatch.commands.{command}").add_arguments)


def name_of(action: argparse.Action) -> str:
    """Give an option as it is typed, with the name of its value."""
    if not action.option_strings:
        return str(action.metavar)
    value = f" {action.metavar}" if action.metavar else ""
    if action.choices:
        value = " " + "|".join(map(str, action.choices))
    return action.option_strings[0] + value


def table(actions: list[argparse.Action]) -> str:
    """Give options as a table."""
    rows = ["| option | meaning |", "|---|---|"]
    for action in actions:
        help_ = (action.help or "").replace("%(default)s", str(action.default))
        help_ = re.sub(r"(?<![`\w])(--[a-z-]+)(?![`\w])", r"`\1`", help_)
        rows.append("| `{}` | {} |".format(name_of(action).replace("|", "\\|"), help_.replace("|", "\\|")))
    return "\n".join(rows)


def own_options(command: str) -> str:
    """Give what a command takes beside what it shares with others."""
    shared = {name_of(a) for a in actions_of(add_manifest_arguments)}
    if command in {"run", "plan"}:
        shared |= {name_of(a) for a in actions_of(add_run_arguments)}
    own = [a for a in command_actions(command) if name_of(a) not in shared]
    return table(own) if own else "It has no options of its own."


def lifecycle_table() -> str:
    """Give every legal step: from which state, by which record, to which state."""
    rows = ["| state | what a run does with it | record → state |", "|---|---|---|"]
    for state, steps in TRANSITIONS.items():
        name = "(no history)" if state is None else f"`{state.value}`"
        does = (
            "submits" if state is None or state in SUBMITTABLE else "goes on with its job" if state in OUT else "skips"
        )
        if state in {State.SUBMITTING, State.HELD}:
            does = "holds"
        if state in SETTLED_BY_HAND:
            does += "; `resolve` may settle it"
        ways = ", ".join(f"{event.value} → `{target.value}`" for event, target in steps.items())
        rows.append(f"| {name} | {does} | {ways} |")
    return "\n".join(rows)


BY_HAND = {Event.ATTACHED, Event.NOT_SENT, Event.RESUBMIT}


def lifecycle_diagram() -> str:
    """Draw the steps that a run takes by itself, without those of `resolve` and `repair`."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for state, event, target in _own_steps():
        source = "[*]" if state is None else state.value
        lines.append(f"    {source} --> {target.value}" + ("" if event.value == target.value else f": {event.value}"))
    return "\n".join([*lines, "```"])


def _own_steps() -> Iterator[tuple[State | None, Event, State]]:
    for state, steps in TRANSITIONS.items():
        for event, target in steps.items():
            by_repair = (event is Event.IN_DOUBT and state is not State.SUBMITTING) or state is State.HELD
            if event not in BY_HAND and not by_repair:
                yield state, event, target


def metrics() -> str:
    """Give every figure of `run --metrics`."""
    rows = ["| metric | meaning |", "|---|---|"]
    rows += [f"| `{name}` | {meaning} |" for name, meaning in [*GAUGES.items(), TASKS]]
    return "\n".join(rows)


PARTS: dict[str, Callable[[], str]] = {
    "options-manifest": lambda: table(actions_of(add_manifest_arguments)),
    "options-run": lambda: table(actions_of(add_run_arguments)),
    **{f"options-of-{name}": lambda name=name: own_options(name) for name in COMMANDS if name != "simulate"},
    "metrics": metrics,
    "lifecycle-table": lifecycle_table,
    "lifecycle-diagram": lifecycle_diagram,
}


def fresh(text: str) -> str:
    """Give a page with all its generated parts written anew; raises KeyError for a part nobody knows."""
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found['name']]()}\n{found[3]}", text)


def main() -> None:
    """Write the pages."""
    for name in PAGES:
        page = DOCS / name
        page.write_text(fresh(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
