from __future__ import annotations

import hashlib
import json
import tracemalloc
from typing import Any

import pytest
from simulator_help import CAT, HEADERS, KEY, NOW, ORIGIN, accepted, engine, get, image_url, post, query, submit

from rsbatch.errors import UsageError
from rsbatch.simulator.engine import Engine
from rsbatch.simulator.settings import Settings
from rsbatch.simulator.wire import AUDIT, QUERY, SUBMIT, Request

RED_DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO"
    "9TXL0Y4OHwAAAABJRU5ErkJggg=="
)


def code(answer: Any) -> tuple[int, str]:
    return answer.status, answer.json()["code"]


# -- the documentation's words -------------------------------------------------------------------------------------


def test_documented_errors_word_for_word() -> None:
    it = engine()
    neither = submit(it, {"model": "gpt-image-2"})
    assert neither.status == 400
    assert neither.body == b'{"code": "invalid_request", "message": "prompt or images is required", "data": null}'
    no_id = post(it, QUERY, {})
    assert no_id.status == 400
    assert no_id.body == b'{"code": "invalid_request", "message": "job_id is required", "data": null}'


def test_a_job_waits_runs_and_is_done() -> None:
    it = engine(slots=1, service_time=10, sigma=0)
    first, second = accepted(it), accepted(it, {"prompt": "B"})
    assert query(it, second).body == b'{"status": "WAIT", "created": 1800000000}'
    assert query(it, first, NOW + 9.9).json() == {"status": "RUN", "created": 1800000000}
    assert query(it, second, NOW + 10).json()["status"] == "RUN"
    done = query(it, first, NOW + 10).json()
    assert done["status"] == "DONE"
    assert [*done["data"][0]] == ["url"]
    assert done["data"][0]["url"].startswith(f"{ORIGIN}/simulator/images/{first}/0.png?")


def test_the_answer_to_a_submission_has_two_ids() -> None:
    answer = submit(engine()).json()
    assert [*answer] == ["request_id", "job_id"]
    assert answer["request_id"].startswith("req_")
    assert len(answer["request_id"]) == len("req_8f2b7c1a9d")
    assert answer["job_id"].startswith("task_20270115080000_")
    assert len(answer["job_id"]) == len("task_20260529123456_abcd1234")


# -- wrong requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": 3}, "prompt must be a string"),
        ({"model": []}, "model must be a string"),
        ({"images": "x"}, "images must be an array of strings"),
        ({"images": [1]}, "images must be an array of strings"),
        ({"images": ["photo.png"]}, "images[0] must be an http, https or data URL"),
        ({"images": ["data:image/png;base64,AAAA"]}, "images[0] is not an image"),
        ({"images": ["data:image/png;base64,?"]}, "images[0] is not an image"),
        ({"images": ["data:text/plain,hello"]}, "images[0] is not an image"),
        ({"mask": "ftp://host/mask.png"}, "mask must be an http, https or data URL"),
        ({"n": 2}, "n must be 1"),
        ({"n": 0}, "n must be 1"),
        ({"n": "1"}, "n must be an integer"),
        ({"n": True}, "n must be an integer"),
        ({"size": "large"}, "size must be WIDTHxHEIGHT or auto"),
        ({"size": "9999x16"}, "size must be between 16x16 and 4096x4096"),
        ({"output_format": "gif"}, "output_format must be one of png, jpeg, webp"),
        ({"output_compression": 101}, "output_compression must be an integer between 0 and 100"),
        ({"output_compression": 1.5}, "output_compression must be an integer between 0 and 100"),
        ({"logo_add": 2}, "logo_add must be 0 or 1"),
        ({"logo_add": False}, "logo_add must be 0 or 1"),
        ({"logo_param": "x"}, "logo_param must be an object"),
        ({"extra": []}, "extra must be an object"),
        (
            {"background": "transparent", "output_format": "jpeg"},
            "background transparent needs output_format png or webp",
        ),
    ],
)
def test_a_field_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    it = engine()
    answer = submit(it, CAT | change)
    assert answer.status == 400
    assert answer.json() == {"code": "invalid_request", "message": message, "data": None}
    assert not it.jobs


