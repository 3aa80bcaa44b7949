from __future__ import annotations

import pytest

from torture import power
from torture.rows import Params


def test_power_cuts_lose_nothing_acknowledged_and_the_control_loses() -> None:
    figure = power.run(Params(short=True))
    if figure.skipped:
        pytest.skip(figure.skipped)  # no root, no loop device, no ext4: that row is not shown on this machine
    assert figure.ok, "\n".join(figure.failures)
