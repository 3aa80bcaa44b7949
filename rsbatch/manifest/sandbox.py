"""The Jinja2 environment that a stranger's templates may run in.

Rule: a template is a function of its names alone (no clock, no chance, no files), and can neither reach Python's
inside nor cost more than a bounded amount of time and memory: the sandbox is immutable, filters and methods are
an allow list, each operator and each loop has a limit, and statements that could multiply without one (macros,
blocks, `namespace`) are refused.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rsbatch.identity import slug

MAX_TEXT: Final = 1024 * 1024
"""The most characters that a template may render to, and that any step in it may make."""
MAX_STEPS: Final = 100_000
"""The most turns that all loops of one rendering may take."""
_MAX_BITS: Final = 4096

# fmt: off
_SAFE_FILTERS: Final = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length",
    "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr",
    "sort", "string", "sum", "title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
)
_SAFE_METHODS: Final = {
    str: frozenset((
        "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdigit",
        "islower", "isspace", "isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace",
        "rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
        "title", "upper",
    )),
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
}
_REFUSED: Final = (
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block, nodes.Import,
    nodes.FromImport, nodes.Include, nodes.Extends, nodes.NSRef,
)
# fmt: on


class Row(dict[str, Any]):
    """A row of a table, so that messages can name its columns."""


class _Undefined(StrictUndefined):
    """Says which names there are, but only when it is asked."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name = self._undefined_name
        if isinstance(self._undefined_obj, Row):
            return f"the table has no column {name!r}; it has: {listed(self._undefined_obj)}"
        if isinstance(self._undefined_obj, Mapping):
            return f"there is no {name!r} here; there is: {listed(self._undefined_obj)}"
        return super()._undefined_message


def listed(names: Mapping[str, Any]) -> str:
    """Name the keys of a mapping for a message."""
    shown = [str(name) for name in list(names)[:30]]
    return ", ".join(shown) + (", …" if len(names) > 30 else "") if shown else "nothing"


def as_text(value: Any) -> Any:
    """Render null as nothing and booleans as YAML and JSON write them; the rest as it is.

    Raises SecurityError for a method that was not called, whose name nobody wants in a prompt.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        _check_value(value)
    elif callable(value) and not isinstance(value, Undefined):
        raise SecurityError("it has a function that is not called; write () after it")
    return value


def limit(size: int) -> None:
    """Refuse texts and lists over `MAX_TEXT`. Raises SecurityError."""
    if size > MAX_TEXT:
        raise SecurityError(f"it makes a text or list of more than {MAX_TEXT} characters or items")


def _sized(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _check_power(left: Any, right: Any) -> None:
    if not isinstance(right, int | float) or abs(right) > 1000:
        raise SecurityError("it has a power of more than 1000")
    if isinstance(left, int) and left.bit_length() * abs(right) > _MAX_BITS:
        raise SecurityError("it makes too large a number")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise SecurityError("it makes too large a number")
    elif isinstance(right, int):
        limit(_sized(left) * right)
    elif isinstance(left, int):
        limit(_sized(right) * left)


def _check_format(text: str) -> None:
    if re.search(r"\d{4,}|\*", text):
        raise SecurityError("it has too wide a % format")


def _check_value(value: Any) -> None:
    """Refuse lists in lists whose text would be out of proportion to what is held."""
    todo = [value]
    seen = 0
    while todo:
        item = todo.pop()
        if isinstance(item, list | tuple | dict):
            seen += 1 + len(item)
            limit(seen * 10)
            todo.extend(item.values() if isinstance(item, dict) else item)


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for arg in args:
            if isinstance(arg, list | tuple | dict):
                _check_value(arg)
        return function(*args, **kwargs)

    return call


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with limits on what operators, methods and loops may make."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator unless its result would be too large."""
        if operator == "**":
            _check_power(left, right)
        elif operator == "+":
            limit(_sized(left) + _sized(right))
        elif operator == "*":
            _check_product(left, right)
        elif isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Prefer a mapping's own keys to its methods: a column may be called `items`."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow the methods of the list, and what `loop` offers."""
        names = next((names for kind, names in _SAFE_METHODS.items() if isinstance(obj, kind)), None)
        if names is not None:
            return attr in names
        return type(obj).__name__ == "LoopContext" and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Refuse the method `format`, whose widths have no limit."""
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in {"format", "format_map"}:
            raise SecurityError("the method format is not allowed here; the filter format is")
        return None

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function or method; `replace` with a limit."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __obj.__name__ == "replace":
            return _replace(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text = str(as_text(value))
    found = text.count(old) if count is None else min(count, text.count(old))
    limit(len(text) + max(found, 0) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _concat(parts: list[Any]) -> str:
    texts = [str(as_text(part)) for part in parts]
    limit(sum(map(len, texts)))
    return "".join(texts)


def _join(value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = list(value) if attribute is None else [item[attribute] for item in value]
    return _concat([part for item in items for part in (d, item)][1:])


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    _check_format(str(value))
    return str(value) % (kwargs or args)


def _slug(value: Any) -> str:
    return slug(str(as_text(value)))


class _Budget:
    """Counts the turns of all loops in the rendering that goes on (one at a time)."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def counted(self, items: Any) -> Iterator[Any]:
        for item in items:
            self.left -= 1
            if self.left < 0:
                raise SecurityError(f"it loops more than {MAX_STEPS} times")
            yield item


