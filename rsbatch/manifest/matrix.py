"""The combinations of a matrix, by GitHub Actions' rules.

Rule: pure and lazy; a matrix of a million combinations is never held.

Source: docs.github.com, "Running variations of jobs in a workflow": the product of the axes; then `exclude`
drops each combination that a partial match names; then `include`: an object is added to every original
combination none of whose axis values it would overwrite (values added by an earlier object may be overwritten),
and if there is no such combination it becomes a new one. New ones are not added to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Matrix:
    """Axes in the order written, and the objects of `exclude` and `include`."""

    axes: Mapping[str, Sequence[Any]]
    exclude: Sequence[Mapping[str, Any]] = ()
    include: Sequence[Mapping[str, Any]] = ()

    @property
    def bound(self) -> int:
        """The most combinations there can be."""
        return (math.prod(len(values) for values in self.axes.values()) if self.axes else 0) + len(self.include)

    @property
    def added(self) -> frozenset[str]:
        """The names that only `include` brings in."""
        return frozenset(key for item in self.include for key in item) - frozenset(self.axes)


def same(left: Any, right: Any) -> bool:
    """Equal as YAML or JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _matches(partial: Sequence[tuple[str, Any]], combination: Mapping[str, Any]) -> bool:
    return all(key in combination and same(combination[key], value) for key, value in partial)


def combinations(matrix: Matrix) -> Iterator[dict[str, Any]]:
    """Yield the combinations in order: the product (last axis fastest), then the new ones of `include`."""
    axes = tuple(matrix.axes)
    excluded = [tuple(item.items()) for item in matrix.exclude]
    included = [
        (
            tuple((key, item[key]) for key in axes if key in item),
            {k: v for k, v in item.items() if k not in matrix.axes},
        )
        for item in matrix.include
    ]
    placed = [False] * len(included)
    for values in itertools.product(*matrix.axes.values()) if axes else ():
        combination = dict(zip(axes, values, strict=True))
        if any(_matches(partial, combination) for partial in excluded):
            continue
        original = combination.copy() if included else combination
        for index, (partial, added) in enumerate(included):
            if _matches(partial, original):
                placed[index] = True
                combination.update(added)
        yield combination
    for index, item in enumerate(matrix.include):
        if not placed[index]:
            yield dict(item)
