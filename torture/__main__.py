"""Runs the rows and keeps the table of what they found.

Rule: a row that was run in full has one line in the table, with the commit it was run on; the others stay.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from torture.commit import commit_of
from torture.rows import ROWS, Figure, Params, load

RESULTS = Path(__file__).with_name("results.md")


def main() -> int:
    """Run what the command line names; exits 1 if a row fails or could not be tried whole."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one or more of: {', '.join(ROWS)} (default: all)")
    parser.add_argument("--seed", type=int, help="replay the one case of this seed")
    parser.add_argument("--short", action="store_true", help="the short forms")
    args = parser.parse_args()
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]}; there are {', '.join(ROWS)}")
    params = Params(short=args.short, seed=args.seed)
    ok, commit = True, commit_of("rsbatch", "torture/*.py")
    for name in args.rows or ROWS:
        start = time.perf_counter()
        print(f"{name}: {ROWS[name]} …", flush=True)
        figure = replace(load(name).run(params), seconds=time.perf_counter() - start)
        _tell(name, figure)
        ok = ok and figure.ok
        if args.seed is None and not args.short:
            keep(RESULTS, name, figure, commit)
    return 0 if ok else 1


def _word(figure: Figure) -> str:
    if figure.failures:
        return "FAILED"
    return "NOT TRIED WHOLE" if figure.skipped else "holds"


def _tell(name: str, figure: Figure) -> None:
    print(f"  {_word(figure)}: {figure.figure} (goal: {figure.goal}; {figure.seconds:.0f} s)")
    if figure.skipped:
        print(f"  SKIPPED: {figure.skipped}")
    for failure in figure.failures[:20]:
        print(f"  {failure}")
    if len(figure.failures) > 20:
        print(f"  … and {len(figure.failures) - 20} more")
    sys.stdout.flush()


def keep(path: Path, name: str, figure: Figure, commit: str) -> None:
    """Put a row's line into the table at `path`, in the place of an earlier one."""
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = {row: line for row in ROWS for line in old if line.startswith(f"| {row} |")}
    skipped = f"; skipped: {figure.skipped}" if figure.skipped else ""
    cells = [name, figure.figure + skipped, figure.goal, _word(figure), f"{figure.seconds:.0f}"]
    cells += [commit, f"{datetime.now(UTC):%Y-%m-%d}"]
    lines[name] = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    python = f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"
    head = ["# What was tried", "", f"Made by `make torture`; the newest row on {python}, {os.cpu_count()} cores.", ""]
    head += ["| row | found | goal | verdict | seconds | commit | day |", "|---|---|---|---|---|---|---|"]
    path.write_text("\n".join([*head, *(lines[row] for row in ROWS if row in lines)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