@pytest.mark.parametrize(
    "change",
    [
        {"images": ["", RED_DOT]},
        {"images": ["https://example.com/a.png"], "prompt": ""},
        {"mask": ""},
        {"n": 1},
        {"n": None},
        {"size": "auto"},
        {"output_compression": 0, "logo_add": 0},
        {"background": "opaque", "input_fidelity": "high", "response_format": "url", "quality": "medium"},
        {"logo_param": {}, "extra": {"revise": 0}, "seed": 42, "unheard_of": [1]},
    ],
)
def test_a_right_request_is_accepted(change: dict[str, Any]) -> None:
    accepted(engine(), CAT | change)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[1]", b'"x"', b'{"prompt": NaN}', b"\xff", b'{"prompt": "\\ud800"}', b"[" * 100_000, b"1" * 5000],
)
def test_a_body_that_is_no_json_object(raw: bytes) -> None:
    assert code(submit(engine(), raw)) == (400, "invalid_request")


def test_a_body_without_its_content_type() -> None:
    answer = post(engine(), SUBMIT, CAT, headers={"authorization": f"Bearer {KEY}"})
    assert answer.json()["message"] == "Content-Type must be application/json"


@pytest.mark.parametrize(
    ("authorization", "key", "status"),
    [
        ("", None, 401),
        ("Bearer", None, 401),
        ("Basic sk-test", None, 401),
        ("Bearer wrong", None, 401),
        ("Bearer sk-", None, 401),
        ("Bearer sk-any", None, 200),
        ("bearer sk-any", None, 200),
        ("Bearer sk-any", "sk-mine", 401),
        ("Bearer sk-mine", "sk-mine", 200),
    ],
)
def test_the_key(authorization: str, key: str | None, status: int) -> None:
    headers = HEADERS | {"authorization": authorization}
    assert post(engine(key=key), SUBMIT, CAT, headers=headers).status == status
    if status == 401:
        assert post(engine(key=key), QUERY, {"job_id": "x"}, headers=headers).status == 401


def test_a_model_that_does_not_exist() -> None:
    assert code(submit(engine(), CAT | {"model": "no-such-model"})) == (404, "model_not_found")
    accepted(engine(models=("flux-*",)), CAT | {"model": "flux-1"})


def test_a_balance_in_images() -> None:
    it = engine(balance=2)
    accepted(it)
    accepted(it)
    assert code(submit(it)) == (402, "insufficient_balance")
    assert it.audit(NOW)["totals"]["charged"] == 2


def test_an_image_that_failed_does_not_touch_the_balance() -> None:
    it = engine(balance=1, faults={"fail": 1})
    accepted(it)
    accepted(it)


def test_other_addresses_have_no_error_object() -> None:
    it = engine()
    for method, path, status in [
        ("POST", "/v1/nothing", 404),
        ("GET", SUBMIT, 405),
        ("GET", QUERY, 405),
        ("POST", "/simulator/images/x/0.png", 405),
        ("POST", AUDIT, 405),
        ("GET", "/", 404),
    ]:
        answer = it.handle(Request(method, path, ORIGIN, headers=HEADERS), NOW)
        assert answer.status == status
        assert not answer.body.startswith(b"{")


def test_an_unknown_job() -> None:
    assert code(query(engine(), "task_x")) == (404, "job_not_found")
    assert code(post(engine(), QUERY, {"job_id": 3})) == (400, "invalid_request")


# -- slots ---------------------------------------------------------------------------------------------------------


def test_a_queue_is_first_come_first_served() -> None:
    it = engine(slots=2, service_time=10, sigma=0)
    jobs = [accepted(it, CAT | {"prompt": f"{n}"}) for n in range(5)]
    assert [it.jobs[job].start - NOW for job in jobs] == [0, 0, 10, 10, 20]
    assert it.audit(NOW)["totals"]["max_in_flight"] == 5


