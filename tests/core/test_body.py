"""The bytes sent are the bytes hashed, and the ledger keeps no images."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rsbatch.body import ImageChanged, body_sha, decode_data_url, is_data_url, ledger_form, wire_bytes
from rsbatch.identity import canonical_json
from rsbatch.model import LocalImage

BYTES = b"not really an image"
SHA = hashlib.sha256(BYTES).hexdigest()
FILE = LocalImage(SHA, "image/png", len(BYTES), Path("/photos/a.png"))
INLINE = LocalImage(SHA, "image/webp", len(BYTES), None, BYTES)
BASE64 = base64.b64encode(BYTES).decode()
BODY: dict[str, Any] = {"prompt": "猫", "images": ["https://x.example/a.png", FILE], "mask": INLINE, "logo_add": 0}


def read(image: LocalImage) -> bytes:
    return BYTES


def test_wire_bytes() -> None:
    sent = wire_bytes(BODY, read)
    assert json.loads(sent) == {
        "prompt": "猫",
        "images": ["https://x.example/a.png", f"data:image/png;base64,{BASE64}"],
        "mask": f"data:image/webp;base64,{BASE64}",
        "logo_add": 0,
    }
    assert sent == wire_bytes(dict(reversed(BODY.items())), read)


def test_a_body_without_images_is_sent_in_its_canonical_form() -> None:
    body = {"prompt": "é", "n": 1, "extra": {"b": 1, "a": [0.5]}}
    assert wire_bytes(body, read) == canonical_json(body)


@pytest.mark.parametrize(("image", "named"), [(FILE, "/photos/a.png"), (INLINE, "data: URL")])
def test_a_changed_image_is_not_sent(image: LocalImage, named: str) -> None:
    with pytest.raises(ImageChanged, match=named) as caught:
        wire_bytes({"images": [image]}, lambda _: BYTES + b"!")
    assert caught.value.image is image


def test_what_cannot_be_sent_is_found_before_a_file_is_read() -> None:
    def fail(image: LocalImage) -> bytes:
        raise AssertionError(image)

    with pytest.raises(ValueError, match="cannot be sent"):
        wire_bytes({"images": [FILE], "x": b"bytes"}, fail)
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire_bytes({"images": [FILE], "x": float("nan")}, fail)


def test_ledger_form() -> None:
    form = ledger_form(
        {
            **BODY,
            "seed": 42,
            "prompt": "data: about a cat",
            "nested": {"list": (f"data:image/png;base64,{BASE64}", f"DATA:;base64,{BASE64}", None)},
            "broken": "data:image/png;base64,***",
        }
    )
    assert form["images"] == ["https://x.example/a.png", f"sha256:{SHA}"]
    assert form["mask"] == f"sha256:{SHA}"
    assert form["nested"] == {"list": [f"sha256:{SHA}", f"sha256:{SHA}", None]}
    assert form["broken"] == f"sha256:{hashlib.sha256(b'data:image/png;base64,***').hexdigest()}"
    assert form["prompt"] == "data: about a cat"
    assert form["seed"] == 42
    json.dumps(form)


def test_body_sha() -> None:
    assert body_sha(BODY) == hashlib.sha256(canonical_json(BODY)).hexdigest()
    assert body_sha(BODY) == body_sha(ledger_form(BODY))


@pytest.mark.parametrize(
    ("url", "data"),
    [
        ("data:text/plain,a%20b", b"a b"),
        ("data:;base64,YQ==", b"a"),
        ("DATA:image/png;charset=x;BASE64,Y Q%3D=", b"a"),
    ],
)
def test_data_urls(url: str, data: bytes) -> None:
    assert decode_data_url(url) == data


@pytest.mark.parametrize(
    "url", ["https://x", "data:image/png;base64", "data:;base64,a", "data:;base64,é", "data:;base64,*"]
)
def test_what_is_no_data_url(url: str) -> None:
    with pytest.raises(ValueError, match="data: URL"):
        decode_data_url(url)


def test_text_about_data_is_no_data_url() -> None:
    assert is_data_url("data:image/png;base64,AA==")
    assert not is_data_url("data: a history, in pictures")
    assert not is_data_url("data:image, the painting")
