"""`rsbatch completion`: a script that lets a shell complete commands, options and files.

Rule: made of the parser itself, so that it knows every option; prints and does nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's argument."""
    parser.description = (
        'Print a completion script. In ~/.bashrc: eval "$(rsbatch completion bash)"; in ~/.zshrc after compinit: '
        'eval "$(rsbatch completion zsh)"; for fish: rsbatch completion fish > ~/.config/fish/completions/rsbatch.fish'
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Print the script to standard output."""
    import shtab

    from rsbatch.cli import build_parser

    parser = build_parser()
    for action in _actions(parser):
        if action.type is Path:
            place = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
            action.complete = place
    sys.stdout.write(shtab.complete(parser, args.shell) + "\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Give all actions, those of the commands too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
        else:
            yield action
