"""New samples of images that a person rejected.

Rule: pure. A new sample is a task like any other, with the same request and a sample number that no manifest can
reach: `REDO_STEP` more than that of the sample it stands for, twice that for the second, and so on. So its key depends
on nothing but the task and how often it was rejected; neither more `samples` nor another order of rejecting changes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from rsbatch.identity import task_key
from rsbatch.model import EXT, Task
from rsbatch.planning import Matcher

REDO_STEP: Final = 10_000
"""The most `samples` that an entry can have."""


def sample_of(sample: int, number: int) -> int:
    """Give the number of the `number`-th (1-based) new sample for `sample`."""
    return sample + REDO_STEP * number


def again(task: Task, number: int, body: Mapping[str, Any], usd: Decimal | None) -> Task:
    """Make the `number`-th (1-based) new sample of `task`: `cat-r2` for `cat`, then `cat-r3`.

    Raises ValueError as `task_key` does.
    """
    suffix = f"-r{number + 1}"
    sample = sample_of(task.sample, number)
    folder, slash, name = task.path.rpartition("/")
    stem, dot, extension = name.rpartition(".") if f".{EXT}" in name else (name, "", "")
    path = f"{folder}{slash}{stem}{suffix}{dot}{extension}"
    return replace(task, id=task.id + suffix, key=task_key(body, sample), sample=sample, body=body, path=path, usd=usd)


@dataclass(frozen=True, slots=True)
class Reject:
    """A rejected image, by the task it is of and the SHA-256 of its bytes."""

    task: str
    key: str
    sha256: str


def read_rejects(data: bytes) -> list[Reject]:
    """Read what the report's page writes. Raises ValueError with a clause."""
    try:
        value = json.loads(data)
        found = value["rejected"]
        if value["rejects"] != 1 or not isinstance(found, list):
            raise ValueError
        rejects = [Reject(*(one[name] for name in ("task", "key", "sha256"))) for one in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("is not a list of rejected images as the report's page writes it") from None
    if not all(isinstance(text, str) for one in rejects for text in (one.task, one.key, one.sha256)):
        raise ValueError("has an entry in it whose task, key or sha256 is not text")
    return rejects


@dataclass(slots=True)
class Verdict:
    """What is to be done about rejected images.

    `new` are histories (id and key, as the ledger has them) of which one more sample is to be had, each with how many
    it will have had then; `redos` are the same by the manifest's ids. `asked` are the ids of all new samples, those
    that were asked for before too. `left` says of each other image why nothing is done. `doubtful` are the ids of new
    samples that may have been bought before, by records that a repair did not find.
    """

    new: list[tuple[str, str, int]] = field(default_factory=list)
    redos: dict[tuple[str, str], int] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)


def judge(
    tasks: Iterable[Task], matcher: Matcher, rejects: Iterable[Reject], repaired_at: float | None = None
) -> Verdict:
    """Decide which new samples are wanted; `tasks` are in the manifest's order, each followed by its new samples.

    An image in whose place another was asked for already gets no second one: the same rejects twice are one purchase.
    `repaired_at` is that of the ledger's state: an image from before may have been rejected before, too.
    """
    verdict = Verdict()
    wanted = {(one.task, one.key): one for one in rejects}
    for chain in _chains(tasks):
        base = matcher.of(chain[0])
        for number, task in enumerate(chain, 1):
            reject = wanted.pop((task.id, task.key), None)
            if reject is None:
                continue
            history = matcher.of(task)
            files = history.files if history is not None else ()
            if base is None or reject.sha256 not in {file.sha256 for file in files}:
                verdict.left.append(f"{task.id}: its image is not the one that was rejected")
                continue
            verdict.asked.add(f"{chain[0].id}-r{number + 1}")
            if number == len(chain):
                verdict.new.append((base.task, base.key, number))
                verdict.redos[chain[0].id, chain[0].key] = number
                if repaired_at is not None and history is not None and history.submitted_at <= repaired_at:
                    verdict.doubtful.add(f"{chain[0].id}-r{number + 1}")
    verdict.left += [f"{task}: the manifest has no such task, or asks for another image" for task, _ in wanted]
    return verdict


def _chains(tasks: Iterable[Task]) -> Iterator[Sequence[Task]]:
    """Gather each task with its new samples."""
    chain: list[Task] = []
    for task in tasks:
        if chain and task.sample <= REDO_STEP:
            yield chain
            chain = []
        chain.append(task)
    if chain:
        yield chain
