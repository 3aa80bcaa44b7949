"""Hostile answers, mutated ledgers, mutated manifests, mutated images: no crash, no hang, no wrong skip.

Rule: each case is drawn from its seed alone, so that a failure is replayed by it: the last digit says of what kind
the case is, the rest is its number. Each case has a watch of its own, and all of them a limit of memory; both fail
loudly. What was found once stands in corpus/ by name.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from torture.rows import Figure, Params

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 30
"""What one case may take; the slowest sound one takes a fiftieth of it."""
MEMORY = 1024**3
"""Bytes that a process may take beyond what it has after its imports."""
CHUNK = 200


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of case: its counts, and which functions try it."""

    name: str
    full: int
    short: int


KINDS = {
    1: Kind("answers", 100_000, 3_000),
    2: Kind("answers over a socket", 2_000, 60),
    3: Kind("ledgers", 2_000_000, 12_000),
    4: Kind("manifests", 20_000, 300),
    5: Kind("images", 20_000, 300),
}
"""By the last digit of the seed."""


class Hang(BaseException):
    """The watch ran out."""


def _try(kind: int, seeds: list[int]) -> Iterator[tuple[int, str]]:
    """Try the cases of these seeds, all of one kind; gives each that went wrong, and how."""
    if kind == 2:
        from torture import sockets

        signal.alarm(SECONDS * len(seeds))
        yield from sockets.try_many(seeds)
        signal.alarm(0)
        return
    try_one = _function(kind)
    for seed in seeds:
        signal.alarm(SECONDS)
        try:
            wrong = try_one(Random(seed))
        except Hang:
            wrong = f"it took more than {SECONDS} s"
        except Exception:
            wrong = f"it raised {traceback.format_exc(limit=-4)}"
        signal.alarm(0)
        if wrong:
            yield seed, wrong


def _function(kind: int) -> Callable[[Random], str]:
    from torture import answers, ledgers, texts

    return {1: answers.try_one, 3: ledgers.try_one, 4: texts.try_manifest, 5: texts.try_image}[kind]


def _watch() -> None:
    def ring(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    warnings.simplefilter("error")


def _work(kind: int, first: int, last: int, step: int) -> None:
    """Try the cases number `first`, `first + step`, … below `last`; writes a line of JSON for each failure."""
    _watch()
    if kind != 2:
        _function(kind)
    size = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    numbers = range(first, last, step)
    done = 0
    for at in range(0, len(numbers), CHUNK):
        faulthandler.dump_traceback_later(SECONDS * 20, exit=True)  # the watch cannot stop what hangs in C
        seeds = [number * 10 + kind for number in numbers[at : at + CHUNK]]
        for seed, wrong in _try(kind, seeds):
            print(json.dumps([seed, wrong]), flush=True)
        done += len(seeds)
    print(json.dumps([None, done]), flush=True)
    if kind == 4:
        from torture import texts

        texts.forget()


def _all(kind: int, count: int) -> tuple[int, list[str]]:
    """Try `count` cases in as many processes as there are cores; gives how many were tried, and what went wrong."""
    cores = max(1, int(os.environ.get("TORTURE_JOBS", os.cpu_count() or 1)))
    command = [sys.executable, "-m", "torture.fuzz", str(kind)]
    workers = [
        subprocess.Popen([*command, str(n), str(count), str(cores)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for n in range(cores)
    ]
    failures, done = [], 0
    for worker in workers:
        out, _ = worker.communicate()
        for line in out.splitlines():
            seed, what = json.loads(line)
            if seed is None:
                done += what
            else:
                failures.append(_failure(kind, seed, what))
        if worker.returncode:
            failures.append(f"{KINDS[kind].name}: a process ended with {worker.returncode}")
    return done, failures


def _failure(kind: int, seed: int, wrong: str) -> str:
    return f"{KINDS[kind].name}: {wrong[:600]}; python -m torture fuzz --seed {seed}"


def run(params: Params) -> Figure:
    """Try everything, or the one case of a seed."""
    goal = ", ".join(f"{params.scale(kind.full, kind.short):,} {kind.name}" for kind in KINDS.values())
    if params.seed is not None:
        return _replay(params.seed)
    figures: list[str] = []
    failures: list[str] = []
    for number, kind in KINDS.items():
        wanted = params.scale(kind.full, kind.short)
        done, wrong = _all(number, wanted)
        figures.append(f"{done:,} {kind.name}")
        failures += wrong
        if done < wanted and not wrong:
            failures.append(f"{kind.name}: only {done} of {wanted} were tried")
    return Figure(f"{', '.join(figures)}: {len(failures)} went wrong", f"{goal}: none", failures)


def _replay(seed: int) -> Figure:
    kind = seed % 10
    if kind not in KINDS:
        return Figure("no case", "a seed ends in a digit from 1 to 5", [f"{seed} is not a seed of this row"])
    _watch()
    failures = [_failure(kind, number, wrong) for number, wrong in _try(kind, [seed])]
    return Figure(f"case {seed} of the {KINDS[kind].name}", "nothing goes wrong", failures)


def _main(words: list[str]) -> Any:
    kind, first, last, step = map(int, words)
    _work(kind, first, last, step)


if __name__ == "__main__":
    _main(sys.argv[1:])
