"""What every answer of the service means, row by row of the service's tables, and that no byte string is a surprise."""

from __future__ import annotations

import json
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import pytest
from core_help import JSON, NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from rsbatch.wire import (
    QUERY_PATH,
    RETRY_AFTER_MOST,
    SUBMIT_PATH,
    Accepted,
    Answer,
    Done,
    Doubt,
    ErrorObject,
    Failed,
    Fatal,
    Refused,
    Stop,
    Throttled,
    Trouble,
    UnknownJob,
    Waiting,
    error_object,
    query_body,
    read_query,
    read_submit,
    retry_after,
)

HTML = b"<html><body>Bad Gateway</body></html>"


def answer(status: int, body: Any = b"", **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, data)


def error(code: Any = "invalid_request", message: str = "why") -> dict[str, Any]:
    return {"code": code, "message": message, "data": None}


def submit(status: int, body: Any = b"", **headers: str) -> Any:
    return read_submit(answer(status, body, **headers), NOW)


def query(status: int, body: Any = b"", **headers: str) -> Any:
    return read_query(answer(status, body, **headers), NOW)


# submissions


@pytest.mark.parametrize(
    ("body", "job_id", "request_id"),
    [
        ({"request_id": "req_1", "job_id": "task_1"}, "task_1", "req_1"),
        ({"job_id": "task_1"}, "task_1", None),
        ({"job_id": "task_1", "request_id": 7}, "task_1", None),
        ({"job_id": 123}, "123", None),
        ({"data": {"job_id": "task_1"}, "code": "success"}, "task_1", None),
        ({"job_id": "", "data": {"job_id": "task_1"}}, "task_1", None),
        ({"job_id": "task_1", **error("rate_limit")}, "task_1", None),
        ({"job_id": "x" * 512}, "x" * 512, None),
    ],
)
def test_accepted(body: Any, job_id: str, request_id: str | None) -> None:
    for status in (200, 201, 202):
        assert submit(status, body) == Accepted(job_id, request_id)


ROWS = [
    # the table of statuses
    ("400 does not fit", 400, error(), Refused("invalid_request", "why", 400, final=True)),
    ("400 moderation", 400, error("moderation_blocked"), Refused("moderation_blocked", "why", 400, final=True)),
    ("401", 401, error("invalid_api_key"), Stop(Fatal.KEY, "HTTP 401: why", 401)),
    ("401 html", 401, HTML, Stop(Fatal.KEY, "HTTP 401 with an HTML page", 401)),
    ("402", 402, error("anything"), Stop(Fatal.BALANCE, "HTTP 402: why", 402)),
    ("402 empty", 402, b"", Stop(Fatal.BALANCE, "HTTP 402 with no error object", 402)),
    ("403 balance", 403, error("insufficient_user_quota"), Stop(Fatal.BALANCE, "HTTP 403: why", 403)),
    ("403", 403, error("model_not_allowed"), Stop(Fatal.KEY, "HTTP 403: why", 403)),
    ("404 model", 404, error("model_not_found"), Refused("model_not_found", "why", 404, final=True)),
    ("429", 429, error("rate_limit_exceeded"), Throttled("HTTP 429: why", 429)),
    ("429 html", 429, HTML, Throttled("HTTP 429 with an HTML page", 429)),
    ("429 balance", 429, error("insufficient_quota"), Stop(Fatal.BALANCE, "why", 429)),
    ("500 coded", 500, error("internal_error"), Refused("internal_error", "why", 500, final=False)),
    ("502 coded", 502, {"error": error("bad_upstream")}, Refused("bad_upstream", "why", 502, final=False)),
    ("503 coded", 503, error("rate_limit"), Throttled("HTTP 503: why", 503)),
    ("503 coded balance", 503, error("balance_low"), Stop(Fatal.BALANCE, "why", 503)),
    # fatal for the run
    ("301", 301, b"", Stop(Fatal.ADDRESS, "it redirects", 301)),
    ("404 plain", 404, b"", Stop(Fatal.ADDRESS, "HTTP 404 with no error object", 404)),
    ("404 message", 404, {"message": "no Route"}, Stop(Fatal.ADDRESS, "HTTP 404: no Route", 404)),
    ("405", 405, b"", Stop(Fatal.ADDRESS, "HTTP 405 with no error object", 405)),
    ("400 html", 400, HTML, Stop(Fatal.ADDRESS, "HTTP 400 with an HTML page", 400)),
    ("418", 418, b"", Stop(Fatal.ADDRESS, "HTTP 418 with no error object", 418)),
    # final for the task
    ("400 bare", 400, b"", Refused("http_400", "HTTP 400 with no error object", 400, final=True)),
    ("422 message", 422, {"message": "m"}, Refused("http_422", "HTTP 422: m", 422, final=True)),
    ("413 html", 413, HTML, Refused("http_413", "HTTP 413 with an HTML page", 413, final=True)),
    ("409 coded", 409, error("conflict"), Refused("conflict", "why", 409, final=True)),
    ("400 key words", 400, error("permission_denied"), Refused("permission_denied", "why", 400, final=True)),
    ("400 rate", 400, error("concurrency_quota"), Throttled("HTTP 400: why", 400)),
    ("400 balance", 400, error("insufficient_balance"), Stop(Fatal.BALANCE, "why", 400)),
    # an answer, not a doubt: 2xx with an error object and no job
    ("200 rate", 200, error("too many requests"), Throttled("HTTP 200: why", 200)),
    ("200 balance", 200, error("account.arrears"), Stop(Fatal.BALANCE, "why", 200)),
    ("200 key", 200, error("invalid_api_key"), Stop(Fatal.KEY, "why", 200)),
    ("200 else", 200, {"error": error("bad_size"), "job_id": ""}, Refused("bad_size", "why", 200, final=True)),
    ("200 type", 200, {"error": {"type": "bad", "message": ""}}, Refused("bad", "bad", 200, final=True)),
    ("200 number", 200, error(400), Refused("400", "why", 200, final=True)),
]


