"""What is kept of a request so that its images can be drawn at any time.

Rule: small, frozen values, no IO. Reference images stand as the SHA-256 of their thumbnail, or as the URL
they came by.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

THUMBNAIL = "thumbnail:"
"""Begins a reference that stands for a thumbnail; its SHA-256 follows."""


@dataclass(frozen=True, slots=True)
class Brief:
    """The facts of an order that its images are drawn from.

    `width` and `height` in pixels; `format` is `png`, `jpeg` or `webp`; `compression` 0 to 100, None where
    the request names none; `variation` counts the earlier orders with an equal body; `index` is the image's
    place in its job.
    """

    sha256: str
    prompt: str
    model: str
    width: int
    height: int
    quality: str = ""
    transparent: bool = False
    format: str = "png"
    compression: int | None = None
    logo: bool = False
    references: tuple[str, ...] = ()
    mask: str = ""
    variation: int = 0
    index: int = 0

    def fields(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def pack(self) -> bytes:
        """As few bytes, to be kept by the hundred thousand."""
        return zlib.compress(json.dumps(list(asdict(self).values()), ensure_ascii=False).encode())

    @classmethod
    def unpack(cls, packed: bytes) -> Brief:
        """Return the inverse of `pack`."""
        values = json.loads(zlib.decompress(packed))
        return cls.of(dict(zip(cls.__slots__, values, strict=True)))

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Brief:
        """Return the inverse of `fields`."""
        brief = cls(**fields)
        return replace(brief, references=tuple(brief.references))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to be drawn.

    `references` and `mask` are the thumbnails (WebP), None for those given by URL.
    """

    brief: Brief
    references: tuple[bytes | None, ...] = ()
    mask: bytes | None = None
