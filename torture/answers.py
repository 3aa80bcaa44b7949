"""Hostile answers of the service, and an oracle that says what each may be taken for.

Rule: the oracle is written from the words of the service's documentation with the standard library alone and shares
nothing with `rsbatch.wire`. It says what must not be: a job called a refusal, a refusal without proof, a job id lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from rsbatch import wire

NOW = 1_780_000_000.0

REAL: tuple[tuple[int, bytes], ...] = tuple(
    (status, body.encode())
    for status, body in (
        (200, '{"request_id": "req_8f2b7c1a9d", "job_id": "task_20260529123456_abcd1234"}'),
        (200, '{"code":"success","message":"","data":{"job_id":"task_1"}}'),
        (200, '{"error":{"code":"rate_limit","message":"slow down","type":"limit"},"job_id":""}'),
        (200, '{"code":20000,"message":"accepted","data":{"task_id":"t"}}'),
        (400, '{"code": "invalid_request", "message": "prompt or images is required", "data": null}'),
        (400, '{"code": "invalid_request", "message": "job_id is required", "data": null}'),
        (400, '{"error":{"code":"moderation_blocked","message":"no","type":"x"}}'),
        (401, '{"code":"invalid_api_key","message":"who?","data":null}'),
        (402, '{"code":"insufficient_user_quota","message":"top up","data":null}'),
        (403, '{"message":"IP not allowed"}'),
        (404, '{"error":{"code":"model_not_found","message":"no such model"}}'),
        (429, '{"code":"rate_limit_exceeded","message":"RPM","data":null}'),
        (500, '{"code":"internal_error","message":"oops","data":null}'),
        (502, "<html><body>Bad Gateway</body></html>"),
        (503, '{"error":{"type":"server_error","message":"busy"}}'),
        (504, '{"message": "Endpoint request timed out"}'),
        (200, '{"status": "WAIT", "created": 1779993296}'),
        (200, '{"status":"RUN"}'),
        (200, '{"status":"DONE","data":[{"url":"https://img.example/1.png?sig=a"}]}'),
        (200, '{"status":"DONE","data":[{"b64_json":"AAAA"}]}'),
        (200, '{"status":"DONE","data":["https://img.example/1.png"]}'),
        (200, '{"status":"FAIL","error_message":"blocked"}'),
        (200, '{"data":{"status":"FAIL","message":"blocked"}}'),
        (404, '{"code":"task_not_found","message":"no such task","data":null}'),
    )
)
STATUSES = (0, 100, 101, 199, 200, 201, 202, 204, 206, 299, 300, 301, 302, 307, 308, 400, 401, 402, 403, 404, 405, 408)
STATUSES += (409, 413, 418, 422, 425, 429, 431, 499, 500, 501, 502, 503, 504, 507, 520, 522, 524, 529, 599, 600, 999)
KEYS = ("job_id", "jobId", "job-id", "task_id", "request_id", "code", "message", "error", "data", "status", "type")
KEYS += ("error_message", "url", "b64_json", "images", "result", "", "Job_ID", "id")
RAW = (
    *('""', "null", "true", "false", "0", "-1", "1e999", "NaN", "Infinity", "-Infinity", "[]", "{}", "[[]]", '{"":{}}'),
    *('"ok"', '"success"', '"200"', "200", '"rate_limit"', '"insufficient_quota"', '"invalid_api_key"', '"429"'),
    *('"task_1"', '"WAIT"', '"DONE"', '"FAIL"', '"done"', '"fail"', '"\\ud800"', '"\\u0000"', '"a\\nb"', "9" * 5000),
    *("[" * 1000 + "]" * 1000, '{"a":' * 300 + "1" + "}" * 300, '"' + "x" * 600 + '"', '"\\u202e"', '"\u0661"'),
    *('{"job_id":"task_9"}', '[{"job_id":"task_9"}]', '{"code":"x","job_id":"task_9"}', '{"JobId":"task_9"}', "1.5"),
)
HEADERS = {
    "retry-after": (
        *("3", "1e9", "9" * 20, "9" * 50, "-1", "\u0663", "soon", "0", "", "inf", "Mon, 1 Jan 99999 0:0:0"),
        *("Fri, 31 Dec 1999 23:59:59 GMT", "Thu, 28 May 2026 20:27:00 GMT"),
    ),
    "content-type": ("text/html", "application/json", "application/json; charset=zlib", "image/png", "", "\x00"),
    "location": ("https://evil.example/?sig=secret", "", "//x", "\x1b[2J", "http://169.254.169.254/"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def answer(self) -> wire.Answer:
        return wire.Answer(self.status, self.headers, self.body)


def make(rng: Random) -> Case:
    """Draw an answer: a real one mutated, or one from the grammar."""
    status, body = rng.choice(REAL)
    if rng.random() < 0.4:
        body = _object(rng, 0).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 4))):
        body = rng.choice(_MUTATIONS)(body, rng)
    if rng.random() < 0.6:
        status = rng.choice(STATUSES)
    headers = {name: rng.choice(values) for name, values in HEADERS.items() if rng.random() < 0.25}
    return Case(status, headers, body)


def _object(rng: Random, depth: int) -> str:
    pairs = []
    for _ in range(rng.randrange(1, 5)):
        key = rng.choice(KEYS)
        value = _object(rng, depth + 1) if depth < 3 and rng.random() < 0.3 else rng.choice(RAW)
        pairs.append(f"{json.dumps(key)}:{value}")
    text = "{" + ",".join(pairs) + "}"
    return f"[{text}]" if rng.random() < 0.1 else text


def _flip(body: bytes, rng: Random) -> bytes:
    made = bytearray(body or b"x")
    made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def _cut(body: bytes, rng: Random) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _lose(body: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + body[at + rng.randrange(1, 12) :]


def _insert(body: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice(RAW).encode("utf-8", "surrogatepass") + body[at:]


def _replace(body: bytes, rng: Random) -> bytes:
    """Put another value in the place of one."""
    values = list(re.finditer(rb'(?<=:)\s*("[^"]*"|null|\d+)', body))
    if not values:
        return body
    found = rng.choice(values)
    return body[: found.start()] + rng.choice(RAW).encode() + body[found.end() :]


def _add(body: bytes, rng: Random) -> bytes:
    """Add a key, perhaps one that is there already, at the beginning or the end."""
    pair = f"{json.dumps(rng.choice(KEYS))}:{rng.choice(RAW)}".encode()
    if rng.random() < 0.5:
        return body.replace(b"{", b"{" + pair + b",", 1)
    head, brace, tail = body.rpartition(b"}")
    return head + b"," + pair + brace + tail if brace else body


def _wrap(body: bytes, rng: Random) -> bytes:
    return (
        rng.choice((b'{"data":%s}', b'{"error":%s}', b"[%s]", b'{"code":"x","data":%s}', b'{"result":{"a":%s}}')) % body
    )


def _recode(body: bytes, rng: Random) -> bytes:
    text = body.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7")), "replace")


def _splice(body: bytes, rng: Random) -> bytes:
    other = rng.choice(REAL)[1]
    return body[: rng.randrange(len(body) + 1)] + other[rng.randrange(len(other)) :]


def _pad(body: bytes, rng: Random) -> bytes:
    return rng.choice((b"\xef\xbb\xbf", b"\n\n", b")]}',\n", b"\0", b"\x1f\x8b")) + body


_MUTATIONS = (_flip, _cut, _lose, _insert, _replace, _replace, _add, _add, _wrap, _recode, _splice, _pad)


# The oracle


class _Doubled(dict[str, Any]):
    """An object that has a name twice."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else _Doubled(made)