@pytest.mark.parametrize(("status", "body", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_answers_to_a_submission(status: int, body: Any, expected: Any) -> None:
    assert submit(status, body) == expected


DEEP = b'{"job_id":' + b"[" * 1000 + b"]" * 1000 + b"}"
DOUBTS = [
    ("408", 408, error("timeout")),
    ("504 even with a code", 504, error("rate_limit")),
    ("500 html", 500, HTML),
    ("502 empty", 502, b""),
    ("502 message alone", 502, {"message": "Endpoint request timed out"}),
    ("503 type alone", 503, {"error": {"type": "server_error", "message": "m"}}),
    ("500 with a job", 500, {**error("internal"), "job_id": "task_1"}),
    ("500 with data", 500, {**error("internal"), "data": {"id": 1}}),
    ("429 with a job", 429, {**error("rate_limit"), "job_id": "task_1"}),
    ("400 with a job", 400, {**error(), "job_id": ["task_1"]}),
    ("101", 101, b""),
    ("0", 0, b""),
    ("999 without code", 999, b""),
    ("200 empty", 200, b""),
    ("200 html", 200, HTML),
    ("200 cut", 200, b'{"job_id": "task_'),
    ("200 list", 200, [{"job_id": "task_1"}]),
    ("200 no job", 200, {"request_id": "r"}),
    ("200 message alone", 200, {"message": "m"}),
    ("200 success word", 200, {"code": "SUCCESS", "message": "ok"}),
    ("200 other success", 200, {"code": 20000, "message": "accepted", "data": {"task_id": "t"}}),
    ("200 job too long", 200, {**error("rate_limit"), "job_id": "x" * 513}),
    ("200 job unprintable", 200, {**error("rate_limit"), "job_id": "a\nb"}),
    ("200 job true", 200, {"job_id": True}),
    ("200 job list", 200, {"job_id": ["a"], "code": "x"}),
    ("200 1,000 levels", 200, DEEP),
    ("200 NaN", 200, b'{"job_id": NaN}'),
    ("200 lone surrogate", 200, b'{"job_id": "\\ud800"}'),
    ("200 5,000 digits", 200, b'{"job_id": ' + b"9" * 5000 + b"}"),
    ("200 not UTF-8", 200, b'{"job_id": "\xff"}'),
    ("500 code of 5,000 digits", 500, b'{"code": ' + b"9" * 5000 + b"}"),
    ("500 code of 20 digits", 500, b'{"code": ' + b"9" * 20 + b"}"),
    ("500 code true", 500, {"code": True}),
    ("500 code 0", 500, error(0)),
]


@pytest.mark.parametrize(("status", "body"), [row[1:] for row in DOUBTS], ids=[row[0] for row in DOUBTS])
def test_what_proves_nothing(status: int, body: Any) -> None:
    outcome = submit(status, body)
    assert isinstance(outcome, Doubt)
    assert outcome.reason.startswith(f"HTTP {status}, ")


def test_a_doubt_quotes_the_answer_which_may_name_the_job() -> None:
    assert submit(200, b'{"job":"task_77"').reason == 'HTTP 200, which proves nothing: {"job":"task_77"'
    assert submit(502).reason == "HTTP 502, empty"
    assert len(submit(502, b"x" * 10**6).reason) < 400


NAMES_A_JOB = [
    b'{"code":"x","job_id":"task_1"',  # cut
    b'{"code":"x","job_id":',
    b'{"code":"x","job_id":"task_1","job_id":""}',  # said twice
    b'{"code":"x","job_id":"task_1","a":NaN}',
    b'{"code":"x","data":{"job_id":"task_1"}}',
    b'{"code":"x","error":[1,[{"job_id" : 7}]]}',
    b'[{"jobId":"task_1"}]',
    b'{"code":"x","Response":{"a":1,"JobId":"task_1"}}',
    b'{"code":"x","a":{"b":1,"job\\u005fid":"task_1"}}',
    b'{"code":"x","a":[0,{"job\\u005fid":"task_1"}]}',
    b'{"code":"x","job\\u005fid":"task_1"}',
    b'<html>{"job_id":"task_1"}</html>',
    '{"code":"x","job_id":"task_1"}'.encode("utf-16"),
    '{"code":"x","job_id":"task_1"}'.encode("utf-32-le"),
]


@pytest.mark.parametrize("body", NAMES_A_JOB)
@pytest.mark.parametrize("status", [300, 302, 400, 401, 403, 404, 413, 429, 500, 503])
def test_what_names_a_job_is_no_refusal(status: int, body: bytes) -> None:
    assert isinstance(submit(status, body), Doubt)


@pytest.mark.parametrize(
    "body",
    [
        b'{"code":"x","job_id":""}',
        b'{"code":"x","job_id": null }',
        b'{"code":"x","job_id":[ ],"a":{"job_id":{}}}',
        b'{"code":"x","job_id":false}',
        b'{"code":"x","job_id":0}',
        b'{"code":"x","message":"\\"job_id\\": \\"task_1\\" is not yours"}',
        b'{"code":"x","message":"job_id is required"}',
        b'{"code":"x","task_id":"t","request_id":"r"}',
    ],
)
def test_what_names_no_job_is_a_refusal(body: bytes) -> None:
    assert isinstance(submit(400, body), Refused)
    assert isinstance(submit(500, body), Refused)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("429", Throttled),
        ("rate-limit", Throttled),
        ("too many requests", Throttled),
        ("rate.limit", Throttled),
        ("402", Stop),
        ("401", Stop),
        ("403", Stop),
        ("4011", Refused),
        ("invalid_job", Refused),
    ],
)
def test_the_words_of_codes(code: str, outcome: type) -> None:
    assert isinstance(submit(200, error(code)), outcome)


