from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulator_help import CAT, NOW, accepted, get, query, submit

from rsbatch.errors import StoreError, UsageError
from rsbatch.simulator.journal import Journal, open_simulator
from rsbatch.simulator.settings import Settings

SETTINGS = Settings(slots=1, service_time=10, sigma=0)


def clock() -> float:
    return NOW


def test_jobs_survive_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "new" / "simulator.jsonl"
    before = open_simulator(SETTINGS, state, clock)
    jobs = [accepted(before, CAT | {"prompt": f"{n}"}) for n in range(3)]
    url = query(before, jobs[0], NOW + 10).json()["data"][0]["url"]
    get(before, url, NOW + 10)

    after = open_simulator(SETTINGS, state, clock)
    assert [query(after, job, NOW + 15).json()["status"] for job in jobs] == ["DONE", "RUN", "WAIT"]
    assert get(after, url, NOW + 15).pictures == get(before, url, NOW + 15).pictures
    assert after.audit(NOW + 15)["totals"]["restarts"] == 1
    assert after.audit(NOW)["jobs"][0]["downloads"] >= 1
    assert after.jobs[accepted(after, CAT, NOW + 15)].start == NOW + 30


def test_the_first_opening_is_no_restart(tmp_path: Path) -> None:
    assert open_simulator(SETTINGS, tmp_path / "s.jsonl", clock).restarts == 0
    assert open_simulator(SETTINGS, tmp_path / "s.jsonl", clock).restarts == 1
    assert open_simulator(SETTINGS, None, clock).restarts == 0


def test_references_survive_a_restart(tmp_path: Path) -> None:
    dot = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljN"
        "BAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
    )
    body = CAT | {"images": [dot], "mask": dot}
    state = tmp_path / "s.jsonl"
    job = accepted(open_simulator(SETTINGS, state, clock), body)
    after = open_simulator(SETTINGS, state, clock)
    (picture,) = get(after, query(after, job, NOW + 99).json()["data"][0]["url"], NOW + 99).pictures
    assert picture.references[0] is not None
    assert picture.mask is not None


def test_a_torn_tail_is_cut_off(tmp_path: Path) -> None:
    state = tmp_path / "s.jsonl"
    job = accepted(open_simulator(SETTINGS, state, clock))
    whole = state.read_bytes()
    for end in range(len(whole) - 1, len(whole) - 400, -37):
        state.write_bytes(whole[:end])
        it = open_simulator(SETTINGS, state, clock)
        assert job not in it.jobs
        other = accepted(it)
        assert [*open_simulator(SETTINGS, state, clock).jobs] == [other]


@pytest.mark.parametrize(
    "line", ["garbage", "[1]", '{"type": "job"}', '{"type": "thumbnail", "sha256": "x", "webp": 3}']
)
def test_damage_is_told_with_its_line(tmp_path: Path, line: str) -> None:
    state = tmp_path / "s.jsonl"
    open_simulator(SETTINGS, state, clock)
    with state.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StoreError, match="line 2"):
        open_simulator(SETTINGS, state, clock)


def test_records_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    state = tmp_path / "s.jsonl"
    state.write_text('{"type": "something new"}\n')
    assert not open_simulator(SETTINGS, state, clock).jobs


def test_a_job_is_written_before_its_answer(tmp_path: Path) -> None:
    state = tmp_path / "s.jsonl"
    answer = submit(open_simulator(SETTINGS, state, clock))
    record = json.loads(state.read_text().splitlines()[-1])
    assert record["job_id"] == answer.json()["job_id"]


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        open_simulator(SETTINGS, tmp_path / "file" / "s.jsonl", clock)
    with pytest.raises(StoreError):
        open_simulator(SETTINGS, tmp_path, clock)
    with pytest.raises(StoreError):
        Journal(tmp_path).append({})


def test_two_servers_do_not_share_a_state(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "s.jsonl")
    with journal.locked(), pytest.raises(UsageError, match="in use"), Journal(tmp_path / "s.jsonl").locked():
        pass
    with journal.locked():
        pass
