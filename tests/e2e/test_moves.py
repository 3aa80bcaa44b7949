"""Files that make way, and crashes in the midst of that: found by `python -m torture kills --seed 100049`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from torture.real import Child, Site, judge, one_run


@pytest.mark.parametrize(
    ("image", "beside"),
    [("before", "before"), ("linked", "before"), ("moved", "before"), ("moved", "linked"), ("moved", "moved")],
)
def test_a_move_cut_off_by_a_crash_is_ended(tmp_path: Path, image: str, beside: str) -> None:
    """`moved` is durable; the image and its sidecar are at the old name, under both names, or at the new one."""
    site = Site(tmp_path / "site", tmp_path / "service.jsonl")
    for prompt in ("A cat", "A bigger cat"):
        site.write({"cat": prompt})
        assert Child(one_run, site).end().code == 0
    right = _pictures(site.output)
    (aside,) = (name for name in right if "~" in name and name.endswith(".png"))
    assert set(right) == {"cat.png", "cat.png.json", aside, f"{aside}.json"}

    ledger = site.output / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    moved = next(n for n, line in enumerate(lines) if b'"type":"moved"' in line)
    ledger.write_bytes(b"".join(lines[: moved + 1]))
    for state, name in ((image, ""), (beside, ".json")):
        (site.output / f"cat.png{name}").unlink()
        if state != "moved":
            os.link(site.output / f"{aside}{name}", site.output / f"cat.png{name}")
        if state == "before":
            (site.output / f"{aside}{name}").unlink()

    assert Child(one_run, site).end().code == 0
    assert judge(site).problems == []
    again = _pictures(site.output)
    assert set(again) == set(right)
    assert again[aside] == right[aside]
    assert again["cat.png"] == right["cat.png"]
    assert json.loads(again["cat.png.json"])["prompt"] == "A bigger cat"


def _pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if ".png" in path.name}
