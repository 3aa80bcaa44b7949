"""The JSON file beside each image: what it is, what it cost, and enough to rebuild a lost ledger.

Rule: pure; its form is frozen with `sidecar` 1. It holds no key and no result URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from pydantic_core import from_json, to_json

from rsbatch.identity import check_id
from rsbatch.model import MOST_USD, SavedFile

VERSION = 1
MOST_BYTES = 4 * 1024 * 1024
"""A sidecar is never larger; what is larger is not one of ours."""
_HASH = re.compile("[0-9a-f]{64}")
FORMATS = ("png", "jpg", "webp")
"""What an image is saved as; its extension, too."""
_JOB_ID_MOST = 512


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a sidecar says of one image. `image` is 1-based, of `images`; `usd` in US dollars, None if unknown."""

    task: str
    key: str
    service: str
    manifest: str
    attempt: int
    job_id: str
    request_id: str | None
    usd: Decimal | None
    request: Any
    image: int
    images: int
    file: SavedFile
    submitted: str
    run: str
    rsbatch: str

    def is_of(self, service: str, manifest: str) -> bool:
        """Tell if its image was bought of this service for the manifest of this name."""
        return (self.service, self.manifest) == (service, manifest)


def dump(sidecar: Sidecar) -> bytes:
    """Give the file's bytes: indented JSON, the prompt first, for people who open it."""
    request = sidecar.request if isinstance(sidecar.request, Mapping) else {}
    value: dict[str, Any] = {
        "sidecar": VERSION,
        "prompt": request.get("prompt"),
        "task": sidecar.task,
        "key": sidecar.key,
        "service": sidecar.service,
        "manifest": sidecar.manifest,
        "attempt": sidecar.attempt,
        "job_id": sidecar.job_id,
        "request_id": sidecar.request_id,
        "usd": None if sidecar.usd is None else str(sidecar.usd),
        "request": sidecar.request,
        "image": sidecar.image,
        "images": sidecar.images,
        **asdict(sidecar.file),
        "submitted": sidecar.submitted,
        "run": sidecar.run,
        "rsbatch": sidecar.rsbatch,
    }
    return to_json(value, indent=2) + b"\n"


def parse(data: bytes) -> Sidecar | None:
    """Read a sidecar back; None for anything that is not one of ours."""
    try:
        value = from_json(data)
        if not isinstance(value, dict) or value.get("sidecar") != VERSION:
            return None
        usd = None if value["usd"] is None else Decimal(value["usd"])
        if usd is not None and not 0 <= usd < MOST_USD:
            return None
        found = Sidecar(
            task=str(value["task"]),
            key=str(value["key"]),
            service=str(value["service"]),
            manifest=str(value["manifest"]),
            attempt=int(value["attempt"]),
            job_id=str(value["job_id"]),
            request_id=value.get("request_id"),
            usd=usd,
            request=value.get("request"),
            image=int(value["image"]),
            images=int(value["images"]),
            file=SavedFile(
                path=str(value["path"]),
                bytes=int(value["bytes"]),
                sha256=str(value["sha256"]),
                format=str(value["format"]),
                width=int(value["width"]),
                height=int(value["height"]),
            ),
            submitted=str(value["submitted"]),
            run=str(value["run"]),
            rsbatch=str(value["rsbatch"]),
        )
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return None
    return found if _fits(found) else None


def _fits(one: Sidecar) -> bool:
    """Tell if all that names files or jobs later is as we write it: anybody may have edited the file."""
    file = one.file
    return (
        _HASH.fullmatch(one.key) is not None
        and _HASH.fullmatch(file.sha256) is not None
        and file.format in FORMATS
        and check_id(one.task) is None
        and one.job_id.isprintable()
        and 0 < len(one.job_id) <= _JOB_ID_MOST
        and 1 <= one.image <= one.images
        and one.attempt >= 0  # 0: its submission is not in the ledger (a repair, and then `resolve --attach`)
        and file.bytes >= 0
    )
