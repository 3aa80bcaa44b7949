"""From a manifest and its ledger to what the page shows.

Rule: reads the ledger without its lock, and files by their names only; the pictures are made small elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from rsbatch.errors import StoreError
from rsbatch.ledger.local import NAME
from rsbatch.ledger.records import BadLine, decode, timestamp
from rsbatch.ledger.replay import records
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.manifest.expand import Entry as ManifestEntry
from rsbatch.model import LocalImage, SavedFile, Task
from rsbatch.planning import Planned, own_sizes
from rsbatch.preview import file_sizes, judge_with
from rsbatch.redo import REDO_STEP
from rsbatch.report.activity import Activity
from rsbatch.report.cards import Card, Entry, Judged, Picture, card_of, href_of, orphan, visible
from rsbatch.report.page import Report
from rsbatch.report.thumbnails import Original
from rsbatch.session import Project, with_redos
from rsbatch.storage.interface import components


@dataclass(frozen=True, slots=True)
class Gathered:
    """A report without its small pictures, and the images to make them of."""

    report: Report
    originals: list[Original]


def gather(project: Project, out: Path, command: str, now: float, *, live: bool = False) -> Gathered:
    """Read everything; `out` is where the page will be, `now` seconds since 1970.

    With `live` a run that has not ended goes on: what has no answer yet is being sent, and in no doubt.

    Raises as `Project.read_state` and `judge_with` do.
    """
    state = project.read_state()
    project = with_redos(project, state)
    activity = _activity(project.folder)
    entries = [Entry(_label(entry)) for entry in project.manifest.entries]
    places = {entry.index: n for n, entry in enumerate(project.manifest.entries)}
    gathering = _Gathering(project, state, activity, _base(project.folder, out))
    cards = []
    for planned in judge_with(project, state, buying=False).tasks:
        card = gathering.card(planned)
        if live and not state.ended and planned.history is not None and planned.history.state is State.SUBMITTING:
            card = replace(card, state="pending", reason="being sent")
        entries[places[planned.task.origin.entry]].take(card.axes)
        cards.append(card)
    cards += gathering.orphans()
    report = Report(
        name=project.manifest.name,
        command=command,
        made=timestamp(now)[:19].replace("T", " ") + " UTC",
        page_id=hashlib.sha256(f"{project.service}\n{project.folder}".encode()).hexdigest()[:16],
        simulated=project.options.simulate,
        going_on=not state.ended,
        entries=entries,
        cards=cards,
        spend=state.spend,
        budget=project.rules.budget,
        runs=activity.runs,
        thumbnails={},
    )
    return Gathered(report, gathering.originals)


def _activity(folder: Path) -> Activity:
    activity = Activity()
    path = folder / NAME
    try:
        with path.open("rb") as file:
            for value in records(file, str(path)):
                activity.take(value)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise StoreError(f"cannot read {path}: {exc.strerror or exc}") from exc
    return activity


def _label(entry: ManifestEntry) -> str:
    return visible(entry.id.made.source) if entry.id is not None else f"tasks[{entry.index}]"


def _base(folder: Path, out: Path) -> str:
    """Give the way from the page to the output folder as it stands in URLs, empty or with a slash at its end."""
    relative = os.path.relpath(folder, out.parent)
    return "" if relative == "." else f"{Path(relative).as_posix()}/"


class _Gathering:
    """One pass over the tasks and what the ledger has beside them."""

    def __init__(self, project: Project, state: LedgerState, activity: Activity, base: str) -> None:
        self._project = project
        self._state = state
        self._activity = activity
        self._base = base
        self._seen: set[History] = set()
        self._first: Task
        self.originals: list[Original] = []

    def card(self, planned: Planned) -> Card:
        task, history = planned.task, planned.history
        self._take_references(task.body)
        pictures: list[Picture] = []
        seen = self._activity.of("", "")
        if history is not None:
            self._seen.add(history)
            pictures = self._pictures(history)
            seen = self._activity.of(history.task, history.key)
        return card_of(task, history, Judged(planned.differs, planned.reason, self._again(task)), pictures, seen)

    def _again(self, task: Task) -> str:
        """Give the id of the new sample that stands for a rejected image; its tasks come one after another."""
        if task.sample <= REDO_STEP:
            self._first = task
        number = (task.sample - 1) // REDO_STEP
        return f"{self._first.id}-r{number + 2}" if task.replaced else ""

    def orphans(self) -> Iterator[Card]:
        """Give cards of what no task of the manifest has."""
        left = [h for h in self._state.histories() if h not in self._seen]
        if not left:
            return
        with (self._project.folder / NAME).open("rb") as file:
            for history in left:
                seen = self._activity.of(history.task, history.key)
                yield orphan(history, _request(file, history), self._pictures(history), seen)

    def _pictures(self, history: History) -> list[Picture]:
        folder = self._project.folder
        pictures = []
        sizes = own_sizes(history, self._state, file_sizes(self._project, history.files))
        for file, size in zip(history.files, sizes, strict=True):
            there = size is not None and size >= 0 and _inside(file)
            if there and size == file.bytes:
                self.originals.append(Original(file.sha256, folder / file.path))
            pictures.append(Picture(file, href_of(file.path, self._base), there))
        return pictures

    def _take_references(self, body: Mapping[str, Any]) -> None:
        images = body.get("images")
        for value in (*(images if isinstance(images, list | tuple) else ()), body.get("mask")):
            if isinstance(value, LocalImage) and (source := value.data or value.path) is not None:
                self.originals.append(Original(value.sha256, source))


def _inside(file: SavedFile) -> bool:
    try:
        components(file.path)
    except StoreError:
        return False
    return True


def _request(file: BinaryIO, history: History) -> Any:
    if history.request_at is None:
        return None
    file.seek(history.request_at)
    try:
        return decode(file.readline().rstrip(b"\n")).get("request")
    except BadLine:
        return None