def test_a_query_about_a_job_that_is_not_known() -> None:
    for code in ("invalid_job", "unknown_task", "no_such_job"):
        assert isinstance(query(200, error(code)), UnknownJob)


@pytest.mark.parametrize("code", ["0", "200", "OK", "success", "none", "null", "", 10**9, -(10**9), 2 * 10**9])
def test_codes_that_are_none(code: Any) -> None:
    assert isinstance(submit(500, error(code)), Doubt)


def test_the_largest_code_that_is_a_number() -> None:
    assert submit(500, error(10**9 - 1)) == Refused("999999999", "why", 500, final=False)


def test_300_is_a_redirect() -> None:
    assert submit(300, error()) == Stop(Fatal.ADDRESS, "it redirects", 300)
    assert query(300, {"status": "WAIT"}) == Stop(Fatal.ADDRESS, "it redirects", 300)


def test_the_shortest_job_id() -> None:
    assert submit(200, {"job_id": "7"}) == Accepted("7", None)


def test_what_is_no_json_by_the_book_is_not_read() -> None:
    assert isinstance(submit(200, b'{"job_id":"task_1","a":NaN}'), Doubt)


def test_how_much_of_an_answer_a_doubt_quotes() -> None:
    assert submit(502, b"x" * 1000).reason == "HTTP 502, which proves nothing: " + "x" * 300


