from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image, ImageDraw

from rsbatch.simulator.brief import Brief, Picture
from rsbatch.simulator.canvas import Dice
from rsbatch.simulator.lettering import drawable, font, legible, wrap
from rsbatch.simulator.painter import paint
from rsbatch.simulator.references import THUMBNAIL_SIDE, thumbnail
from rsbatch.simulator.scenes import EMBLEMS, SCENES

CHINESE = "一只橘猫坐在霓虹灯下,电影感,细节丰富"


def brief(prompt: str = "A cat", **fields: Any) -> Brief:
    sha256 = hashlib.sha256(prompt.encode()).hexdigest()
    return replace(Brief(sha256=sha256, prompt=prompt, model="gpt-image-2", width=256, height=256), **fields)


def drawn(order: Brief, *references: bytes | None, mask: bytes | None = None) -> Image.Image:
    image = Image.open(io.BytesIO(paint(Picture(order, references, mask))))
    image.load()
    return image


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    out = io.BytesIO()
    image.save(out, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("size", [(16, 16), (119, 300), (512, 256), (256, 700), (1600, 1200)])
def test_every_format_and_size(form: str, size: tuple[int, int]) -> None:
    image = drawn(brief(format=form, width=size[0], height=size[1]))
    assert (image.format or "").lower() == form
    assert image.size == size
    assert image.mode == "RGB"


@pytest.mark.parametrize("number", range(len(SCENES) + len(EMBLEMS)))
@pytest.mark.parametrize("quality", ["low", "medium", "high", "auto"])
def test_every_scene_in_every_quality_is_a_picture(number: int, quality: str) -> None:
    scenes, transparent = (SCENES, False) if number < len(SCENES) else (EMBLEMS, True)
    wanted = scenes[number % len(SCENES)]
    for n in range(999):
        order = brief(f"try {n}", transparent=transparent, quality=quality)
        dice = Dice(f"subject {order.prompt}")
        dice.palette()
        if dice.pick(scenes) is wanted:
            break
    image = drawn(order).convert("RGB")
    colours = image.getcolors(1 << 20) or []
    assert len(colours) > 100
    assert max(count for count, _ in colours) < 256 * 256 * 0.9


def test_the_same_order_gives_the_same_bytes() -> None:
    first = paint(Picture(brief()))
    paint.cache_clear()
    assert paint(Picture(brief())) == first
    assert paint(Picture(brief("A dog"))) != first
    assert paint(Picture(brief(variation=1))) != first
    assert paint(Picture(brief(index=1))) != first


@pytest.mark.parametrize("form", ["png", "webp"])
def test_a_transparent_ground_has_real_alpha(form: str) -> None:
    image = drawn(brief(transparent=True, format=form))
    assert image.mode == "RGBA"
    alpha = image.getchannel("A")
    assert alpha.getpixel((0, 0)) == 0
    assert alpha.getpixel((128, 107)) == 255
    assert alpha.histogram()[0] > 256 * 256 * 0.2


def test_compression_is_honoured_with_its_zero() -> None:
    for form in ("jpeg", "webp"):
        sizes = [len(paint(Picture(brief(format=form, compression=n)))) for n in (0, 40, 100)]
        assert sizes == sorted(set(sizes))


def test_the_logo_is_a_small_mark() -> None:
    plain, marked = drawn(brief()), drawn(brief(logo=True))
    changed = [(x, y) for x in range(256) for y in range(256) if plain.getpixel((x, y)) != marked.getpixel((x, y))]
    assert 0 < len(changed) < 256 * 256 * 0.15
    assert all(y < 64 for _, y in changed)


def test_a_reference_is_shown_and_a_mask_keeps_it() -> None:
    red = thumbnail(data_url(Image.new("RGB", (300, 200), "red"), "JPEG"))
    shown = drawn(brief(references=("x",)), red).getpixel((228, 28))
    assert isinstance(shown, tuple)
    assert shown[0] > 230
    assert max(shown[1:]) < 30

    holed = Image.new("RGBA", (256, 256), "black")
    ImageDraw.Draw(holed).rectangle((0, 0, 127, 255), fill=(0, 0, 0, 0))
    mask = thumbnail(data_url(holed))
    edited, scene = drawn(brief(), red, mask=mask), drawn(brief())
    assert edited.getpixel((40, 100)) == scene.getpixel((40, 100))
    kept = edited.getpixel((200, 100))
    assert isinstance(kept, tuple)
    assert kept[0] > 230
    assert drawn(brief(), mask=mask).getpixel((40, 100)) == scene.getpixel((40, 100))


def test_a_reference_by_url_and_a_cut_out() -> None:
    assert drawn(brief(), None).tobytes() != drawn(brief()).tobytes()
    red = thumbnail(data_url(Image.new("RGB", (300, 200), "red")))
    pixel = drawn(brief(transparent=True), red).getpixel((128, 107))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 230
    assert pixel[3] == 255


# -- text ----------------------------------------------------------------------------------------------------------


def test_the_font_draws_what_it_has_and_no_boxes() -> None:
    assert all(map(drawable, "aZ09 ,.!?\"'&%"))
    assert not any(map(drawable, "橘한αЖאع★😀\u0301\n\x00\ue000"))
    box = bytes(font(24).getmask("\uffff"))
    for number in range(32, 0x3000):
        if drawable(chr(number)) and chr(number) != " ":
            assert bytes(font(24).getmask(chr(number))) != box


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (CHINESE, ""),
        ("Привет мир", ""),
        ("3D 一只橘猫坐在霓虹灯下", ""),
        ("A cat 橘猫 on a mat", "A cat on a mat"),
        ("café – naïve’s × 3", "cafe naive’s x 3"),
        ("  many\n lines\t ", "many lines"),
        ("!!!", ""),
        ("", ""),
    ],
)
def test_what_the_font_lacks_is_left_out(text: str, left: str) -> None:
    assert legible(text) == left


def test_a_chinese_prompt_shows_the_caption_only() -> None:
    size = {"width": 512, "height": 512}
    with_text = drawn(replace(brief(CHINESE, **size), prompt="A cat"))
    assert with_text.size == (512, 512)
    assert legible(CHINESE) == ""
    drawn(brief(CHINESE, **size))


def test_text_is_wrapped_and_cut() -> None:
    text = "a long prompt that goes on and on " * 9
    lines = wrap(text, 20, 300, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert all(font(20).getlength(line) <= 300 for line in lines)
    assert wrap("short", 20, 300, 3) == ["short"]
    assert wrap("w" * 500, 20, 300, 1)[0].endswith("...")
    assert wrap("", 20, 300, 3) == []


# -- thumbnails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_thumbnails_are_small(kind: str) -> None:
    small = thumbnail(data_url(Image.new("RGB", (900, 600), "teal"), kind))
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE * 2 // 3)
    assert len(small) < 10_000


@pytest.mark.parametrize(
    "url",
    [
        "data:,x",
        "data:image/png,abc",
        "data:image/png;base64,*",
        "data:image/png;base64,",
        "data:text/html;base64,AAAA",
    ],
)
def test_what_is_no_image_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        thumbnail(url)


def test_half_an_image_is_refused() -> None:
    head, _, text = data_url(Image.effect_noise((200, 200), 60)).partition(",")
    raw = base64.b64decode(text)
    with pytest.raises(ValueError):
        thumbnail(f"{head},{base64.b64encode(raw[: len(raw) // 2]).decode()}")


def test_a_brief_survives_packing() -> None:
    order = brief(CHINESE, references=("a", "b"), compression=0)
    assert Brief.unpack(order.pack()) == order
    assert Brief.of(order.fields()) == order
