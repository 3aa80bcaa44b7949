"""Row 1: crash states of the file system, and broken protocols that the same checks must catch.

A seed is a small manifest, a service and a disk. Its first run is crashed at every change of the disk and at every
answer, in four ways: `kill` (the page cache survives), `power` (any subset of what is not synced), `flipped` (the
same, and the unsynced bytes garbled); a kill with a power cut in the recovery is `mixed`. Each state is recovered by
a quiet run, which is crashed again at moments drawn by lot, down to three crashes. A state is counted once: by the
hash of all that a process, or a later power cut, could see of it, and its depth. `rot` (a durable byte of the ledger
goes bad) is tried now and then as well, and counted apart: no crash does that.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePosixPath
from random import Random

from rsbatch.errors import LedgerDamaged, RsbatchError
from rsbatch.ledger.replay import replay
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.model import Task
from rsbatch.simulator import Settings
from torture import site
from torture.disk import FakeFileSystem, Fault, File
from torture.protocols import BROKEN
from torture.rows import Figure, Params
from torture.site import LEDGER, OUT, Outcome, Place, Protocol, Watch, recover, task

MODES = ("kill", "power", "power", "flipped", "rot")
DEEPEST = 3
CHILDREN = {1: 2, 2: 1}
"""How many crashes are tried in the recovery from a state of each depth."""
PER_SEED = 30
"""States of one seed in which a broken protocol may give itself away, before another one is tried."""
PNG = b"\x89PNG"
A_PERSONS = PNG + b" of a person, not of ours"


@dataclass
class Snapshot:
    """An instant of a run: what outlives a crash, and the write that was going on."""

    place: Place
    writing: tuple[int, int, bytes] | None
    where: str


class Inspector(Watch):
    """Checks "acted on, so durable" as it happens, and keeps instants to crash at: all, or `some` drawn by lot."""

    def __init__(self, work: Sequence[Task], rng: Random, some: int | None) -> None:
        self.violations: list[str] = []
        self.instants: list[Snapshot] = []
        self._keys = {str(t.body["prompt"]): t.key.encode() for t in work}
        self._rng = rng
        self._some = some
        self._seen = 0
        self._place = Place.__new__(Place)
        self._fs = FakeFileSystem.__new__(FakeFileSystem)

    def begin(self, place: Place, fs: FakeFileSystem) -> None:
        self._place, self._fs = place, fs

    def changing(self, kind: str) -> None:
        words = kind.split(" ")
        if words[0] in {"link", "rename"}:
            self._naming(int(words[1]), PurePosixPath(words[2]).name)
        self.instant(words[0])

    def instant(self, kind: str) -> None:
        self._seen += 1
        if self._some is None or len(self.instants) < self._some:
            self.instants.append(self._snapshot(kind))
        elif (at := self._rng.randrange(self._seen)) < self._some:
            self.instants[at] = self._snapshot(kind)

    def _snapshot(self, kind: str) -> Snapshot:
        return Snapshot(self._place.copy(), self._fs.writing, f"{self._seen} ({kind})")

    def _durable(self, kind: str, *also: bytes) -> int:
        """How many records of a kind that have these bytes are certain to survive a power cut now."""
        lines = self._place.disk.durable_bytes(LEDGER).split(b"\n")[:-1]
        mark = f'"type":"{kind}"'.encode()
        return sum(mark in line and all(text in line for text in also) for line in lines)

    def submitting(self, prompt: str) -> None:
        if self._durable("submitting", self._keys[prompt]) <= self._place.sent[prompt]:
            self.violations.append(f"a submission of {prompt} left, and its intent was not durable")

    def querying(self, job_id: str) -> None:
        text = f'"job_id":"{job_id}"'.encode()
        if not self._durable("submitted", text) + self._durable("resolved", text):
            self.violations.append(f"{job_id} was asked for, and its id was not durable")

    def _naming(self, number: int, name: str) -> None:
        """An image is about to get a name."""
        file = self._place.disk.inodes[number]
        if not isinstance(file, File) or not file.data.startswith(PNG) or file.data == A_PERSONS:
            return
        if file.log or file.synced != file.data:
            self.violations.append(f"{name} got its name before its bytes were durable")
        if not self._durable("downloaded", hashlib.sha256(file.data).hexdigest().encode()):
            self.violations.append(f"{name} got its name before its `downloaded` was durable")
        elsewhere = [p for p, f in _images(self._place).items() if f is file]
        if elsewhere and not self._durable("moved", f'{name}"'.encode()):
            self.violations.append(f"{name} was moved before its `moved` was durable")


def _images(place: Place) -> dict[str, File]:
    files = place.disk.files()
    return {
        str(PurePosixPath(path).relative_to(OUT)): file
        for path, file in files.items()
        if path.startswith(f"{OUT}/") and "/.parts/" not in path and file.data.startswith(PNG)
    }


def read(place: Place) -> LedgerState | None:
    """Fold the ledger as a reader sees it; None if it is damaged."""
    file = place.disk.files().get(LEDGER)
    try:
        return replay(io.BytesIO(file.data if file else b""), LEDGER).state
    except LedgerDamaged:
        return None


def _missing(place: Place, state: LedgerState, *, anywhere: bool = False) -> Iterator[str]:
    """Say which saved images are not in their place, nor where a move that was recorded takes them from.

    `anywhere` is for ledgers that lost records for good: a `moved` may be among them, and the image is still kept.
    """
    images = _images(place)
    for history in state.histories():
        for saved in history.files if history.state is State.SAVED else ():
            places = list(images) if anywhere else [saved.path, *(source for source, _ in history.moves)]
            found = {hashlib.sha256(images[p].data).hexdigest() for p in places if p in images}
            if saved.sha256 not in found:
                yield f"{history.task} is saved, and the bytes of {saved.path} are not there"


@dataclass
class Before:
    """What is known of a crash state before its recovery."""

    state: LedgerState | None
    precious: set[str]

    @classmethod
    def of(cls, place: Place) -> Before:
        state = read(place)
        images = {hashlib.sha256(f.data).hexdigest() for f in _images(place).values()}
        saved = {f.sha256 for h in state.histories() for f in h.files if h.state is State.SAVED} if state else set()
        return cls(state, images & saved | images & {hashlib.sha256(A_PERSONS).hexdigest()})

    def may_hold(self, key: str) -> bool:
        if self.state is None:
            return True
        return any(h.state in {State.SUBMITTING, State.HELD} for h in self.state.of_key(key))

    def knows(self, job_id: str) -> bool:
        return self.state is not None and self.state.of_job(job_id) is not None


def judge(
    before: Before, place: Place, work: Sequence[Task], outcome: Outcome, *, rotten: bool = False
) -> Iterator[str]:
    """Say what is wrong after a recovery."""
    if outcome.raised is not None or outcome.code not in {0, 1}:
        yield f"the recovery ended with {outcome.code}: {outcome.raised or outcome.notes}"
        return
    if outcome.fs.open_files:
        yield f"{outcome.fs.open_files} files were left open"
    state = read(place)
    if state is None:
        yield "the ledger is not valid after the recovery"
        return
    yield from _money(before, place, state)
    yield from _missing(place, state, anywhere=rotten)
    for one in work:
        states = {h.state for h in state.of_key(one.key)}
        if states == {State.HELD} and not outcome.repaired and not before.may_hold(one.key):
            yield f"{one.id} is held for no reason"
        if not states <= {State.HELD, State.SAVED} or not states:
            yield f"{one.id} ended as {states}"
    left = {hashlib.sha256(f.data).hexdigest() for f in _images(place).values()}
    if before.precious - left:
        yield "an image that was saved, or a person's file, is gone"
    yield from _not_durable(place, state)


def _money(before: Before, place: Place, state: LedgerState) -> Iterator[str]:
    for prompt, jobs in place.paid().items():
        if len(jobs) > 1:
            yield f"{prompt} was accepted {len(jobs)} times"
        for job in jobs:
            history: History | None = state.of_job(job)
            if history is not None and history.state is State.SAVED:
                continue
            held = [h for h in state.histories() if h.state is State.HELD and h.key in _keys(place, prompt)]
            if before.knows(job) or not held:
                yield f"{job} was accepted for {prompt}, and is neither saved nor held"


def _keys(place: Place, prompt: str) -> set[str]:
    return {task("x", prompt).key}


def _not_durable(place: Place, state: LedgerState) -> Iterator[str]:
    ledger = place.disk.files().get(LEDGER)
    whole = ledger.data if ledger is not None else b"gone"
    if place.disk.durable_bytes(LEDGER) != whole:
        yield "the ledger is not durable at the end of a run"
    images = _images(place)
    for history in state.histories():
        for saved in history.files if history.state is State.SAVED else ():
            if saved.path in images and place.disk.durable_bytes(f"{OUT}/{saved.path}") != images[saved.path].data:
                yield f"{saved.path} is saved and not durable"


# what is run


@dataclass
class Scenario:
    """The world of a seed: `work` is run on `place`; `fault` makes the first run's disk sick."""

    place: Place
    work: list[Task]
    fault: Fault | None


