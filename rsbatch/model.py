"""The vocabulary: what a manifest expands to and what the settings are.

Rule: frozen values only, no IO, no clock. A *manifest* expands to *tasks* (ours, with a stable id); a submitted
task is a *job* (the service's, with a `job_id`); each try to submit is an *attempt*; a finished job has *images*,
saved as *files*; the *ledger* is a list of *records*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

MIB = 1024 * 1024

DEFAULT_BASE_URL = "https://api.routescope.ai"
DEFAULT_KEY_ENV = "ROUTESCOPE_API_KEY"
DEFAULT_MODEL = "gpt-image-2"
"""The server's default model; an absent `model` is priced as this one (it is not filled into the body)."""

MOST_USD = 10**9
"""A price is below this, as in manifests: sums of prices stay exact."""

EXT = "{ext}"
"""Stands in `Task.path` where the real extension goes, which only the received bytes tell."""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image of ours inside a request body, standing where its `data:` URL will be in the bytes sent.

    `sha256` is of the image's bytes (64 lower-case hex digits), `size` in bytes, `mime` such as `image/png` is what
    the bytes really are. `path` is the absolute file it is read from; where the manifest itself holds the image
    as a `data:` URL, `path` is None and `data` has the bytes.
    """

    sha256: str
    mime: str
    size: int
    path: Path | None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task comes from, for messages.

    `entry` is the 0-based index under `tasks`, `line` the 1-based line of that entry in the manifest, `row` the
    1-based number of the row or file it was made of, 0 for none.
    """

    entry: int
    line: int
    row: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One image order: the unit that is submitted, paid and saved.

    `body` is the request body: JSON values, with `LocalImage` in the places of `data:` URLs. `path` is relative to
    the output folder, POSIX separators, NFC, with `EXT` in the places of the extension. `usd` is the price
    in US dollars that the manifest's table gives, None where it gives none. `key` is 64 lower-case hex digits.
    `axes` are the names that told it from others of its entry: those of its matrix, and `row` or `file`.
    `replaced`: its image was rejected, and a new sample asked for in its place.
    """

    id: str
    key: str
    sample: int
    body: Mapping[str, Any]
    path: str
    usd: Decimal | None
    origin: Origin
    axes: Mapping[str, Any] = field(default_factory=dict)
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard a run may press; times in seconds, sizes in bytes."""

    in_flight: int = 8
    submits_per_second: float = 5.0
    queries_per_second: float = 10.0
    downloads: int = 8
    task_timeout: float = 1800.0
    max_image_bytes: int = 64 * MIB


InDoubt = Literal["hold", "resubmit"]


@dataclass(frozen=True, slots=True)
class Rules:
    """When a run stops by itself, and what it may do with doubts; times in seconds, `budget` in US dollars."""

    budget: Decimal | None = None
    stop_after: float | None = None
    max_failures: int = 50
    in_doubt: InDoubt = "hold"
    max_in_doubt: int = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """What the command line lets a run submit.

    `patterns` are glob patterns of ids, any of which may match (empty: all); `limit` is how many of what is left
    may be submitted, None for all. With `only`, no other ids than these.
    """

    patterns: tuple[str, ...] = ()
    limit: int | None = None
    retry_failed: bool = False
    rebuy_missing: bool = False
    only: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Api:
    """Where the service is, and the name of the environment variable that has its key."""

    base_url: str = DEFAULT_BASE_URL
    key_env: str = DEFAULT_KEY_ENV


@dataclass(frozen=True, slots=True)
class SavedFile:
    """One image file of a job, as the ledger's `downloaded` and `saved` records have it.

    `path` is relative to the output folder; `bytes` is the size; `format` is `png`, `jpg` or `webp`; `width` and
    `height` in pixels.
    """

    path: str
    bytes: int
    sha256: str
    format: str
    width: int
    height: int
