"""One full pass over a manifest's tasks: counts them, and finds what only shows between tasks.

Rule: a million tasks cost 14 MB: ids, paths and keys are held as digests. Only if digests repeat does a second pass
fetch the names and places of those tasks.
"""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rsbatch.errors import ManifestError, Problem
from rsbatch.identity import path_fold
from rsbatch.manifest.expand import Entry, Manifest
from rsbatch.manifest.faults import Place
from rsbatch.model import Task

SHOWN_PROBLEMS: Final = 100
_SHOWN_TWINS: Final = 3
_SHOWN_GROUPS: Final = 10
_SHOWN_IDS: Final = 5
_BITS: Final = 44
"""Of a digest: among a million different texts two share one by chance in 3% of cases: a second pass, no more."""
_LOW: Final = 2**32 - 1
_MOST_TWINS: Final = 1000


@dataclass(frozen=True, slots=True)
class Checked:
    """What a full pass found: how many tasks there are, and equal requests under different ids.

    `same_key_groups` are the ids of tasks with one key, the first few groups and ids.
    """

    total: int
    same_key_groups: tuple[tuple[str, ...], ...]


class _Digests:
    """Many numbers of `_BITS` bits, of which the repeated ones are wanted; four bytes each, the rest is the bucket."""

    def __init__(self) -> None:
        self.buckets = [array("I") for _ in range(2**_BITS >> 32)]

    def add(self, digest: int) -> None:
        self.buckets[digest >> 32].append(digest & _LOW)

    def repeated(self) -> set[int]:
        """Give repeated numbers, at most `_MOST_TWINS`."""
        found: set[int] = set()
        while self.buckets:
            ordered = sorted(self.buckets.pop())
            for left, right in itertools.pairwise(ordered):
                if left == right and len(found) < _MOST_TWINS:
                    found.add(len(self.buckets) << 32 | left)
        return found


def _digests(task: Task) -> tuple[int, int, int]:
    mask = 2**_BITS - 1
    return hash(task.id) & mask, hash(path_fold(task.path)) & mask, int(task.key[: _BITS // 4], 16)


def check(manifest: Manifest, visit: Callable[[Task], object] | None = None) -> Checked:
    """Expand everything once, calling `visit` with each task.

    Raises ManifestError with all problems.
    """
    checked, problems = survey(manifest, visit)
    if problems:
        raise manifest_error(str(manifest.path), problems)
    return checked


def survey(
    manifest: Manifest, visit: Callable[[Task], object] | None = None, limit: int | None = None
) -> tuple[Checked, list[Problem]]:
    """Expand everything, or the first `limit` tasks; give back what was found instead of raising it."""
    problems: list[Problem] = []
    ids, paths, keys = _Digests(), _Digests(), _Digests()
    total = 0
    for task in itertools.islice(manifest.tasks(problems), limit):
        total += 1
        id_digest, path_digest, key_digest = _digests(task)
        ids.add(id_digest)
        paths.add(path_digest)
        keys.add(key_digest)
        if visit is not None:
            visit(task)
    twin_ids, twin_paths, twin_keys = ids.repeated(), paths.repeated(), keys.repeated()
    groups: tuple[tuple[str, ...], ...] = ()
    if twin_ids or twin_paths or twin_keys:
        twins = _Twins(manifest)
        for task in itertools.islice(manifest.tasks([]), limit):
            id_digest, path_digest, key_digest = _digests(task)
            if id_digest in twin_ids or path_digest in twin_paths:
                twins.compare(task)
            if key_digest in twin_keys:
                twins.group(task)
        problems += twins.problems()
        groups = twins.groups()
    return Checked(total, groups), problems


class _Twins:
    """Compares the tasks whose digests repeat, in the order of the manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.by_id: dict[str, Task] = {}
        self.by_path: dict[str, Task] = {}
        self.by_key: dict[str, list[str]] = {}
        self.counts: defaultdict[tuple[int, int, str], int] = defaultdict(int)
        self.found: dict[tuple[int, int, str], list[Problem]] = defaultdict(list)

    def compare(self, task: Task) -> None:
        first = self.by_id.setdefault(task.id, task)
        if first is not task:
            self._note("id", first, task, self._id_message(first, task))
            return
        fold = path_fold(task.path)
        first = self.by_path.setdefault(fold, task)
        if first is not task:
            shown = task.path.replace("{ext}", "EXT")
            message = f"the tasks {first.id!r} ({self._where(first)}) and {task.id!r} have one path, {shown!r}"
            self._note("path", first, task, message)

    def group(self, task: Task) -> None:
        if task.key in self.by_key or len(self.by_key) < _MOST_TWINS:
            ids = self.by_key.setdefault(task.key, [])
            if len(ids) < _SHOWN_IDS and task.id not in ids:
                ids.append(task.id)

    def _id_message(self, first: Task, task: Task) -> str:
        where = self._where(first)
        entries = self._entry(first.origin.entry), self._entry(task.origin.entry)
        if first.key == task.key and all(entry.id is None for entry in entries):
            return (
                f"the request is that of {where} again; for several images of one request use `samples: 2`, or set ids"
            )
        return f"the id {task.id!r} is that of {where} too" + ("" if entries[1].id else "; set an id")

    def _entry(self, index: int) -> Entry:
        return next(entry for entry in self.manifest.entries if entry.index == index)

    def _where(self, task: Task) -> str:
        row = self._row(task)
        return f"tasks[{task.origin.entry}] in line {task.origin.line}" + (row and f", {row}")

    def _row(self, task: Task) -> str:
        if not task.origin.row:
            return ""
        return f"{'file' if self._entry(task.origin.entry).rows is None else 'row'} {task.origin.row}"

    def _note(self, kind: str, first: Task, task: Task, message: str) -> None:
        place = (first.origin.entry, task.origin.entry, kind)
        self.counts[place] += 1
        if self.counts[place] <= _SHOWN_TWINS:
            row = self._row(task)
            self.found[place].append(self._place(kind, task).problem(message + (row and f" ({row})")))

    def _place(self, kind: str, task: Task) -> Place:
        entry = self._entry(task.origin.entry)
        place: Place = entry.id.place if kind == "id" and entry.id is not None else entry.place
        return place

    def problems(self) -> list[Problem]:
        made = []
        for place, found in self.found.items():
            made += found
            rest = self.counts[place] - len(found)
            if rest:
                last = found[-1]
                made.append(Problem(last.file, last.line, last.column, last.path, f"and {rest} more like this"))
        return made

    def groups(self) -> tuple[tuple[str, ...], ...]:
        real = (tuple(ids) for ids in self.by_key.values() if len(ids) > 1)
        return tuple(itertools.islice(real, _SHOWN_GROUPS))


def manifest_error(file: str, problems: Iterable[Problem]) -> ManifestError:
    """Put problems in the order of their places, the manifest's own first, and cut a long list short."""
    ordered: Sequence[Problem] = sorted(problems, key=lambda p: (p.file != file, p.file, p.line, p.column))
    shown = list(dict.fromkeys(ordered))
    rest = len(shown) - SHOWN_PROBLEMS
    if rest > 0:
        shown[SHOWN_PROBLEMS:] = [Problem(file, 0, 0, "", f"and {rest} more problems")]
    return ManifestError(shown)
