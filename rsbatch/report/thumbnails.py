"""Small pictures of the saved ones.

Rule: reads images, and writes none but its own: into memory, or into a hidden folder beside the page, where each has
the SHA-256 of its image as its name, so that it is made once. What cannot be read as an image has no small picture.
"""

from __future__ import annotations

import base64
import os
import re
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image

from rsbatch.errors import StoreError
from rsbatch.images import MAX_PIXELS
from rsbatch.progress.work import working

SIDE: Final = 384
"""Pixels of the longer side: sharp in a tile of 200 on a screen that has two pixels for one."""
EMBEDDED: Final = 100
"""Up to so many pictures are in the page itself: some 10 KB each."""
_QUALITY: Final = 78
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Original:
    """An image to make small: its SHA-256, and its file or its bytes."""

    sha256: str
    source: Path | bytes


class Thumbnails:
    """Small pictures beside the page `out`, or in it where they are few; made once each."""

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(".report" if out.stem == "report" else f".report-{out.stem}")
        self._embedded: dict[str, str] = {}

    def urls(self, originals: Iterable[Original]) -> dict[str, str]:
        """Give the URL of each small picture by the SHA-256 of its image; without those that cannot be made.

        Raises StoreError where the folder cannot be written.
        """
        wanted = {o.sha256: o for o in originals if _SHA256.fullmatch(o.sha256)}
        embed = len(wanted) <= EMBEDDED
        try:
            if not embed:
                self.folder.mkdir(exist_ok=True)
            make = self._embed if embed else self._write
            urls: dict[str, str] = {}
            with (
                ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="rsbatch-thumbnail") as pool,
                working("making small pictures", "images", len(wanted)) as tick,
            ):
                for sha256, url in zip(wanted, pool.map(make, wanted.values()), strict=True):
                    if url:
                        urls[sha256] = url
                    tick(1)
        except OSError as exc:
            raise StoreError(f"cannot write {self.folder}: {exc.strerror or exc}") from exc
        return urls

    def _embed(self, original: Original) -> str:
        url = self._embedded.get(original.sha256, "")
        if not url and (data := small(original.source)) is not None:
            url = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
            self._embedded[original.sha256] = url
        return url

    def _write(self, original: Original) -> str:
        path = self.folder / f"{original.sha256[:32]}.webp"
        if not path.exists() or not path.stat().st_size:  # a power cut leaves empty ones
            data = small(original.source)
            if data is None:
                return ""
            write_whole(path, data)
        return f"./{self.folder.name}/{path.name}"


def small(source: Path | bytes) -> bytes | None:
    """Make a WebP of at most `SIDE` pixels a side; None for what is no image that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at a fraction of its size
            alpha = image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info
            picture = image.convert("RGBA" if alpha else "RGB")
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        data = BytesIO()
        picture.save(data, "WEBP", quality=_QUALITY, method=1)
    except Exception:  # untrusted bytes make Pillow raise nearly anything, and a page does without
        return None
    return data.getvalue()


_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in its place in one step; raises OSError."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_bytes(data)
        new.replace(path)
    finally:  # also for Ctrl-C
        with suppress(OSError):
            new.unlink(missing_ok=True)
