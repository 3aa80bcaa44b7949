"""Row 3: real SIGKILLs of real runs: nothing is lost, nothing is paid twice.

Rule: a run (or `repair`, `resolve`, `verify --fix`) is killed at an operation on files, locks or sockets (see
`torture.switch`), the one after it perhaps too, and the one after that; then one run is left alone, and the service's
journal is the judge. For each scene operation 1, 2, 3 … N is walked through, later chains are drawn by lot. A kill
counts if the process died of it before its end.

The seed of a chain names its scene and, below WALK, the operation; where threads race a replay may differ.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from threading import Lock

from rsbatch.ledger.local import NAME, RESCUE
from torture.real import PERSONS, Child, Site, judge, one_command, one_run, records, server
from torture.rows import Figure, Params
from torture.switch import KillAt

FULL, SHORT = 2000, 50
WALK = 100_000
"""Seeds below this walk: seed // number of scenes is the operation."""
GOAL = f"{FULL:,} kills, 0 lost, 0 paid twice"


def _tasks(about: str, count: int, *, ids: str = "task", from_: int = 0) -> dict[str, str]:
    return {f"{ids}-{n}": f"{about} picture {n}" for n in range(from_, from_ + count)}


def _new(site: Site) -> dict[str, str]:
    return _tasks("a", 3)


def _many(site: Site) -> dict[str, str]:
    return _tasks("a", 12)


def _changed(site: Site) -> dict[str, str]:
    """Two tasks ask for something else: their saved files have to make way."""
    return _tasks("a", 1) | _tasks("another", 2, from_=1)


def _renamed(site: Site) -> dict[str, str]:
    """Saved tasks with new ids, and one more."""
    return _tasks("a", 4, ids="renamed")


def _rescued(site: Site) -> dict[str, str]:
    """The end of the ledger could not be written and is in the rescue."""
    ledger = site.output / NAME
    lines = ledger.read_bytes().splitlines(keepends=True)
    at = len(lines) * 2 // 3
    (site.output / RESCUE).write_bytes(b"".join(lines[at:]))
    ledger.write_bytes(b"".join(lines[:at]))
    return _tasks("a", 4)


def _missing(site: Site) -> dict[str, str]:
    """Saved files are gone, and one is torn."""
    for number, path in enumerate(sorted(site.output.glob("task-*.png"))):
        if number % 2:
            path.unlink()
    return _tasks("a", 4)


def _standing(site: Site) -> dict[str, str]:
    """A person's files stand where images and sidecars are to go."""
    for name in ("task-3.png", "task-4.png.json"):
        (site.output / name).write_bytes(PERSONS)
    return _tasks("a", 5)


def _damaged(site: Site) -> dict[str, str]:
    """A byte in the middle of the ledger went bad."""
    ledger = site.output / NAME
    data = bytearray(ledger.read_bytes())
    data[len(data) // 2] ^= 1
    ledger.write_bytes(data)
    return _tasks("a", 4)


def _doubtful(site: Site) -> dict[str, str]:
    """The ledger ends with the last intent, as after a crash before its answer; all before it are settled."""
    ledger = site.output / NAME
    lines = ledger.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if b'"type":"submitting"' in line)
    ledger.write_bytes(b"".join(lines[: last + 1]))
    for task in _in_doubt(site)[:-1]:
        _in_peace(Child(one_command, site, _attach(site, task)))
    return _tasks("a", 3)


def _in_doubt(site: Site) -> list[str]:
    found = records(site)
    answered = {r["task"] for r in found if r["type"] == "submitted"}
    return [r["task"] for r in found if r["type"] == "submitting" and r["task"] not in answered]


def _attach(site: Site, task: str) -> list[str]:
    """Settle a task by the job that the service has for it."""
    prompt = _SAVED[task]
    job = next(job for job in site.jobs() if job["brief"]["prompt"] == prompt)
    return ["resolve", str(site.manifest), task, "--attach", job["job_id"]]


def _in_peace(child: Child) -> None:
    ended = child.end()
    if ended.code != 0:
        raise RuntimeError(f"a run that nobody kills ended with {ended}")


SCENES: dict[str, Callable[[Site], dict[str, str]]] = {
    "new": _new,
    "changed": _changed,
    "renamed": _renamed,
    "rescued": _rescued,
    "missing": _missing,
    "standing": _standing,
    "many": _many,
    "http": _new,
    "repair": _damaged,
    "resolve": _doubtful,
    "verify": _missing,
}
"""What the killed runs find and are to do. All but those in _FRESH begin with three saved tasks."""
_FRESH = {"new", "many", "http"}
_WITH_SERVER = {"http", "verify"}
_COMMANDS: dict[str, Callable[[Site], list[str]]] = {
    "repair": lambda site: ["repair", str(site.manifest)],
    "resolve": lambda site: _attach(site, _in_doubt(site)[-1]),
    "verify": lambda site: ["verify", str(site.manifest), "--fix"],
}
"""Scenes in which not a run is killed but another command, which is then given once more in peace."""
_SAVED = _tasks("a", 3)


@dataclass(frozen=True, slots=True)
class Chain:
    """What one chain did and found."""

    kills: int
    problems: list[str]
    jobs: int = 0
    held: int = 0
    walked: bool = False


