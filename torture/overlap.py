"""Row 8: overlapping processes on one manifest and one ledger: nothing is submitted twice.

Rule: in a round four processes start within a fifth of a second, runs and other commands, and some are killed; the
lock, the files and the HTTP are real, and the server's journal is the judge. Whoever finds the ledger locked exits 75,
and 4 is right only while the ledger is damaged, which some rounds begin with. A person settles held tasks between
and during rounds by what the provider's records (the journal) say, as `resolve` is meant.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rsbatch.errors import StoreError
from rsbatch.ledger.local import NAME, read_ledger
from rsbatch.ledger.state import LedgerState
from rsbatch.lifecycle import State
from torture.real import Child, Ended, Site, judge, ledger_problems, one_command, one_run, server
from torture.rows import Figure, Params

FULL, SHORT = 200, 6
GOAL = f"{FULL} rounds of 4 overlapping processes, 0 double submissions"
PROCESSES = 4
ROUNDS_A_SITE = 5
TASKS_A_ROUND = 5
_WITHIN = 0.2
"""Seconds in which a round's processes start: about how long one of its runs takes."""
_WORDS = {
    "repair": ("repair", "manifest.yaml"),
    "status": ("status", "manifest.yaml", "--json"),
    "verify": ("verify", "manifest.yaml", "--json"),
    "fix": ("verify", "manifest.yaml", "--fix"),
}
_RIGHT = {
    "run": {0, 1, 75},
    "repair": {0, 75},
    "status": {0},
    "verify": {0, 1, 2},  # 2: the first run has not made the ledger yet
    "fix": {0, 1, 2, 75},
    "resolve": {0, 2, 75},  # 2: another has settled it meanwhile
}


@dataclass
class Found:
    """What the rounds of one or more sites found."""

    problems: list[str] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)


class Player:
    """One process of a round."""

    def __init__(self, site: Site, rng: Random, name: str, words: tuple[str, ...] = ()) -> None:
        self.name = name
        self.at = rng.uniform(0, _WITHIN)
        self._kill_after = rng.uniform(0.02, 0.25) if name == "run" and rng.random() < 0.35 else None
        self._site = site
        self._words = words
        self._child: Child | None = None

    def start(self) -> None:
        self._child = Child(one_command, self._site, self._words) if self._words else Child(one_run, self._site)

    def end(self) -> Ended:
        assert self._child is not None
        if self._kill_after is not None and not self._child.wait(self._kill_after):
            self._child.kill()
        return self._child.end()


def rounds(seed: int, folder: Path, url: str, memory: Path, count: int) -> Found:
    """Play `count` rounds on one site, then one quiet run, and judge it."""
    rng, found = Random(seed), Found()
    site = Site(folder / f"seed-{seed}", memory, url)
    about = f"seed {seed} "
    for number in range(1, count + 1):
        site.write({f"task-{n}": f"{about}picture {n}" for n in range(number * TASKS_A_ROUND)})
        damaged = number > 1 and rng.random() < 0.2 and _damage(site, rng)
        _play(site, about, rng, found, damaged)
        if damaged:
            ended = Child(one_command, site, _WORDS["repair"]).end()
            if ended.code != 0:
                found.problems.append(f"repair after the round exited {ended.code}: {ended.said[-800:]}")
        found.totals["rounds"] += 1
        if found.problems:
            return found
    _settle_all(site, about, found)
    ended = Child(one_run, site).end()
    verdict = judge(site, about)
    found.problems += verdict.problems
    if ended.code != 0:
        found.problems.append(f"the last run exited {ended.code}, {verdict.held} held: {ended.said[-800:]}")
    found.totals.update(jobs=verdict.jobs)
    return found


def _play(site: Site, about: str, rng: Random, found: Found, damaged: bool) -> None:
    players = [Player(site, rng, "run"), Player(site, rng, "run")]
    for _ in range(PROCESSES - len(players) - damaged):
        name = rng.choice(("run", "run", "repair", "status", "verify", "fix", "resolve"))
        words = _WORDS.get(name, ()) if name != "resolve" else _settling(site, about, rng)
        players.append(Player(site, rng, name if words or name == "run" else "run", words))
    if damaged:
        players.append(Player(site, rng, "repair", _WORDS["repair"]))
    begin = time.monotonic()
    for player in sorted(players, key=lambda p: p.at):
        time.sleep(max(0.0, begin + player.at - time.monotonic()))
        player.start()
    endings = [(player.name, player.end()) for player in players]
    for name, ended in endings:
        if ended.killed:
            found.totals["killed"] += 1
            continue
        found.totals[f"exit {ended.code}"] += 1
        right = _RIGHT[name] | ({4} if damaged else set())
        if ended.code not in right:
            found.problems.append(f"{name} exited {ended.code}: {ended.said[-800:]}")
    found.totals["contended"] += any(ended.code == 75 for _, ended in endings)
    if not damaged:
        found.problems += _at_rest(site, about)


