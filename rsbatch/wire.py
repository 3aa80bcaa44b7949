"""What the service's answers mean: pure functions from status, headers and bytes to one outcome.

Rule: this module decides what an answer *is*, never what to do about it, and it must cope with every byte string.
An answer counts as a refusal only if it proves that no job came of the request; all else is a doubt.
The service documents one error shape, `{"code", "message", "data"}`; `{"error": {…}}` and `{"message": …}` were seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from pydantic_core import from_json, to_json

SUBMIT_PATH = "/v1/aiart/openai/image/submit"
QUERY_PATH = "/v1/aiart/openai/image/query"

RETRY_AFTER_MOST = 600.0
"""Seconds; a longer `Retry-After` is taken as this, so that one bad header cannot end a night."""

_JOB_ID_MOST = 512
_EXCERPT = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it came: `headers` with lower-case names, `body` the raw bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fatal(Enum):
    """Why the whole run stops; the value is what a person should know and do."""

    KEY = "the service refused the key"
    BALANCE = "the balance or quota is used up"
    ADDRESS = "the service is not at this address"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job exists."""

    job_id: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Throttled:
    """Refused for now, nothing was charged; `retry_after` in seconds where the service said so."""

    reason: str
    status: int | None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """No job came of it. `final`: asking again would not help."""

    code: str
    message: str
    status: int
    final: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """Refused for a reason that holds for every task."""

    kind: Fatal
    message: str
    status: int


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request certainly did not reach the service."""

    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """The request was sent and nothing proves what became of it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The job has not ended; `state` is the service's word."""

    state: str


@dataclass(frozen=True, slots=True)
class Done:
    """The job has ended well; each image is an http(s) or a `data:` URL, in the service's order."""

    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The job has ended without images."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class UnknownJob:
    """The service says that it does not know the job."""

    message: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """The query told nothing; ask again."""

    reason: str


SubmitOutcome = Accepted | Throttled | Refused | Stop | NotSent | Doubt
QueryOutcome = Waiting | Done | Failed | UnknownJob | Throttled | Stop | Trouble


@dataclass(frozen=True, slots=True)
class ErrorObject:
    """The error that an answer tells of; empty texts where it does not say.

    `coded` is false where `code` is only the object's `type`, which gateways send, too.
    """

    code: str
    message: str
    coded: bool = True


class _Kind(Enum):
    RATE = 1
    BALANCE = 2
    KEY = 3
    JOB = 4
    OTHER = 5


# The words of error codes, from the service's "Common Errors" page and from the APIs it is compatible with. The
# first pattern with a match wins: `concurrency_quota_exceeded` is a rate matter.
_WORDS: tuple[tuple[_Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (_Kind.RATE, r"rate_?limit|rate_?exceed|concurren|too_?many|throttl|\b[rt]pm\b|request_?limit|^429$"),
        (_Kind.BALANCE, r"balance|quota|insufficient(?!_?perm)|billing|arrear|payment|^402$"),
        (
            _Kind.KEY,
            r"api_?key|token_?invalid|invalid_?token|unauthor|authenticat|^forbidden$|permission|access_?denied|^40[13]$",
        ),
        (
            _Kind.JOB,
            r"(job|task)_?(not|does|id)|not_?found|not_?exist|no_?such|(unknown|invalid)_?(job|task)",
        ),
    )
)


def read_submit(answer: Answer, now: float) -> SubmitOutcome:
    """Sort the answer to a submission; `now` is the time of day in seconds since 1970, for dates in headers."""
    status, value = answer.status, _json(answer.body)
    error = error_object(value)
    if 200 <= status < 300:
        return _read_accepting(answer, value, error, now)
    if status in {504, 408} or status < 200 or _names_job(answer.body, value):
        return Doubt(_doubtful(answer))
    if status >= 500:
        if error is None or not error.code or not error.coded or value.get("data"):
            return Doubt(_doubtful(answer))
        return _by_code(error, answer, now) or Refused(error.code, _text(error), status, final=False)
    return _read_refusal(answer, error, now)


def _read_accepting(answer: Answer, value: Any, error: ErrorObject | None, now: float) -> SubmitOutcome:
    job_id = _job_id(value)
    if job_id is not None:
        request_id = value.get("request_id")
        return Accepted(job_id, request_id if isinstance(request_id, str) else None)
    if error is None or not error.code or _names_job(answer.body, value) or value.get("data"):
        return Doubt(_doubtful(answer))  # an error has no data; this may be a success of a shape we do not know
    return _by_code(error, answer, now) or Refused(error.code, _text(error), answer.status, final=True)


