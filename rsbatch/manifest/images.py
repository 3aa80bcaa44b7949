"""Reference images and masks: URLs stay text, `data:` URLs and files become LocalImage.

Rule: what is sent from disk must really be an image (a manifest from a stranger must not be able to send other
files away): a regular file of at most 50 MiB that Pillow both verifies and decodes as PNG, JPEG, WebP or GIF.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rsbatch.body import decode_data_url
from rsbatch.manifest.faults import Fault
from rsbatch.manifest.sources import regular_file
from rsbatch.model import LocalImage

MAX_IMAGE_BYTES: Final = 50 * 1024 * 1024
MAX_PIXELS: Final = 80_000_000
"""More than the largest image any known model takes; decoded, it is 320 MB."""
_MIMES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CACHED_FILES: Final = 20_000
_CACHED_URLS: Final = 16

_Stamp = tuple[int, int, int, int]


class Images:
    """Makes the value of `images` and `mask` from text; remembers files by size, time and inode.

    `files` and `urls` are how many of each are remembered at most.
    """

    def __init__(self, folder: Path, *, files: int = _CACHED_FILES, urls: int = _CACHED_URLS) -> None:
        self._folder = folder
        self._most_files = files
        self._most_urls = urls
        self._files: dict[str, tuple[_Stamp, LocalImage]] = {}
        self._urls: dict[str, LocalImage] = {}

    def __call__(self, text: str) -> str | LocalImage:
        """Give an http(s) URL back as it is, anything else as a local image. Raises Fault."""
        start = text[:8].lower()
        if start.startswith(("http://", "https://")):
            return check_url(text)
        if start.startswith("data:"):
            return self._decoded(text)
        if _SCHEME.match(text):
            raise Fault(f"{text[:60]!r}: images are http(s) URLs, data: URLs or local files")
        return self._file(text)

    def _decoded(self, text: str) -> LocalImage:
        found = self._urls.get(text)
        if found is None:
            try:
                data = decode_data_url(text)
            except ValueError as error:
                raise Fault(f"{text[:40]!r}… {error}") from error
            mime = image_mime(data, f"the data: URL {text[:40]!r}…")
            found = LocalImage(hashlib.sha256(data).hexdigest(), mime, len(data), None, data)
            if len(self._urls) >= self._most_urls:
                self._urls.clear()
            self._urls[text] = found
        return found

    def _file(self, name: str) -> LocalImage:
        path = regular_file(self._folder, name)
        cached = self._files.get(name)
        if cached is not None and cached[0] == _stamp(os.stat(path)):
            return cached[1]
        try:
            stamp, data = read_regular(path)
        except OSError as error:
            raise Fault(f"{name!r} cannot be read: {error.strerror or error}") from error
        image = LocalImage(
            hashlib.sha256(data).hexdigest(), image_mime(data, repr(name)), len(data), Path(os.path.abspath(path))
        )
        if len(self._files) >= self._most_files:
            self._files.clear()
        self._files[name] = (stamp, image)
        return image


def check_url(text: str) -> str:
    """Give back an http(s) URL that could be fetched. Raises Fault."""
    try:
        host = urlsplit(text).hostname
    except ValueError as error:
        raise Fault(f"{text[:60]!r} is not a URL: {error}") from error
    if not host or any(char.isspace() or not char.isprintable() for char in text):
        raise Fault(f"{text[:60]!r} is not a URL that can be fetched")
    return text


def read_regular(path: Path) -> tuple[_Stamp, bytes]:
    """Read a regular file of at most `MAX_IMAGE_BYTES`. Raises Fault and OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as stream:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Fault(f"{str(path)!r} is not a regular file")
        if status.st_size > MAX_IMAGE_BYTES:
            raise Fault(f"{str(path)!r} is larger than {MAX_IMAGE_BYTES // 2**20} MiB")
        return _stamp(status), stream.read(MAX_IMAGE_BYTES + 1)


def _stamp(status: os.stat_result) -> _Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def image_mime(data: bytes, name: str) -> str:
    """Tell the MIME type of an image that decodes completely. Raises Fault naming it `name`."""
    from PIL import Image, UnidentifiedImageError

    if len(data) > MAX_IMAGE_BYTES:
        raise Fault(f"{name} is larger than {MAX_IMAGE_BYTES // 2**20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=tuple(_MIMES)) as image:
                mime = _MIMES[image.format or ""]
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Fault(f"{name} has {width} × {height} pixels; {MAX_PIXELS // 10**6} million is the most")
                image.verify()
            with Image.open(io.BytesIO(data), formats=tuple(_MIMES)) as image:
                image.load()
    except UnidentifiedImageError as error:
        raise Fault(f"{name} is not a PNG, JPEG, WebP or GIF image") from error
    except Fault:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        ArithmeticError,
        LookupError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        raise Fault(f"{name} is a broken image: {error}") from error
    return mime
