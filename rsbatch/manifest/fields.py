"""Rendered text to a request field's value.

Rule: pure but for the `image` function it is given. Each field has one converter; OMIT stands for an optional
field that rendered empty and is left out of the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from rsbatch.manifest.faults import Fault, Place
from rsbatch.manifest.nodes import Node, path_text
from rsbatch.manifest.schema import check_output_format
from rsbatch.manifest.sources import parse_json
from rsbatch.manifest.templates import Template, template
from rsbatch.manifest.yaml import MAX_DEPTH
from rsbatch.model import LocalImage

OMIT: Final = object()
SAMPLES_HINT: Final = "the service makes one image a task; use `samples: {}` for several"

ImageFunction = Callable[[str], str | LocalImage]
Make = Callable[[Mapping[str, Any], ImageFunction], Any]


class Slot:
    """One field of an entry that is made anew for each task: `make(names, image)` gives its value or OMIT."""

    __slots__ = ("make", "name", "names", "place")

    def __init__(self, name: str, place: Place, names: frozenset[str], make: Make) -> None:
        self.name = name
        self.place = place
        self.names = names
        self.make = make


def number(text: str, low: int, high: int) -> Any:
    """Convert to a whole number within bounds, or OMIT. Raises Fault."""
    stripped = text.strip()
    if not stripped:
        return OMIT
    if not re.fullmatch(r"[+-]?\d{1,9}", stripped, re.ASCII):
        raise Fault(f"must be a whole number, not {stripped[:60]!r}")
    made = int(stripped)
    if not low <= made <= high:
        raise Fault(
            f"must be {low} or {high}, not {made}" if high - low == 1 else f"must be {low} to {high}, not {made}"
        )
    return made


def one(text: str) -> Any:
    """Convert `n`, which can be 1 only, or OMIT. Raises Fault."""
    stripped = text.strip()
    if not stripped:
        return OMIT
    if stripped != "1":
        raise Fault(f"n can be 1 only; {SAMPLES_HINT.format(stripped if stripped.isdigit() else 'N')}")
    return 1


def prompt(text: str) -> Any:
    """Keep a prompt exactly as it is; OMIT if there is nothing in it."""
    return text if text.strip() else OMIT


def plain(text: str) -> Any:
    """Drop white space around, or OMIT."""
    return text.strip() or OMIT


def output_format(text: str) -> Any:
    """Convert to png, jpeg or webp, or OMIT. Raises Fault."""
    stripped = text.strip()
    reason = check_output_format(stripped) if stripped else None
    if reason:
        raise Fault(reason)
    return stripped or OMIT


def mapping(text: str) -> Any:
    """Convert JSON text to an object, or OMIT. Raises Fault."""
    if not text.strip():
        return OMIT
    made = parse_json(text, None)
    if not isinstance(made, dict):
        raise Fault("must render to a JSON object")
    if _deeper(made, MAX_DEPTH):
        raise Fault(f"is nested more than {MAX_DEPTH} levels deep")
    return made


def _deeper(value: Any, levels: int) -> bool:
    """Whether JSON is nested deeper than what YAML may be; later steps recurse."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(item, levels - 1) for item in below)


_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "prompt": prompt,
    "n": one,
    "output_compression": lambda text: number(text, 0, 100),
    "logo_add": lambda text: number(text, 0, 1),
    "output_format": output_format,
    "logo_param": mapping,
    "extra": mapping,
    "extra_body": mapping,
}


def compile_field(name: str, node: Node, place: Place) -> Slot | Any:
    """Compile a field: a Slot if it has templates or images in it, else its value or OMIT. Raises Fault."""
    if name == "images":
        return _images(node, place)
    if name == "mask":
        return _mask(template(node.value), place)
    if isinstance(node.value, str):
        convert = _TEXT.get(name, plain)
        made = template(node.value)
        if made.constant is not None:
            return convert(made.constant)
        return Slot(name, place, made.names, lambda names, _: convert(made.render(names)))
    if isinstance(node.value, dict):
        names: set[str] = set()
        tree = _tree(node, place, names)
        if not names and not _dynamic(tree):
            return tree
        return Slot(name, place, frozenset(names), lambda given, _: _rendered(tree, given))
    if name == "n" and node.value != 1:
        raise Fault(f"n can be 1 only; {SAMPLES_HINT.format(node.raw)}")
    return int(node.value)


def _mask(made: Template, place: Place) -> Slot:
    def make(names: Mapping[str, Any], image: ImageFunction) -> Any:
        text = made.render(names).strip()
        return image(text) if text else OMIT

    return Slot("mask", place, made.names, make)


def _images(node: Node, place: Place) -> Slot:
    if node.items is None:
        whole = template(node.value)
        return Slot("images", place, whole.names, lambda names, image: _listed(whole.render(names), image))
    items = []
    for index, item in node.items.items():
        spot = Place(place.file, item.line, item.column, f"{place.path}[{index}]")
        try:
            items.append((spot, template(item.value)))
        except Fault as fault:
            raise Fault(fault.message, spot) from fault

    def make(names: Mapping[str, Any], image: ImageFunction) -> Any:
        values = []
        for spot, made in items:
            try:
                text = made.render(names).strip()
                if text:
                    values.append(image(text))
            except Fault as fault:
                raise Fault(fault.message, spot) from fault
        return values or OMIT

    return Slot("images", place, frozenset().union(*(made.names for _, made in items)), make)


def _listed(text: str, image: ImageFunction) -> Any:
    """Convert JSON text to a list of images."""
    if not text.strip():
        return OMIT
    values = parse_json(text, None)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Fault("must render to a JSON list of texts, such as by {{ row.photos | tojson }}")
    return [image(value.strip()) for value in values if value.strip()] or OMIT


class _Leaf:
    """A text with a template inside of an object."""

    __slots__ = ("made", "place")

    def __init__(self, made: Template, place: Place) -> None:
        self.made = made
        self.place = place


def _tree(node: Node, place: Place, names: set[str]) -> Any:
    """Copy an object with its templates compiled."""
    if node.items is not None:
        below = {
            key: _tree(child, Place(place.file, child.line, child.column, place.path + _step(key)), names)
            for key, child in node.items.items()
        }
        return list(below.values()) if isinstance(node.value, list) else below
    value = node.value
    if isinstance(value, float):
        return float(value)
    if not isinstance(value, str):
        return value
    try:
        made = template(value)
    except Fault as fault:
        raise Fault(fault.message, place) from fault
    names |= made.names
    return value if made.constant is not None else _Leaf(made, place)


def _step(key: str | int) -> str:
    return path_text([key]) if isinstance(key, int) else f".{key}"


def _dynamic(tree: Any) -> bool:
    if isinstance(tree, dict):
        return any(map(_dynamic, tree.values()))
    if isinstance(tree, list):
        return any(map(_dynamic, tree))
    return isinstance(tree, _Leaf)


def _rendered(tree: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(tree, _Leaf):
        try:
            return tree.made.render(names)
        except Fault as fault:
            raise Fault(fault.message, tree.place) from fault
    if isinstance(tree, dict):
        return {key: _rendered(value, names) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_rendered(value, names) for value in tree]
    return tree
