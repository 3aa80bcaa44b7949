"""How near a run comes to the best there is, in virtual time; every side meets the same tasks and durations.

`benchmarks.makespan` confirms the comparison with the script in real time, against the simulator as a process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from benchmarks.plot import Series, slots_in_use
from benchmarks.rows import Figure, brief
from benchmarks.sweep import Sweep
from benchmarks.virtual import (
    BIMODAL,
    LOGNORMAL,
    Case,
    KnownCeiling,
    Mixture,
    Outcome,
    Race,
    delay_times_queries,
    lognormal,
    oracle_seconds,
    run_script,
    told,
    waiting_seconds,
)
from benchmarks.virtual import (
    run as run_case,
)
from rsbatch.model import Limits

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "slots.svg"
UNKNOWN = Limits(in_flight=64)
"""What a user sets who does not know the ceiling."""
QUOTA = 20
"""Submissions a minute of a small account: fewer than 32 slots could take."""
MEAN = 48.0
"""Seconds that a job of LOGNORMAL takes on average."""


def run(quick: bool) -> list[Figure]:
    """All figures of scheduling; on two cores, as nothing here depends on how fast it is worked out."""
    pieces: list[Callable[[bool], list[Figure]]]
    pieces = [_queueing, _asking, _ceilings, _confirmed, _told_the_ceiling, _doubling, _by_chance]
    with ProcessPoolExecutor(2) as pool:
        works = [pool.submit(piece, quick) for piece in pieces]
        return [figure for work in works for figure in work.result()]


def _queueing(quick: bool) -> list[Figure]:
    figures = []
    for slots in (8, 32):
        cases = [Case(100 if quick else 500, slots, queueing=True, seed=seed) for seed in range(1 if quick else 3)]
        done = [run_case(case, UNKNOWN) for case in cases]
        best = [oracle_seconds(case, UNKNOWN.submits_per_second) for case in cases]
        name = f"makespan ÷ the oracle's, service that queues, ceiling {slots}"
        note = f"seconds: {brief(done[0].seconds)} and {brief(best[0])}; in_flight 64, the ceiling unknown to us"
        figures += [
            Figure(name, 1.01, [ours.seconds / oracle for ours, oracle in zip(done, best, strict=True)], note=note),
            Figure(f"queries a task, ceiling {slots}", 6.0, [ours.queries for ours in done]),
        ]
    return figures


def _asking(quick: bool) -> list[Figure]:
    def measure(mixture: Mixture, goal: float) -> Figure:
        cases = [
            Case(100 if quick else 500, 8, False, mixture, latency=0.0, download=0.0, seed=seed)
            for seed in range(1 if quick else 3)
        ]
        done = [run_case(case, Limits(in_flight=8)) for case in cases]
        bound = delay_times_queries(mixture)
        note = f"{brief(done[0].delay)} s × {brief(done[0].queries)}, bound {brief(bound)} s; cold start included"
        return Figure(
            f"delay × queries ÷ the theoretical bound, service that refuses, {mixture.name}",
            goal,
            [ours.delay * ours.queries / bound for ours in done],
            note=note,
        )

    return [measure(LOGNORMAL, 1.25), measure(BIMODAL, 1.5)]


def _changing(count: int, slots: int, factor: float, seed: int, *, queueing: bool = False) -> Case:
    when = count * MEAN / slots * (0.3 + 0.08 * seed)  # not always at the same moment between two probes
    changes = () if factor == 1 else ((when, round(slots * factor)),)
    return Case(count, slots, queueing, changes=changes, seed=seed)


def _ceilings(quick: bool) -> list[Figure]:
    """Slots used: seconds that jobs ran ÷ seconds that slots were there, from the start to the end of the last job.

    The oracle is the same client with the same query times, told the ceiling at every moment.
    """
    count, figures = 400 if quick else 4000, []
    for label, slots, factor in (
        ("ceiling 8", 8, 1.0),
        ("ceiling 32", 32, 1.0),
        ("8, then 16", 8, 2.0),
        ("16, then 8", 16, 0.5),
        ("32, then 16", 32, 0.5),
        ("16, then 32", 16, 2.0),
    ):
        cases = [_changing(count, slots, factor, seed) for seed in range(1 if quick else 3)]
        done = [Sweep(case, UNKNOWN) for case in cases]
        told = [_told(case) for case in cases]
        note = f"{count} tasks; used: {brief(done[0].used)} and {brief(told[0].used)}"
        figures += [
            Figure(
                f"slots used ÷ those of an oracle that is told, {label}",
                0.99,
                [a.used / b.used for a, b in zip(done, told, strict=True)],
                at_least=True,
                note=note,
            ),
            Figure(f"429s per accepted submission, {label}", 0.03, [ours.refused / count for ours in done]),
        ]
    return figures


def _told(case: Case) -> Sweep:
    """Let the oracle run: its limit reads the clock of the sweep it is in."""
    moment = [0.0]

    class Told(Sweep):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "now":
                moment[0] = self.now

    return Told(case, UNKNOWN, KnownCeiling(lambda: case.slots_at(moment[0])))


def _confirmed(quick: bool) -> list[Figure]:
    """One of the cases again with the whole runner, and one where the service queues."""
    import trio

    figures = []
    for queueing in (False, True):
        case = _changing(150 if quick else 1000, 16, 0.5, 1, queueing=queueing)
        ours = run_case(case, UNKNOWN)
        told = run_case(case, UNKNOWN, in_flight=KnownCeiling(lambda case=case: case.slots_at(trio.current_time())))
        kind = "queues" if queueing else "refuses"
        name = f"slots used ÷ those of an oracle that is told, whole runner, service that {kind}, 16, then 8"
        note = f"429s per accepted submission: {brief(ours.refused)}"
        figures.append(Figure(name, 0.99, [ours.used / told.used], at_least=True, note=note))
    return figures


def _told_the_ceiling(quick: bool) -> list[Figure]:
    """The service's jobs take 30 to 180 s: the shorter they are, the more the script's 3 seconds cost it.

    The best that is to be had is for a client that submits once it was told of an end: one that submits on suspicion
    comes nearer to the oracle, for dozens of 429s a task where the rows above allow 0.03.
    """
    figures, limits = [], Limits(in_flight=8)
    for seconds in (30.0, 45.0, 90.0):
        seeds = range(1 if quick else 3)
        cases = [Case(100 if quick else 500, 8, False, lognormal(seconds), seed=seed) for seed in seeds]
        ours = [run_case(case, limits) for case in cases]
        theirs = [run_script(case, 8) for case in cases]
        best = [oracle_seconds(case, limits.submits_per_second) for case in cases]
        races = [Race(a.seconds, b.seconds, c) for a, b, c in zip(ours, theirs, best, strict=True)]
        waiting = [waiting_seconds(case, limits) / b.seconds for case, b in zip(cases, theirs, strict=True)]
        oracle = brief(median(race.limit for race in races))
        name = f"makespan ÷ the usual script's, both told the ceiling of 8, {seconds:g} s at the median"
        note = (
            f"that is for who submits once told of an end, an oracle has {oracle}; {told(races)}; {_both(ours, theirs)}"
        )
        figures.append(Figure(name, 0.95, [race.ratio for race in races], note=note, limit=waiting))
        if seconds == 45.0:
            delays = [a.delay / b.delay for a, b in zip(ours, theirs, strict=True)]
            used = [outcome.used for outcome in ours]
            figures += [
                Figure("delay in noticing an end, seconds, ÷ the script's", 0.95, delays),
                Figure("share of the slot-seconds used, both told the ceiling of 8", 0.9, used, at_least=True),
            ]
    return figures


def _doubling(quick: bool) -> list[Figure]:
    case = _changing(100 if quick else 500, 16, 2.0, 0)
    free, fixed = run_case(case, UNKNOWN), run_script(case, 16)
    if not quick:
        lines = [
            Series("slots there", [], steps=[(0.0, 16), *case.changes]),
            Series("rsbatch, in_flight 64", free.spans),
            Series("script, 16 at a time", fixed.spans),
        ]
        PICTURE.write_text(slots_in_use(lines), encoding="utf-8")
    name = "makespan ÷ the usual script's, ceiling 16 that doubles, unknown to us, the script told 16"
    return [Figure(name, 0.95, [free.seconds / fixed.seconds], note=_both([free], [fixed]))]


def _by_chance(quick: bool) -> list[Figure]:
    """Refusals that no ceiling is the reason of: where they come by chance, and where submissions are of a quota."""
    count, seeds = (60, 1) if quick else (300, 9)  # one case takes 1.1, another 1.4 of the time
    figures = []
    for slots in (8, 32):
        plain = [Case(count, slots, queueing=False, seed=seed) for seed in range(seeds)]
        best = [run_case(case, UNKNOWN) for case in plain]
        done = [run_case(replace(case, chance=0.1), UNKNOWN) for case in plain]
        ratios = [ours.seconds / without.seconds for ours, without in zip(done, best, strict=True)]
        note = f"seconds: {brief(done[0].seconds)} and {brief(best[0].seconds)}"
        name = f"makespan where one request in ten is refused by chance ÷ where none is, ceiling {slots}"
        figures.append(Figure(name, 1.2, ratios, note=note))
    cases = [Case(count, 32, queueing=False, seed=seed, per_minute=QUOTA) for seed in range(seeds)]
    done = [run_case(case, UNKNOWN) for case in cases]
    least = (count - 1) // QUOTA * 60
    name = f"makespan on an account of {QUOTA} submissions a minute ÷ the least for the last submission"
    note = f"seconds: {brief(done[0].seconds)} and {brief(least)}, after which the last job takes its time"
    return [*figures, Figure(name, 1.2, [ours.seconds / least for ours in done], note=note)]


def _both(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> str:
    """Say what both sides took, as means."""

    def pair(name: str) -> str:
        return " and ".join(brief(fmean(getattr(outcome, name) for outcome in side)) for side in (ours, theirs))

    return f"seconds: {pair('seconds')}; queries a task: {pair('queries')}; 429s a task: {pair('refused')}"