def test_why_a_job_failed() -> None:
    assert query(200, {"status": "FAIL", "error_message": "", "message": "m"}) == Failed("fail", "m")
    assert query(200, {"status": "FAIL", "error_message": 5, "message": "m"}) == Failed("fail", "m")


def test_an_error_that_is_text_has_its_code_beside_it() -> None:
    assert error_object({"error": "text", "code": "c"}) == ErrorObject("c", "text")


def test_dates_to_wait_for() -> None:
    assert retry_after("Thu, 28 May 2026 20:26:40 GMT", NOW) is None
    assert retry_after("Thu, 28 May 2026 20:26:41 GMT", NOW) == 1.0
    assert retry_after("Thu, 28 May 2026 22:27:00 +0200", NOW) == 20.0


@pytest.mark.parametrize(
    ("ours", "theirs", "seconds"),
    [
        (0, 0, 30.0),
        (-3600, 0, 30.0),  # our clock is slow
        (3600, 0, 30.0),  # fast
        (0, -86400, 30.0),  # theirs is, by which they meant it or not
        (0, 40, 30.0),
        (40, 40, None),
        (0, None, 30.0),
    ],
)
def test_a_date_to_wait_for_is_by_the_clock_of_who_wrote_it(
    ours: int, theirs: int | None, seconds: float | None
) -> None:
    date = "no date" if theirs is None else formatdate(NOW + theirs, usegmt=True)
    assert retry_after(formatdate(NOW + 30, usegmt=True), NOW + ours, date) == seconds


def test_the_date_of_the_answer_is_looked_at() -> None:
    headers = {"retry_after": formatdate(NOW + 30), "date": formatdate(NOW)}
    for read, status, body in (
        (read_submit, 429, b""),
        (read_submit, 200, error("rate_limit")),
        (read_query, 429, b""),
    ):
        outcome = read(answer(status, body, **headers), NOW - 3600)
        assert isinstance(outcome, Throttled)
        assert outcome.retry_after == 30.0


def test_what_others_rest_on() -> None:
    """Addresses, and sentences that stand in the documentation."""
    assert (SUBMIT_PATH, QUERY_PATH) == ("/v1/aiart/openai/image/submit", "/v1/aiart/openai/image/query")
    assert RETRY_AFTER_MOST == 600.0
    assert [kind.value for kind in Fatal] == [
        "the service refused the key",
        "the balance or quota is used up",
        "the service is not at this address",
    ]


def test_a_redirect_tells_where_to_without_its_query() -> None:
    assert submit(302, location="https://x/y?sig=secret").message == "it redirects to https://x/y"


def proved(status: int, value: Any) -> bool:
    """The rules under which no job came of a submission, written once more."""
    job = value.get("job_id") if isinstance(value, dict) else None
    if job or status in {408, 504} or status < 200 or status >= 1000:
        return False
    found = error_object(value)
    if status < 300 or status >= 500:
        return found is not None and bool(found.code) and not value.get("data")
    return True


WORDS = st.sampled_from(
    ["", "rate_limit", "insufficient_quota", "invalid_api_key", "task_not_found", "x", "ok", "429", "DONE", "WAIT"]
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "job_id": WORDS | JSON,
        "code": WORDS | JSON,
        "message": WORDS | JSON,
        "error": JSON | st.fixed_dictionaries({}, optional={"code": WORDS, "type": WORDS, "message": WORDS}),
        "data": JSON | st.lists(st.fixed_dictionaries({}, optional={"url": WORDS, "b64_json": WORDS})),
        "status": WORDS | JSON,
        "request_id": JSON,
    },
)
STATUS = st.integers(0, 700) | st.sampled_from([200, 400, 404, 408, 429, 500, 502, 503, 504])
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "content-type", "location"]), st.text(max_size=30) | st.just("text/html")
)