def _at_rest(site: Site, about: str) -> list[str]:
    """Say what is wrong between two rounds; a tail that a kill tore off is as it should be."""
    problems = [p for p in ledger_problems(site) if "torn tail" not in p] if (site.output / NAME).exists() else []
    paid = Counter(job["brief"]["prompt"] for job in site.jobs(about))
    return problems + [f"paid {times} times: {prompt}" for prompt, times in paid.items() if times > 1]


def _damage(site: Site, rng: Random) -> bool:
    """Flip a bit in the middle of the ledger, or lose the ledger where sidecars are left to rebuild it from."""
    path = site.output / NAME
    if not path.exists():
        return False
    if rng.random() < 0.3 and list(site.output.glob("*.png.json")):
        path.unlink()
        return True
    data = bytearray(path.read_bytes())
    if data.count(b"\n") < 4:
        return False
    data[rng.randrange(len(data) * 3 // 4)] ^= 1 << rng.randrange(7)
    path.write_bytes(data)
    return True


# the person


def _held(site: Site) -> list[tuple[str, str]]:
    """Tasks in doubt, with their keys; none where the ledger cannot be read."""
    try:
        state: LedgerState = read_ledger(site.output)
    except StoreError:
        return []
    return [(h.task, h.key) for h in state.histories() if h.state in {State.HELD, State.SUBMITTING}]


def _settling(site: Site, about: str, rng: Random) -> tuple[str, ...]:
    """Give the words that settle one of the held tasks, none where nothing is held."""
    held = _held(site)
    return _answer(site, about, rng.choice(held)[0]) if held else ()


def _answer(site: Site, about: str, task: str) -> tuple[str, ...]:
    """Look a task up in the provider's records: it has a job, or was never sent."""
    time.sleep(0.05)  # what a killed run had sent has arrived
    prompt = f"{about}picture {task.removeprefix('task-')}"
    job = next((job["job_id"] for job in site.jobs(about) if job["brief"]["prompt"] == prompt), None)
    return ("resolve", "manifest.yaml", task, *(("--attach", job) if job else ("--not-sent",)))


def _settle_all(site: Site, about: str, found: Found) -> None:
    """Settle all that is held, as a person would before the last run."""
    Child(one_run, site).end()
    for task, _ in _held(site):
        words = _answer(site, about, task)
        ended = Child(one_command, site, words).end()
        found.totals["settled"] += 1
        if ended.code != 0:
            found.problems.append(f"{' '.join(words)} exited {ended.code}: {ended.said[-800:]}")


def run(params: Params) -> Figure:
    """Play all rounds, some on each of many sites."""
    total = Found()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsbatch-overlap-")))
        memory = folder / "server.jsonl"
        url = stack.enter_context(server(memory))
        target, seed = params.scale(FULL, SHORT), params.seed or 1
        while total.totals["rounds"] < target and len(total.problems) < 20:
            found = rounds(seed, folder, url, memory, min(ROUNDS_A_SITE, target - total.totals["rounds"]))
            total.totals += found.totals
            again = f"   again: python -m torture overlap --seed {seed}"
            total.problems += [problem + again for problem in found.problems]
            if params.seed is not None:
                break
            seed += 1
    totals = total.totals
    if params.seed is None and not total.problems and totals["contended"] * 2 < totals["rounds"]:
        total.problems.append(f"only in {totals['contended']} rounds did one find the lock taken: they hardly overlap")
    doubles = sum("paid" in problem for problem in total.problems)
    codes = ", ".join(f"{n} {name}" for name, n in sorted(totals.items()) if name.startswith("exit"))
    text = (
        f"{totals['rounds']} rounds, {doubles} double submissions, {len(total.problems)} problems; {totals['jobs']} "
        f"jobs, {totals['contended']} rounds in which one found the lock taken, {totals['killed']} killed; {codes}"
    )
    return Figure(text, GOAL, total.problems)
