"""A manifest's entries to tasks, one at a time.

Rule: a generator; nothing holds more than one row, one combination and one task. A fault in one task becomes a
problem and the next task follows. A task depends on its own entry, row and combination alone, so that no other
task's id or key changes when one is added, removed or moved.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from rsbatch.errors import Problem
from rsbatch.identity import IMAGE_SUFFIXES, check_id, check_path, task_key
from rsbatch.manifest.faults import Fault, Place
from rsbatch.manifest.fields import OMIT, SAMPLES_HINT, Slot, number
from rsbatch.manifest.images import Images
from rsbatch.manifest.matrix import Matrix, combinations, same
from rsbatch.manifest.prices import PriceRule, price
from rsbatch.manifest.sources import Item, files, read_prompt, rows
from rsbatch.manifest.templates import Template, template
from rsbatch.model import EXT, Api, Limits, Origin, Rules, Task
from rsbatch.redo import again, sample_of

DEFAULT_PATH: Final = "{{ id }}.{{ ext }}"
_HELD_COMBINATIONS: Final = 4096
_SHOWN_FAULTS: Final = 3
_NO_ITEM: Final = Item(0, "", {})


@dataclass(frozen=True, slots=True)
class Text:
    """A template with its place."""

    made: Template
    place: Place

    def render(self, names: Mapping[str, Any]) -> str:
        """Fill it. Raises Fault at its place."""
        try:
            return self.made.render(names)
        except Fault as fault:
            raise Fault(fault.message, self.place) from fault


@dataclass(frozen=True, slots=True)
class Entry:
    """A compiled entry of `tasks`. `constants` are the fields that are alike in all its tasks.

    `sample_in_body`, `dated`: its requests depend on `sample`, its tasks on `run`; True also where a prompt's file is
    known only later.
    """

    index: int
    place: Place
    constants: Mapping[str, Any]
    slots: tuple[Slot, ...]
    extra_body: Slot | Mapping[str, Any] | None
    prompt_file: Text | None
    id: Text | None
    samples: Text | int | None
    matrix: Matrix | None
    rows: Text | None
    files: Text | None
    sample_in_body: bool
    dated: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """A loaded manifest. `sha256` is of the file's bytes; `output_dir` is absolute.

    `redos` is how many new samples a person asked for, by id and key of the task whose image was rejected.
    """

    path: Path
    name: str
    sha256: str
    output_dir: Path
    sidecar: bool
    limits: Limits
    rules: Rules
    prices: tuple[PriceRule, ...]
    ping: str | None
    api: Api
    run_date: str
    dated_output: bool
    folder: Path = field(repr=False)
    entries: tuple[Entry, ...] = field(repr=False)
    output_path: Text = field(repr=False)
    names: Mapping[str, Any] = field(repr=False)
    images: Images = field(repr=False, compare=False)
    redos: Mapping[tuple[str, str], int] = field(default_factory=dict, repr=False)

    @property
    def dated(self) -> bool:
        """True where tomorrow's tasks may be others, or elsewhere."""
        return self.dated_output or any(entry.dated for entry in self.entries)

    def tasks(self, problems: list[Problem]) -> Iterator[Task]:
        """Yield the tasks in the manifest's order; what is wrong with one goes to `problems`, alike ones folded."""
        for entry in self.entries:
            yield from _Expansion(self, entry, problems).tasks()

    def title(self, index: int) -> str:
        """Name an entry under `tasks` for people, by the template of its ids and its line."""
        entry = next(entry for entry in self.entries if entry.index == index)
        name = f"tasks[{index}]" if entry.id is None else entry.id.made.source
        return f"{name} (line {entry.place.line})"

    def price(self, body: Mapping[str, Any]) -> Decimal | None:
        """Look up the price of a request in US dollars; None if the table has none."""
        return price(self.prices, body)