def _refuse(word: str) -> Any:
    raise ValueError(word)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a patient reader sees in a body: `loose` is any JSON that can be made of it, `plain` is true where
    nobody can read it in two ways."""

    loose: Any
    plain: bool


def read(body: bytes) -> Reading:
    """Decode with the standard library."""
    try:
        loose = json.loads(body, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        return Reading(None, False)
    try:
        json.loads(body.decode("ascii"), parse_constant=_refuse)
    except ValueError:
        return Reading(loose, False)
    text = body.decode("ascii")
    plain = "\\u" not in text and not any(isinstance(inner, _Doubled) for inner in _inside(loose))
    plain = plain and text.count("[") + text.count("{") < 50 and not re.search(r"\d{16}|[eE]\+?\d{3}", text)
    return Reading(loose, plain)


def names_job(case: Case) -> bool:
    """Tell if anything in the answer is called job_id and is not empty."""
    if re.search(rb'"job_id"\s*:\s*("[^"]|[1-9]|true|\[\s*[^\s\]]|\{\s*[^\s}])', case.body):
        return True
    return _named_in(read(case.body).loose)


def _named_in(value: Any) -> bool:
    return any(isinstance(inner, dict) and inner.get("job_id") for inner in _inside(value))


def _inside(value: Any) -> Iterator[Any]:
    """Every value in a value, itself first; without recursion, for what is nested deeply."""
    left = [value]
    while left:
        item = left.pop()
        yield item
        left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def _may_name_job(case: Case) -> bool:
    return re.search(rb"job[_-]?id", case.body.replace(b"\0", b""), re.IGNORECASE) is not None


def _error_code(value: Any) -> bool:
    """Tell if there is an error with a code in it, in one of the documented shapes, or with a type."""
    if not isinstance(value, dict):
        return False
    inner = value.get("error")
    found = [value.get("code")]
    if isinstance(inner, dict):
        found += [inner.get("code"), inner.get("type")]
    return any(isinstance(code, str | int) and not isinstance(code, bool) and bool(code) for code in found)


def judge_submit(case: Case, outcome: object) -> str:
    """Say what is wrong with what a submission's answer was taken for; empty if nothing is."""
    status, reading = case.status, read(case.body)
    refusal = isinstance(outcome, wire.Refused | wire.Stop | wire.Throttled)
    if not refusal and not isinstance(outcome, wire.Accepted | wire.Doubt):
        return f"it was taken for {outcome!r}"
    named = names_job(case)
    if refusal and named:
        return "a job is named in it and it was called a refusal"
    if refusal and (status in {408, 504} or status < 200):
        return f"{status} was called a refusal"
    if refusal and (status < 300 or status >= 500) and not _error_code(reading.loose):
        return "nothing in it has an error's code and it was called a refusal"
    if isinstance(outcome, wire.Accepted):
        ids = _ids(reading.loose)
        if not 200 <= status < 300 or outcome.job_id not in ids:
            return f"job {outcome.job_id!r} was accepted and is not in it"
    must = _must_accept(reading) if 200 <= status < 300 else None
    if must is not None and outcome != wire.Accepted(must, getattr(outcome, "request_id", None)):
        return f"job {must!r} was not accepted"
    if _may_name_job(case):
        return _judge_wait(outcome)
    if status == 429 and not isinstance(outcome, wire.Throttled | wire.Stop):
        return "a 429 is no reason to wait"
    if status in {401, 402, 403} and not isinstance(outcome, wire.Stop):
        return f"a {status} does not stop the run"
    return _judge_wait(outcome)


