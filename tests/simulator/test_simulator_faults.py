from __future__ import annotations

import email.utils
import json
from typing import Any

import pytest
from simulator_help import CAT, NOW, accepted, engine, get, image_url, query, submit

from rsbatch.errors import UsageError
from rsbatch.simulator.faults import (
    BY_NAME,
    FAMILIES,
    FAULTS,
    GROUPS,
    compile_faults,
    draw,
    listing,
    parse_faults,
    table,
)
from rsbatch.simulator.mishaps import MISHAPS

LATER = NOW + 1000


# -- names and rates -----------------------------------------------------------------------------------------------


def test_faults_are_given_by_name_and_rate() -> None:
    assert parse_faults("all=0.05") == {"all": 0.05}
    assert parse_faults("429=0.1, FAIL=0.02,") == {"429": 0.1, "fail": 0.02}
    assert parse_faults("reset-after") == {"reset-after": 1.0}
    assert parse_faults("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rest-after", "did you mean `reset-after`"),
        ("zzz", "--help"),
        ("429=2", "between 0 and 1"),
        ("429=nan", "between 0 and 1"),
        ("429=x", "must be a number"),
        ("429=", "must be a number"),
    ],
)
def test_wrong_faults_are_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_faults(text)


def rates(**given: float) -> dict[str, float]:
    compiled = compile_faults({name.replace("_", "-"): rate for name, rate in given.items()})
    return {chance.name: chance.rate for chances in compiled.values() for chance in chances}


def test_the_closer_name_wins() -> None:
    mixed = rates(all=0.1, image=0.2, fail=0.3, reset_after=0, moderation=0.5)
    assert mixed["429-seconds"] == 0.1
    assert mixed["image-slow"] == 0.2
    assert mixed["fail"] == 0.3
    assert mixed["moderation"] == 0.5
    assert "reset-after" not in mixed
    assert "fail-message" not in mixed


def test_a_family_leaves_out_the_members_that_are_given_by_name() -> None:
    chances = compile_faults({"reset": 0.5, "reset-after": 0})["submit"]
    assert [[fault.name for fault in chance.faults] for chance in chances] == [["reset-before"]]


def test_all_means_all_but_those_that_stop_or_hang() -> None:
    everything = rates(all=0.1)
    stopping = {name for name in BY_NAME if name not in everything}
    hanging = {"hang-before", "hang-after", "query-hang", "image-hang"}
    assert stopping == hanging | {"bad-key", "no-balance", "no-quota", "forbidden", "moved"}
    assert [*rates(hang=1)] == ["hang-before", "hang-after", "query-hang", "image-hang"]


def test_a_family_shares_its_rate_among_its_shapes() -> None:
    chances = compile_faults({"429": 0.3})["submit"]
    struck = [draw(chances, 7, n) for n in range(6000)]
    names = [fault.name for fault in struck if fault]
    assert 0.27 < len(names) / len(struck) < 0.33
    for shape in ("429-seconds", "429-date", "429-bare"):
        assert 0.28 < names.count(shape) / len(names) < 0.39


def test_the_table_is_whole() -> None:
    assert len(BY_NAME) == len(FAULTS)
    assert {fault.name for fault in FAULTS if fault.stage != "job"} == set(MISHAPS)
    assert not set(GROUPS) & set(BY_NAME)
    assert not set(FAMILIES) & set(BY_NAME)
    for name in BY_NAME:
        assert f"`{name}`" in table()
        assert f"  {name} " in listing()


# -- submissions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS if fault.stage == "submit"])
def test_a_fault_of_submissions_accepts_or_not_as_its_line_says(name: str) -> None:
    it = engine(faults={name: 1})
    answer = submit(it)
    assert len(it.jobs) == (1 if BY_NAME[name].accepts else 0)
    assert it.audit(NOW)["totals"]["faults"] == {name: 1}
    if it.jobs:
        (line,) = it.audit(NOW)["jobs"]
        assert line["charged"]
        assert not line["delivered"]
        assert line["lost_by"] == name
        assert line["job_id"].encode() not in answer.body
        assert it.audit(NOW)["totals"]["lost"] == 1


def test_too_many_requests_in_three_forms() -> None:
    seconds, date, bare = (submit(engine(faults={f"429-{form}": 1})) for form in ("seconds", "date", "bare"))
    assert {seconds.status, date.status, bare.status} == {429}
    assert dict(seconds.headers) == {"retry-after": "2"}
    assert email.utils.parsedate_to_datetime(dict(date.headers)["retry-after"]).timestamp() == NOW + 2
    assert bare.headers == ()


def test_server_errors_with_a_code() -> None:
    assert submit(engine(faults={"5xx-flat": 1})).json()["code"]
    assert submit(engine(faults={"5xx-nested": 1})).json()["error"]["code"]
    it = engine(faults={"5xx": 1})
    assert {submit(it, {"prompt": f"{n}"}).status for n in range(50)} == {500, 502, 503}


def test_server_errors_without_a_code() -> None:
    gateway = submit(engine(faults={"504": 1}))
    assert (gateway.status, gateway.body) == (504, b'{"message": "Endpoint request timed out"}')
    page = submit(engine(faults={"502-html": 1}))
    assert (page.status, page.content_type) == (502, "text/html; charset=utf-8")


def test_connections_that_end() -> None:
    assert submit(engine(faults={"reset-after": 1})).manner.reset
    hung = submit(engine(faults={"hang-after": 1}, hang=150, speed=2)).manner
    assert hung.reset
    assert hung.wait == 75