class _Expansion:
    """One entry at work, and the faults found in it."""

    def __init__(self, manifest: Manifest, entry: Entry, problems: list[Problem]) -> None:
        self.manifest = manifest
        self.entry = entry
        self.problems = problems
        self.counts: dict[Place, int] = {}
        self.path = manifest.output_path
        self.simple_path = self.path.made.source == DEFAULT_PATH
        self.prompts: dict[str, Template] = {}
        self.held: list[dict[str, Any]] | None = None

    def tasks(self) -> Iterator[Task]:
        try:
            for item in self._items():
                yield from self._of_item(item)
        except Fault as fault:
            source = self.entry.rows or self.entry.files
            self._report(fault, source.place if source else self.entry.place, "")
        for place, count in self.counts.items():
            if count > _SHOWN_FAULTS:
                self.problems.append(place.problem(f"and {count - _SHOWN_FAULTS} more like this"))

    def _items(self) -> Iterator[Item]:
        """Yield the rows or files, or one item that is neither."""
        entry, names = self.entry, self.manifest.names
        if entry.rows is not None:
            return rows(self.manifest.folder, entry.rows.render(names).strip())
        if entry.files is not None:
            return iter(files(self.manifest.folder, entry.files.render(names).strip()))
        return iter((_NO_ITEM,))

    def _combinations(self) -> Iterator[dict[str, Any]]:
        matrix = self.entry.matrix
        if matrix is None:
            return iter(({},))
        if self.entry.rows is None and self.entry.files is None:
            return combinations(matrix)
        if matrix.bound > _HELD_COMBINATIONS:
            return combinations(matrix)
        if self.held is None:
            self.held = list(combinations(matrix))
        return iter(self.held)

    def _of_item(self, item: Item) -> Iterator[Task]:
        entry = self.entry
        origin = Origin(entry.index, entry.place.line, item.number)
        names = dict(self.manifest.names)
        axes: dict[str, Any] = {}
        if entry.rows is not None:
            names["row"] = item.value
            axes["row"] = next(iter(item.value.values()), item.number)
        elif entry.files is not None:
            names["file"] = item.value
            axes["file"] = item.value["stem"]
        names["sample"] = 1
        combination: dict[str, Any] | None = None
        for combination in self._combinations():
            mine = {**names, **combination}
            try:
                yield from self._samples(mine, origin, {**axes, **combination})
            except Fault as fault:
                shown = ", ".join(f"{key}={value}" for key, value in combination.items())[:200]
                self._report(fault, entry.place, "; ".join(part for part in (item.label, shown) if part))
        if combination is None:
            raise Fault("the matrix has no combinations left", entry.place)

    def _report(self, fault: Fault, place: Place, where: str) -> None:
        place = fault.place or place
        if not place.path.startswith("tasks["):
            where = f"tasks[{self.entry.index}]" + (f"; {where}" if where else "")
        count = self.counts.get(place, 0) + 1
        self.counts[place] = count
        if count <= _SHOWN_FAULTS:
            self.problems.append(place.problem(fault.message + (f" ({where})" if where else "")))

    def _samples(self, names: dict[str, Any], origin: Origin, axes: Mapping[str, Any]) -> Iterator[Task]:
        entry = self.entry
        count = self._count(names)
        body = None if entry.sample_in_body else self._body(names)
        for sample in range(1, (count or 1) + 1):
            names["sample"] = sample
            made = self._body(names) if body is None else body
            task = self._task(names, origin, made, sample, axes, numbered=count is not None)
            asked = self.manifest.redos.get((task.id, task.key), 0)
            yield replace(task, replaced=True) if asked else task
            for time in range(1, asked + 1):
                yield replace(self._again(names, task, time), replaced=time < asked)

    def _count(self, names: Mapping[str, Any]) -> int | None:
        samples = self.entry.samples
        if samples is None or isinstance(samples, int):
            return samples
        try:
            made = number(samples.render(names), 1, 10_000)
        except Fault as fault:
            raise Fault(fault.message, samples.place) from fault
        return None if made is OMIT else int(made)

    def _task(
        self,
        names: Mapping[str, Any],
        origin: Origin,
        body: dict[str, Any],
        sample: int,
        axes: Mapping[str, Any],
        *,
        numbered: bool,
    ) -> Task:
        entry = self.entry
        try:
            key = task_key(body, sample)
        except ValueError as error:
            raise Fault(f"the request cannot be sent: {error}") from error
        if entry.id is None:
            made_id = key[:12]
        else:
            made_id = entry.id.render(names)
            if numbered and "sample" not in entry.id.made.names:
                made_id = f"{made_id}-{sample}" if made_id else ""
            if not made_id.isascii():
                made_id = unicodedata.normalize("NFC", made_id)
            reason = check_id(made_id)
            if reason is not None:
                raise Fault(reason, entry.id.place)
        path = self._path(names, made_id)
        return Task(made_id, key, sample, body, path, price(self.manifest.prices, body), origin, axes)

    def _again(self, names: dict[str, Any], task: Task, number: int) -> Task:
        """Make a new sample of a task; templates of its request see its own number."""
        body = task.body
        if self.entry.sample_in_body:
            names["sample"] = sample_of(task.sample, number)
            body = self._body(names)
        made = again(task, number, body, price(self.manifest.prices, body))
        reason = check_id(made.id) or check_path(made.path)
        if reason is not None:
            raise Fault(f"the new sample {made.id!r}: {reason}")
        return made

    def _path(self, names: Mapping[str, Any], made_id: str) -> str:
        if self.simple_path:
            path = f"{made_id}.{EXT}"
        else:
            path = unicodedata.normalize("NFC", self.path.render({**names, "id": made_id, "ext": EXT}))
            if EXT not in path:
                suffix = next((suffix for suffix in IMAGE_SUFFIXES if path.lower().endswith(suffix)), "")
                path = f"{path[: len(path) - len(suffix)]}.{EXT}"
        reason = check_path(path)
        if reason is not None:
            raise Fault(f"the path {path.replace(EXT, 'EXT')!r} {reason}", self.path.place)
        return path

    def _body(self, names: Mapping[str, Any]) -> dict[str, Any]:
        entry, image = self.entry, self.manifest.images
        body = dict(entry.constants)
        for slot in entry.slots:
            try:
                value = slot.make(names, image)
            except Fault as fault:
                raise Fault(fault.message, fault.place or slot.place) from fault
            if value is not OMIT:
                body[slot.name] = value
        if entry.prompt_file is not None:
            text = self._prompt(entry.prompt_file, names)
            if text.strip():
                body["prompt"] = text
        if entry.extra_body is not None:
            self._merge(body, entry.extra_body, names)
        if not body.get("prompt") and not body.get("images"):
            raise Fault("has neither a prompt nor images")
        return body

    def _prompt(self, source: Text, names: Mapping[str, Any]) -> str:
        name = source.render(names).strip()
        try:
            made = self.prompts.get(name)
            if made is None:
                made = template(read_prompt(self.manifest.folder, name))
                if len(self.prompts) > 100:
                    self.prompts.clear()
                self.prompts[name] = made
        except Fault as fault:
            raise Fault(fault.message, source.place) from fault
        try:
            return made.render(names)
        except Fault as fault:
            raise Fault(f"in {name}: {fault.message}", source.place) from fault

    def _merge(self, body: dict[str, Any], extra: Slot | Mapping[str, Any], names: Mapping[str, Any]) -> None:
        place = None
        if isinstance(extra, Slot):
            place = extra.place
            try:
                made = extra.make(names, self.manifest.images)
            except Fault as fault:
                raise Fault(fault.message, fault.place or place) from fault
            extra = {} if made is OMIT else made
        for key, value in extra.items():
            if key in body:
                raise Fault(f"extra_body has {key!r}, which the task sets too; keep one", place)
            if key == "n" and not same(value, 1):
                raise Fault(f"n can be 1 only; {SAMPLES_HINT.format('N')}", place)
            body[key] = value