# A job's name in text that may be cut, doubled or no JSON at all; an empty one is none.
_NAMED = re.compile(rb'"job_?id"\s*:(?!\s*(?:""|null|false|0|\[\s*\]|\{\s*\})\s*(?:[,}\]]|$))', re.IGNORECASE)


def _names_job(body: bytes, value: Any) -> bool:
    """Tell if a job is named anywhere, at whatever depth: an answer that names one is no refusal."""
    if _NAMED.search(body.replace(b"\0", b"")):  # without NUL, UTF-16 reads as ASCII
        return True
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if any(found and name.lower().replace("_", "") == "jobid" for name, found in item.items()):
                return True
            left += item.values()
        elif isinstance(item, list):
            left += item
    return False


def _read_refusal(answer: Answer, error: ErrorObject | None, now: float) -> SubmitOutcome:
    """Sort a 3xx or 4xx: the service did not take the request."""
    status = answer.status
    common = _read_fatal(answer, error)
    if status == 429:
        if error is not None and _kind(error.code) is _Kind.BALANCE:
            return Stop(Fatal.BALANCE, _text(error), status)
        return Throttled(_said(answer, error), status, _wait(answer, now))
    if common is not None:
        return common
    if error is not None and error.code:
        by_code = _by_code(error, answer, now)
        if by_code is not None and not (isinstance(by_code, Stop) and by_code.kind is Fatal.KEY):
            return by_code  # the key is judged by 401 and 403 alone: a 400 about permission is about this task
        return Refused(error.code, _text(error), status, final=True)
    if status == 413 or (status in {400, 422} and not _is_html(answer)):  # 413 is about this task, whoever says it
        return Refused(f"http_{status}", _said(answer, error), status, final=True)
    return Stop(Fatal.ADDRESS, _said(answer, error), status)


def _read_fatal(answer: Answer, error: ErrorObject | None) -> Stop | None:
    status = answer.status
    if status in {401, 402, 403}:
        balance = status == 402 or (error is not None and _kind(error.code) is _Kind.BALANCE)
        return Stop(Fatal.BALANCE if balance else Fatal.KEY, _said(answer, error), status)
    if 300 <= status < 400:
        where = answer.headers.get("location", "")
        return Stop(Fatal.ADDRESS, f"it redirects to {where.partition('?')[0]}" if where else "it redirects", status)
    return None


def _by_code(error: ErrorObject, answer: Answer, now: float) -> Throttled | Stop | None:
    kind = _kind(error.code)
    if kind is _Kind.RATE:
        after = _wait(answer, now)
        return Throttled(_said(answer, error), answer.status, after)
    if kind is _Kind.BALANCE:
        return Stop(Fatal.BALANCE, _text(error), answer.status)
    if kind is _Kind.KEY:
        return Stop(Fatal.KEY, _text(error), answer.status)
    return None


def read_query(answer: Answer, now: float) -> QueryOutcome:
    """Sort the answer to a query; `now` in seconds since 1970."""
    status, value = answer.status, _json(answer.body)
    error = error_object(value)
    if 200 <= status < 300:
        return _read_state(answer, value, error, now)
    if status == 429:
        return Throttled(_said(answer, error), status, _wait(answer, now))
    fatal = _read_fatal(answer, error)
    if fatal is not None:
        return fatal
    if status in {400, 404} and error is not None:
        by_code = _by_code(error, answer, now)
        if by_code is not None and not (isinstance(by_code, Stop) and by_code.kind is Fatal.KEY):
            return by_code
        return UnknownJob(_text(error))
    if status in {404, 405}:
        return Stop(Fatal.ADDRESS, _said(answer, error), status)
    return Trouble(_said(answer, error))


def _read_state(answer: Answer, value: Any, error: ErrorObject | None, now: float) -> QueryOutcome:
    if not isinstance(value, dict):
        return Trouble(_said(answer, None))
    inner = value.get("data")
    state = value.get("status")
    if not isinstance(state, str) and isinstance(inner, dict):
        state = inner.get("status")
    if not isinstance(state, str) or not state:
        if error is None or not error.code:
            return Trouble(_said(answer, error))
        if _kind(error.code) is _Kind.JOB:
            return UnknownJob(_text(error))
        return _by_code(error, answer, now) or Trouble(_said(answer, error))
    if state.upper() == "DONE":
        return Done(tuple(_images(inner)))
    if state.upper() == "FAIL":
        return _failure(value, error)
    return Waiting(state[:50])