@settings(max_examples=600, deadline=None)
@given(STATUS, HEADERS, st.binary(max_size=200) | (LIKELY | JSON).map(lambda v: json.dumps(v).encode()))
def test_no_answer_is_a_surprise(status: int, headers: dict[str, str], body: bytes) -> None:
    asked = read_query(Answer(status, headers, body), NOW)
    assert isinstance(asked, Waiting | Done | Failed | UnknownJob | Throttled | Stop | Trouble)
    outcome = read_submit(Answer(status, headers, body), NOW)
    assert isinstance(outcome, Accepted | Throttled | Refused | Stop | Doubt)
    if isinstance(outcome, Refused | Stop | Throttled):
        value = None
        with suppress(ValueError):
            value = json.loads(body)
        assert proved(status, value)
    if isinstance(outcome, Accepted):
        assert 200 <= status < 300
        assert outcome.job_id
        assert outcome.job_id.isprintable()
    for found in (outcome, asked):
        if isinstance(found, Throttled):
            assert found.retry_after is None or 0 <= found.retry_after <= RETRY_AFTER_MOST


# queries

URL = "https://x/1.png?sig=a"
ASKED = [
    ("wait", 200, {"status": "WAIT", "created": 1}, Waiting("WAIT")),
    ("run", 200, {"status": "RUN"}, Waiting("RUN")),
    ("another word", 200, {"status": "Q" * 99}, Waiting("Q" * 50)),
    ("inner status", 200, {"data": {"status": "WAIT"}}, Waiting("WAIT")),
    ("done", 200, {"status": "DONE", "data": [{"url": URL}]}, Done((URL,))),
    ("done, small", 200, {"status": "done", "data": [URL, {"url": "b"}]}, Done((URL, "b"))),
    ("done, one object", 200, {"status": "DONE", "data": {"url": URL}}, Done((URL,))),
    ("done, one string", 200, {"status": "DONE", "data": URL}, Done((URL,))),
    ("done, wrapped", 200, {"data": {"status": "DONE", "data": [{"url": URL}]}}, Done((URL,))),
    ("done, images", 200, {"status": "DONE", "data": {"images": [URL]}}, Done((URL,))),
    ("done, result", 200, {"status": "DONE", "data": {"result": [URL]}}, Done((URL,))),
    (
        "done, inline",
        200,
        {"status": "DONE", "data": [{"b64_json": "AAAA"}]},
        Done(("data:application/octet-stream;base64,AAAA",)),
    ),
    ("done, nothing", 200, {"status": "DONE", "data": []}, Done(())),
    ("done, null", 200, {"status": "DONE", "data": None}, Done(())),
    ("done, rubbish", 200, {"status": "DONE", "data": [1, None, "", {}, {"url": ""}, {"b64_json": 5}]}, Done(())),
    ("fail", 200, {"status": "FAIL", "error_message": "bad"}, Failed("fail", "bad")),
    ("fail, message", 200, {"status": "FAIL", "message": "bad"}, Failed("fail", "bad")),
    ("fail, error", 200, {"status": "FAIL", "error": {"code": "c", "message": "bad"}}, Failed("c", "bad")),
    ("fail, mute", 200, {"status": "FAIL"}, Failed("fail", "the service gave no reason")),
    ("fail, coded", 200, {"status": "FAIL", "code": "c"}, Failed("c", "the service gave no reason")),
    ("fail, long", 200, {"status": "FAIL", "error_message": "x" * 9999}, Failed("fail", "x" * 2000)),
    ("unknown 400", 400, error("invalid_request", "no such job"), UnknownJob("no such job")),
    ("unknown 404", 404, error("job_not_found"), UnknownJob("why")),
    ("unknown 404, message", 404, {"message": "task not found"}, UnknownJob("task not found")),
    ("unknown 400, permission", 400, error("permission_denied"), UnknownJob("why")),
    ("unknown 200", 200, error("task_not_exist"), UnknownJob("why")),
    ("400 rate", 400, error("too_many_requests"), Throttled("HTTP 400: why", 400)),
    ("400 balance", 400, error("insufficient_balance"), Stop(Fatal.BALANCE, "why", 400)),
    ("200 rate", 200, error("rate_limit"), Throttled("HTTP 200: why", 200)),
    ("200 key", 200, error("unauthorized"), Stop(Fatal.KEY, "why", 200)),
    ("200 error else", 200, error("internal"), Trouble("HTTP 200: why")),
    ("200 message", 200, {"message": "hm"}, Trouble("HTTP 200: hm")),
    ("200 nothing", 200, {}, Trouble("HTTP 200 with no error object")),
    ("200 list", 200, [1], Trouble("HTTP 200 with no error object")),
    ("200 status 5", 200, {"status": 5}, Trouble("HTTP 200 with no error object")),
    ("200 html", 200, HTML, Trouble("HTTP 200 with an HTML page")),
    ("429", 429, b"", Throttled("HTTP 429 with no error object", 429)),
    ("401", 401, b"", Stop(Fatal.KEY, "HTTP 401 with no error object", 401)),
    ("402", 402, b"", Stop(Fatal.BALANCE, "HTTP 402 with no error object", 402)),
    ("307", 307, b"", Stop(Fatal.ADDRESS, "it redirects", 307)),
    ("404 plain", 404, b"", Stop(Fatal.ADDRESS, "HTTP 404 with no error object", 404)),
    ("405", 405, error(), Stop(Fatal.ADDRESS, "HTTP 405: why", 405)),
    ("400 plain", 400, b"", Trouble("HTTP 400 with no error object")),
    ("500", 500, error("x"), Trouble("HTTP 500: why")),
    ("504", 504, HTML, Trouble("HTTP 504 with an HTML page")),
    ("100", 100, b"", Trouble("HTTP 100 with no error object")),
]


