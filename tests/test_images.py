"""Real files of every kind we keep, cut, damaged, disguised and blown up."""

from __future__ import annotations

import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from rsbatch.images import MAX_PIXELS, BadImage, ImageInfo, inspect_image, sniff

SIZE = (160, 120)


def picture(mode: str = "RGB", seed: int = 1) -> Image.Image:
    """A gradient with some noise, so that no part of the file is trivial."""
    source = random.Random(seed)
    width, height = SIZE
    pixels = bytes(
        (x * 255 // width + y + source.randrange(8)) % 256 for y in range(height) for x in range(width) for _ in "RGB"
    )
    return Image.frombytes("RGB", SIZE, pixels).convert(mode)


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def kinds() -> dict[str, bytes]:
    rgb, other = picture(), picture(seed=2)
    sixteen = Image.frombytes("I;16", SIZE, random.Random(3).randbytes(SIZE[0] * SIZE[1] * 2))
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return {
        "png": encode(rgb, "PNG"),
        "png-palette": encode(picture("P"), "PNG", transparency=3),
        "png-16-bit": encode(sixteen, "PNG"),
        "png-1-bit": encode(picture("1"), "PNG"),
        "png-alpha": encode(picture("RGBA"), "PNG"),
        "png-animated": encode(rgb, "PNG", save_all=True, append_images=[other], duration=50),
        "jpg": encode(rgb, "JPEG", quality=90),
        "jpg-progressive": encode(rgb, "JPEG", progressive=True),
        "jpg-gray": encode(picture("L"), "JPEG"),
        "jpg-cmyk": encode(picture("CMYK"), "JPEG"),
        "jpg-restarts": encode(rgb, "JPEG", restart_marker_rows=1),
        "jpg-exif": encode(rgb, "JPEG", exif=exif, comment=b"\xff\xd9"),
        "webp": encode(rgb, "WEBP", quality=80),
        "webp-lossless": encode(picture("RGBA"), "WEBP", lossless=True),
        "webp-alpha": encode(picture("RGBA"), "WEBP", exif=exif),
        "webp-animated": encode(rgb, "WEBP", save_all=True, append_images=[other], duration=50),
    }


KINDS = kinds()
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_whole_files_are_told_by_their_bytes(kind: str) -> None:
    expected = ImageInfo(kind.partition("-")[0], *SIZE)  # type: ignore[arg-type]
    assert inspect_image(KINDS[kind]) == expected


@each_kind
def test_a_cut_anywhere_is_found(kind: str) -> None:
    data = KINDS[kind]
    near_the_ends = [*range(64), *range(len(data) - 64, len(data))]
    for length in sorted({*near_the_ends, *range(0, len(data), max(1, len(data) // 150))}):
        with pytest.raises(BadImage):
            inspect_image(data[:length])


@each_kind
def test_a_piece_lost_in_the_middle_of_a_file_that_ends_well(kind: str) -> None:
    """Lost pixels of a JPEG cannot all be found: its data has no checksum. Of the others they are."""
    if kind.startswith("jpg"):
        pytest.skip("a JPEG has no checksum; Content-Length and the end marker have to do")
    data = KINDS[kind]
    for start in range(16, len(data) - 64, len(data) // 20):
        with pytest.raises(BadImage):
            inspect_image(data[:start] + data[start + 32 :])


@each_kind
@pytest.mark.parametrize("tail", [b"\0" * 1000, b"\r\n", b"<html>more</html>", b"\xff\xd8\xff\xe0 preview"])
def test_what_follows_the_end_does_no_harm(kind: str, tail: bytes) -> None:
    assert (inspect_image(KINDS[kind] + tail).width, inspect_image(KINDS[kind] + tail).height) == SIZE


@each_kind
def test_a_cut_filled_up_with_zeros_is_found(kind: str) -> None:
    """As a preallocated or sparse file looks after a crash."""
    if kind.startswith("webp"):
        pytest.skip("WebP has no checksum and no end inside its frames; the size matches by construction")
    data = KINDS[kind]
    with pytest.raises(BadImage):
        inspect_image(data[: len(data) // 2].ljust(len(data), b"\0"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_png_whose_chunks_are_well_formed_but_too_few() -> None:
    rows = b"".join(b"\0" + bytes(range(100)) for _ in range(100))
    assert inspect_image(png(100, 100, zlib.compress(rows))) == ImageInfo("png", 100, 100)
    with pytest.raises(BadImage):
        inspect_image(png(100, 100, zlib.compress(rows)[:40]))


PIXELS = zlib.compress(b"".join(b"\0" + bytes(range(100)) for _ in range(100)))


def test_a_checksum_that_does_not_fit_is_found() -> None:
    """To decode the pixels does not look at it."""
    data = bytearray(png(100, 100, PIXELS))
    data[-13] ^= 1  # the last byte before IEND
    with pytest.raises(BadImage, match="checksum"):
        inspect_image(bytes(data))


def test_a_png_whose_order_or_end_is_odd() -> None:
    whole = png(100, 100, PIXELS)
    larger = png(200, 200)[8:33]
    for data, message in (
        (whole[:8] + larger + whole[8:], "its header says 200 × 200, its pixels 100 × 100"),
        (whole[:8] + chunk(b"teXt", struct.pack(">II", 100, 100)) + whole[8:], "cut off"),
        (whole[:-12] + struct.pack(">I", 1000) + whole[-8:], "cut off"),
    ):
        with pytest.raises(BadImage, match=message):
            inspect_image(data)


def test_a_later_frame_that_is_damaged_is_found() -> None:
    data = bytearray(KINDS["png-animated"])
    at = data.index(b"fdAT")
    (length,) = struct.unpack_from(">I", data, at - 4)
    data[at - 4 : at + 8 + length] = chunk(b"fdAT", bytes(data[at + 4 : at + 8]) + b"\xff" * (length - 4))
    with pytest.raises(BadImage, match="broken data"):
        inspect_image(bytes(data))


def test_bombs_are_refused_before_they_are_decoded() -> None:
    bomb = png(50_000, 50_000)
    assert len(bomb) < 70
    with pytest.raises(BadImage, match="50000 × 50000 pixels are more than"):
        inspect_image(bomb)
    jpeg = bytearray(KINDS["jpg"])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(BadImage, match="65000 × 65000 pixels"):
        inspect_image(bytes(jpeg))
    webp = bytearray(KINDS["webp-lossless"])
    webp[21:25] = struct.pack("<I", 0x3FFF | 0x3FFF << 14 | 1 << 28)
    with pytest.raises(BadImage, match="16384 × 16384 pixels"):
        inspect_image(bytes(webp))
    extended = bytearray(KINDS["webp-alpha"])
    assert extended[12:16] == b"VP8X"
    extended[24:30] = b"\xff" * 6
    with pytest.raises(BadImage, match="16777216 × 16777216 pixels"):
        inspect_image(bytes(extended))
    assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS  # type: ignore[operator]


def test_animations_without_end_are_refused() -> None:
    frames = chunk(b"acTL", struct.pack(">II", 9_000, 0))
    with pytest.raises(BadImage, match="9001 frames of 200 × 200 pixels are too many"):
        inspect_image(png(200, 200, zlib.compress(bytes(40_200)), frames))
    for extra, message in ((frames + frames, "twice"), (chunk(b"acTL", struct.pack(">II", 0, 0)), "APNG")):
        with pytest.raises(BadImage, match=message):
            inspect_image(png(100, 100, zlib.compress(bytes(10_100)), extra))


def test_frames_that_are_claimed_alone_take_no_time() -> None:
    """Pillow looks for each of them."""
    frames = chunk(b"acTL", struct.pack(">II", 100_000_000, 0))
    with pytest.raises(BadImage, match="100000001 frames of 1 × 2 pixels are too many"):
        inspect_image(png(1, 2, zlib.compress(bytes(4)), frames))


def test_hostile_structures_take_no_time() -> None:
    runs = KINDS["jpg"][:-2] + b"\xff" * 4_000_000 + b"\0"
    segments = b"\xff\xd8" + b"\xff\xe0\0\2" * 300_000
    scans = KINDS["jpg"][:-2] + b"\xff\xda\0\2" * 1_000 + b"\xff\xd9"
    chunks = png(100, 100, extra=chunk(b"teXt", b"") * 300_000)
    for data, message in ((runs, "cut"), (segments, "segments"), (scans, "scans"), (chunks, "chunks")):
        with pytest.raises(BadImage, match=message):
            inspect_image(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>502 Bad Gateway", "an HTML page"),
        (b"\n <html>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "an XML document"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b'{"code": "expired"}', "a JSON document"),
        (b"GIF89a\1\0\1\0", "a GIF"),
        (b"\0\0\0\x20ftypavif", "an AVIF"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x1b[31m\xe2\x80\xae", "begins with 1b 5b 33"),
        (b"\xff\xd8\xff\xd9", "without a picture"),
        (b"RIFF\x1c\0\0\0WEBPXXXX" + bytes(20), "without a picture"),
        (png(0, 10), "its size is 0 × 10"),
    ],
)
def test_what_it_is_instead_is_said(data: bytes, message: str) -> None:
    with pytest.raises(BadImage) as caught:
        inspect_image(data)
    assert message in caught.value.reason
    assert caught.value.reason.isprintable()


def test_headers_that_disagree_with_the_pixels() -> None:
    extended = bytearray(KINDS["webp-alpha"])
    extended[24:27] = (99).to_bytes(3, "little")
    with pytest.raises(BadImage):
        inspect_image(bytes(extended))


def test_any_damage_is_an_answer_not_a_crash() -> None:
    source = random.Random(7)
    for data in KINDS.values():
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(source.randrange(1, 6)):
                broken[source.randrange(len(broken))] = source.randrange(256)
            try:
                info = inspect_image(bytes(broken))
            except BadImage as error:
                assert error.reason.isprintable()  # noqa: PT017 - either outcome is right
            else:
                assert info.width * info.height <= MAX_PIXELS


def test_many_threads_at_once_share_nothing() -> None:
    jobs = [*KINDS.values(), png(50_000, 50_000), b"<html>"] * 4

    def one(data: bytes) -> str:
        try:
            return str(inspect_image(data))
        except BadImage as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, jobs)) == [one(data) for data in jobs]


def test_the_mime_type_and_the_quick_look() -> None:
    assert [inspect_image(KINDS[kind]).mime for kind in ("png", "jpg", "webp")] == [
        "image/png",
        "image/jpeg",
        "image/webp",
    ]
    assert [sniff(KINDS[kind][:12]) for kind in ("png", "jpg", "webp")] == ["png", "jpg", "webp"]
    assert sniff(b"RIFF") is None
