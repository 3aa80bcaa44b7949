"""Runs the rows and writes the table."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

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
    figures: dict[str, Figure] = {}
    for name in args.rows or ROWS:
        start = time.perf_counter()
        print(f"{name}: {ROWS[name]} …", flush=True)
        figures[name] = replace(load(name).run(params), seconds=time.perf_counter() - start)
        _tell(name, figures[name])
    if not args.rows and args.seed is None and not args.short:
        RESULTS.write_text("\n".join(_table(figures)) + "\n", encoding="utf-8")
        print(f"written to {RESULTS}")
    return 0 if all(figure.ok for figure in figures.values()) else 1


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


def _table(figures: dict[str, Figure]) -> Iterator[str]:
    yield "# What was tried"
    yield ""
    yield f"Commit {_commit()}, {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {platform.system()}"
    yield f"{platform.release()}, {platform.machine()}. Made by `make torture`."
    yield ""
    yield "| row | what | figure | goal | verdict | seconds |"
    yield "|---|---|---|---|---|---|"
    for name, figure in figures.items():
        skipped = f"; skipped: {figure.skipped}" if figure.skipped else ""
        seconds = f"{figure.seconds:.0f}"
        yield f"| {name} | {ROWS[name]} | {figure.figure}{skipped} | {figure.goal} | {_word(figure)} | {seconds} |"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