def test_no_more_than_the_slots_ever_run() -> None:
    it = engine(slots=3, service_time=10, sigma=1)
    jobs = [it.jobs[accepted(it, CAT, NOW + n)] for n in range(60)]
    for moment in (edge for job in jobs for edge in (job.start, job.end)):
        assert sum(job.start <= moment < job.end for job in jobs) <= 3


def test_without_a_queue_the_rest_is_refused() -> None:
    it = engine(slots=2, queueing=False, service_time=10, sigma=0)
    accepted(it)
    accepted(it)
    refused = submit(it, now=NOW + 9)
    assert code(refused) == (429, "concurrency_limit_exceeded")
    assert len(it.jobs) == 2
    accepted(it, now=NOW + 10)


def test_so_many_a_minute_are_taken_and_the_rest_is_refused() -> None:
    kept: list[dict[str, Any]] = []
    it = Engine(Settings(per_minute=2, speed=10, balance=3), keep=kept.append)  # a minute takes 6 s
    accepted(it)
    accepted(it, now=NOW + 2)
    refused = submit(it, now=NOW + 5.9)
    assert code(refused) == (429, "rate_limit_exceeded")
    assert refused.json()["message"] == "at most 2 submissions a minute"
    again = Engine(it.settings)
    for record in kept:
        again.restore(record)
    assert code(submit(again, now=NOW + 5.9)) == (429, "rate_limit_exceeded"), "a restart makes no room"
    accepted(it, now=NOW + 6)
    assert code(submit(it, now=NOW + 7)) == (402, "insufficient_balance")
    assert len(it.jobs) == 3


def test_speed_shortens_all_durations() -> None:
    it = engine(service_time=10, sigma=0, speed=10, url_ttl=600)
    job_id = accepted(it)
    assert query(it, job_id, NOW + 1).json()["status"] == "DONE"
    url = query(it, job_id, NOW + 1).json()["data"][0]["url"]
    assert get(it, url, NOW + 60.9).status == 200
    assert get(it, url, NOW + 61).status == 403


def test_service_times_are_lognormal_round_the_median() -> None:
    it = engine(slots=10_000, service_time=8)
    jobs = [it.jobs[accepted(it, CAT | {"prompt": f"{n}"})] for n in range(999)]
    times = sorted(job.end - job.start for job in jobs)
    assert 7.5 < times[499] < 8.5
    assert times[0] > 2
    assert 12 < times[-1] < 40


# -- images --------------------------------------------------------------------------------------------------------


def test_a_url_expires_and_a_query_gives_a_fresh_one() -> None:
    it = engine(service_time=1, url_ttl=60)
    job_id = accepted(it)
    old = query(it, job_id, NOW + 10).json()["data"][0]["url"]
    assert get(it, old, NOW + 69).status == 200
    late = get(it, old, NOW + 70)
    assert late.status == 403
    assert b"<Code>AccessDenied</Code>" in late.body
    assert get(it, query(it, job_id, NOW + 70).json()["data"][0]["url"], NOW + 70).status == 200


def test_a_url_that_was_tampered_with() -> None:
    it = engine()
    url = image_url(it)
    assert get(it, url).status == 200
    for wrong in [
        url[:-1],
        url.replace("/0.png", "/1.png"),
        url.replace("expires=1", "expires=2"),
        url.partition("?")[0],
    ]:
        assert get(it, wrong).status == 403


def test_an_image_is_drawn_from_its_order() -> None:
    it = engine()
    body = CAT | {"images": [RED_DOT, "https://example.com/x.png"], "output_format": "webp", "quality": "high"}
    job_id = accepted(it, body)
    url = query(it, job_id, NOW + 1000).json()["data"][0]["url"]
    assert ".webp?" in url
    answer = get(it, url)
    (picture,) = answer.pictures
    assert answer.content_type == "image/webp"
    assert (picture.brief.width, picture.brief.height, picture.brief.quality) == (64, 64, "high")
    assert picture.references[0] is not None
    assert picture.references[1] is None


