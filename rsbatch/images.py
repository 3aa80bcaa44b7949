"""Tells whether bytes are an image, a whole one, and which: PNG, JPEG or WebP.

Rule: what the bytes say counts, never a name or a header of HTTP. The structure is walked here (size before
anything is decoded, checksums, end marker), and the pixels are decoded by Pillow, unless they are a plain PNG's, whose
rows `rsbatch.png` counts: each finds cuts that the others miss. Bytes after the end marker do no harm (cameras put more
there) and are let through. No state of Pillow is changed, so any number of threads may do this at once; one call takes
about 4 bytes of memory a pixel, for a plain PNG a few MB.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal

from isal.isal_zlib import crc32

from rsbatch.png import count_rows
from rsbatch.text import printable

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Format = Literal["png", "jpg", "webp"]

MAX_PIXELS = 80_000_000
"""Most pixels of one image: five times the largest that is sold (4096 × 4096), and 320 MB when decoded."""

MAX_FRAME_PIXELS = 4 * MAX_PIXELS
"""Most pixels of all frames of an animation, each of which is decoded."""

MAX_FRAMES = 10_000
"""Most frames of an animation: one may claim millions in a few bytes, and each takes time."""

MAX_PIECES = 200_000
"""Most chunks or segments of a file; encoders write some 8,000 into 64 MiB. More only cost time."""

MAX_SCANS = 200
"""Most scans of a JPEG, each of which costs a pass over all pixels; encoders write about ten, tuned ones 64."""

_MIME: dict[Format, str] = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


class BadImage(Exception):
    """The bytes are no image that can be kept; `reason` is a clause fit for the ledger and the terminal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image really is; `format` is also its extension, `width` and `height` in pixels."""

    format: Format
    width: int
    height: int

    @property
    def mime(self) -> str:
        """Such as `image/png`."""
        return _MIME[self.format]


def inspect_image(data: bytes) -> ImageInfo:
    """Decode an image wholly and say what it is. Blocks, for 0.005 to 0.2 s a megabyte: call it in a thread.

    Raises `BadImage` if it is none, is cut or damaged, or is too large.
    """
    format_ = sniff(data)
    if format_ is None:
        raise BadImage(_what_it_is_instead(data))
    width, height = _WALKS[format_](data)
    if width < 1 or height < 1:
        raise BadImage(f"its size is {width} × {height}")
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} × {height} pixels are more than the {MAX_PIXELS:,} allowed")
    decoded = _decode(format_, data)
    if decoded != (width, height):
        raise BadImage(f"its header says {width} × {height}, its pixels {decoded[0]} × {decoded[1]}")
    return ImageInfo(format_, width, height)


def sniff(data: bytes) -> Format | None:
    """Tell the format by the first bytes (12 are enough); None if it is none of ours."""
    if data.startswith(_PNG):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


_OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"\s*<svg|\s*<\?xml[^>]*>\s*<svg", re.IGNORECASE), "an SVG, which is not supported"),
    (re.compile(rb"\s*<"), "an XML document"),
    (re.compile(rb"\s*[\[{]"), "a JSON document"),
    (re.compile(rb"GIF8"), "a GIF, which is not supported"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "an AVIF, which is not supported"),
    (re.compile(rb"....ftyp(heic|heix|mif1|msf1)", re.DOTALL), "a HEIC, which is not supported"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF, which is not supported"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), "a BMP, which is not supported"),
    (re.compile(rb"\x1f\x8b"), "gzip data"),
    (re.compile(rb"%PDF"), "a PDF"),
)


def _what_it_is_instead(data: bytes) -> str:
    if not data:
        return "it is empty"
    for pattern, name in _OTHERS:
        if pattern.match(data[:200]):
            return f"it is {name}"
    return f"it is not a PNG, JPEG or WebP (begins with {data[:8].hex(' ')})"


# The three walks: each gives width and height from the header and raises `BadImage` unless the end marker is
# reached by following the structure. (To search for the marker is not enough: previews inside have their
# own.)

_PNG = b"\x89PNG\r\n\x1a\n"


def _walk_png(data: bytes) -> tuple[int, int]:
    """Chunks up to IEND, with their checksums (PNG specification, 5.3). The end itself holds nothing to be damaged.

    (Pillow's `verify` finds the same, for 20 times the CPU time: 0.5 ms an image.)
    """
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise _cut(data)
    view = memoryview(data)
    at = len(_PNG)
    animations = 0
    for _ in range(MAX_PIECES):
        if at + 12 > len(data):
            raise _cut(data)
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        start, at = at, at + 12 + length
        if at > len(data):
            raise _cut(data)
        if kind == b"IEND":
            break
        if crc32(view[start + 4 : at - 4]) != int.from_bytes(view[at - 4 : at], "big"):
            raise BadImage(f"the checksum of its chunk {printable(kind.decode('latin-1'))} is wrong: it is damaged")
        if kind == b"acTL":
            animations += 1
    else:
        raise BadImage("it has too many chunks")
    if animations > 1:
        raise BadImage("it says twice that it is animated")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


# Inside the pixels FF is followed by 00, by a restart marker, or by FF as filling. (No `+` after the FF: a long
# run of them would take quadratic time.)
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = {0x01, 0xD8}
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA


def _walk_jpg(data: bytes) -> tuple[int, int]:
    """Segments and scans up to EOI (ITU T.81, annex B). A progressive image has many scans."""
    size: tuple[int, int] | None = None
    at, scans = 2, 0
    for _ in range(MAX_PIECES):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            raise _cut(data)
        marker, at = found[1][0], found.end()
        if marker == _JPEG_END:
            break
        if marker in _JPEG_ALONE:
            continue
        if at + 2 > len(data):
            raise _cut(data)
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _JPEG_SIZES and size is None:
            if length < 8 or at + 7 > len(data):
                raise _cut(data)
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = (width, height)
        scans += marker == _JPEG_SCAN
        at += max(length, 2)
    else:
        raise BadImage("it has too many segments")
    if scans > MAX_SCANS:
        raise BadImage(f"it has {scans} scans, which is too many")
    if size is None:
        raise BadImage("it is a JPEG without a picture")
    return size


def _walk_webp(data: bytes) -> tuple[int, int]:
    """RIFF's own length, and the size from the first chunk (WebP container specification; RFC 6386; VP8L)."""
    (length,) = struct.unpack_from("<I", data, 4)
    if length + 8 > len(data) or len(data) < 30:
        raise _cut(data)
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise BadImage("it is a WebP without a picture")


_WALKS: dict[Format, Callable[[bytes], tuple[int, int]]] = {
    "png": _walk_png,
    "jpg": _walk_jpg,
    "webp": _walk_webp,
}


def _cut(data: bytes) -> BadImage:
    return BadImage(f"it is cut off after {len(data):,} bytes, before its end")


def _decode(format_: Format, data: bytes) -> tuple[int, int]:
    """Decode all pixels of all frames, or prove that they can be; give width and height.

    The plug-ins' classes are called directly: `Image.open` would try all formats, turn a JPEG with a preview
    into an MPO, and warn about sizes through global state.
    """
    # Untrusted bytes make Pillow raise nearly anything (SyntaxError, struct.error, KeyError, MemoryError …).
    try:
        with _open(format_, data) as image:
            size = image.size
            if format_ == "png" and (rows := count_rows(data)) is not None:
                if rows < size[1]:
                    raise BadImage(f"its pixels end after {rows:,} of {size[1]:,} rows")
                return size
            frames = int(getattr(image, "n_frames", 1))
            if frames > MAX_FRAMES or frames * size[0] * size[1] > MAX_FRAME_PIXELS:
                raise BadImage(f"{frames} frames of {size[0]} × {size[1]} pixels are too many")
            for frame in range(frames):
                if frame:
                    image.seek(frame)
                image.load()
            return size
    except BadImage:
        raise
    except Exception as exc:
        raise BadImage(f"it cannot be decoded: {printable(str(exc) or type(exc).__name__, 200)}") from exc


def _open(format_: Format, data: bytes) -> ImageFile:
    stream = BytesIO(data)
    if format_ == "png":
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile(stream)
    if format_ == "jpg":
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(stream)
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile(stream)