def _sick(seed: int) -> bool:
    return seed % 4 > 1


def scenario(seed: int) -> Scenario:
    """Draw a world."""
    rng = Random(seed)
    faults = {"done-several": rng.choice((0.0, 0.5)), "done-b64": rng.choice((0.0, 0.0, 0.5))}
    settings = Settings(
        service_time=rng.choice((0.5, 2.0, 5.0)), sigma=0.3, seed=seed, slots=rng.choice((1, 8)), faults=faults
    )
    place = Place(settings)
    names = [f"t{n}" for n in range(rng.randint(2, 4))]
    work = [task(name, f"{seed} picture {name}") for name in names]
    if seed % 2:  # a manifest that changed: a new prompt under an old name, a new name for an old prompt, a new task
        site.run(place, work, Protocol())
        work = [task("t0", f"{seed} another"), task("renamed", f"{seed} picture t1"), *work[2:]]
        work.append(task("more", f"{seed} more"))
    elif rng.random() < 0.5:
        _put_a_persons_file(place, "t0.png")
    fault = Fault(rng.randint(1, 40), errno.EIO, only="sync") if _sick(seed) else None
    return Scenario(place, work, fault)


def _rot(place: Place, rng: Random) -> bool:
    """Garble a durable byte of the ledger, not of its last line (that would be no other than a torn one)."""
    place.disk = place.disk.power_cut(rng)
    number, file = next(((n, f) for n, f in place.disk.inodes.items() if _is_ledger(place, f)), (0, None))
    if file is None or not isinstance(file, File) or (most := file.data[:-1].rfind(b"\n")) <= 0:
        return False
    data = bytearray(file.data)
    data[rng.randrange(most)] ^= 1 << rng.randrange(7)
    place.disk.inodes[number] = File(bytes(data), bytes(data))
    return True


