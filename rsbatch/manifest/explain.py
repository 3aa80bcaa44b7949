"""Pydantic's findings as sentences with places.

Rule: the only module that knows both pydantic's error types and YAML nodes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from rsbatch.manifest.faults import Place
from rsbatch.manifest.nodes import Node, find, path_text
from rsbatch.manifest.schema import REQUEST_FIELDS

_KINDS: Final = {
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}


def validate(kind: Any, root: Node, steps: list[Any], file: str) -> tuple[Any, list[tuple[list[Any], Place, str]]]:
    """Validate the node at `steps`: the made value (None if it fails) and what is wrong: path, place, message."""
    node = find(root, steps)
    try:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind.model_validate(node.value), []
        return TypeAdapter(kind).validate_python(node.value), []
    except ValidationError as error:
        found = []
        for item in error.errors(include_url=False):
            loc = [step for step in item["loc"] if step != "[key]"]
            found.append(_explained([*steps, *loc], item, root, file, kind))
        return None, found


def place_of(root: Node, steps: list[Any], file: str) -> Place:
    """Find the place of a value."""
    return place_at(find(root, steps), steps, file)


def place_at(node: Node, steps: list[Any], file: str) -> Place:
    """Give the place of a value that was found."""
    return Place(file, node.line, node.column, path_text(steps))


def key_place(root: Node, steps: list[Any], file: str) -> Place:
    """Find the place of a key."""
    parent = find(root, steps[:-1])
    line, column = (parent.keys or {}).get(steps[-1], (parent.line, parent.column))
    return Place(file, line, column, path_text(steps))


def text_message(node: Node) -> str:
    """Say that text belongs here, and how to write what is here as text."""
    if node.items is not None:
        return f"text belongs here, not a {'list' if isinstance(node.value, list) else 'mapping'}"
    if node.value is None:
        return "is empty; write a text or remove the key"
    return f'text belongs here; quote it: "{(node.raw or "")[:60]}"'


def unknown_key(key: str, known: Iterable[str], hint: str = "") -> str:
    """Say that a key is unknown, with the nearest that is known."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower(), lowered, 1, 0.6)
    if near:
        return f"unknown key {key!r}; did you mean {lowered[near[0]]!r}?"
    return f"unknown key {key!r}" + (f"; {hint}" if hint else f"; known: {', '.join(lowered.values())}")


def _shown(node: Node) -> str:
    if node.items is not None:
        return "a list" if isinstance(node.value, list) else "a mapping"
    return "nothing" if node.value is None or not node.raw else node.raw[:60]


def _explained(steps: list[Any], item: Any, root: Node, file: str, kind: Any) -> tuple[list[Any], Place, str]:
    what = item["type"]
    node = find(root, steps)
    if what == "extra_forbidden":
        known = list(getattr(kind, "model_fields", ()))
        hint = ""
        if "prompt" in known:
            hint = "fields of the service that are not listed go under extra_body"
        elif steps[-1] in REQUEST_FIELDS and "in_flight" not in known:
            hint = "fields of a request go under defaults or a task"
        return steps, key_place(root, steps, file), unknown_key(str(steps[-1]), known, hint)
    if what == "missing":
        return steps[:-1], place_of(root, steps[:-1], file), f"the key {steps[-1]!r} is missing"
    if what == "string_type":
        message = text_message(node)
    elif what in _KINDS:
        message = f"must be {_KINDS[what]}, not {_shown(node)}"
    elif what == "literal_error":
        message = f"must be {item['ctx']['expected']}, not {_shown(node)}"
    elif what == "value_error":
        message = str(item["ctx"]["error"])
    elif what == "string_pattern_mismatch":
        message = f"{node.raw!r} is not a name of an environment variable"
    else:
        text = str(item["msg"]).replace("Input should be", "must be").replace("List should have", "must have")
        message = text[:1].lower() + text[1:]
    return steps, place_of(root, steps, file), message