def _ids(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    inner = value.get("data")
    found = [value.get("job_id"), inner.get("job_id") if isinstance(inner, dict) else None]
    return {str(one) for one in found if isinstance(one, str | int) and not isinstance(one, bool) and one != ""}


def _must_accept(reading: Reading) -> str | None:
    value = reading.loose
    job_id = value.get("job_id") if reading.plain and isinstance(value, dict) else None
    return job_id if isinstance(job_id, str) and 0 < len(job_id) <= 200 and job_id.isprintable() else None


def _judge_wait(outcome: object) -> str:
    after = outcome.retry_after if isinstance(outcome, wire.Throttled) else None
    return "" if after is None or 0 <= after <= 600 else f"it waits for {after} s"


def judge_query(case: Case, outcome: object) -> str:
    """Say what is wrong with what a query's answer was taken for; empty if nothing is."""
    reading, well = read(case.body), 200 <= case.status < 300
    value = reading.loose if isinstance(reading.loose, dict) else {}
    inner = value.get("data")
    words = [value.get("status"), inner.get("status") if isinstance(inner, dict) else None]
    said = {word.upper() for word in words if isinstance(word, str)}
    if isinstance(outcome, wire.Done) and not (well and "DONE" in said):
        return "nothing in it says DONE"
    if isinstance(outcome, wire.Failed) and not (well and "FAIL" in said):
        return "nothing in it says FAIL"
    if isinstance(outcome, wire.Waiting) and not (well and said - {"DONE", "FAIL"}):
        return "nothing in it says that the job goes on"
    if isinstance(outcome, wire.UnknownJob) and case.status not in {400, 404} and not (well and _error_code(value)):
        return "nothing in it says that the job is not known"
    if well and reading.plain and isinstance(words[0], str) and words[0].upper() == "FAIL":
        return "" if isinstance(outcome, wire.Failed) else "it says FAIL"
    if well and reading.plain and isinstance(words[0], str) and words[0].upper() == "DONE":
        if not isinstance(outcome, wire.Done):
            return "it says DONE"
        if isinstance(inner, list) and all(isinstance(i, dict) and set(i) == {"url"} for i in inner):
            urls = tuple(i["url"] for i in inner if isinstance(i["url"], str) and i["url"])
            return "" if outcome.images == urls else "its images are others"
    known = wire.Waiting | wire.Done | wire.Failed | wire.UnknownJob | wire.Throttled | wire.Stop | wire.Trouble
    return _judge_wait(outcome) if isinstance(outcome, known) else f"it was taken for {outcome!r}"


def try_one(rng: Random) -> str:
    """Draw an answer and have it read both ways; gives what went wrong."""
    case = make(rng)
    wrong = judge_submit(case, wire.read_submit(case.answer, NOW))
    wrong = wrong or judge_query(case, wire.read_query(case.answer, NOW))
    return wrong and f"{wrong}: {case}"
