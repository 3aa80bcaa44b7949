"""Request bodies in the three forms they take: as sent, as recorded, as hashed.

Rule: pure, given a reader for the bytes of local images. The bytes sent are the bytes hashed: an image that
has changed since the task was made is an error, not another request under the same key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from rsbatch.errors import RsbatchError
from rsbatch.identity import canonical_json
from rsbatch.model import LocalImage

_DATA_URL: Final = re.compile(r"data:[^,\s/]+/[^,\s]+,|data:[^,\s]*;base64,", re.IGNORECASE)


class ImageChanged(RsbatchError):
    """A local image has other bytes now than when the manifest was expanded; its task was not sent."""

    def __init__(self, image: LocalImage) -> None:
        super().__init__(
            f"{image.path or 'a data: URL'} has changed since the run began; run again to send it as it is"
        )
        self.image = image


def is_data_url(text: str) -> bool:
    """Whether `text` is a `data:` URL (not merely text that begins with the word)."""
    return _DATA_URL.match(text) is not None


def decode_data_url(text: str) -> bytes:
    """Decode a `data:` URL to its bytes.

    Raises ValueError.
    """
    head, comma, data = text.partition(",")
    if not comma or head[:5].lower() != "data:":
        raise ValueError("is not a data: URL")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode("".join(unquote_to_bytes(data).decode("ascii").split()), validate=True)
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("is a data: URL whose base64 is broken") from error


def wire_bytes(body: Mapping[str, Any], read: Callable[[LocalImage], bytes]) -> bytes:
    """Encode the exact JSON to send: canonical, each local image as `data:<mime>;base64,…`.

    `read` gives an image's bytes. Raises ImageChanged if they are not the bytes of the image's hash,
    ValueError as `canonical_json` does.
    """

    def fill(image: LocalImage) -> str:
        data = read(image)
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise ImageChanged(image)
        return f"data:{image.mime};base64,{base64.b64encode(data).decode()}"

    canonical_json(body)  # refuses what has no canonical form, before any file is read
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=fill)
    return encoder.encode(body).encode()


def ledger_form(body: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the body into what the ledger keeps: JSON values, each image (also any `data:` URL) as `sha256:<hex>`."""
    return {key: _recorded(value) for key, value in body.items()}


def _recorded(value: Any) -> Any:
    if isinstance(value, LocalImage):
        return f"sha256:{value.sha256}"
    if isinstance(value, str):
        return _hashed(value) if is_data_url(value) else value
    if isinstance(value, Mapping):
        return {key: _recorded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_recorded(item) for item in value]
    return value


def _hashed(url: str) -> str:
    try:
        data = decode_data_url(url)
    except ValueError:
        data = url.encode(errors="surrogatepass")
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def body_sha(body: Mapping[str, Any]) -> str:
    """Hash the body's canonical JSON with images as their hashes: SHA-256, 64 lower-case hex digits.

    Raises ValueError as `canonical_json` does.
    """
    return hashlib.sha256(canonical_json(body)).hexdigest()
