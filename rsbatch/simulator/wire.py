"""The wire as the service speaks it: requests read and judged, answers written.

Rule: pure; written from the service's documentation alone, never from the client. Documented errors stand
here word for word. It must not know jobs or time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SUBMIT = "/v1/aiart/openai/image/submit"
QUERY = "/v1/aiart/openai/image/query"
IMAGES = "/simulator/images/"
AUDIT = "/simulator/audit"

DEFAULT_MODEL = "gpt-image-2"
DEFAULT_SIZE = (1024, 1024)
FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request body; more is 413. Ours: the service documents none."""
MAX_SIDE = 4096
"""Pixels. Ours, so that no request makes the simulator draw without end."""

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the shell received it.

    Header names are lower-case; `origin` is such as
    `http://127.0.0.1:8765`.
    """

    method: str
    path: str
    origin: str
    query: str = ""
    headers: Mapping[str, str] | None = None
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return a header's value, empty where it is missing."""
        return (self.headers or {}).get(name, "")


class Refusal(Exception):
    """A request that is answered with an error; nothing is accepted."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> bytes:
        """Return the documented shape: `{"code", "message", "data": null}`."""
        return dump({"code": self.code, "message": self.message, "data": None})


def invalid(message: str) -> Refusal:
    """400 `invalid_request`."""
    return Refusal(400, "invalid_request", message)


def dump(value: object) -> bytes:
    """JSON as the service writes it."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def canonical_sha256(fields: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of a body as canonical JSON: keys sorted, no spaces, UTF-8."""
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_key(authorization: str, key: str | None) -> None:
    """Raise the 401 for a missing or wrong key. `key` None: any that begins with `sk-` is right."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Refusal(401, "unauthorized", "API key is required")
    right = token == key if key is not None else token.startswith("sk-") and len(token) > len("sk-")
    if not right:
        raise Refusal(401, "invalid_api_key", "API key is invalid")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_fields(request: Request) -> Fields:
    """Return the request's JSON object without the fields that are null. Raises Refusal."""
    if len(request.body) > MAX_BODY:
        raise Refusal(413, "request_too_large", f"request body is larger than {MAX_BODY} bytes")
    if request.header("content-type").partition(";")[0].strip().lower() != "application/json":
        raise invalid("Content-Type must be application/json")
    try:
        value = json.loads(request.body.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text
    except (ValueError, RecursionError):
        raise invalid("request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise invalid("request body must be a JSON object")
    return {name: field for name, field in value.items() if field is not None}


_TEXTS = (
    "prompt",
    "model",
    "mask",
    "input_fidelity",
    "size",
    "quality",
    "background",
    "output_format",
    "response_format",
)
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


def check_submission(fields: Fields) -> None:
    """Raise the 400 for the first field that does not fit. Fields that are not documented pass."""
    for name in _TEXTS:
        if not isinstance(fields.get(name, ""), str):
            raise invalid(f"{name} must be a string")
    images = fields.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise invalid("images must be an array of strings")
    if not fields.get("prompt", "").strip() and not any(images):
        raise invalid("prompt or images is required")
    _check_numbers(fields)
    for name in ("logo_param", "extra"):
        if not isinstance(fields.get(name, {}), dict):
            raise invalid(f"{name} must be an object")
    read_size(fields)
    wanted = fields.get("output_format", "")
    if wanted and wanted not in FORMATS:
        raise invalid("output_format must be one of png, jpeg, webp")
    if fields.get("background") == "transparent" and wanted == "jpeg":
        raise invalid("background transparent needs output_format png or webp")


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_numbers(fields: Fields) -> None:
    n = fields.get("n", 1)
    if not _integer(n):
        raise invalid("n must be an integer")
    if n != 1:
        raise invalid("n must be 1")
    compression = fields.get("output_compression", 100)
    if not _integer(compression) or not 0 <= compression <= 100:
        raise invalid("output_compression must be an integer between 0 and 100")
    logo = fields.get("logo_add", 0)
    if not _integer(logo) or logo not in {0, 1}:
        raise invalid("logo_add must be 0 or 1")


def read_size(fields: Fields) -> tuple[int, int]:
    """Width and height in pixels; absent, empty and `auto` are 1024x1024. Raises Refusal."""
    text = fields.get("size", "")
    if text in {"", "auto"}:
        return DEFAULT_SIZE
    match = _SIZE.fullmatch(text)
    if match is None:
        raise invalid("size must be WIDTHxHEIGHT or auto")
    width, height = int(match[1]), int(match[2])
    if not (16 <= width <= MAX_SIDE and 16 <= height <= MAX_SIDE):
        raise invalid(f"size must be between 16x16 and {MAX_SIDE}x{MAX_SIDE}")
    return width, height


def read_job_id(fields: Fields) -> str:
    """Return the job that a query asks for. Raises Refusal."""
    job_id = fields.get("job_id", "")
    if not isinstance(job_id, str):
        raise invalid("job_id must be a string")
    if not job_id:
        raise invalid("job_id is required")
    return job_id


GATEWAY_TIMEOUT = b'{"message": "Endpoint request timed out"}'
GATEWAY_HTML = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
LOGIN_HTML = (
    b"<!DOCTYPE html>\n<html><head><title>Please wait</title></head>"
    b"<body><p>Checking your browser before you go on.</p></body></html>\n"
)


def storage_error(code: str, message: str) -> bytes:
    """Return an error of the image store, XML as object stores write it."""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{head}<Error><Code>{code}</Code><Message>{message}</Message></Error>\n".encode()
