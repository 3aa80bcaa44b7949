"""YAML text to nodes that know their places.

Rule: reads scalars, anchors and merges as PyYAML's safe loader does, from the events of its C parser, without
recursion; knows nothing of manifests. A document from a stranger costs time and memory in proportion to its
size: aliases share their nodes, merges are resolved key by key, what expands out of proportion is refused.
Duplicate keys are collected as problems; what makes the rest unreadable raises ManifestError.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from rsbatch.errors import ManifestError, Problem
from rsbatch.manifest.nodes import Node, YamlFloat, path_text

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 64
_FREE_EXPANSION: Final = 200_000
_MAX_RATIO: Final = 20
_LONGEST_VALUE: Final = 300

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG: Final = "tag:yaml.org,2002:"
_SCALAR_TAGS: Final = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "timestamp", "str"))
_MERGE: Final = object()


@dataclass(slots=True, eq=False)
class _Frame:
    """A list or mapping whose end has not come yet."""

    node: Node
    anchor: str | None
    children: list[Node] = field(default_factory=list)


def read_yaml(data: bytes, file: str, *, loader: Any = _LOADER) -> tuple[Node | None, list[Problem]]:
    """Read one document: its root (None if it is empty) and the duplicate keys in it.

    `loader` is one of PyYAML's safe loaders, by default the one in C where there is one.

    Raises ManifestError for what cannot be read.
    """
    if len(data) > MAX_BYTES:
        raise _fatal(file, 0, 0, f"has more than {MAX_BYTES // 2**20} MiB; move the data to a table and use `rows`")
    text = decode(data, file)
    reader = loader(text)
    try:
        return _Composer(reader, file).compose()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from error
    except yaml.YAMLError as error:
        match = yaml.reader.Reader.NON_PRINTABLE.search(text)
        line, column = _place(text, match.start()) if match else (0, 0)
        what = f"the character {match.group()!r} may not be in YAML" if match else f"is not YAML: {error}"
        raise _fatal(file, line, column, what) from error
    finally:
        reader.dispose()


def decode(data: bytes, file: str) -> str:
    """Decode UTF-8 (or UTF-16 with a byte order mark) and drop the mark.

    Raises ManifestError with the place of the first byte that is wrong.
    """
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "replace")
        raise _fatal(file, *_place(before, len(before)), "is not UTF-8 text; save it as UTF-8") from error


def _place(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1


def _fatal(file: str, line: int, column: int, message: str) -> ManifestError:
    return ManifestError([Problem(file, line, column, "", message)])


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> ManifestError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    message = f"is not YAML here: {error.problem or error.context}"
    lines = text.splitlines()[line - 1 : line] if line else []
    source = lines[0] if lines else ""
    if "\t" in source[: len(source) - len(source.lstrip())]:
        message += " (YAML wants spaces, there is a tab)"
    elif source.lstrip(" -")[:1] in {"@", "`", "%"}:
        message += " (text that begins so must be quoted)"
    elif "mapping values are not allowed" in message:
        message += ' (text with ": " in it must be quoted)'
    return _fatal(file, line, column, message)


class _Composer:
    def __init__(self, loader: Any, file: str) -> None:
        self.loader = loader
        self.file = file
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node | None] = {}
        self.stack: list[_Frame] = []
        self.count = 0
        self.merged = 0
        resolvers = loader.yaml_implicit_resolvers
        self.beginnings = None if None in resolvers else frozenset(resolvers)  # of plain text that may be no text

    def compose(self) -> tuple[Node | None, list[Problem]]:
        root: Node | None = None
        documents = 0
        get_event, stack, scalar = self.loader.get_event, self.stack, yaml.ScalarEvent
        while True:  # for each value of a large manifest
            event = get_event()
            kind = type(event)
            if kind is scalar:
                node = self.scalar(event)
                if event.anchor is not None:
                    self.anchors[event.anchor] = node
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self.open(event, [] if kind is yaml.SequenceStartEvent else {})
                continue
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                node = self.close()
            elif kind is yaml.AliasEvent:
                node = self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise self.fatal(event.start_mark, "has a second document (---); one is all there can be")
                continue
            elif kind is yaml.StreamEndEvent:
                return root, self.problems
            else:
                continue
            if stack:
                stack[-1].children.append(node)
            else:
                root = node

    def fatal(self, mark: Any, message: str) -> ManifestError:
        return ManifestError([Problem(self.file, mark.line + 1, mark.column + 1, self.path(), message)])

    def path(self) -> str:
        """Give the path of the value that comes next, as the stack has it."""
        steps: list[Any] = []
        for frame in self.stack:
            children = frame.children
            if isinstance(frame.node.value, list):
                steps.append(len(children))
            elif len(children) % 2:
                steps.append(str(children[-1].raw))
        return path_text(steps)

    def scalar(self, event: Any) -> Node:
        mark = event.start_mark
        tag = event.tag
        raw = event.value
        node = Node(raw, mark.line + 1, mark.column + 1, raw, None, None, 1 + len(raw) // 64)
        self.count += node.size
        if tag is None or tag == "!":
            if self.beginnings is not None and (not event.implicit[0] or raw[:1] not in self.beginnings):
                return node  # as `resolve` finds out, too
            tag = self.loader.resolve(yaml.ScalarNode, raw, event.implicit)
        if tag == "tag:yaml.org,2002:str":
            return node
        if tag == _TAG + "merge":
            node.value = _MERGE
            return node
        if tag not in _SCALAR_TAGS:
            hint = f'quote it: "{raw}"' if event.tag is None else f"the tag {event.tag} is not known here"
            raise self.fatal(mark, hint)
        if len(raw) > _LONGEST_VALUE:  # numbers in base 60 cost the square of their length
            raise self.fatal(
                mark, f"{raw[:20]!r}… is too long for a value of type {tag[len(_TAG) :]}; quote it if it is text"
            )
        try:
            made = yaml.ScalarNode(tag, raw, mark, mark)
            node.value = self.loader.yaml_constructors[tag](self.loader, made)
        except (ValueError, OverflowError, KeyError, AttributeError, TypeError) as error:
            raise self.fatal(mark, f'is not a {tag[len(_TAG) :]}; if it is text, quote it: "{raw}"') from error
        if isinstance(node.value, float):
            node.value = YamlFloat(node.value)
            node.value.raw = raw
        return node

    def open(self, event: Any, empty: Any) -> None:
        mark = event.start_mark
        self.count += 1
        kind = _TAG + ("seq" if isinstance(empty, list) else "map")
        if event.tag not in {None, "!", kind}:
            raise self.fatal(mark, f"the tag {event.tag} is not known here")
        if len(self.stack) >= MAX_DEPTH:
            raise self.fatal(mark, f"is nested more than {MAX_DEPTH} levels deep")
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = Node(empty, mark.line + 1, mark.column + 1, flow=bool(event.flow_style))
        self.stack.append(_Frame(node, event.anchor))

    def alias(self, event: Any) -> Node:
        self.count += 1
        if event.anchor not in self.anchors:
            raise self.fatal(event.start_mark, f"the alias *{event.anchor} has no anchor &{event.anchor} before it")
        node = self.anchors[event.anchor]
        if node is None:
            raise self.fatal(event.start_mark, f"the alias *{event.anchor} stands inside of what it names")
        return node

    def close(self) -> Node:
        frame = self.stack[-1]
        node, children, size = frame.node, frame.children, frame.node.size
        value = node.value
        if isinstance(value, list):
            node.items = dict(enumerate(children))
            for child in children:
                if child.value is _MERGE:
                    child.value = child.raw
                value.append(child.value)
                size += child.size
        else:
            node.items = self.mapping(node, children)
            for key, child in node.items.items():
                value[key] = child.value
                size += child.size
        node.size = size
        self.bound(node, size)
        self.stack.pop()
        if frame.anchor is not None:
            self.anchors[frame.anchor] = node
        return node

    def bound(self, node: Node, size: int) -> None:
        if size > _FREE_EXPANSION + _MAX_RATIO * self.count:
            message = "aliases or merges make this far larger than the file; write it out or use a table (`rows`)"
            raise ManifestError([Problem(self.file, node.line, node.column, self.path(), message)])

    def mapping(self, node: Node, children: list[Node]) -> dict[Any, Node]:
        """Join merged and own entries: merged ones come first, own ones win."""
        own: dict[Any, Node] = {}
        keys: dict[Any, tuple[int, int]] = {}
        merge: Node | None = None
        for key, value in zip(children[::2], children[1::2], strict=True):
            if key.items is not None:
                raise self.bad_key(key)
            if value.value is _MERGE:
                value.value = value.raw
            if not isinstance(key.value, str) and key.value is not _MERGE:
                path = path_text([*self.steps(), key.raw])
                self.problems.append(Problem(self.file, key.line, key.column, path, f'quote it: "{key.raw}"'))
                key.value = key.raw
            first = keys.get(key.value)
            if first is not None:
                self.duplicate(key, first)
            else:
                keys[key.value] = (key.line, key.column)
                if key.value is _MERGE:
                    merge = value
                else:
                    own[key.value] = value
        node.keys = keys
        if merge is None:
            return own
        keys.pop(_MERGE)
        joined: dict[Any, Node] = {}
        places: dict[Any, tuple[int, int]] = {}
        for source in reversed(list(self.merge_sources(merge))):
            joined.update(source.items or {})
            places.update(source.keys or {})
        joined.update(own)
        node.keys = places | keys
        return joined

    def merge_sources(self, merge: Node) -> Iterator[Node]:
        listed = merge.items is not None and isinstance(merge.value, list)
        for source in (merge.items or {}).values() if listed else (merge,):
            if source.items is None or isinstance(source.value, list):
                message = "<< wants a mapping or a list of mappings, by alias such as *base"
                raise ManifestError([Problem(self.file, merge.line, merge.column, self.path(), message)])
            self.merged += len(source.items)
            self.bound(merge, self.merged)
            yield source

    def bad_key(self, key: Node) -> ManifestError:
        message = "a list or mapping cannot be a key"
        if key.flow and isinstance(key.value, dict):
            message = 'a value that begins with {{ must be quoted: "{{ … }}"'
        return ManifestError([Problem(self.file, key.line, key.column, "", message)])

    def duplicate(self, key: Node, first: tuple[int, int]) -> None:
        hint = "; to merge several mappings use a list: <<: [*a, *b]" if key.value is _MERGE else ""
        message = f"the key {key.raw!r} is here a second time, first in line {first[0]}, column {first[1]}{hint}"
        path = path_text([*self.steps(), key.raw])
        self.problems.append(Problem(self.file, key.line, key.column, path, message))

    def steps(self) -> list[Any]:
        """Give the path of the mapping that closes now."""
        steps: list[Any] = []
        for frame in self.stack[:-1]:
            children = frame.children
            if isinstance(frame.node.value, list):
                steps.append(len(children))
            elif len(children) % 2:  # else it stands where a key belongs
                steps.append(str(children[-1].raw))
        return steps