def test_answers_that_cannot_be_read() -> None:
    for name in ("unreadable-json", "unreadable-html", "unreadable-empty"):
        answer = submit(engine(faults={name: 1}))
        assert answer.status == 200
        with pytest.raises(ValueError):
            json.loads(answer.body)
    assert "job_id" not in submit(engine(faults={"unreadable-no-id": 1})).json()


def test_an_error_in_a_200_is_a_refusal() -> None:
    for name in ("200-error-rate", "200-error-final"):
        it = engine(faults={name: 1})
        answer = submit(it)
        assert answer.status == 200
        assert answer.json()["job_id"] == ""
        assert answer.json()["error"]["code"]
        assert not it.jobs


def test_moderation_sticks_and_the_rest_passes() -> None:
    it = engine(faults={"moderation": 0.5})
    outcomes = {n: {submit(it, {"prompt": f"{n}"}).status for _ in range(5)} for n in range(40)}
    assert all(len(seen) == 1 for seen in outcomes.values())
    assert {400, 200} == set.union(*outcomes.values())
    it = engine(faults={"5xx": 0.5})
    assert {submit(it).status >= 500 for _ in range(30)} == {True, False}


def test_a_wrong_request_gets_its_own_error() -> None:
    assert submit(engine(faults={"reset-after": 1}), {}).status == 400


# -- outcomes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "field"),
    [("fail-error-message", "error_message"), ("fail-message", "message"), ("fail-error-object", "error")],
)
def test_failures_in_their_shapes(name: str, field: str) -> None:
    it = engine(faults={name: 1})
    answer = query(it, accepted(it), LATER).json()
    assert answer["status"] == "FAIL"
    assert [*answer] == ["status", "created", field]
    (line,) = it.audit(LATER)["jobs"]
    assert not line["charged"]
    assert line["outcome"] == "FAIL"


def done(name: str) -> Any:
    it = engine(faults={name: 1})
    return query(it, accepted(it), LATER)


def test_results_in_their_shapes() -> None:
    assert all(isinstance(url, str) for url in done("done-strings").json()["data"])
    assert len(done("done-several").json()["data"]) == 3
    assert done("done-empty").json()["data"] == []
    embedded = done("done-b64")
    assert embedded.envelope is not None
    assert len(embedded.pictures) == 1


def test_an_image_of_another_format_keeps_the_name_that_was_asked_for() -> None:
    it = engine(faults={"done-other-format": 1})
    url = image_url(it)
    assert ".png?" in url
    assert get(it, url).pictures[0].brief.format == "webp"
    assert get(it, url).content_type == "image/webp"


# -- queries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS if fault.stage == "query"])
def test_a_fault_of_queries_passes(name: str) -> None:
    it = engine(faults={name: 0.5})
    job_id = accepted(it)
    answers = [query(it, job_id, LATER) for _ in range(30)]
    good = [a for a in answers if a.status == 200 and a.body.startswith(b'{"status": "DONE"') and b'"url"' in a.body]
    good = [a for a in good if a.body.endswith(b"}")]
    assert 5 < len(good) < 25
    assert it.audit(LATER)["totals"]["faults"][name] == 30 - len(good)


def test_states_of_other_names() -> None:
    it = engine(faults={"query-state": 1})
    assert query(it, accepted(it)).json()["status"] == "QUEUED_UPSTREAM"


def test_done_early_only_when_done() -> None:
    it = engine(faults={"query-done-early": 1})
    job_id = accepted(it)
    assert query(it, job_id).json()["status"] == "RUN"
    assert query(it, job_id, LATER).json() == {"status": "DONE", "created": int(LATER), "data": []}


# -- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS if fault.stage == "image"])
def test_a_fault_of_downloads_passes(name: str) -> None:
    it = engine(faults={name: 0.5})
    url = image_url(it)
    answers = [get(it, url, LATER) for _ in range(30)]
    good = [a for a in answers if a.status == 200 and a.pictures and not (a.manner.cut or a.manner.stall)]
    assert 5 < len(good) < 25


def test_downloads_that_go_wrong() -> None:
    def answer(name: str) -> Any:
        it = engine(faults={name: 1}, speed=2, stall=6, service_time=0)
        return get(it, image_url(it), LATER)

    assert answer("image-cut-length").manner.cut == "length"
    assert answer("image-cut-clean").manner.cut == "clean"
    assert answer("image-html").content_type.startswith("text/html")
    assert answer("image-text").content_type == "image/png"
    assert answer("image-slow").manner.stall == 3
    assert answer("image-403").status == 403
    assert answer("image-404").status == 404
    assert answer("image-5xx").status in {500, 502, 503}
    assert [key for key, _ in answer("image-429-seconds").headers] == ["retry-after"]
    assert answer("image-429-bare").status == 429
    assert answer("image-reset").manner.reset


def test_a_redirect_leads_to_the_image() -> None:
    it = engine(faults={"image-redirect": 1})
    first = get(it, image_url(it), LATER)
    assert first.status == 302
    assert get(it, dict(first.headers)["location"], LATER).pictures


def test_faults_differ_after_a_restart() -> None:
    def fates(restarts: int) -> list[int]:
        it = engine(faults={"5xx-flat": 0.5})
        for _ in range(restarts):
            it.restore({"type": "opened"})
        return [submit(it, CAT | {"prompt": f"{n}"}).status >= 500 for n in range(40)]

    assert fates(1) != fates(2)


def test_every_family_of_the_table_can_be_given() -> None:
    for fault in FAULTS:
        assert fault.family in {*FAMILIES, *GROUPS, fault.name}
