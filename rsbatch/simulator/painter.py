"""The images: drawn from the order alone, so that the same order always gives the same bytes.

Rule: pure; Pillow only. Palette and scene come from the prompt, the details from the whole body and the
variation, so that samples of one prompt look like siblings. Pictures are drawn when somebody asks for them; a
few are kept.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

from rsbatch.simulator.brief import Brief, Picture
from rsbatch.simulator.canvas import Canvas, Colour, Dice, Palette, mix
from rsbatch.simulator.lettering import font, legible, wrap
from rsbatch.simulator.scenes import EMBLEMS, SCENES, Scene

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_TWICE = 1_700_000
"""Pixels up to which a scene is drawn in double size and shrunk, which smooths its edges."""
_DETAIL = {"low": 1, "medium": 2, "high": 3}
_SMALL = 120
"""Pixels of the shorter side below which nothing is written."""
_SHOWN = 4  # reference images that are shown


@lru_cache(maxsize=8)
def paint(picture: Picture) -> bytes:
    """Draw a picture; return the bytes of the image file."""
    brief = picture.brief
    subject = Dice(f"subject {brief.prompt or brief.sha256}")
    palette = subject.palette()
    scene = subject.pick(EMBLEMS if brief.transparent else SCENES)
    dice = Dice(f"detail {brief.sha256} {brief.variation} {brief.index}")
    image = _scene(brief, palette, scene, dice)
    image = _edited(image, picture)
    unit = min(image.size)
    if unit >= _SMALL:
        _references(image, picture, palette)
        _label(image, brief, palette)
        if brief.logo:
            _mark(image, palette)
    return _encode(image, brief)


def _scene(brief: Brief, palette: Palette, scene: Scene, dice: Dice) -> Image.Image:
    from PIL import Image, ImageDraw

    factor = 2 if brief.width * brief.height <= _TWICE else 1
    size = (brief.width * factor, brief.height * factor)
    if brief.transparent:
        image = Image.new("RGBA", size, (*palette.light, 0))
        pen = ImageDraw.Draw(image)
    else:
        image = Image.new("RGB", size, palette.light)
        pen = ImageDraw.Draw(image, "RGBA")
    scene(Canvas(image, pen, palette, dice, _DETAIL.get(brief.quality, 2)))
    return image.reduce(factor) if factor > 1 else image


def _open(small: bytes) -> Image.Image:
    from PIL import Image

    with Image.open(io.BytesIO(small)) as opened:
        return opened.convert("RGBA")


def _edited(image: Image.Image, picture: Picture) -> Image.Image:
    """Show what an edit would: the reference where the mask keeps it, the new scene where it does not."""
    from PIL import Image, ImageChops, ImageDraw, ImageOps

    kept = next((_open(small) for small in picture.references if small), None)
    if picture.mask is not None:
        keep = _open(picture.mask).getchannel("A").resize(image.size, Image.Resampling.BICUBIC)
        if kept is None:
            grey = ImageOps.colorize(image.convert("L"), (90, 90, 90), (250, 250, 250))
            base: Image.Image = grey.convert(image.mode)
        else:
            base = ImageOps.fit(kept, image.size, Image.Resampling.BICUBIC).convert(image.mode)
        return Image.composite(base, image, keep)
    if kept is None or not picture.brief.transparent:
        return image
    image = Image.new("RGBA", image.size)
    side = round(min(image.size) * 0.72)
    cut = ImageOps.fit(kept, (side, side), Image.Resampling.BICUBIC)
    disc = Image.new("L", (side * 2, side * 2), 0)
    ImageDraw.Draw(disc).ellipse((0, 0, side * 2 - 1, side * 2 - 1), fill=255)
    cut.putalpha(ImageChops.multiply(cut.getchannel("A"), disc.reduce(2)))
    image.alpha_composite(cut, ((image.width - side) // 2, max(0, round(image.height * 0.45) - side // 2)))
    return image


def _references(image: Image.Image, picture: Picture, palette: Palette) -> None:
    """Show the reference images small, as prints at the top right."""
    from PIL import Image, ImageDraw, ImageOps

    unit = min(image.size)
    side, edge, gap = round(unit * 0.15), max(2, round(unit * 0.008)), round(unit * 0.02)
    x = image.width - round(unit * 0.035) - side
    top = round(unit * 0.035)
    for small in reversed(picture.references[:_SHOWN]):
        box = (x - edge, top - edge, x + side + edge - 1, top + side + edge - 1)
        pen = ImageDraw.Draw(image, "RGBA" if image.mode == "RGB" else None)
        shadow = tuple(value + edge for value in box)
        pen.rounded_rectangle(shadow, edge, fill=(*palette.dark, 70))
        pen.rounded_rectangle(box, edge, fill=(255, 255, 255))
        if small is None:
            _placeholder(pen, x, top, side, palette)
        else:
            shown = ImageOps.fit(_open(small), (side, side), Image.Resampling.BICUBIC)
            image.paste(shown.convert("RGB"), (x, top), shown.getchannel("A"))
        x -= side + edge * 2 + gap


def _placeholder(pen: ImageDraw.ImageDraw, x: int, y: int, side: int, palette: Palette) -> None:
    """Draw the sign of an image that is only known by its URL."""
    pen.rectangle((x, y, x + side - 1, y + side - 1), fill=palette.soft)
    pen.ellipse((x + side * 0.62, y + side * 0.16, x + side * 0.82, y + side * 0.36), fill=palette.accent)
    far = [(0.3, 0.8), (0.62, 0.42), (0.95, 0.8)]
    near = [(0.05, 0.8), (0.33, 0.5), (0.62, 0.8)]
    for points, tone in ((far, palette.middle), (near, palette.deep)):
        pen.polygon([(x + side * a, y + side * b) for a, b in points], fill=tone)


def _label(image: Image.Image, brief: Brief, palette: Palette) -> None:
    """Write the prompt and the order's facts on a panel at the bottom left."""
    unit = min(image.size)
    size, small = max(10, round(unit / 30)), max(9, round(unit / 46))
    pad, margin = round(size * 0.75), round(unit * 0.035)
    room = image.width - 2 * margin - 2 * pad
    prompt = wrap(legible(brief.prompt), size, min(room, unit * 0.8), 3) if unit >= 2 * _SMALL else []
    facts = wrap(_caption(brief), small, room, 1)
    quiet = mix(palette.light, palette.soft, 0.35)
    lines = [*((line, size, palette.light) for line in prompt), *((line, small, quiet) for line in facts)]
    if not lines:
        return
    tall = sum(round(high * 1.32) for _, high, _ in lines) - round(lines[-1][1] * 0.2)
    wide = round(max(font(high).getlength(line) for line, high, _ in lines))
    top = image.height - margin - tall - 2 * pad
    _panel(image, (margin, top, margin + wide + 2 * pad, image.height - margin), round(size * 0.5), palette.dark)
    _write(image, lines, margin + pad, top + pad)


