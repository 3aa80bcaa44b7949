"""The table of what was tried: a line a row, each with the commit it was run on."""

from __future__ import annotations

from pathlib import Path

from torture.__main__ import keep
from torture.rows import Figure


def test_a_row_that_is_run_again_takes_the_place_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    keep(path, "power", Figure("1 cut", "1,000 cuts"), "aaaaaaa")
    keep(path, "crashes", Figure("a|b", "c", failures=["d"]), "bbbbbbb")
    keep(path, "power", Figure("2 cuts", "1,000 cuts", skipped="no root", seconds=3.4), "ccccccc")
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(("| c", "| p"))]
    assert [row.rsplit(" | ", 1)[0] for row in rows] == [
        r"| crashes | a\|b | c | FAILED | 0 | bbbbbbb",
        "| power | 2 cuts; skipped: no root | 1,000 cuts | NOT TRIED WHOLE | 3 | ccccccc",
    ]
