"""`rsbatch init`: files to start from.

Rule: never overwrites; a file that is there already stays as it is.
"""

from __future__ import annotations

import argparse
import os
import re
from importlib.resources import files
from pathlib import Path

from rsbatch.commands.common import say
from rsbatch.errors import StoreError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch init`."""
    parser.add_argument("dir", metavar="DIR", nargs="?", type=Path, default=Path(), help="where to (default: here)")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        type=Path,
        help="go on from these: a text file with a prompt a line, a table (csv, tsv, jsonl, …), or a folder of images",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def contents() -> dict[str, str]:
    """Give the files that `init` writes: relative paths and texts."""
    data = files("rsbatch") / "data"
    return {
        "manifest.yaml": (data / "manifest.yaml").read_text("utf-8"),
        ".env.example": (data / "env.example").read_text("utf-8"),
        "outputs/.gitignore": "*\n!.gitignore\n",
    }


def started_from(source: Path, folder: Path, example: str) -> str:
    """Give the example manifest with a name and tasks made of `source`; raises UsageError."""
    from rsbatch.identity import slug
    from rsbatch.manifest.starter import tasks_from

    head, _, rest = example.partition("tasks:\n")
    tail = rest[rest.index("# What an image costs") :]
    name = slug(Path(os.path.abspath(source)).stem)
    head = re.sub(r"^name: \S+", lambda _: f'name: "{name}"', head, flags=re.MULTILINE)
    return f"{head}tasks:\n{tasks_from(source, folder)}\n{tail}"


def run(args: argparse.Namespace) -> int:
    """Write the files; gives the exit code."""
    folder: Path = args.dir
    texts = contents()
    if args.source is not None:
        texts["manifest.yaml"] = started_from(args.source, folder, texts["manifest.yaml"])
    there = [name for name in texts if os.path.lexists(folder / name)]
    if "manifest.yaml" in there:
        raise UsageError(
            f"{folder / 'manifest.yaml'} is there already; nothing was written. Name another folder: rsbatch init DIR"
        )
    try:
        for name, text in texts.items():
            if name in there:
                continue
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, text)
            say(f"wrote {path}")
    except OSError as exc:
        raise StoreError(f"cannot write {exc.filename or path}: {exc.strerror}") from exc
    manifest = folder / "manifest.yaml"
    if args.source is not None:
        say(f"next: look at the prompts in {manifest}, then: rsbatch plan {manifest}")
    else:
        say(f"next: rsbatch run {manifest} --simulate   (no key, no cost), then edit {manifest.name}")
    return 0


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:  # half a manifest must not be taken for one
            path.unlink()
            raise
