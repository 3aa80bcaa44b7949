"""Local images must be images; URLs stay text."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import zlib
from collections.abc import Callable

import pytest
from manifest_help import Folder

from rsbatch.manifest import images
from rsbatch.manifest.faults import Fault
from rsbatch.manifest.images import Images
from rsbatch.model import LocalImage

Picture = Callable[..., bytes]


@pytest.mark.parametrize("url", ["https://x.example/a.png?sig=1", "HTTP://x.example/ü.png"])
def test_urls_stay_as_they_are(folder: Folder, url: str) -> None:
    assert Images(folder.path)(url) == url


@pytest.mark.parametrize(
    "url", ["https://", "https:///a.png", "https://x.example/a b.png", "https://[x/", "https://x/\n"]
)
def test_what_is_no_url(folder: Folder, url: str) -> None:
    with pytest.raises(Fault, match="is not a URL"):
        Images(folder.path)(url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "s3://bucket/a.png", "ftp://x/a.png"])
def test_other_schemes_are_refused(folder: Folder, url: str) -> None:
    with pytest.raises(Fault, match=r"http\(s\) URLs"):
        Images(folder.path)(url)


@pytest.mark.parametrize(
    ("kind", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")]
)
def test_files_are_what_their_bytes_say(folder: Folder, picture: Picture, kind: str, mime: str) -> None:
    data = picture(kind)
    path = folder.write("sub/a.png", data)
    expected = LocalImage(hashlib.sha256(data).hexdigest(), mime, len(data), path)
    assert Images(folder.path)("sub/a.png") == expected
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert Images(folder.path)(url) == LocalImage(expected.sha256, mime, len(data), None, data)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_other_files_are_never_sent(folder: Folder, picture: Picture) -> None:
    whole = picture("JPEG", (64, 64))
    for name, data, message in (
        ("id_rsa", b"-----BEGIN OPENSSH PRIVATE KEY-----", "is not a PNG"),
        ("empty.png", b"", "is not a PNG"),
        ("scan.tif", picture("TIFF"), "is not a PNG"),
        ("cut.png", picture("PNG", (64, 64))[:60], "broken"),
        ("cut.jpg", whole[: len(whole) // 2], "broken"),
        ("bomb.png", png(50_000, 50_000), "bomb"),
        ("large.png", png(9_001, 9_001), "9001 × 9001 pixels"),
        ("hollow.png", png(10, 10), "broken"),
        ("tiff.png", picture("TIFF"), "is not a PNG"),
    ):
        folder.write(name, data)
        with pytest.raises(Fault, match=message):
            Images(folder.path)(name)
    with pytest.raises(Fault, match="is not a PNG"):
        Images(folder.path)("data:image/png;base64,AAAA")
    with pytest.raises(Fault, match="base64 is broken"):
        Images(folder.path)("data:image/png;base64,***")
    with pytest.raises(Fault, match="there is no file"):
        Images(folder.path)("nope.png")
    os.mkfifo(folder.path / "pipe.png")
    with pytest.raises(Fault, match="regular"):
        Images(folder.path)("pipe.png")
    with pytest.raises(Fault, match="is a folder"):
        Images(folder.path)(".")


def test_a_file_that_cannot_be_read_is_a_fault(folder: Folder) -> None:
    (folder.path / "a.png").symlink_to("a.png")
    with pytest.raises(Fault, match="cannot be read"):
        Images(folder.path)("a.png")


def test_size_is_bounded(folder: Folder, picture: Picture) -> None:
    with open(folder.path / "big.png", "wb") as stream:
        stream.write(picture())
        stream.truncate(images.MAX_IMAGE_BYTES + 1)
    for read in (Images(folder.path), lambda name: images.read_regular(folder.path / name)):
        with pytest.raises(Fault, match="larger than 50 MiB"):
            read("big.png")
    with pytest.raises(Fault, match="larger than 50 MiB"):
        images.image_mime(b"x" * (images.MAX_IMAGE_BYTES + 1), "it")


def test_a_pipe_that_takes_an_images_place_meanwhile_is_no_image(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe")
    with pytest.raises(Fault, match="not a regular file"):
        images.read_regular(folder.path / "pipe")


def test_a_checksum_that_does_not_fit_is_found(folder: Folder, picture: Picture) -> None:
    """To decode the pixels does not look at it."""
    data = bytearray(picture("PNG", (64, 64)))
    data[-13] ^= 1  # the last byte before IEND
    folder.write("a.png", bytes(data))
    with pytest.raises(Fault, match="broken"):
        Images(folder.path)("a.png")


def test_a_changed_file_is_read_again(folder: Folder, picture: Picture) -> None:
    look = Images(folder.path)
    folder.write("a.png", picture(colour=1))
    first = look("a.png")
    assert look("a.png") is first
    folder.write("a.png", picture(colour=200, size=(9, 9)))
    assert look("a.png") != first


def test_memory_of_images_is_bounded(folder: Folder, picture: Picture) -> None:
    look = Images(folder.path, files=2, urls=2)
    for index in range(5):
        data = picture(colour=index)
        folder.write(f"{index}.png", data)
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        assert look(url) is look(url)
        assert look(f"{index}.png") == look(f"{index}.png")
    assert len(look._files) <= 2
    assert len(look._urls) <= 2
