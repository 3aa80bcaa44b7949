from __future__ import annotations

from torture import kills
from torture.rows import Params


def test_killed_runs_lose_nothing_and_pay_nothing_twice() -> None:
    figure = kills.run(Params(short=True))
    assert figure.ok, "\n".join(figure.failures)
