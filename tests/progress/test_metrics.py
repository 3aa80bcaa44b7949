"""Figures for Prometheus, read back by its own parser."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rsbatch.errors import UsageError
from rsbatch.ledger.state import Spend
from rsbatch.planning import Category
from rsbatch.progress.interface import Snapshot
from rsbatch.progress.metrics import GAUGES, Metrics
from rsbatch.scheduler import Halt
from rsbatch.summary import Differing, Result, ThisRun

NAME = 'icons "a"\n'
"""Quotes and a newline: the format escapes them."""


def result(saved: int, pending: int = 0, halted: Halt | None = None) -> Result:
    tasks = Counter({Category.SAVED: saved, Category.PENDING: pending})
    return Result("m", "r", "L", "O", tasks, tasks, 0, ThisRun(), 12.5, Spend(), Differing(), halted)


class Watched:
    """A file of metrics, its clock and what was said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time = 1000.0
        self.said: list[str] = []
        self.metrics = self.again()

    def again(self) -> Metrics:
        self.metrics = Metrics(self.path, NAME, self.said.append, lambda: self.time)
        return self.metrics

    def read(self) -> dict[str, float]:
        """Values by the name without its prefix, or by the state."""
        found = {}
        for family in text_string_to_metric_families(self.path.read_text("utf-8")):
            assert family.type == "gauge"
            assert family.documentation
            for sample in family.samples:
                assert sample.labels["manifest"] == NAME
                found[sample.labels.get("state") or sample.name.removeprefix("rsbatch_")] = sample.value
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "rsbatch.prom")


def test_a_run_from_its_beginning_to_its_end(watched: Watched, busy: Snapshot) -> None:
    watched.metrics.note("nobody collects this")
    watched.metrics.begin(1000, 400)
    assert watched.read() == {
        "run_in_progress": 1,
        "run_start_timestamp_seconds": 1000,
        "run_duration_seconds": 0,
        "jobs_in_flight": 0,
        "saved": 400,
        "failed": 0,
        "held": 0,
        "parked": 0,
        "pending": 600,
    }
    watched.metrics.update(busy)
    during = watched.read()
    assert {name: during[name] for name in ("jobs_in_flight", "spent_dollars", "saved", "pending")} == {
        "jobs_in_flight": 8,
        "spent_dollars": 26.2,
        "saved": 412,
        "pending": 582,
    }
    assert sum(during[c.value] for c in Category) == 1000
    watched.time = 2000.0
    watched.metrics.close()
    assert watched.read()["run_in_progress"] == 0
    watched.metrics.ended(result(1000))
    after = watched.read()
    assert {f"rsbatch_{name}" for name in after} >= set(GAUGES)
    assert (after["run_exit_code"], after["run_end_timestamp_seconds"], after["run_duration_seconds"]) == (
        0,
        2000,
        12.5,
    )
    assert (after["run_last_success_timestamp_seconds"], after["jobs_in_flight"], after["pending"]) == (2000, 0, 0)


def test_it_is_written_now_and_then(watched: Watched) -> None:
    watched.metrics.begin(10, 0)
    seen = set()
    for second in range(61):
        watched.metrics.update(Snapshot(10, elapsed=float(second), spent=Decimal(second)))
        seen.add(watched.read().get("spent_dollars"))
    assert seen == {None, 15, 30, 45, 60}


def test_the_last_success_outlives_a_bad_night(watched: Watched) -> None:
    watched.metrics.begin(2, 0)
    watched.metrics.ended(result(2))
    watched.time = 5000.0
    watched.again().begin(2, 0)
    assert "run_exit_code" not in watched.read()
    watched.metrics.ended(result(1, 1, Halt.BUDGET))
    values = watched.read()
    assert (values["run_exit_code"], values["run_last_success_timestamp_seconds"]) == (3, 1000)


@pytest.mark.parametrize("before", ["what is this {", "\x00", '{"v":1,"seq":1}\n'])
def test_what_is_not_ours_is_left_alone(watched: Watched, before: str) -> None:
    """It may be the ledger."""
    watched.path.write_text(before)
    with pytest.raises(UsageError, match="holds something else; name another file, nothing was submitted"):
        Metrics(watched.path, NAME, print)
    watched.metrics.begin(2, 0)
    watched.metrics.ended(result(2))
    assert watched.path.read_text() == before
    assert all("holds something else" in line for line in watched.said)


def test_what_is_torn_or_empty_is_replaced(watched: Watched) -> None:
    for before in ("", "# HELP rsbatch_run_in_progress 1 wh"):
        watched.path.write_text(before)
        watched.metrics.begin(2, 0)
        assert watched.read()["run_in_progress"] == 1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="a pipe or a device"):
        Metrics(tmp_path / "pipe", NAME, print)


def test_a_link_stays_one(watched: Watched) -> None:
    link = watched.path.with_name("link")
    link.symlink_to(watched.path.name)
    Metrics(link, NAME, print).begin(2, 0)
    assert link.is_symlink()
    assert watched.read()["run_in_progress"] == 1


def test_a_run_that_did_not_begin_touches_nothing(watched: Watched) -> None:
    watched.metrics.close()
    assert not watched.path.exists()


def test_a_file_that_cannot_be_written_is_a_note(watched: Watched) -> None:
    watched.metrics.begin(2, 0)
    watched.path.unlink()
    watched.path.mkdir()
    watched.metrics.ended(result(2))
    assert [line.partition(" (")[0] for line in watched.said] == [f"the metrics could not be written to {watched.path}"]
    assert list(watched.path.parent.iterdir()) == [watched.path], "a half file stayed"


def test_a_folder_that_went_meanwhile_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    said: list[str] = []
    metrics = Metrics(tmp_path / "sub" / "x.prom", NAME, said.append)
    (tmp_path / "sub").rmdir()
    metrics.begin(2, 0)
    assert [line.partition(" (")[0] for line in said] == [
        f"the metrics could not be written to {tmp_path / 'sub' / 'x.prom'}"
    ]


def test_a_place_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nope" / "x.prom"):
        with pytest.raises(UsageError, match="nothing was submitted"):
            Metrics(path, NAME, print)


def test_an_unknown_price_is_not_0(watched: Watched, busy: Snapshot) -> None:
    watched.metrics.begin(2, 0)
    watched.metrics.update(replace(busy, spent=None))
    assert "spent_dollars" not in watched.read()
