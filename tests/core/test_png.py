"""A PNG that is said to have all its rows has them; what is not plain is left to Pillow."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rsbatch.images import BadImage, inspect_image
from rsbatch.png import CHANNELS, count_rows

WIDTH, HEIGHT = 60, 40


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    pixels: bytes,
    *,
    colour: int = 2,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    bits: int = 8,
    interlaced: int = 0,
    before: bytes = b"",
    after: bytes = b"",
    piece: int = 1 << 20,
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced)
    parts = [pixels[at : at + piece] for at in range(0, len(pixels), piece)]
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), before, *(chunk(b"IDAT", part) for part in parts), after)
    ) + chunk(b"IEND", b"")


def rows(colour: int = 2, height: int = HEIGHT, width: int = WIDTH, seed: int = 1) -> bytes:
    source = random.Random(seed)
    return b"".join(bytes([y % 5]) + source.randbytes(width * CHANNELS[colour]) for y in range(height))


PIXELS = zlib.compress(rows())


def pillow_loads(data: bytes) -> bool:
    try:
        with Image.open(BytesIO(data)) as image:
            image.verify()
        with Image.open(BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


@pytest.mark.parametrize("colour", CHANNELS)
@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_a_plain_file_is_proved(colour: int, piece: int) -> None:
    data = png(zlib.compress(rows(colour)), colour=colour, piece=piece)
    assert pillow_loads(data)
    assert count_rows(data) == HEIGHT


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_what_pillow_writes_is_proved(mode: str) -> None:
    """Larger than what is inflated at a time; with a comment; what follows the end does no harm."""
    noise = random.Random(2).randbytes(900 * 700 * len(mode))
    comment = PngInfo()
    comment.add_itxt("description", "a cat, 猫")
    file = BytesIO()
    Image.frombytes(mode, (900, 700), noise).save(file, "PNG", pnginfo=comment)
    assert count_rows(file.getvalue()) == 700
    assert count_rows(file.getvalue() + b"\r\n") == 700


def test_pixels_of_one_colour_are_proved() -> None:
    """A few bytes that come to many."""
    file = BytesIO()
    Image.new("RGB", (3000, 2000)).save(file, "PNG")
    assert len(file.getvalue()) < 50_000
    assert count_rows(file.getvalue()) == 2000


@pytest.mark.parametrize("most", [1, 7, 258, 5000])
def test_what_is_inflated_when_the_input_is_at_its_end_counts(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the megabyte that is inflated at a time it would take images of many MB to come there."""
    monkeypatch.setattr("rsbatch.png._PIECE_OUT", most)
    for data in (bytes([0] * 181 * HEIGHT), rows()):
        assert count_rows(png(zlib.compress(data))) == HEIGHT


def not_plain() -> dict[str, bytes]:
    def encode(image: Image.Image, **options: object) -> bytes:
        file = BytesIO()
        image.save(file, "PNG", **options)
        return file.getvalue()

    rgb = Image.frombytes("RGB", (WIDTH, HEIGHT), random.Random(3).randbytes(WIDTH * HEIGHT * 3))
    return {
        "palette": encode(rgb.convert("P")),
        "one bit": encode(rgb.convert("1")),
        "16 bits": encode(Image.frombytes("I;16", (WIDTH, HEIGHT), bytes(WIDTH * HEIGHT * 2))),
        "animated": encode(rgb, save_all=True, append_images=[rgb.rotate(90)]),
        "suggested palette": png(PIXELS, before=chunk(b"PLTE", bytes(6))),
        "text after the pixels": png(PIXELS, after=chunk(b"tEXt", b"k\0v")),
    }


@pytest.mark.parametrize("kind", not_plain())
def test_what_is_not_plain_is_left_to_pillow(kind: str) -> None:
    data = not_plain()[kind]
    assert count_rows(data) is None
    assert inspect_image(data).format == "png"


