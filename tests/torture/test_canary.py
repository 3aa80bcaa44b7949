"""The short form of the row `canary`."""

from __future__ import annotations

from torture.canary import run
from torture.rows import Params


def test_the_short_form_finds_nothing() -> None:
    figure = run(Params(short=True))
    assert not figure.failures, "\n".join(figure.failures)
    assert not figure.skipped
