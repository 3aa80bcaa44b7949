"""Reference images and masks of a request: checked, and shrunk to what the painter shows of them.

Rule: pure; bytes in, bytes out. URLs are never fetched: the simulator makes no request of its own.
"""

from __future__ import annotations

import base64
import binascii
import io

THUMBNAIL_SIDE = 192
"""Pixels. About 5 kB each, so that 10,000 photos fit in memory."""
MAX_PIXELS = 50_000_000


def is_data_url(url: str) -> bool:
    """Whether the URL holds its data itself."""
    return url[:5].lower() == "data:"


def thumbnail(data_url: str) -> bytes:
    """Shrink the image of a `data:image/…;base64,…` URL to a small WebP.

    Raises ValueError where it is no image.
    """
    from PIL import Image, ImageOps

    head, comma, text = data_url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise ValueError("not a data:image/…;base64 URL")
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError("not base64") from exc
    try:
        with Image.open(io.BytesIO(raw)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError("too many pixels")
            opened.draft("RGB", (THUMBNAIL_SIDE * 2, THUMBNAIL_SIDE * 2))
            image = ImageOps.exif_transpose(opened)
            alpha = image.has_transparency_data
            small = image.convert("RGBA" if alpha else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ValueError("not an image") from exc
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=80, method=2, exact=False)
    return out.getvalue()
