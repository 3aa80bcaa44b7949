"""Texts of the manifest with Jinja2 in them, compiled once and rendered many times.

Rule: rendering depends on the given names alone; every failure is a Fault that says what to change.

Texts without `{{`, `{%` or `{#` stay as they are; those with plain `{{ name }}` and `{{ row.name }}` only are
filled without Jinja's machinery, which is ten times as fast, with the same result.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes

from rsbatch.identity import slug
from rsbatch.manifest.faults import Fault
from rsbatch.manifest.sandbox import ENVIRONMENT, as_text, compiled, listed, parse, run

_RESERVED: Final = frozenset(keyword.kwlist) | {
    "true", "false", "none", "loop", "self", "range", "dict", "varargs", "kwargs", "caller", "context",
}  # fmt: skip
_NAME: Final = r"[^\W\d]\w*"
_SIMPLE: Final = re.compile(rf"(?<!{{){{{{ *({_NAME}(?:\.{_NAME})*) *(?:\| *(slug|lower|upper) *)?}}}}")
_FILL: Final[dict[str, Callable[[str], str]]] = {"slug": slug, "lower": str.lower, "upper": str.upper}
_MARKS: Final = ("{{", "{%", "{#")

_Part = str | tuple[str, tuple[str, ...], str]


def is_name(text: str) -> bool:
    """Whether `text` can be used as a name in templates."""
    return text.isidentifier() and text not in _RESERVED and not text.startswith("_")


class Template:
    """A text of the manifest. `names` are the names it uses; `constant` is the text itself if it is no template.

    Raises Fault if the text cannot be parsed.
    """

    __slots__ = ("_code", "_parts", "_tree", "constant", "names", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.constant: str | None = None
        self.names: frozenset[str] = frozenset()
        self._parts: tuple[_Part, ...] | None = None
        self._tree: nodes.Template | None = None
        self._code: Any = None
        if "{" not in source or not any(mark in source for mark in _MARKS):
            self.constant = source
            return
        self._parts = _simple_parts(source)
        if self._parts is not None:
            self.names = frozenset(part[0] for part in self._parts if not isinstance(part, str))
            return
        try:
            self._tree = parse(source)
            self.names = frozenset(meta.find_undeclared_variables(self._tree)) - ENVIRONMENT.globals.keys()
        except TemplateSyntaxError as error:
            where = f" (line {error.lineno} of the text)" if "\n" in source else ""
            raise Fault(f"template: {error.message}{where}") from error
        except TemplateError as error:
            raise Fault(f"template: {error}") from error
        except (RecursionError, ValueError) as error:
            raise Fault("template: nested too deeply, or with a number that is too long") from error

    def render(self, names: Mapping[str, Any]) -> str:
        """Fill the template. Raises Fault."""
        if self.constant is not None:
            return self.constant
        try:
            if self._parts is not None:
                return _fill(self._parts, names)
            if self._tree is not None:
                self._code, self._tree = compiled(self._tree), None
            return run(self._code, names)
        except Fault:
            raise
        except UndefinedError as error:
            text = str(error)
            match = re.fullmatch(r"'(\w+)' is undefined", text)
            raise (_unknown(match.group(1), names) if match else Fault(text)) from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise Fault(f"template: {error}") from error
        except (RecursionError, SyntaxError, MemoryError) as error:
            raise Fault("template: too deep or too large") from error


def _fill(parts: tuple[_Part, ...], names: Mapping[str, Any]) -> str:
    made = []
    for part in parts:
        if isinstance(part, str):
            made.append(part)
            continue
        name, steps, used = part
        if name not in names:
            raise _unknown(name, names)
        value = names[name]
        for step in steps:
            value = ENVIRONMENT.getattr(value, step)
        text = value if type(value) is str else str(as_text(value))
        made.append(_FILL[used](text) if used else text)
    return "".join(made)


def _unknown(name: str, names: Mapping[str, Any]) -> Fault:
    return Fault(f"the name {name!r} is not known here; known: {listed(names)}")


def _simple_parts(source: str) -> tuple[_Part, ...] | None:
    """Cut a text into literal parts and `(name, attributes, filter)`; None if it needs Jinja."""
    parts: list[_Part] = []
    end = 0
    for match in _SIMPLE.finditer(source):
        name, *steps = match.group(1).split(".")
        if name in _RESERVED or not all(map(is_name, steps)):
            return None
        parts.append(source[end : match.start()])
        parts.append((name, tuple(steps), match.group(2) or ""))
        end = match.end()
    parts.append(source[end:])
    if "\r" in source or any(mark in part for part in parts[::2] for mark in _MARKS):
        return None
    return tuple(part for part in parts if part)


_CACHE: dict[str, Template] = {}


def template(source: str) -> Template:
    """Compile a text, or take it from the cache of those that needed compiling. Raises Fault."""
    found = _CACHE.get(source)
    if found is None:
        found = Template(source)
        if found.constant is None:
            if len(_CACHE) >= 1000:
                _CACHE.clear()
            _CACHE[source] = found
    return found
