"""Answers of the engine: what is sent, and in which manner.

Rule: frozen values. The engine decides, `delivery` carries out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rsbatch.simulator import wire
from rsbatch.simulator.brief import Picture

JSON = "application/json"
HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
XML = "application/xml"


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer goes out; durations in seconds.

    After `wait` either the answer begins or, with `reset`, the connection ends without one. `stall` is a
    pause in the middle of the body. `cut`: half of the body is all there is; `clean` has a Content-Length
    that fits the half, `length` has that of the whole, and the connection ends.
    """

    wait: float = 0.0
    reset: bool = False
    stall: float = 0.0
    cut: Literal["", "clean", "length"] = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered.

    With `pictures` the body is drawn: the one picture itself, or with `envelope` that JSON object with the
    pictures as `b64_json` in its `data`.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    manner: Manner = Manner()
    pictures: tuple[Picture, ...] = ()
    envelope: Mapping[str, Any] | None = None

    def json(self) -> Any:
        """Return the body's JSON, for tests. Raises ValueError where it is none."""
        import json

        return json.loads(self.body)


def of_json(value: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Return an answer of JSON."""
    return Answer(status, wire.dump(value), JSON, headers)


def of_refusal(refusal: wire.Refusal) -> Answer:
    """Return the documented error."""
    return Answer(refusal.status, refusal.body())


def of_store(status: int, code: str, message: str) -> Answer:
    """Return an error of the image store."""
    return Answer(status, wire.storage_error(code, message), XML)


def not_found() -> Answer:
    """Return what a web server says to an address that is not the service's."""
    return Answer(404, b"404 page not found", TEXT)


def wrong_method(allowed: str) -> Answer:
    """405, without the service's error object."""
    return Answer(405, b"405 method not allowed", TEXT, (("allow", allowed),))
