"""What every scene is drawn with: a canvas of twice the size, a palette, dice, gradients.

Rule: pure Pillow, no clock, no randomness but that of the dice, whose numbers come from the order alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

T = TypeVar("T")
Colour = tuple[int, int, int]
Point = tuple[float, float]

_PALETTES = (
    "0b132b 1c2541 3a506b 5bc0be f2f7f2 ffb703",
    "2b1b3d 6a2c70 b83b5e f08a5d fdf0d5 f9ed69",
    "12372a 2f5d50 6a994e a7c957 f7f4e3 e4572e",
    "1a1423 3d314a 684756 96705b f3e9dc e09f3e",
    "03071e 14213d 335c81 65afff f5f9ff fca311",
    "10002b 3c096c 7b2cbf c77dff f8edff ffd60a",
    "001219 005f73 0a9396 94d2bd fdf6e3 ee9b00",
    "2d142c 510a32 a01a58 ee4540 fff0e5 ffc857",
    "1b262c 0f4c75 3282b8 7fc8f8 f4faff ff6b6b",
    "231123 82204a 558c8c 8fc0a9 faf3dd f2bb05",
    "26213f 4b3f72 417b5a a3b18a fbf7ef ff8c42",
    "0d1b1e 274156 468c98 b5d2cb fff9ef f26430",
    "33272a 7a4e55 d08c60 e6b89c fdf3e7 4a7c8c",
    "171738 2e1760 3423a6 7180b9 f6f7fd dff3e4",
)


def colour(text: str) -> Colour:
    """Return the colour of six hex digits."""
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)


def mix(one: Colour, other: Colour, part: float) -> Colour:
    """Return the colour `part` (0 to 1) of the way from one to the other."""
    part = min(max(part, 0.0), 1.0)
    return (
        round(one[0] + (other[0] - one[0]) * part),
        round(one[1] + (other[1] - one[1]) * part),
        round(one[2] + (other[2] - one[2]) * part),
    )


@dataclass(frozen=True, slots=True)
class Palette:
    """Six colours that go together: from dark to light, and an accent."""

    dark: Colour
    deep: Colour
    middle: Colour
    soft: Colour
    light: Colour
    accent: Colour

    def ramp(self, part: float) -> Colour:
        """Return the colour `part` (0 dark to 1 light) of the way."""
        stops = (self.dark, self.deep, self.middle, self.soft, self.light)
        at = min(max(part, 0.0), 1.0) * (len(stops) - 1)
        index = min(int(at), len(stops) - 2)
        return mix(stops[index], stops[index + 1], at - index)


class Dice:
    """Numbers that depend on the seed alone."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311  (pictures, not secrets)

    def between(self, low: float, high: float) -> float:
        """Return a number from low to high."""
        return low + (high - low) * self._random.random()

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, things: Sequence[T]) -> T:
        """Return one of the things."""
        return things[int(self._random.random() * len(things))]

    def palette(self) -> Palette:
        """Return one of the palettes."""
        return Palette(*(colour(text) for text in self.pick(_PALETTES).split()))


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where a scene is drawn. `width` and `height` in its own pixels; `detail` is 1, 2 or 3."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    palette: Palette
    dice: Dice
    detail: int

    @property
    def width(self) -> int:
        """Its width in pixels."""
        return self.image.width

    @property
    def height(self) -> int:
        """Its height in pixels."""
        return self.image.height

    @property
    def unit(self) -> float:
        """The shorter side."""
        return float(min(self.image.size))

    def sky(self, top: Colour, bottom: Colour, height: float | None = None, start: float = 0) -> None:
        """Fill the canvas from `start` downwards with a gradient of that height."""
        from PIL import Image

        rows = max(1, round(self.height if height is None else height))
        column = bytes(value for row in range(rows) for value in mix(top, bottom, row / rows))
        strip = Image.frombytes("RGB", (1, rows), column)
        self.image.paste(strip.resize((self.width, rows), Image.Resampling.NEAREST), (0, round(start)))

    def disc(self, x: float, y: float, radius: float, fill: Colour, alpha: int = 255) -> None:
        """Fill a circle."""
        self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*fill, alpha))

    def glow(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Draw a disc with a halo."""
        for step in range(7, 0, -1):
            self.disc(x, y, radius * (1 + step * 0.16), fill, 16)
        self.disc(x, y, radius, fill)

    def shape(self, points: Sequence[Point], fill: Colour, alpha: int = 255) -> None:
        """Fill a polygon."""
        self.pen.polygon(list(points), fill=(*fill, alpha))

    def curve(self, height: Callable[[float], float]) -> list[Point]:
        """Return the points of a curve over the whole width; `height` maps 0 to 1 to pixels."""
        steps = 120
        return [(self.width * step / steps, height(step / steps)) for step in range(steps + 1)]

    def below(self, edge: Sequence[Point], fill: Colour, alpha: int = 255) -> None:
        """Fill everything under a curve."""
        self.shape([*edge, (self.width, self.height), (0, self.height)], fill, alpha)

    def roll(self, base: float, height: float, waves: float) -> Callable[[float], float]:
        """Return a rolling curve round `base`, at most about `height` high, with so many waves."""
        parts = [(waves * 2**n, self.dice.between(0, math.tau), height / 2.2**n) for n in range(self.detail + 1)]
        return lambda x: base - sum(size * math.sin(math.tau * x * n + phase) for n, phase, size in parts)

    def grid(self, columns: int) -> Iterator[tuple[int, int, float, float, float]]:
        """Yield (column, row, x, y, side) of square tiles that cover the canvas."""
        side = self.width / columns
        for row in range(math.ceil(self.height / side)):
            for column in range(columns):
                yield column, row, column * side, row * side, side
