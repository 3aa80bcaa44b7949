"""The price of a request by the manifest's table.

Rule: pure; the first rule that fits counts, and no rule means unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rsbatch.manifest.matrix import same
from rsbatch.model import DEFAULT_MODEL


@dataclass(frozen=True, slots=True)
class PriceRule:
    """`usd` US dollars for each image whose request has all of `conditions`."""

    conditions: Mapping[str, Any]
    usd: Decimal


def price(rules: tuple[PriceRule, ...], body: Mapping[str, Any]) -> Decimal | None:
    """Find the price in US dollars; an absent model counts as the service's default model."""
    for rule in rules:
        if all(
            same(body.get(field, DEFAULT_MODEL if field == "model" else None), value)
            for field, value in rule.conditions.items()
        ):
            return rule.usd
    return None
