"""Draws the small pictures that the example manifests edit: `python docs/make_assets.py`.

Rule: drawn with Pillow alone, four times as large and then made smaller, so that edges are smooth; the same bytes
every time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

MANIFESTS = Path(__file__).parents[1] / "manifests"
SIZE = 384
SCALE = 4
FRAME = (122, 62, 262, 166)
"""The empty picture frame on the wall of the room: what the mask lets the service change."""

Box = tuple[float, float, float, float]


class Canvas:
    """A picture in coordinates of 0 to 384, whatever size it is drawn in."""

    def __init__(self, top: str, bottom: str) -> None:
        self.image = Image.linear_gradient("L").resize((SIZE * SCALE, SIZE * SCALE))
        size = self.image.size
        self.image = Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), self.image)
        self.draw = ImageDraw.Draw(self.image)

    def box(self, area: Box, fill: str, radius: float = 0) -> None:
        """Fill a rectangle with round corners."""
        self.draw.rounded_rectangle([v * SCALE for v in area], radius * SCALE, fill)

    def oval(self, area: Box, fill: str) -> None:
        """Fill an ellipse."""
        self.draw.ellipse([v * SCALE for v in area], fill)

    def ring(self, area: Box, fill: str, width: float) -> None:
        """Draw the line of an ellipse."""
        self.draw.ellipse([v * SCALE for v in area], outline=fill, width=int(width * SCALE))

    def shape(self, points: list[tuple[float, float]], fill: str) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill)

    def shadow(self, area: Box) -> None:
        """Lay a soft shadow."""
        dark = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(dark).ellipse([v * SCALE for v in area], 110)
        dark = dark.filter(ImageFilter.GaussianBlur(7 * SCALE))
        self.image.paste(Image.new("RGB", self.image.size, "#1d1712"), mask=dark)
        self.draw = ImageDraw.Draw(self.image)

    def done(self) -> Image.Image:
        """Give the picture in its real size."""
        return self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def room() -> Image.Image:
    """A living room with an empty frame over the sofa."""
    c = Canvas("#dfe7e1", "#c9d6cf")
    c.box((0, 286, 384, 384), "#b98d62")
    for y in (310, 340, 368):
        c.box((0, y, 384, y + 1.4), "#a67a50")
    c.box((0, 280, 384, 290), "#f3efe6")
    left, top, right, bottom = FRAME
    c.box((left - 9, top - 5, right + 11, bottom + 13), "#a9b7b0", 3)
    c.box((left - 8, top - 8, right + 8, bottom + 8), "#5a4130", 3)
    c.box(FRAME, "#f7f4ec")
    c.shadow((60, 322, 324, 348))
    c.box((70, 214, 314, 300), "#2f6b73", 22)
    c.box((84, 262, 300, 322), "#3c8089", 12)
    c.box((191, 264, 193, 320), "#2f6b73")
    c.box((58, 240, 96, 326), "#28606a", 16)
    c.box((288, 240, 326, 326), "#28606a", 16)
    c.shape([(100, 226), (148, 220), (154, 264), (106, 270)], "#e7b75f")
    c.box((76, 322, 84, 340), "#4a3325")
    c.box((300, 322, 308, 340), "#4a3325")
    c.box((343, 170, 347, 336), "#41413f")
    c.shape([(328, 172), (362, 172), (374, 128), (316, 128)], "#f4d9a0")
    c.oval((326, 330, 364, 342), "#41413f")
    c.box((14, 272, 48, 330), "#d9825b", 6)
    for dx, dy in ((-16, -62), (-4, -84), (10, -78), (20, -52)):
        c.shape([(27, 274), (35, 274), (31 + dx + 7, 274 + dy), (31 + dx - 5, 274 + dy + 18)], "#4f8a5b")
    return c.done()


def room_mask() -> Image.Image:
    """All is kept but the inside of the frame, which is transparent."""
    mask = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), FRAME)
    return mask


def mug() -> Image.Image:
    """A mug on a table."""
    c = Canvas("#efe4d3", "#e2cfb4")
    c.box((0, 262, 384, 384), "#9c6b45")
    c.shadow((92, 296, 320, 340))
    c.ring((226, 172, 310, 272), "#b8402f", 17)
    c.box((104, 138, 258, 322), "#cf4d38", 20)
    c.box((118, 150, 134, 308), "#de6a55", 8)
    c.oval((104, 122, 258, 160), "#b8402f")
    c.oval((114, 128, 248, 156), "#3b2417")
    for x in (150, 186):
        c.shape([(x, 112), (x + 12, 90), (x, 66), (x + 7, 66), (x + 20, 90), (x + 7, 112)], "#f8f2e8")
    return c.done()


def plant() -> Image.Image:
    """A plant in a pot."""
    c = Canvas("#dbe6ee", "#bfd2df")
    c.box((0, 290, 384, 384), "#e9e2d6")
    c.shadow((110, 314, 276, 346))
    for tip, base, colour in (
        ((84, 150), 176, "#3f7d4e"), ((130, 70), 184, "#4d9160"), ((196, 42), 192, "#3f7d4e"),
        ((262, 78), 200, "#5aa36e"), ((304, 156), 208, "#4d9160"), ((224, 118), 196, "#6bb57e"),
    ):  # fmt: skip
        x, y = tip
        c.shape([(base - 8, 236), (base + 8, 236), ((x + base) / 2 + 24, (y + 236) / 2), (x, y),
                 ((x + base) / 2 - 24, (y + 236) / 2 - 6)], colour)  # fmt: skip
    c.shape([(130, 232), (254, 232), (238, 332), (146, 332)], "#d97c4f")
    c.box((122, 222, 262, 250), "#e58e62", 6)
    return c.done()


def lamp() -> Image.Image:
    """A lamp at night."""
    c = Canvas("#27324a", "#3a4664")
    c.box((0, 302, 384, 384), "#57422f")
    glow = Image.new("L", c.image.size, 0)
    ImageDraw.Draw(glow).ellipse([v * SCALE for v in (70, 90, 314, 330)], 150)
    c.image.paste(Image.new("RGB", c.image.size, "#f6c66a"), mask=glow.filter(ImageFilter.GaussianBlur(34 * SCALE)))
    c.draw = ImageDraw.Draw(c.image)
    c.shadow((120, 312, 266, 338))
    c.box((186, 190, 198, 314), "#c9a25b")
    c.oval((132, 304, 252, 330), "#c9a25b")
    c.shape([(112, 200), (272, 200), (232, 92), (152, 92)], "#fdf0cf")
    c.shape([(112, 200), (272, 200), (270, 194), (114, 194)], "#e9cf94")
    return c.done()


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "assets/room.png": room,
    "assets/room-mask.png": room_mask,
    "photos/mug.png": mug,
    "photos/plant.png": plant,
    "photos/lamp.png": lamp,
}


def main() -> None:
    """Write them all."""
    for name, draw in PICTURES.items():
        path = MANIFESTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = draw()
        if image.mode == "RGB":
            image = image.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
        image.save(path, optimize=True)


if __name__ == "__main__":
    main()
