"""Text on pictures: only what the font can really draw, wrapped to a few lines.

Rule: the font is the one inside Pillow, so that pictures look the same on every machine. A script that it
lacks is left out, never drawn as boxes.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "×": "x", "\u00a0": " ", "·": "-"}
)
_PROBE = 24  # pixels: large enough that no two glyphs look the same
_MOST = 0.6  # a prompt of which less than this part can be drawn is left out whole: shreds mislead


@lru_cache(maxsize=64)
def font(size: int) -> Font:
    """Return Pillow's own font in that size (pixels)."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def drawable(character: str) -> bool:
    """Return whether the font has a glyph for the character."""
    if character == " ":
        return True
    if unicodedata.category(character)[0] in "CZM":
        return False
    return _mask(character) not in {_mask("\uffff"), _mask("\U0010ffff")}


def _mask(character: str) -> tuple[tuple[int, int], bytes]:
    try:
        mask = font(_PROBE).getmask(character)
    except UnicodeError:  # the bitmap font of a Pillow without FreeType
        return (0, 0), b""
    return mask.size, bytes(mask)


def legible(text: str) -> str:
    """Return the text as the font can draw it, empty where too little of it would be left.

    Letters with marks that the font lacks lose the marks (café: cafe).
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    wanted = sum(not character.isspace() for character in text)
    words = ["".join(map(_plain, word)) for word in text.split()]
    kept = " ".join(word for word in words if any(map(str.isalnum, word)))
    left = sum(1 for character in text if character.isalnum() and _plain(character))
    letters = sum(map(str.isalnum, text)) or wanted
    return kept if letters and left / letters >= _MOST else ""


def _plain(character: str) -> str:
    if drawable(character):
        return character
    simple = unicodedata.normalize("NFD", character.translate(_PLAIN))
    return "".join(part for part in simple if drawable(part))


def wrap(text: str, size: int, width: float, lines: int) -> list[str]:
    """Break the text into at most so many lines of that width (pixels).

    The last ends in dots where text is left over.
    """
    face = font(size)
    done: list[str] = []
    words = text.split()
    while words and len(done) < lines:
        line = _fit(words.pop(0), face, width)
        while words and face.getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        done.append(line)
    if words:
        last = done[-1]
        while " " in last and face.getlength(f"{last}...") > width:
            last = last.rpartition(" ")[0]
        done[-1] = f"{last.rstrip(' ,.;:-')}..."
    return done


def _fit(word: str, face: Font, width: float) -> str:
    if face.getlength(word) <= width:
        return word
    while len(word) > 1 and face.getlength(f"{word}...") > width:
        word = word[:-1]
    return f"{word}..."