def _write(image: Image.Image, lines: list[tuple[str, int, Colour]], x: int, y: int) -> None:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(image)
    for line, size, tone in lines:
        pen.text((x, y), line, fill=tone, font=font(size))
        y += round(size * 1.32)


def _caption(brief: Brief) -> str:
    facts = [brief.model, f"{brief.width}x{brief.height}", brief.quality]
    if brief.variation or brief.index:
        facts.append(f"no. {brief.variation + brief.index + 1}")
    return " / ".join(filter(None, map(legible, facts)))


def _panel(image: Image.Image, box: tuple[int, int, int, int], radius: int, tone: Colour) -> None:
    from PIL import Image, ImageDraw

    size = (box[2] - box[0], box[3] - box[1])
    mask = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] * 2 - 1, size[1] * 2 - 1), radius * 2, fill=225)
    fill = (*tone, 255) if image.mode == "RGBA" else tone
    image.paste(fill, (box[0], box[1]), mask.reduce(2))


def _mark(image: Image.Image, palette: Palette) -> None:
    """Draw the small mark that `logo_add` asks for, at the top left."""
    unit = min(image.size)
    size, margin = max(9, round(unit / 48)), round(unit * 0.035)
    text = "AI generated"
    wide, pad = round(font(size).getlength(text)), round(size * 0.6)
    _panel(image, (margin, margin, margin + wide + 2 * pad, margin + size + 2 * pad), size, palette.light)
    _write(image, [(text, size, palette.dark)], margin + pad, margin + pad - round(size * 0.1))


def _encode(image: Image.Image, brief: Brief) -> bytes:
    out = io.BytesIO()
    asked = brief.compression
    if brief.format == "png":
        image.save(out, "PNG", compress_level=1)
    elif brief.format == "jpeg":
        image.convert("RGB").save(out, "JPEG", quality=90 if asked is None else max(1, asked))
    else:
        image.save(out, "WEBP", quality=85 if asked is None else asked, method=1)
    return out.getvalue()