def _is_ledger(place: Place, file: object) -> bool:
    return place.disk.files().get(LEDGER) is file


def _put_a_persons_file(place: Place, name: str) -> None:
    fs = FakeFileSystem(place.disk)
    for folder in (OUT.parent, OUT):
        fs.mkdir(folder)
    fd = fs.open(OUT / name, os.O_WRONLY | os.O_CREAT)
    fs.write(fd, memoryview(A_PERSONS))
    fs.sync_file(fd)
    fs.close(fd)
    for folder in (OUT, OUT.parent, OUT.parent.parent):
        fd = fs.open(folder, os.O_RDONLY)
        fs.sync_folder(fd)
        fs.close(fd)


@dataclass
class Report:
    """What was found for one seed: the states (each once), how they came about, what was wrong with them.

    `rotten` are those that no crash brings about, `repaired` how many recoveries took `rsbatch repair`.
    """

    states: set[bytes] = field(default_factory=set)
    rotten: set[bytes] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    repaired: int = 0


class Explorer:
    """Crashes one seed's run wherever it can be crashed. With `first` it ends at the first violation."""

    def __init__(self, seed: int, protocol: Protocol, *, first: bool = False, most: int | None = None) -> None:
        self.report = Report()
        self._seed = seed
        self._protocol = protocol
        self._rng = Random(seed * 7919 + 1)
        self._first = first
        self._most = most

    @property
    def _enough(self) -> bool:
        report = self.report
        return bool(self._first and report.violations) or (self._most is not None and len(report.states) >= self._most)

    def explore(self) -> Report:
        world = scenario(self._seed)
        start = world.place
        inspector = Inspector(world.work, self._rng, None)
        place = start.copy()
        before = Before.of(place)
        outcome = site.run(place, world.work, self._protocol, inspector, FakeFileSystem(place.disk, fault=world.fault))
        self._blame(inspector.violations, "the first run")
        if world.fault is None:
            self._blame(judge(before, place, world.work, outcome), "the first run")
        inspector.instants.append(Snapshot(place, None, "the end"))
        if self._first:
            self._rng.shuffle(inspector.instants)
        for instant in inspector.instants:
            for mode in MODES:
                if self._enough:
                    return self.report
                self._crash(instant, mode, world.work, 1, "")
        return self.report

    def _crash(self, instant: Snapshot, mode: str, work: list[Task], depth: int, path: str) -> None:
        place = instant.place.copy()
        if instant.writing is not None and self._rng.random() < 0.5:  # in the middle of the write
            number, at, piece = instant.writing
            place.disk.tear(number, at, piece[: self._rng.randrange(len(piece) + 1)])
        if mode == "rot":
            if depth > 1 or self._rng.random() > 0.2 or not _rot(place, self._rng):
                return
        elif mode != "kill":
            place.disk = place.disk.power_cut(self._rng, flip=mode == "flipped")
        mark = bytes([depth]) + place.digest()
        path = f"{path}{mode} at {instant.where}"
        if mark in self.report.states or mark in self.report.rotten:
            return
        (self.report.rotten if path.startswith("rot") else self.report.states).add(mark)
        mixed = "mixed" if "kill" in path and mode != "kill" else mode
        self.report.kinds["rotten" if path.startswith("rot") else f"{mixed} {depth}"] += 1
        self._recover(place, work, depth, path)

    def _recover(self, place: Place, work: list[Task], depth: int, path: str) -> None:
        before, rotten = Before.of(place), path.startswith("rot")
        if before.state is not None:
            self._blame(_missing(place, before.state, anywhere=rotten), path)
        inspector = Inspector(work, self._rng, CHILDREN.get(depth, 0))
        outcome = recover(place, work, self._protocol, inspector)
        self.report.repaired += bool(outcome.repaired)
        self._blame(inspector.violations, path)
        self._blame(judge(before, place, work, outcome, rotten=rotten), path)
        for instant in inspector.instants:
            if depth < DEEPEST and not self._enough:
                self._crash(instant, self._rng.choice(MODES), work, depth + 1, f"{path}, ")

    def _blame(self, found: Sequence[str] | Iterator[str], path: str) -> None:
        self.report.violations += [f"{what} [{self._protocol.name}, seed {self._seed}: {path}]" for what in found]


