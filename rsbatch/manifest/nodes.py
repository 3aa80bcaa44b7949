"""Values that know where they stand in a YAML text.

Rule: pure; knows neither YAML's syntax nor manifests. Aliases share their nodes, so walks visit each node once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any


class YamlFloat(float):
    """A float that remembers how it was written, for amounts of money."""

    __slots__ = ("raw",)
    raw: str


@dataclass(slots=True, eq=False)
class Node:
    """A value with its place; `line` and `column` are 1-based.

    `raw` is a scalar's text as written. `items` are the nodes of a list or mapping by index or key, `keys` the
    places of a mapping's keys (None of all else). `size` counts the nodes below with aliases expanded; `flow` says
    that it is written with brackets or braces.
    """

    value: Any
    line: int
    column: int
    raw: str | None = None
    items: dict[Any, Node] | None = None
    keys: dict[Any, tuple[int, int]] | None = None
    size: int = 1
    flow: bool = False


def path_text(steps: list[Any]) -> str:
    """Write a key's path for people: `tasks[2].quality`."""
    text = ""
    for step in steps:  # no generator: this is done for every value of a large manifest
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def find(root: Node, steps: list[Any]) -> Node:
    """Follow a path as far as it goes: the node of the last step that exists."""
    node = root
    for step in steps:
        following = (node.items or {}).get(step)
        if following is None:
            break
        node = following
    return node


def misread(node: Node, *, exact: bool) -> bool:
    """Whether a scalar's value is not what its author sees: `007`, `1:30`, `no`, a date.

    `exact` also finds what would be rendered as other text than is written (`1.10`).
    """
    value, raw = node.value, node.raw
    if raw is None or value is None or isinstance(value, str):
        return False
    if isinstance(value, bool):
        return raw.lower() not in {"true", "false"}
    if isinstance(value, date):
        return True
    if exact:
        return str(value) != raw
    digits = raw.lstrip("+-")
    return ":" in raw or (isinstance(value, int) and digits.startswith("0") and digits != "0")


def misread_message(node: Node) -> str:
    """Say what YAML makes of a scalar, and how to write what was meant."""
    read = str(node.value).lower() if isinstance(node.value, bool) else str(node.value)
    return f'YAML reads this as {read[:60]}; quote it: "{(node.raw or "")[:60]}"'


def misread_below(root: Node, steps: list[Any], *, exact: bool) -> Iterator[tuple[list[Any], Node]]:
    """Yield each misread scalar in `root` (as `misread`) with its path; shared nodes once."""
    seen: set[int] = set()
    todo = [(steps, root)]
    while todo:
        path, node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if misread(node, exact=exact):
            yield path, node
        todo.extend(([*path, key], child) for key, child in reversed((node.items or {}).items()))
