"""Row 2 in its short form, and proof that its checks see what they are for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rsbatch.ledger.local import LocalLedgerFile
from torture import faults
from torture.protocols import opening
from torture.rows import Params
from torture.site import Protocol


def test_short_form() -> None:
    figure = faults.run(Params(short=True))
    assert not figure.failures, "\n".join(figure.failures)
    if figure.skipped:
        pytest.skip(figure.skipped)


class Silent(LocalLedgerFile):
    def rescue(self, lines: Sequence[bytes]) -> str:
        return "nothing"


class HalfLines(LocalLedgerFile):
    """Writes again from the start what was cut short."""

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        if self._fs.write(self._fd, view) < len(view):
            self._fs.write(self._fd, view)


@pytest.mark.parametrize(("kind", "error"), [(Silent, "EIO"), (HalfLines, "short write")])
def test_a_ledger_that_gives_up_its_lines_is_caught(kind: type[LocalLedgerFile], error: str) -> None:
    report = faults.explore(0, 3, Protocol("broken", open=opening(kind)), errors=[error], most=1)
    assert report.violations