@pytest.mark.parametrize(("status", "body", "expected"), [row[1:] for row in ASKED], ids=[row[0] for row in ASKED])
def test_answers_to_a_query(status: int, body: Any, expected: Any) -> None:
    assert query(status, body) == expected


def test_an_html_page_is_known_by_its_header_too() -> None:
    assert query(500, b"oops", content_type="text/HTML; charset=x") == Trouble("HTTP 500 with an HTML page")


def test_how_long_a_throttled_query_waits() -> None:
    assert query(429, b"", retry_after="7").retry_after == 7
    assert submit(429, b"", retry_after="7").retry_after == 7
    assert submit(200, error("rate_limit"), retry_after="7").retry_after == 7


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("9" * 20, RETRY_AFTER_MOST),
        ("9" * 5000, RETRY_AFTER_MOST),
        ("1e9", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW + 30), 30.0),
        (formatdate(NOW + 10**6), RETRY_AFTER_MOST),
        (formatdate(NOW - 30), None),
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_retry_after_never_raises(header: str) -> None:
    found = retry_after(header, NOW)
    assert found is None or 0 <= found <= RETRY_AFTER_MOST


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ([], None),
        ({}, None),
        ({"code": 0, "message": ""}, None),
        ({"code": "ok", "message": "m"}, ErrorObject("", "m")),
        ({"error": "text"}, ErrorObject("", "text")),
        ({"error": "", "message": "m"}, ErrorObject("", "m")),
        ({"error": {}}, ErrorObject("", "", coded=False)),
        ({"error": {"code": None, "type": "t"}}, ErrorObject("t", "", coded=False)),
        ({"error": {"code": 5, "type": "t"}}, ErrorObject("5", "")),
        ({"code": "x" * 999, "message": "y" * 9999}, ErrorObject("x" * 100, "y" * 2000)),
    ],
)
def test_error_objects(value: Any, expected: ErrorObject | None) -> None:
    assert error_object(value) == expected


def test_the_body_of_a_query() -> None:
    assert query_body("task_1") == b'{"job_id":"task_1"}'