WRONG = {
    "no pixels": png(b""),
    "an empty piece": png(b"", after=chunk(b"IDAT", b"")),
    "a row too many": png(zlib.compress(rows(height=HEIGHT + 1))),
    "a byte too few": png(zlib.compress(rows()[:-1])),
    "a byte too many": png(zlib.compress(rows() + b"\0")),
    "far too many": png(zlib.compress(bytes(10_000_000))),
    "no such filter": png(zlib.compress(rows()[:-181] + b"\5" + rows()[-180:])),
    "cut in the middle": png(PIXELS[: len(PIXELS) // 2]),
    "cut before the checksum": png(PIXELS[:-4]),
    "cut in the checksum": png(PIXELS[:-1]),
    "a wrong checksum": png(PIXELS[:-1] + bytes([PIXELS[-1] ^ 1])),
    "more after the end": png(PIXELS + b"\0"),
    "more after the end, in a piece of its own": png(PIXELS, piece=len(PIXELS), after=chunk(b"IDAT", b"\0")),
    "a second stream": png(PIXELS, piece=len(PIXELS), after=chunk(b"IDAT", PIXELS)),
    "no zlib stream": png(b"\xff" * 1000),
    "a stream without its head": png(PIXELS[2:]),
    "pieces apart": png(PIXELS, after=chunk(b"tIME", bytes(7)) + chunk(b"IDAT", b"")),
    "a window larger than there is": png(bytes([0x88, 0x1C]) + PIXELS[2:]),
    "a window larger than there is, in a second piece": png(
        b"", after=b"".join(chunk(b"IDAT", bytes([byte])) for byte in (0x88, *b"\x1c" + PIXELS[2:]))
    ),
    "two headers": png(PIXELS, before=png(PIXELS)[8:33]),
    "interlaced, it says": png(PIXELS, interlaced=1),
    "another colour": png(PIXELS, colour=6),
    "an unknown colour": png(PIXELS, colour=5),
    "16 bits, it says": png(PIXELS, bits=16),
    "an animation's frame": png(PIXELS, after=chunk(b"fdAT", bytes(8))),
    "an animation's plan": png(PIXELS, before=chunk(b"acTL", struct.pack(">II", 1, 0))),
}


@pytest.mark.parametrize("what", WRONG)
def test_nothing_else_is_proved(what: str) -> None:
    assert count_rows(WRONG[what]) is None


@pytest.mark.parametrize("missing", [1, HEIGHT // 2, HEIGHT])
def test_rows_that_a_sound_stream_ends_without_are_missed(missing: int) -> None:
    """Pillow gives them in black."""
    data = png(zlib.compress(rows(height=HEIGHT - missing)))
    assert pillow_loads(data) is (missing < HEIGHT)
    assert count_rows(data) == HEIGHT - missing
    with pytest.raises(BadImage, match=f"its pixels end after {HEIGHT - missing} of {HEIGHT} rows"):
        inspect_image(data)


def test_what_follows_the_stream_takes_no_time() -> None:
    many = b"".join([chunk(b"IDAT", bytes(318))] * 100_000)
    assert count_rows(png(PIXELS, after=many)) is None
    assert inspect_image(png(PIXELS, piece=len(PIXELS), after=many)).width == WIDTH


@pytest.mark.parametrize("what", ["cut in the middle", "no such filter", "no zlib stream", "no pixels"])
def test_pillow_says_what_is_wrong(what: str) -> None:
    with pytest.raises(BadImage, match=r"it cannot be decoded"):
        inspect_image(WRONG[what])


def test_what_is_proved_can_be_decoded() -> None:
    """Damage whose checksums are right, as only somebody who wants it makes it: no more is let through than before."""
    source = random.Random(4)
    proved = refused = 0
    for _ in range(1500):
        raw = bytearray(rows(seed=source.randrange(1000)))
        damage = source.choice(["none", "pixels", "filter", "length", "stream", "width"])
        width = WIDTH
        if damage == "pixels":
            raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)
        elif damage == "filter":
            raw[181 * source.randrange(HEIGHT)] = source.randrange(8)
        elif damage == "length":
            raw = raw[: len(raw) - source.randrange(3)] + bytes(source.randrange(3))
        elif damage == "width":
            width += source.randrange(-1, 2)
        packed = bytearray(zlib.compress(bytes(raw), source.choice([0, 1, 6])))
        if damage == "stream":
            packed[source.randrange(len(packed))] ^= 1 << source.randrange(8)
        data = png(bytes(packed), size=(width, HEIGHT), piece=source.choice([37, 1000, 1 << 20]))
        if count_rows(data) == HEIGHT:
            proved += 1
            assert pillow_loads(data), damage
        else:
            refused += 1
    assert min(proved, refused) > 300
