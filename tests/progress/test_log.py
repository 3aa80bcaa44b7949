"""Progress in logs: few lines, whole and plain."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rsbatch.progress.interface import Snapshot
from rsbatch.progress.log import JsonLog, Log, now_utc

NOON = datetime(2026, 5, 29, 12, 0, tzinfo=UTC)


def told(snapshots: Iterable[Snapshot], total: int = 1000, already: int = 0) -> list[str]:
    stream = io.StringIO()
    log = Log(stream, now=lambda: NOON)
    log.begin(total, already)
    for snapshot in snapshots:
        log.update(snapshot)
    log.close()
    log.close()
    lines = stream.getvalue().splitlines()
    assert all(line.startswith("2026-05-29T12:00:00Z ") and line.isprintable() for line in lines)
    return [line.partition(" ")[2] for line in lines]


def test_a_line_says_everything(busy: Snapshot) -> None:
    assert told([busy]) == [
        "1,000 tasks",
        "412 of 1,000 saved (41%), 3 failed, 1 held, 2 parked, paused: 429 from the service, "
        "17:03 left, 8 in flight, 2 downloading, $26.20+, 12:34 elapsed",
    ]


def test_milestones_are_told_at_once_and_the_rest_is_not() -> None:
    fast = (Snapshot(1000, saved=saved, elapsed=saved / 100) for saved in range(1001))
    lines = told(fast)
    assert [re.search(r"\((\d+)%\)", line)[1] for line in lines[1:]] == [  # type: ignore[index]
        *("0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "100")
    ]
    assert lines[1].startswith("1 of 1,000 saved")


def test_a_slow_run_is_told_every_half_minute() -> None:
    slow = (Snapshot(1_000_000, saved=second, elapsed=float(second)) for second in range(301))
    assert len(told(slow, 1_000_000)) == 2 + 9 + 1  # beginning, first; then 31, 61, … 271 s; the end


def test_a_run_that_waits_is_told_every_five_minutes() -> None:
    waiting = (Snapshot(10, out=8, pending=2, elapsed=float(second)) for second in range(1200))
    lines = told(waiting, 10)
    assert [re.search(r"(\S+) elapsed", line)[1] for line in lines[1:]] == [  # type: ignore[index]
        *("00:30", "05:30", "10:30", "15:30", "19:59")
    ]


def test_resuming_counts_from_where_it_stood() -> None:
    lines = told([Snapshot(100, saved=50), Snapshot(100, saved=51), Snapshot(100, saved=52)], 100, 50)
    assert lines == [
        "100 tasks, 50 of them settled before",
        "51 of 100 saved (51%), 00:00 elapsed",
        "52 of 100 saved (52%), 00:00 elapsed",
    ]


def test_nothing_to_do() -> None:
    assert told([], 0) == ["0 tasks"]
    assert told([Snapshot(0)], 0) == ["0 tasks"]


@pytest.mark.parametrize("quiet", [False, True])
def test_notes_are_one_harmless_line_each(quiet: bool) -> None:
    stream = io.StringIO()
    log = Log(stream, quiet=quiet, now=lambda: NOON)
    log.note("odd \x1b[31m\n2026-05-29T12:00:01Z forged\u202e")
    assert stream.getvalue() == ("2026-05-29T12:00:00Z odd \\x1b[31m\\n2026-05-29T12:00:01Z forged\\u202e\n")


def test_the_time_is_utc() -> None:
    assert now_utc().tzinfo is UTC


def test_for_collectors_each_line_is_an_object(busy: Snapshot) -> None:
    stream = io.StringIO()
    log = JsonLog(stream, "icons", now=lambda: NOON)
    log.begin(1000, 412)
    log.note("line one\nline two \x1b[31m")
    log.update(replace(busy, saved=413))
    log.close()
    first, note, progress = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["total"], first["saved"]) == ("begin", 1000, 412)
    assert note == {
        "ts": "2026-05-29T12:00:00.000Z",
        "level": "warning",
        "event": "note",
        "message": "line one\nline two \x1b[31m",
        "manifest": "icons",
    }
    assert (progress["level"], progress["spent"], progress["paused"]) == ("info", "26.2", "429 from the service")
    assert stream.getvalue().isascii()
