"""An entry of `tasks`, validated and with its templates compiled.

Rule: finds what is wrong with an entry as it is written, before any row or combination is made; reads no data but
prompt files with a fixed name. Every finding goes to one list, so that all are shown at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rsbatch.errors import Problem
from rsbatch.manifest.expand import Entry, Text
from rsbatch.manifest.explain import key_place, place_at, place_of
from rsbatch.manifest.faults import Fault, Place
from rsbatch.manifest.fields import OMIT, SAMPLES_HINT, Slot, compile_field
from rsbatch.manifest.matrix import Matrix, same
from rsbatch.manifest.nodes import Node, misread_below, misread_message, path_text
from rsbatch.manifest.schema import REQUEST_FIELDS
from rsbatch.manifest.sources import read_prompt, regular_file
from rsbatch.manifest.templates import Template, is_name, template

RESERVED: Final = frozenset(("row", "file", "sample", "run", "name", "id", "ext"))

Compiled = Mapping[str, tuple[Place, Any]]
"""Request fields by name: the place of each and its Slot, value, OMIT or (of `prompt_file`) Text."""


@dataclass(slots=True)
class Findings:
    """Where problems of one manifest are collected."""

    file: str
    root: Node
    problems: list[Problem] = field(default_factory=list)

    def add(self, place: Place, message: str) -> None:
        """Note what is wrong at a place."""
        self.problems.append(place.problem(message))

    def at(self, steps: list[Any], message: str) -> None:
        """Note what is wrong with the value at a path."""
        self.add(place_of(self.root, steps, self.file), message)

    def at_key(self, steps: list[Any], message: str) -> None:
        """Note what is wrong with the key at a path."""
        self.add(key_place(self.root, steps, self.file), message)

    def text(self, path: str, node: Node) -> Text | None:
        """Compile the text at a path; None, with a note, if it is no template."""
        place = Place(self.file, node.line, node.column, path)
        try:
            return Text(template(node.value), place)
        except Fault as fault:
            self.add(place, fault.message)
            return None

    def misread(self, steps: list[Any], node: Node, *, exact: bool) -> None:
        """Note each value that YAML reads as something else than is seen."""
        for path, found in misread_below(node, steps, exact=exact):
            self.add(place_at(found, path, self.file), misread_message(found))


_FIELDS = (*REQUEST_FIELDS, "extra_body", "prompt_file")
_CONTENT = frozenset(("prompt", "prompt_file", "images", "extra_body"))


def compile_fields(found: Findings, steps: list[Any], items: Mapping[str, Node]) -> dict[str, tuple[Place, Any]]:
    """Compile the request fields of `defaults` or of an entry; an empty value becomes OMIT."""
    made: dict[str, tuple[Place, Any]] = {}
    base = path_text(steps)
    for name in _FIELDS:
        node = items.get(name)
        if node is None:
            continue
        place = Place(found.file, node.line, node.column, f"{base}.{name}")
        if node.value is None:
            made[name] = (place, OMIT)
            continue
        if name == "prompt_file":
            text = found.text(place.path, node)
            if text is not None:
                made[name] = (place, text)
            continue
        if not isinstance(node.value, str):
            found.misread([*steps, name], node, exact=False)
        try:
            made[name] = (place, compile_field(name, node, place))
        except Fault as fault:
            found.add(fault.place or place, fault.message)
    if _set(made, "prompt") and _set(made, "prompt_file"):
        found.at_key([*steps, "prompt_file"], "prompt and prompt_file exclude each other; keep one")
    return made


def _set(fields: Compiled, name: str) -> bool:
    return name in fields and fields[name][1] is not OMIT


def merged(defaults: Compiled, own: Compiled) -> dict[str, tuple[Place, Any]]:
    """Put an entry's fields over the defaults; a prompt of one kind replaces that of the other."""
    made = {**defaults, **own}
    for name, other in (("prompt", "prompt_file"), ("prompt_file", "prompt")):
        if name in own and other not in own:
            made.pop(other, None)
    return {name: item for name, item in made.items() if item[1] is not OMIT}


@dataclass(frozen=True, slots=True)
class Context:
    """What all entries share: the folder, compiled defaults, the constants' names, and the names that paths use."""

    folder: Path
    defaults: Compiled
    constants: Collection[str]
    path_names: frozenset[str]