def test_equal_orders_give_siblings() -> None:
    it = engine()
    first, second = (get(it, image_url(it)).pictures[0] for _ in range(2))
    assert (first.brief.variation, second.brief.variation) == (0, 1)


# -- determinism ---------------------------------------------------------------------------------------------------


def test_one_seed_one_course() -> None:
    def course(seed: int, order: list[int]) -> dict[str, Any]:
        it = engine(seed=seed, slots=100, faults={"all": 0.3})
        for n in order:
            submit(it, CAT | {"prompt": f"{n}"})
        return {line["prompt"]: {**line, "accepted": 0} for line in it.audit(NOW)["jobs"]}

    numbers = list(range(40))
    assert course(1, numbers) == course(1, numbers[::-1])
    assert course(1, numbers) != course(2, numbers)


def test_ids_stay_apart_within_a_second() -> None:
    it = engine(slots=10)
    assert len({accepted(it, CAT) for _ in range(3000)}) == 3000


# -- audit and memory ----------------------------------------------------------------------------------------------


def test_the_audit_says_what_was_paid() -> None:
    it = engine(service_time=1, sigma=0)
    job_id = accepted(it)
    url = query(it, job_id, NOW + 5).json()["data"][0]["url"]
    get(it, url, NOW + 5)
    submit(it, {})
    answer = it.handle(Request("GET", AUDIT, ORIGIN), NOW + 5)
    audit = answer.json()
    canonical = json.dumps(CAT, sort_keys=True, separators=(",", ":"))
    assert audit["jobs"] == [
        {
            "job_id": job_id,
            "request_id": it.jobs[job_id].request_id,
            "body_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
            "prompt": "A cat",
            "model": "gpt-image-2",
            "accepted": NOW,
            "status": "DONE",
            "outcome": "DONE",
            "images": 1,
            "charged": True,
            "delivered": True,
            "lost_by": None,
            "fault": None,
            "queries": 1,
            "downloads": 1,
        }
    ]
    assert audit["totals"] == {
        "accepted": 1,
        "charged": 1,
        "delivered": 1,
        "lost": 0,
        "states": {"DONE": 1},
        "in_flight": 0,
        "max_in_flight": 1,
        "downloads": 1,
        "requests": {"submit": {"200": 1, "400": 1}, "query": {"200": 1}, "image": {"200": 1}},
        "faults": {},
        "restarts": 0,
    }


def test_twenty_thousand_jobs_fit_in_little_memory() -> None:
    it = engine(slots=1000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(20_000):
            accepted(it, {"prompt": f"A cat in a hat, number {n}, in the style of an ink drawing"}, NOW + n / 100)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown / 20_000 < 1500


def test_a_reference_image_of_many_jobs_is_kept_once() -> None:
    kept: list[dict[str, Any]] = []
    it = Engine(keep=kept.append)
    for n in range(5):
        accepted(it, {"prompt": f"{n}", "images": [RED_DOT]})
    assert [record["type"] for record in kept].count("thumbnail") == 1
    assert not any(RED_DOT[30:60] in json.dumps(record) for record in kept)


def test_what_cannot_be_kept_is_not_accepted() -> None:
    def full(_: dict[str, Any]) -> None:
        raise OSError("disk full")

    it = Engine(keep=full)
    with pytest.raises(OSError, match="disk full"):
        submit(it)
    assert not it.jobs
    assert it.in_flight(NOW) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"speed": 0},
        {"speed": float("nan")},
        {"service_time": -1},
        {"url_ttl": 0},
        {"balance": -1},
        {"latency": -1},
        {"download_time": float("inf")},
        {"key": ""},
        {"faults": {"nothing": 1}},
        {"faults": {"429": 2}},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**wrong)
