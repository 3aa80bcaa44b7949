"""The scenes: generative compositions, one function each, chosen by a hash of the prompt.

Rule: a scene only uses its canvas; what it draws depends on the canvas's palette, dice, detail and size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rsbatch.simulator.canvas import Canvas, Colour, Point, mix

Scene = Callable[[Canvas], None]


def hills(c: Canvas) -> None:
    """Layers of hills before a low sun."""
    p, dice = c.palette, c.dice
    c.sky(mix(p.middle, p.soft, 0.4), p.light, c.height * 0.75)
    c.sky(p.light, p.light, c.height * 0.3, c.height * 0.7)
    c.glow(c.width * dice.between(0.25, 0.75), c.height * dice.between(0.22, 0.4), c.unit * 0.1, p.accent)
    layers = 4 + c.detail
    for layer in range(layers):
        part = layer / (layers - 1)
        base = c.height * (0.46 + 0.42 * part)
        edge = c.roll(base, c.height * (0.05 + 0.03 * part), dice.between(0.6, 1.6))
        tone = mix(p.soft, p.dark, part**0.8)
        c.below(c.curve(edge), tone)
        if layer >= layers - 2:
            _pines(c, edge, mix(tone, p.dark, 0.35), 9 * c.detail, c.unit * (0.03 + 0.04 * part))


def _pines(c: Canvas, edge: Callable[[float], float], tone: Colour, count: int, size: float) -> None:
    for _ in range(count):
        x = c.dice.between(0, 1)
        tall = size * c.dice.between(0.6, 1.3)
        foot = edge(x) + tall * 0.15
        for tier in range(3):
            wide, low = tall * (0.16 + 0.07 * tier), foot - tall * (0.62 - 0.28 * tier)
            c.shape([(x * c.width, low - tall * 0.4), (x * c.width + wide, low), (x * c.width - wide, low)], tone)


def sunburst(c: Canvas) -> None:
    """Rays round a sun, with the sea before it."""
    p, dice = c.palette, c.dice
    x, y = c.width * dice.between(0.38, 0.62), c.height * dice.between(0.46, 0.58)
    c.sky(p.light, p.light)
    rays, far, turn = 10 + 4 * c.detail, float(c.width + c.height), dice.between(0, 1)
    for ray in range(rays):
        angle, half = math.tau * (ray + turn) / rays, math.pi / rays
        ends = [(x + far * math.cos(a), y + far * math.sin(a)) for a in (angle - half / 1.1, angle + half / 1.1)]
        c.shape([(x, y), *ends], (p.soft, mix(p.soft, p.light, 0.55))[ray % 2])
    for ring, tone in enumerate((p.light, p.accent, p.light, mix(p.accent, p.light, 0.45))):
        c.disc(x, y, c.unit * (0.27 - 0.055 * ring), tone)
    for layer in range(5):
        base = c.height * (0.64 + 0.075 * layer)
        c.below(c.curve(c.roll(base, c.height * 0.014, dice.between(1.5, 3.5))), mix(p.middle, p.dark, layer / 4))


def scales(c: Canvas) -> None:
    """Overlapping rings in rows, as on Japanese cloth."""
    p, dice = c.palette, c.dice
    c.sky(p.light, p.light)
    columns = 5 + c.detail
    side = c.width / columns
    radius, step = side / 2, side / 4
    rows = math.ceil(c.height / step) + 3
    tilt = dice.between(-0.3, 0.3)
    for row in range(rows):
        for column in range(-1, columns + 1):
            x, y = (column + 0.5 + (row % 2) / 2) * side, row * step
            tone = p.ramp(1 - (row / rows) * 0.85 + tilt * (column / columns - 0.5) + dice.between(-0.05, 0.05) - 0.12)
            warm = dice.between(0, 1) < 0.06
            for ring in range(4):
                fill = p.light if ring % 2 == 0 else (p.accent if warm else tone)
                c.disc(x, y + radius, radius * (1 - ring * 0.27 + (0.12 if ring % 2 else 0)), fill)


def mosaic(c: Canvas) -> None:
    """A plane of triangles in light from one corner."""
    p, dice = c.palette, c.dice
    columns = 5 + 3 * c.detail
    side = c.width / columns
    rows = math.ceil(c.height / side)
    spots = {
        (i, j): (
            (i + (dice.between(-0.36, 0.36) if 0 < i < columns else 0)) * side,
            (j + (dice.between(-0.36, 0.36) if 0 < j < rows else 0)) * side,
        )
        for i in range(columns + 1)
        for j in range(rows + 1)
    }
    x, y = dice.between(0.2, 0.8), dice.between(0.15, 0.6)
    for i in range(columns):
        for j in range(rows):
            square = [spots[i, j], spots[i + 1, j], spots[i + 1, j + 1], spots[i, j + 1]]
            flip = dice.between(0, 1) < 0.5
            for corners in ((0, 1, 2), (0, 2, 3)) if flip else ((0, 1, 3), (1, 2, 3)):
                away = math.hypot((i + 0.5) / columns - x, (j + 0.5) / rows - y)
                tone = p.ramp(1.02 - away * 1.05 + dice.between(-0.09, 0.09))
                c.shape([square[n] for n in corners], mix(tone, p.accent, 0.75 if dice.between(0, 1) < 0.05 else 0))


def bauhaus(c: Canvas) -> None:
    """Tiles of plain shapes, as on a poster."""
    p, dice = c.palette, c.dice
    c.sky(p.light, p.light)
    tones = (p.dark, p.middle, p.soft, p.accent, p.light, p.deep)
    for _, _, x, y, side in c.grid(3 + c.detail):
        ground, figure = dice.pick(tones), dice.pick(tones)
        if ground == figure:
            figure = p.light if ground != p.light else p.accent
        c.pen.rectangle((x, y, x + side, y + side), fill=ground)
        _tile(c, (x, y, side), figure, ground)


def _tile(c: Canvas, place: tuple[float, float, float], figure: Colour, ground: Colour) -> None:
    x, y, side = place
    kind, corner = c.dice.whole(0, 6), c.dice.whole(0, 3)
    cx, cy = x + side * (corner % 2), y + side * (corner // 2)
    if kind == 0:  # a quarter of rings round a corner
        for ring in range(3):
            wide = side * (1 - ring * 0.3)
            box = (cx - wide, cy - wide, cx + wide, cy + wide)
            start = {0: 0, 1: 90, 3: 180, 2: 270}[corner]
            c.pen.pieslice(box, start, start + 90, fill=(figure, ground)[ring % 2])
    elif kind == 1:
        start = 90 * corner
        c.pen.pieslice((x, y, x + side, y + side), start, start + 180, fill=figure)
    elif kind == 2:
        c.disc(x + side / 2, y + side / 2, side * 0.4, figure)
        c.disc(x + side / 2, y + side / 2, side * 0.18, ground)
    elif kind == 3:
        c.shape([(cx, cy), (x + side - (cx - x), cy), (cx, y + side - (cy - y))], figure)
    elif kind == 4:
        for stripe in range(4):
            c.pen.rectangle((x, y + side * stripe / 4, x + side, y + side * (stripe + 0.5) / 4), fill=figure)
    elif kind == 5:
        middle = [(0.5, 0.08), (0.92, 0.5), (0.5, 0.92), (0.08, 0.5)]
        c.shape([(x + side * a, y + side * b) for a, b in middle], figure)
    else:
        for n in range(9):
            c.disc(x + side * (n % 3 + 0.5) / 3, y + side * (n // 3 + 0.5) / 3, side * 0.09, figure)


def planets(c: Canvas) -> None:
    """A ringed planet and its moons among stars."""
    p, dice = c.palette, c.dice
    c.sky(mix(p.dark, (0, 0, 0), 0.35), mix(p.deep, p.middle, 0.3))
    for _ in range(70 * c.detail):
        size = c.unit * dice.between(0.0008, 0.003)
        c.disc(c.width * dice.between(0, 1), c.height * dice.between(0, 1), size, p.light, dice.whole(90, 255))
    x, y, radius = c.width * dice.between(0.4, 0.6), c.height * dice.between(0.38, 0.48), c.unit * 0.22
    for orbit in range(3):
        wide = radius * (1.9 + orbit * 0.55)
        box = (x - wide, y - wide * 0.5, x + wide, y + wide * 0.5)
        c.pen.ellipse(box, outline=(*p.soft, 70), width=max(1, round(c.unit * 0.002)))
        angle = dice.between(0, math.tau)
        c.disc(
            x + wide * math.cos(angle),
            y + wide * 0.5 * math.sin(angle),
            radius * dice.between(0.07, 0.17),
            dice.pick((p.soft, p.accent, p.light)),
        )
    planet(c, x, y, radius)


def planet(c: Canvas, x: float, y: float, radius: float) -> None:
    """Draw a planet with bands, a shadow side and a ring; also stands alone on a transparent ground."""
    from PIL import Image, ImageDraw

    p, dice = c.palette, c.dice
    size = round(radius * 2)
    ball = Image.new("RGB", (size, size), p.soft)
    pen = ImageDraw.Draw(ball, "RGBA")
    for band in range(11):
        edge = size * (band + dice.between(0.1, 0.6)) / 11
        tone = dice.pick((p.accent, p.light, p.middle, mix(p.accent, p.light, 0.5), p.soft))
        pen.ellipse((-size * 0.3, edge, size * 1.3, edge + size * 0.22), fill=(*tone, 150))
    for step in range(8):
        shift = size * (0.16 + step * 0.035)
        pen.ellipse((-size - shift, -size - shift, size * 2 - shift, size * 2 - shift), outline=None)
        pen.ellipse(
            (size * 0.62 + shift * 0.5 - size, -size * 0.5, size * 2.4 + shift, size * 1.6),
            outline=(*p.dark, 30),
            width=round(size * (0.5 - step * 0.05)),
        )
    mask = Image.new("L", (size, size), 0)
    ImageDraw.Draw(mask).ellipse((1, 1, size - 2, size - 2), fill=255)
    wide, flat, thick = radius * 1.6, radius * 0.42, max(2, round(radius * 0.09))
    ring = (x - wide, y - flat, x + wide, y + flat)
    c.pen.arc(ring, 180, 360, fill=p.accent, width=thick)
    c.image.paste(ball, (round(x - radius), round(y - radius)), mask)
    c.pen.arc(ring, 0, 180, fill=mix(p.accent, p.light, 0.35), width=thick)


def city(c: Canvas) -> None:
    """A town at dusk and its lights on the water."""
    p, dice = c.palette, c.dice
    shore = c.height * 0.78
    c.sky(mix(p.deep, p.dark, 0.3), mix(p.soft, p.accent, 0.5), shore)
    c.glow(c.width * dice.between(0.2, 0.8), c.height * dice.between(0.16, 0.3), c.unit * 0.07, p.light)
    for layer in range(3):
        tone = mix(mix(p.middle, p.soft, 0.4), p.dark, (layer + 0.4) / 2.4)
        x = -c.width * dice.between(0, 0.04)
        while x < c.width:
            wide = c.unit * dice.between(0.05, 0.11) * (1 + layer * 0.2)
            top = shore - c.height * dice.between(0.12, 0.44 - layer * 0.07)
            c.pen.rectangle((x, top, x + wide, shore), fill=tone)
            if dice.between(0, 1) < 0.3:
                c.pen.rectangle((x + wide * 0.46, top - wide * 0.4, x + wide * 0.54, top), fill=tone)
            if layer:
                _windows(c, (x, top, x + wide, shore), mix(p.accent, p.light, 0.3), tone)
            x += wide * dice.between(1.0, 1.15)
    c.sky(mix(p.dark, p.deep, 0.6), mix(p.dark, (0, 0, 0), 0.3), c.height - shore + 1, shore)
    for _ in range(30 * c.detail):
        x, y, wide = c.width * dice.between(0, 1), dice.between(shore, c.height), c.unit * dice.between(0.01, 0.06)
        tone = dice.pick((p.accent, p.light, p.soft))
        c.pen.rectangle((x, y, x + wide, y + c.unit * 0.003), fill=(*tone, dice.whole(60, 170)))


def _windows(c: Canvas, house: tuple[float, float, float, float], lit: Colour, wall: Colour) -> None:
    x, top, right, foot = house
    wide, cell = right - x, c.unit * 0.016
    columns, rows = int(wide / cell / 1.4), int((foot - top) / cell / 1.7)
    for column in range(columns):
        for row in range(rows):
            if c.dice.between(0, 1) < 0.2 + 0.1 * c.detail:
                left = x + wide * (column + 0.5) / columns - cell * 0.25
                y = top + cell * (0.9 + row * 1.7)
                tone = mix(lit, wall, c.dice.between(0, 0.6))
                c.pen.rectangle((left, y, left + cell * 0.5, y + cell * 0.8), fill=tone)


def ribbons(c: Canvas) -> None:
    """Translucent ribbons that cross."""
    p, dice = c.palette, c.dice
    c.sky(p.light, mix(p.light, p.soft, 0.45))
    count = 7 + 2 * c.detail
    for ribbon in range(count):
        base = c.height * (0.08 + 0.84 * ribbon / (count - 1))
        upper = c.roll(base, c.height * 0.09, dice.between(0.5, 1.1))
        thick, phase = c.height * dice.between(0.03, 0.075), dice.between(0, math.tau)
        top = c.curve(upper)
        low = [(x, y + thick * (1.15 + math.sin(phase + 5 * x / c.width))) for x, y in top]
        tone = p.accent if ribbon % 4 == 1 else p.ramp(dice.between(0.1, 0.8))
        c.shape([*top, *reversed(low)], tone, 205)


def garden(c: Canvas) -> None:
    """Leaved stems before a disc."""
    p, dice = c.palette, c.dice
    c.sky(p.light, mix(p.light, p.soft, 0.35))
    c.disc(c.width / 2, c.height * 0.45, c.unit * 0.34, mix(p.accent, p.light, 0.25))
    stems = 2 + c.detail
    for stem in range(stems):
        foot = c.width * (0.5 + 0.34 * ((stem + 0.5) / stems - 0.5))
        lean = (stem + 0.5) / stems - 0.5 + dice.between(-0.1, 0.1)
        _stem(c, foot, lean, c.height * dice.between(0.55, 0.78), p.ramp(dice.between(0.05, 0.55)))
    c.below(c.curve(c.roll(c.height * 0.93, c.height * 0.01, 1.3)), p.dark)


def _stem(c: Canvas, foot: float, lean: float, tall: float, tone: Colour) -> None:
    pairs = 5 + c.detail

    def spot(part: float) -> Point:
        return foot + lean * c.width * 0.55 * part**1.7, c.height * 0.95 - tall * part

    c.pen.line([spot(n / 20) for n in range(21)], fill=tone, width=max(2, round(c.unit * 0.007)), joint="curve")
    for pair in range(1, pairs + 1):
        part = 0.22 + 0.78 * pair / pairs
        x, y = spot(part)
        length = c.unit * 0.15 * (1.25 - part * 0.75)
        for side in (-1, 1):
            angle = -math.pi / 2 + lean + side * (0.95 - 0.35 * part)
            leaf(c, (x, y), angle, length, mix(tone, c.palette.soft, 0.25 if side > 0 else 0.0))


def leaf(c: Canvas, foot: Point, angle: float, length: float, tone: Colour, *, plump: float = 0.2) -> None:
    """Draw a leaf from its foot in a direction (radians)."""
    x, y = foot
    along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    sides: list[list[Point]] = []
    for side in (1, -1):
        bends = [(n / 12, side * plump * math.sin(math.pi * (n / 12) ** 0.85)) for n in range(13)]
        sides.append(
            [
                (x + length * (a * along[0] + b * across[0]), y + length * (a * along[1] + b * across[1]))
                for a, b in bends
            ]
        )
    c.shape([*sides[0], *reversed(sides[1])], tone)


def rosette(c: Canvas) -> None:
    """A flower of several rows of petals; for a transparent ground."""
    p, dice = c.palette, c.dice
    x, y = c.width / 2, c.height * 0.42
    rows, petals = 3 + c.detail, dice.whole(8, 13)
    for row in range(rows):
        part = row / rows
        tone = mix(p.deep, p.accent, part) if row % 2 else mix(p.middle, p.soft, part)
        for petal in range(petals):
            angle = math.tau * (petal + row / 2) / petals
            leaf(c, (x, y), angle, c.unit * 0.38 * (1 - part * 0.75), tone, plump=0.24)
    c.disc(x, y, c.unit * 0.07, p.light)
    c.disc(x, y, c.unit * 0.045, p.accent)


def gem(c: Canvas) -> None:
    """A cut stone; for a transparent ground."""
    p, dice = c.palette, c.dice
    x, y, wide = c.width / 2, c.height * 0.42, c.unit * 0.37
    sides = dice.whole(7, 10)
    turn = dice.between(0, math.tau)
    rings = [
        [
            (
                x + wide * size * math.cos(turn + math.tau * (n + shift) / sides),
                y + wide * size * math.sin(turn + math.tau * (n + shift) / sides),
            )
            for n in range(sides)
        ]
        for size, shift in ((1.0, 0.0), (0.74, 0.5), (0.44, 0.0))
    ]
    for outer, inner in ((rings[0], rings[1]), (rings[1], rings[2])):
        near = outer is rings[1]
        for n in range(sides):
            m = (n + 1) % sides
            light = 0.5 + 0.35 * math.cos(turn + math.tau * (n + 0.5) / sides + 2.2)
            spin = (inner[n], inner[m], outer[m]) if not near else (inner[m], inner[n], outer[n])
            first = (outer[n], outer[m], inner[n]) if not near else (outer[n], outer[m], inner[m])
            c.shape(first, p.ramp(0.25 + 0.6 * light + (0.1 if near else 0)))
            c.shape(spin, p.ramp(0.18 + 0.6 * light + dice.between(-0.05, 0.05)))
    c.shape(rings[2], mix(p.light, p.accent, 0.35))


def saturn(c: Canvas) -> None:
    """A planet alone; for a transparent ground."""
    planet(c, c.width / 2, c.height * 0.42, c.unit * 0.25)


SCENES: tuple[Scene, ...] = (hills, sunburst, scales, mosaic, bauhaus, planets, city, ribbons, garden)
EMBLEMS: tuple[Scene, ...] = (rosette, gem, saturn)
"""Scenes that leave the ground as it is."""