def compile_entry(found: Findings, context: Context, index: int, node: Node) -> Entry | None:
    """Compile a validated entry; None, with notes, if nothing can be made of it."""
    steps: list[Any] = ["tasks", index]
    items = node.items or {}
    place = place_at(node, steps, found.file)
    before = len(found.problems)
    fields = merged(context.defaults, compile_fields(found, steps, items))
    matrix = _matrix(found, context, [*steps, "matrix"], items.get("matrix"))
    texts = {
        name: found.text(f"{place.path}.{name}", items[name])
        for name in ("id", "samples", "rows", "files")
        if name in items and isinstance(items[name].value, str)
    }
    if "samples" in items:
        found.misread([*steps, "samples"], items["samples"], exact=False)
    for name in ("rows", "files", "id"):
        if name in items and not str(items[name].value).strip():
            found.at([*steps, name], "is empty; write a text or remove the key")
    if "rows" in items and "files" in items:
        found.at_key([*steps, "files"], "rows and files exclude each other; use two entries")
    rows = texts.get("rows")
    if rows is not None and rows.made.constant:
        try:
            regular_file(context.folder, rows.made.constant.strip())
        except Fault as fault:
            found.add(rows.place, fault.message)
    if _CONTENT.isdisjoint(fields) and _CONTENT.isdisjoint(items):
        found.add(place, "has neither a prompt nor images")
    extra = fields.pop("extra_body", None)
    _check_extra(found, fields, extra)
    prompt_file = fields.pop("prompt_file", None)
    slots = tuple([value for _, value in fields.values() if isinstance(value, Slot)])
    extra_body = extra[1] if extra else None
    body_names = _body_names(found, context, slots, extra_body, prompt_file)
    used = None if body_names is None else body_names.union(*[text.made.names for text in texts.values() if text])
    if matrix is not None and used is not None:
        _check_added(found, [*steps, "matrix", "include"], matrix, used | context.path_names)
    if len(found.problems) > before:
        return None
    samples = items.get("samples")
    return Entry(
        index=index,
        place=place,
        constants={name: value for name, (_, value) in fields.items() if not isinstance(value, Slot)},
        slots=slots,
        extra_body=extra_body,
        prompt_file=prompt_file[1] if prompt_file else None,
        id=texts.get("id"),
        samples=texts.get("samples") or (samples.value if samples is not None else None),
        matrix=matrix,
        rows=texts.get("rows"),
        files=texts.get("files"),
        sample_in_body=body_names is None or "sample" in body_names,
        dated=used is None or "run" in used,
    )


def _body_names(
    found: Findings, context: Context, slots: tuple[Slot, ...], extra_body: Any, prompt_file: tuple[Place, Text] | None
) -> frozenset[str] | None:
    """Collect the names that a body depends on; None if a prompt file is known only later."""
    names = frozenset[str]().union(*[slot.names for slot in slots])
    if isinstance(extra_body, Slot):
        names |= extra_body.names
    if prompt_file is None:
        return names
    place, text = prompt_file
    constant = text.made.constant
    if constant is None:
        return None
    try:
        return names | Template(read_prompt(context.folder, constant.strip())).names
    except Fault as fault:
        found.add(place, fault.message)  # of `defaults`, it comes with each entry and is shown once
        return None


def _check_extra(found: Findings, fields: Compiled, extra: tuple[Place, Any] | None) -> None:
    if extra is None or not isinstance(extra[1], Mapping):
        return
    place, values = extra
    for key, value in values.items():
        if key in fields or (key == "prompt" and "prompt_file" in fields):
            found.add(place, f"extra_body has {key!r}, which the task sets too; keep one")
        elif key == "n" and not same(value, 1):
            found.add(place, f"n can be 1 only; {SAMPLES_HINT.format('N')}")


def _matrix(found: Findings, context: Context, steps: list[Any], node: Node | None) -> Matrix | None:
    if node is None:
        return None
    before = len(found.problems)
    items = node.items or {}
    for key, value in items.items():
        if key not in {"include", "exclude"}:
            _check_name(found, context, [*steps, key], str(key))
        if not isinstance(value.value, list):
            found.at([*steps, key], f"must be a list, such as [{value.raw or '…'}]")
        elif not value.value:
            found.at([*steps, key], "is empty")
    if not items:
        found.at(steps, "is empty")
    axes = {key: value.value for key, value in items.items() if key not in {"include", "exclude"}}
    for name in ("exclude", "include"):
        listed = items.get(name)
        if listed is not None and isinstance(listed.value, list):
            _check_objects(found, context, [*steps, name], listed, axes)
    if len(found.problems) > before:
        return None
    found.misread(steps, node, exact=True)
    lists = {name: items[name].value if name in items else () for name in ("exclude", "include")}
    return Matrix(axes, lists["exclude"], lists["include"])


def _check_objects(found: Findings, context: Context, steps: list[Any], listed: Node, axes: Collection[str]) -> None:
    for index, item in (listed.items or {}).items():
        where = [*steps, index]
        if not isinstance(item.value, dict) or not item.value:
            found.at(where, f"must be a mapping, such as {{{next(iter(axes), 'axis')}: value}}")
            continue
        for key in item.value:
            if key in axes:
                continue
            if steps[-1] == "exclude":
                found.at_key([*where, key], f"{key!r} is no axis of this matrix; axes: {', '.join(axes) or 'none'}")
            else:
                _check_name(found, context, [*where, key], key)


def _check_name(found: Findings, context: Context, steps: list[Any], name: str) -> None:
    if name in RESERVED:
        found.at_key(steps, f"{name!r} has a meaning in templates already; use another name")
    elif name in context.constants:
        found.at_key(steps, f"{name!r} is in vars too; use another name")
    elif not is_name(name):
        found.at_key(steps, f"{name!r} is not a name that templates can use; use letters, digits and _")


def _check_added(found: Findings, steps: list[Any], matrix: Matrix, used: frozenset[str]) -> None:
    """Find request fields that `include` seems to set: it adds names for templates, no more."""
    for index, item in enumerate(matrix.include):
        for key in item:
            if key in matrix.added and key in REQUEST_FIELDS and key not in used:
                message = f'include adds names for templates only; to set the field write {key}: "{{{{ {key} }}}}" too'
                found.at_key([*steps, index, key], message)
