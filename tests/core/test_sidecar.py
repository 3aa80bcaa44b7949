"""A sidecar is read back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from core_help import JSON, quick, saved_file
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.sidecar import Sidecar, dump, parse

ONE = Sidecar(
    task="cat",
    key="ab" * 32,
    service="s",
    manifest="m",
    attempt=1,
    job_id="j",
    request_id=None,
    usd=Decimal("0.10"),
    request={"prompt": "一只橘猫", "n": 1},
    image=1,
    images=2,
    file=saved_file(),
    submitted="2026-01-01T00:00:00.000Z",
    run="r",
    rsbatch="1.0",
)


@pytest.mark.parametrize("one", [ONE, replace(ONE, usd=None, request_id="req"), replace(ONE, request=None)])
def test_round_trip(one: Sidecar) -> None:
    assert parse(dump(one)) == one


@pytest.mark.parametrize(("service", "manifest", "is_its"), [("s", "m", True), ("s", "x", False), ("x", "m", False)])
def test_whose_it_is(service: str, manifest: str, is_its: bool) -> None:
    assert ONE.is_of(service, manifest) is is_its


def test_its_form_is_frozen() -> None:
    value = json.loads(dump(ONE))
    assert list(value) == [
        "sidecar",
        "prompt",
        "task",
        "key",
        "service",
        "manifest",
        "attempt",
        "job_id",
        "request_id",
        "usd",
        "request",
        "image",
        "images",
        "path",
        "bytes",
        "sha256",
        "format",
        "width",
        "height",
        "submitted",
        "run",
        "rsbatch",
    ]
    assert (value["sidecar"], value["prompt"], value["usd"]) == (1, "一只橘猫", "0.10")
    assert dump(ONE).endswith(b"\n}\n")


def changed(**more: Any) -> bytes:
    return json.dumps({**json.loads(dump(ONE)), **more}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"sidecar": 1}',
        b"[" * 1000,
        changed(sidecar=2),
        changed(attempt="x"),
        changed(attempt=float("inf")),
        changed(bytes=None),
        changed(usd="NaN"),
        changed(usd="-1"),
        changed(usd="Infinity"),
        changed(usd="1e9"),
        changed(usd="abc"),
        changed(usd={}),
        changed(key="../" * 21 + "a"),
        changed(key="AB" * 32),
        changed(sha256="ab"),
        changed(format="../png"),
        changed(task="../cat"),
        changed(task=""),
        changed(job_id=""),
        changed(job_id="a\nb"),
        changed(job_id="x" * 513),
        changed(image=0),
        changed(image=3),
        changed(attempt=-1),
        changed(bytes=-1),
    ],
)
def test_what_is_none_of_ours(data: bytes) -> None:
    assert parse(data) is None


@quick
@given(st.binary(max_size=60), st.dictionaries(st.sampled_from(list(json.loads(dump(ONE)))), JSON, max_size=3))
def test_nothing_raises(noise: bytes, more: dict[str, Any]) -> None:
    parse(noise)
    parse(changed(**more))


def test_a_job_that_was_attached_after_a_repair_has_no_attempt() -> None:
    one = replace(ONE, attempt=0, usd=None, request=None)
    assert parse(dump(one)) == one