def _environment(budget: _Budget) -> Sandbox:
    made = Sandbox(undefined=_Undefined, keep_trailing_newline=True, finalize=as_text, optimized=False, cache_size=0)
    filters: dict[str, Callable[..., Any]] = {name: FILTERS[name] for name in _SAFE_FILTERS}
    filters.update(format=_format, join=_join, replace=_replace, slug=_slug, tojson=_tojson)
    made.filters = {name: _checked(function) for name, function in filters.items()}
    made.filters.update(rsbatch_concat=_concat, rsbatch_counted=budget.counted)
    made.globals = {"range": made.globals["range"], "dict": dict}
    return made


_BUDGET: Final = _Budget()
ENVIRONMENT: Final = _environment(_BUDGET)


def parse(source: str) -> nodes.Template:
    """Parse a template. Raises jinja2.TemplateSyntaxError, or SecurityError for statements that are refused."""
    tree = ENVIRONMENT.parse(source)
    refused = next(tree.find_all(_REFUSED), None)
    if refused is not None or any(loop.recursive for loop in tree.find_all(nodes.For)):
        kind = "recursion" if refused is None else type(refused).__name__.lower()
        raise SecurityError(f"{kind} is not allowed here")
    return tree


def compiled(tree: nodes.Template) -> Any:
    """Compile a parsed template with a counter round each loop's list and a limit on each `~`."""
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = _filter("rsbatch_counted", loop.iter)
    _limit_concat(tree)
    return ENVIRONMENT.template_class.from_code(ENVIRONMENT, ENVIRONMENT.compile(tree), ENVIRONMENT.globals)


def run(code: Any, names: Mapping[str, Any]) -> str:
    """Render compiled code. Raises what Jinja and Python raise."""
    _BUDGET.left = MAX_STEPS
    made = []
    size = 0
    for piece in code.root_render_func(code.new_context(names)):
        size += len(piece)
        limit(size)
        made.append(piece)
    return "".join(made)


def _filter(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _limit_concat(node: nodes.Node) -> None:
    for name, value in list(node.iter_fields()):
        if isinstance(value, list):
            setattr(node, name, [_concat_filter(item) for item in value])
        else:
            setattr(node, name, _concat_filter(value))
    for child in node.iter_child_nodes():
        _limit_concat(child)


def _concat_filter(value: Any) -> Any:
    if not isinstance(value, nodes.Concat):
        return value
    return _filter("rsbatch_concat", nodes.List(value.nodes, lineno=value.lineno))
