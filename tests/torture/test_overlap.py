from __future__ import annotations

from torture import overlap
from torture.rows import Params


def test_overlapping_processes_submit_nothing_twice() -> None:
    figure = overlap.run(Params(short=True))
    assert figure.ok, "\n".join(figure.failures)