def _failure(value: dict[str, Any], error: ErrorObject | None) -> Failed:
    reason = value.get("error_message")
    if not isinstance(reason, str) or not reason:
        reason = error.message if error is not None and error.message else "the service gave no reason"
    return Failed((error.code if error is not None else "") or "fail", reason[:2000])


def _images(data: Any) -> list[str]:
    """Find the images of a DONE answer: a list of objects or strings, or one of them alone."""
    if isinstance(data, dict):
        for name in ("data", "images", "result"):
            if isinstance(data.get(name), list):
                return _images(data[name])
        data = [data]
    elif isinstance(data, str):
        data = [data]
    if not isinstance(data, list):
        return []
    return [url for item in data if (url := _image(item))]


def _image(item: Any) -> str | None:
    if isinstance(item, str):
        return item or None
    if not isinstance(item, dict):
        return None
    if isinstance(item.get("url"), str) and item["url"]:
        return str(item["url"])
    inline = item.get("b64_json")
    return f"data:application/octet-stream;base64,{inline}" if isinstance(inline, str) and inline else None


def error_object(value: Any) -> ErrorObject | None:
    """Find the error that a decoded answer tells of, None if it tells of none."""
    if not isinstance(value, dict):
        return None
    inner = value.get("error")
    if isinstance(inner, dict):
        code, message = _code(inner.get("code")), _string(inner.get("message"))
        return ErrorObject(code or _code(inner.get("type")), message, coded=bool(code))
    if isinstance(inner, str) and inner:
        return ErrorObject(_code(value.get("code")), inner)
    code, message = _code(value.get("code")), _string(value.get("message"))
    if not code and not message:
        return None
    return ErrorObject(code, message)


def _wait(answer: Answer, now: float) -> float | None:
    return retry_after(answer.headers.get("retry-after"), now, answer.headers.get("date"))


def retry_after(
    header: str | None, now: float, date: str | None = None, most: float = RETRY_AFTER_MOST
) -> float | None:
    """Seconds to wait that a `Retry-After` header asks for (RFC 9110: seconds or a date), at most `most`.

    A date is meant by the clock of who wrote it: the answer's `Date` header, `date`, says what that showed. It counts
    from that or from `now`, whichever is sooner. None where there is no header, or none that makes sense: the caller's
    own backoff holds then.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:20]), most)
    moment = _moment(text)
    starts = [start for start in (now, _moment(date or "")) if start is not None]
    waits = [moment - start for start in starts if moment > start] if moment is not None else []
    return min(*waits, most) if waits else None


def _moment(text: str) -> float | None:
    """Read an HTTP date as seconds since 1970; None for what is none."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def query_body(job_id: str) -> bytes:
    """Give the body of a query."""
    return to_json({"job_id": job_id})


def _json(body: bytes) -> Any:
    """Decode, or None for what is not JSON; the decoder bounds depth and refuses lone surrogates."""
    try:
        return from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError, MemoryError):
        return None


def _job_id(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    found = value.get("job_id")
    if found in (None, "") and isinstance(value.get("data"), dict):
        found = value["data"].get("job_id")
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if isinstance(found, str) and 0 < len(found) <= _JOB_ID_MOST and found.isprintable():
        return found
    return None


_NO_ERROR = {"0", "200", "ok", "success", "none", "null"}


def _code(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**9 else ""
    return value[:100] if isinstance(value, str) and value.lower() not in _NO_ERROR else ""


def _string(value: Any) -> str:
    return value[:2000] if isinstance(value, str) else ""


def _kind(code: str) -> _Kind:
    low = code.lower().replace("-", "_").replace(".", "_").replace(" ", "_")
    for kind, pattern in _WORDS:
        if pattern.search(low):
            return kind
    return _Kind.OTHER


def _text(error: ErrorObject) -> str:
    return error.message or error.code


def _said(answer: Answer, error: ErrorObject | None) -> str:
    if error is not None:
        return f"HTTP {answer.status}: {_text(error)}"
    kind = "an HTML page" if _is_html(answer) else "no error object"
    return f"HTTP {answer.status} with {kind}"


def _doubtful(answer: Answer) -> str:
    """What a person needs to settle the doubt: the beginning of the answer may name the job."""
    start = answer.body[:_EXCERPT].decode("utf-8", "replace").strip()
    return f"HTTP {answer.status}, which proves nothing: {start}" if start else f"HTTP {answer.status}, empty"


def _is_html(answer: Answer) -> bool:
    kind = answer.headers.get("content-type", "").lower()
    return "html" in kind or answer.body.lstrip()[:1] == b"<"