class Ground:
    """Where the chains run: a folder on a real disk, a server, and a site with three saved tasks to copy."""

    def __init__(self, folder: Path, url: str, memory: Path) -> None:
        self.folder = folder
        self._http = Site(folder, memory, url)
        self._saved = Site(folder / "saved", folder / "saved.service.jsonl")
        self._saved.write(_SAVED)
        _in_peace(Child(one_run, self._saved))

    def site(self, scene: str, seed: int) -> tuple[Site, str]:
        """Lay out a scene; gives also what all its prompts begin with."""
        folder = self.folder / f"{scene}-{seed}"
        about = f"seed {seed} " if scene in _WITH_SERVER else ""
        if scene in _WITH_SERVER:
            site = replace(self._http, folder=folder)
            if scene not in _FRESH:
                site.write({name: about + prompt for name, prompt in _SAVED.items()})
                _in_peace(Child(one_run, site))
        elif scene in _FRESH:
            site = Site(folder, folder.with_suffix(".service.jsonl"))
        else:
            site = self._saved.moved_to(folder)
        site.write({name: about + prompt for name, prompt in SCENES[scene](site).items()})
        return site, about


def chain(ground: Ground, seed: int) -> Chain:
    """Kill one to three runs of one site, then run once more in peace and judge."""
    rng = Random(seed)
    scene = list(SCENES)[seed % len(SCENES)]
    site, about = ground.site(scene, seed)
    words = _COMMANDS[scene](site) if scene in _COMMANDS else None
    kills = 0

    def child(at: KillAt | None = None) -> Child:
        return Child(one_run, site, at) if words is None else Child(one_command, site, words, at)

    first = seed // len(SCENES) + 1 if seed < WALK else None
    for level in range(rng.choice((1, 2, 2, 3))):
        at = KillAt(first or 1 + int(200 * rng.random() ** 2), half=rng.random() < 0.3)
        if level == 0 and first is None and rng.random() < 0.3:
            killed = _killed_by_the_clock(child(), rng)
        else:
            killed = child(at).end().killed
        kills += killed
        if level == 0 and first is not None and not killed:
            shutil.rmtree(site.folder)
            return Chain(0, [], walked=True)
        first = None
    mended = child().end() if words is not None else None
    ended = Child(one_run, site).end()
    verdict = judge(site, about)
    problems = list(verdict.problems)
    if mended is not None and mended.code not in ({0, 2} if scene == "resolve" else {0}):  # 2: it is settled
        problems.append(f"{scene}, given once more, exited {mended.code}: {mended.said[-1500:]}")
    if scene in {"resolve", "verify"} and ended.code != 0:
        problems.append(f"after {scene} the run exited {ended.code}: {ended.said[-1500:]}")
    if ended.code not in {0, 1} or (ended.code == 1) != bool(verdict.held):
        problems.append(f"the last run exited {ended.code}, with {verdict.held} tasks held: {ended.said[-1500:]}")
    if scene == "standing" and sum(p.read_bytes() == PERSONS for p in _files(site)) < 2:
        problems.append("a person's file is gone")
    if not problems:
        shutil.rmtree(site.folder)
    return Chain(kills, [f"{scene}: {problem}" for problem in problems], verdict.jobs, verdict.held)


def _killed_by_the_clock(child: Child, rng: Random) -> bool:
    child.wait(rng.uniform(0.01, 0.2))
    child.kill()
    return child.end().killed


def _files(site: Site) -> list[Path]:
    return [path for path in site.output.rglob("*") if path.is_file()]


class Counts:
    """Which chain comes next, and the sum of all; two threads ask."""

    def __init__(self, target: int, seed: int | None, walk: bool) -> None:
        self.totals: Counter[str] = Counter()
        self.failures: list[str] = []
        self._target = target
        self._seeds = iter([seed] if seed is not None else [])
        self._only = seed is not None
        self._walking = set(range(len(SCENES))) if walk else set()
        self._next = 0
        self._random = WALK
        self._lock = Lock()

    def next(self) -> int | None:
        """Give a seed: the walk first, then lots until there were enough kills; None at the end."""
        with self._lock:
            if self._only:
                return next(self._seeds, None)
            while self._walking:
                seed, self._next = self._next, self._next + 1
                if seed % len(SCENES) in self._walking:
                    return seed
            if self.totals["kills"] >= self._target or len(self.failures) >= 20:
                return None
            self._random += 1
            return self._random

    def take(self, seed: int, done: Chain) -> None:
        """Add up."""
        with self._lock:
            if done.walked:
                self._walking.discard(seed % len(SCENES))
                return
            self.totals.update(kills=done.kills, chains=1, jobs=done.jobs, held=done.held, walked=seed < WALK)
            again = f"python -m torture kills --seed {seed}"
            self.failures += [f"{problem}   again: {again}" for problem in done.problems]


def run(params: Params) -> Figure:
    """Walk through the operations of every scene, then draw lots, until there were enough kills."""
    counts = Counts(params.scale(FULL, SHORT), params.seed, walk=not params.short)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsbatch-kills-")))
        memory = folder / "server.jsonl"
        ground = Ground(folder, stack.enter_context(server(memory)), memory)

        def work() -> None:
            while (seed := counts.next()) is not None:
                counts.take(seed, chain(ground, seed))

        with ThreadPoolExecutor(2) as pool:
            for worker in [pool.submit(work) for _ in range(2)]:
                worker.result()
    totals, failures = counts.totals, counts.failures
    if params.seed is None and totals["kills"] < params.scale(FULL, SHORT) and not failures:
        failures.append(f"only {totals['kills']} kills")
    text = (
        f"{totals['kills']:,} kills in {totals['chains']:,} chains ({totals['walked']:,} of them walk through the "
        f"operations of {len(SCENES)} scenes), {totals['jobs']:,} jobs, {totals['held']:,} tasks held, "
        f"{len(failures)} problems"
    )
    return Figure(text, GOAL, failures)