def catch(protocol: Protocol, seeds: Sequence[int], most: int) -> tuple[str, int]:
    """Look for a state that gives a broken protocol away: what was found ("" if nothing), after how many states."""
    tried = 0
    for seed in seeds:
        if protocol.sick and not _sick(seed):
            continue
        try:
            report = Explorer(seed, protocol, first=True, most=PER_SEED).explore()
        except (RsbatchError, AssertionError) as exc:
            return f"it breaks down: {exc!r}", tried
        tried += len(report.states)
        if report.violations:
            return report.violations[0], tried
        if tried >= most:
            break
    return "", tried


def _explore(seed: int) -> Report:
    return Explorer(seed, Protocol()).explore()


def _catch(number: int, most: int) -> tuple[str, int]:
    return catch(BROKEN[number], range(1000), most)


def run(params: Params) -> Figure:
    """Explore until the goal is reached; catch every broken protocol."""
    goal = params.scale(100_000, 1_500)
    if params.seed is not None:
        report = _explore(params.seed)
        return _figure(goal, len(report.states), report.kinds, report.repaired, report.violations, "")
    states: set[bytes] = set()
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    repaired = 0
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        caught = [pool.submit(_catch, number, params.scale(20_000, 2_000)) for number in range(len(BROKEN))]
        seeds = count()
        while len(states) < goal and len(failures) < 20:
            for report in pool.map(_explore, [next(seeds) for _ in range(os.cpu_count() or 1)]):
                states |= report.states
                kinds += report.kinds
                repaired += report.repaired
                failures += report.violations
        told = []
        for protocol, future in zip(BROKEN, caught, strict=True):
            found, tried = future.result()
            told.append(f"    {protocol.name}: {found or 'NOT CAUGHT'} ({tried} states)")
            if not found:
                failures.append(f"the broken protocol {protocol.name!r} was not caught in {tried} states")
    print("\n".join(told))
    return _figure(goal, len(states), kinds, repaired, failures, f", {len(BROKEN)} broken protocols")


def _figure(goal: int, states: int, kinds: Counter[str], repaired: int, failures: list[str], more: str) -> Figure:
    by = ", ".join(f"{kind}: {number:,}" for kind, number in sorted(kinds.items()))
    text = f"{states:,} crash states ({by}; {repaired:,} by repair), {len(failures)} violations{more}"
    replays = [f"{f} — python -m torture crashes --seed {f.rpartition('seed ')[2].partition(':')[0]}" for f in failures]
    return Figure(text, f"{goal:,} states, 0 violations, every broken protocol caught", replays)
