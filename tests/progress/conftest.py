"""Numbers as a run reports them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rsbatch.progress.interface import Snapshot


@pytest.fixture
def busy() -> Snapshot:
    """In the middle of a run, with everything there is to say."""
    return Snapshot(
        total=1000,
        saved=412,
        failed=3,
        held=1,
        parked=2,
        out=8,
        downloading=2,
        pending=572,
        spent=Decimal("26.2"),
        usd_known=False,
        elapsed=754.0,
        eta=1023.0,
        paused="429 from the service",
    )
