"""How each fault of submissions, queries and downloads looks on the wire.

Rule: pure; one small function a trouble, found by the fault's name in a table. Whether a fault strikes is
decided elsewhere. `good` is the answer that would have been given, a plain refusal where nothing was
accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from math import ceil
from types import MappingProxyType

from rsbatch.simulator import wire
from rsbatch.simulator.answers import HTML, TEXT, Answer, Manner, of_json, of_store
from rsbatch.simulator.faults import Fault
from rsbatch.simulator.settings import Settings


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault strikes.

    `now` in epoch seconds; `roll` is a drawn number (0 to 1); `good` the answer that would have been given;
    `elsewhere` another URL of the same image.
    """

    settings: Settings
    now: float
    roll: float
    good: Answer
    elsewhere: str = ""

    def status(self) -> int:
        """One of 500, 502, 503."""
        return (500, 502, 503)[int(self.roll * 3)]

    def after(self) -> int:
        """Whole seconds to wait after a 429, at least 1."""
        return max(1, ceil(self.settings.retry_after / self.settings.speed))


Mishap = Callable[[Scene], Answer]


def _too_many(*headers: tuple[str, str]) -> Answer:
    body = {"code": "rate_limit_exceeded", "message": "too many requests, please slow down", "data": None}
    return of_json(body, 429, headers)


def _429_seconds(scene: Scene) -> Answer:
    return _too_many(("retry-after", str(scene.after())))


def _429_date(scene: Scene) -> Answer:
    return _too_many(("retry-after", formatdate(ceil(scene.now) + scene.after(), usegmt=True)))


def _429_bare(_: Scene) -> Answer:
    return _too_many()


def _5xx_flat(scene: Scene) -> Answer:
    return of_json({"code": "internal_error", "message": "upstream is not available", "data": None}, scene.status())


def _5xx_nested(scene: Scene) -> Answer:
    error = {"code": "upstream_error", "message": "upstream is not available", "type": "server_error"}
    return of_json({"error": error}, scene.status())


def _504(_: Scene) -> Answer:
    return Answer(504, wire.GATEWAY_TIMEOUT)


def _502_html(_: Scene) -> Answer:
    return Answer(502, wire.GATEWAY_HTML, HTML)


def _408(_: Scene) -> Answer:
    return of_json({"message": "Request timed out"}, 408)


def _reset(_: Scene) -> Answer:
    return Answer(manner=Manner(reset=True))


def _hang(scene: Scene) -> Answer:
    return Answer(manner=Manner(wait=scene.settings.hang / scene.settings.speed, reset=True))


def _cut_json(scene: Scene) -> Answer:
    body = scene.good.body or b'{"status": "DONE", "data": [{"b64_json": "iVBORw0KG'
    return Answer(200, body[: max(1, len(body) // 2)])


def _html_200(_: Scene) -> Answer:
    return Answer(200, wire.LOGIN_HTML, HTML)


def _no_id(_: Scene) -> Answer:
    return of_json({"request_id": "req_0000000000"})


def _error_200(code: str, message: str, kind: str) -> Mishap:
    error = {"code": code, "message": message, "type": kind}
    return lambda _: of_json({"request_id": "", "job_id": "", "error": error})


def _refused(status: int, code: str, message: str) -> Mishap:
    return lambda _: of_json({"code": code, "message": message, "data": None}, status)


def _moved(_: Scene) -> Answer:
    return Answer(308, b"", TEXT, (("location", "https://moved.example.invalid/"),))


def _state(_: Scene) -> Answer:
    return of_json({"status": "QUEUED_UPSTREAM", "created": int(_.now)})


def _done_early(scene: Scene) -> Answer:
    return of_json({"status": "DONE", "created": int(scene.now), "data": []})


def _cut_length(scene: Scene) -> Answer:
    return replace(scene.good, manner=Manner(cut="length"))


def _cut_clean(scene: Scene) -> Answer:
    return replace(scene.good, manner=Manner(cut="clean"))


def _slow(scene: Scene) -> Answer:
    return replace(scene.good, manner=Manner(stall=scene.settings.stall / scene.settings.speed))


def _text_as_image(scene: Scene) -> Answer:
    return Answer(200, b"The image is being prepared, please come back later.\n", scene.good.content_type)


def _redirect(scene: Scene) -> Answer:
    return Answer(302, b"", TEXT, (("location", scene.elsewhere),))


def _store(status: int, code: str, message: str) -> Mishap:
    return lambda _: of_store(status, code, message)


def _store_5xx(scene: Scene) -> Answer:
    return of_store(scene.status(), "InternalError", "We encountered an internal error. Please try again.")


MISHAPS: Mapping[str, Mishap] = MappingProxyType(
    {
        "429-seconds": _429_seconds,
        "429-date": _429_date,
        "429-bare": _429_bare,
        "5xx-flat": _5xx_flat,
        "5xx-nested": _5xx_nested,
        "504-before": _504,
        "504-after": _504,
        "502-html-before": _502_html,
        "502-html-after": _502_html,
        "408-before": _408,
        "408-after": _408,
        "reset-before": _reset,
        "reset-after": _reset,
        "unreadable-json": _cut_json,
        "unreadable-html": _html_200,
        "unreadable-empty": lambda _: Answer(200, b""),
        "unreadable-no-id": _no_id,
        "200-error-rate": _error_200("rate_limit_exceeded", "concurrency limit reached", "rate_limit_error"),
        "200-error-final": _error_200("invalid_request", "the prompt was refused upstream", "invalid_request_error"),
        "moderation": _refused(400, "content_policy_violation", "your request was rejected by the safety system"),
        "bad-key": _refused(401, "invalid_api_key", "API key is invalid"),
        "no-balance": _refused(402, "insufficient_balance", "balance is not sufficient"),
        "no-quota": _refused(403, "insufficient_user_quota", "user quota is not enough"),
        "forbidden": _refused(403, "permission_denied", "this key may not use the model"),
        "moved": _moved,
        "hang-before": _hang,
        "hang-after": _hang,
        "query-429-seconds": _429_seconds,
        "query-429-date": _429_date,
        "query-429-bare": _429_bare,
        "query-5xx-code": _5xx_flat,
        "query-504": _504,
        "query-502-html": _502_html,
        "query-html": _html_200,
        "query-cut-json": _cut_json,
        "query-reset": _reset,
        "query-state": _state,
        "query-unknown-job": _refused(404, "job_not_found", "job not found"),
        "query-done-early": _done_early,
        "query-hang": _hang,
        "image-cut-length": _cut_length,
        "image-cut-clean": _cut_clean,
        "image-html": _html_200,
        "image-text": _text_as_image,
        "image-slow": _slow,
        "image-403": _store(403, "AccessDenied", "Request has expired"),
        "image-404": _store(404, "NoSuchKey", "The specified key does not exist."),
        "image-5xx": _store_5xx,
        "image-429-seconds": _429_seconds,
        "image-429-bare": _429_bare,
        "image-reset": _reset,
        "image-redirect": _redirect,
        "image-hang": _hang,
    }
)


def strike(fault: Fault, scene: Scene) -> Answer:
    """Return the answer that the fault makes of a good one."""
    return MISHAPS[fault.name](scene)
