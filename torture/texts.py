"""Mutated manifests and mutated images: what may come of each.

Rule: a manifest is refused with ManifestError or UsageError, or it expands twice to the same tasks with ids and paths
of their own; bytes are no image (BadImage) or one within the bounds. Nothing else comes out, in bounded time and
memory, for which the row keeps a watch and a limit.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random

from PIL import Image

from rsbatch.errors import UsageError
from rsbatch.images import MAX_PIXELS, BadImage, ImageInfo, inspect_image
from rsbatch.manifest.check import survey
from rsbatch.manifest.load import load_manifest

ROOT = Path(__file__).resolve().parent.parent
MOST_TASKS = 400
"""How many tasks of a mutant are expanded: a mutant may well ask for millions, which is its right."""

_TODAY = date(2026, 5, 29)
_VALUES = (
    "",
    "0",
    "-1",
    "1",
    "2",
    "007",
    "1:30",
    "no",
    "~",
    "1e999",
    ".nan",
    "2026-01-01",
    "'",
    '"',
    "|",
    ">",
    "&a",
    "*a",
    "{}",
)
_VALUES += (
    "[]",
    "[[]]",
    "{{ x }}",
    "{{",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ ''.__class__ }}",
    "../../etc/passwd",
)
_VALUES += (
    "/etc/passwd",
    "C:\\x",
    "\u202e",
    "\x07",
    "\u0301",
    "e\u0301",
    "é",
    "a" * 300,
    "{{ 'a' * 10**9 }}",
    "<<: *a",
    "!!python/object:os.system x",
)
_VALUES += (
    "10000",
    "10001",
    "99999999999999999999",
    "data:image/png;base64,AAAA",
    "http://x/a.png",
    "photos/*.png",
    "*",
    "**/*",
)
_VALUES += (
    "quickstart.csv",
    "product-shots.csv",
    "prompts/product.md",
    "assets/room.png",
    "{{ row.sku }}",
    "{{ id }}",
    "$",
    "true",
    "0x10",
)
_VALUES += (
    "{{ file.stem }}",
    "{{ sample }}",
    "{{ run.date }}",
    "{{ name }}",
    "{{ undefined }}",
    "{{ 'x' | slug }}",
    "1_000",
    "12e03",
    "? a",
)
_KEYS = (
    "id",
    "prompt",
    "prompt_file",
    "rows",
    "files",
    "images",
    "mask",
    "matrix",
    "include",
    "exclude",
    "samples",
    "n",
    "extra_body",
)
_KEYS += (
    "version",
    "name",
    "vars",
    "defaults",
    "tasks",
    "output",
    "dir",
    "path",
    "sidecar",
    "limits",
    "in_flight",
    "run",
    "budget",
)
_KEYS += (
    "prices",
    "usd",
    "notify",
    "ping",
    "api",
    "base_url",
    "key_env",
    "<<",
    "size",
    "logo_param",
    "output_compression",
    "nonsense",
)
_BOMBS = (
    "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
    "vars: &v {<<: &w {<<: &x {a: 1, b: 2}, c: 3}, d: 4}\nm: {<<: [*v, *v, *v, *w, *x]}\n",
    "vars: " + "{a: " * 100 + "1" + "}" * 100 + "\n",
    "vars: " + "[" * 5000 + "\n",
    "vars: {x: " + "1:" * 2000 + "1}\n",
)


@cache
def sources() -> tuple[str, ...]:
    """The manifests that come with us, and those of the documentation."""
    found = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "manifests").glob("*.yaml"))]
    for page in sorted((ROOT / "docs").glob("*.md")):
        blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        found += [block for block in blocks if "tasks:" in block]
    return tuple(found)


def make_manifest(rng: Random) -> bytes:
    """Draw a manifest: one of ours mutated, or a new one."""
    text = rng.choice(sources()) if rng.random() < 0.8 else _grown(rng)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        text = rng.choice(_MUTATIONS)(text, rng)
    data = text.encode(rng.choice(("utf-8",) * 12 + ("utf-16", "utf-8-sig", "latin-1")), "replace")
    if rng.random() < 0.1:
        made = bytearray(data or b"x")
        made[rng.randrange(len(made))] ^= rng.randrange(1, 256)
        data = bytes(made)
    return data


def _grown(rng: Random) -> str:
    """A manifest from nothing: entries of keys and values that fit more or less."""
    made = ["version: 1", "tasks:"]
    for _ in range(rng.randrange(1, 4)):
        made.append(f"  - prompt: {rng.choice(('a cat', '{{ x }}', '{{ row.city }}', 'no', '1'))}")
        for key in rng.sample(_KEYS[:13], rng.randrange(3)):
            made.append(f"    {key}: {rng.choice(_VALUES)}")
        if rng.random() < 0.5:
            axes = "".join(
                f", {name}: [{', '.join(rng.choice(_VALUES[:9]) or 'x' for _ in range(rng.randrange(1, 4)))}]"
                for name in "xy"
            )
            made.append("    matrix: {" + axes.removeprefix(", ") + "}")
    return "\n".join(made) + "\n"


def _lines(text: str, rng: Random) -> str:
    """Lose, double, or move a line, or change how far it is indented."""
    lines = text.splitlines(keepends=True) or ["\n"]
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(4)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(to, lines[at])
    elif what == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = rng.choice((" ", "  ", "\t", "- ")) + lines[at] if rng.random() < 0.5 else lines[at][1:]
    return "".join(lines)


def _value(text: str, rng: Random) -> str:
    places = list(re.finditer(r"(?<=[:\-,\[] )[^\n,\]}{]+", text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(_VALUES) + text[place.end() :]


def _key(text: str, rng: Random) -> str:
    places = list(re.finditer(r"[a-z_]+(?=:)", text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(_KEYS) + text[place.end() :]


def _characters(text: str, rng: Random) -> str:
    at = rng.randrange(len(text) + 1)
    there = rng.choice("{}[]:,&*!|>'\"%@`#-?\n\t \x00\u2028\u202e\ufeff💥é")
    return text[:at] + there + text[at + rng.randrange(2) :]


def _bomb(text: str, rng: Random) -> str:
    return rng.choice(_BOMBS) + text if rng.random() < 0.5 else text + rng.choice(_BOMBS)


def _splice(text: str, rng: Random) -> str:
    other = rng.choice(sources())
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other)) :]


_MUTATIONS = (_lines, _lines, _value, _value, _value, _key, _characters, _splice, _bomb)


@cache
def _folder() -> Path:
    """A copy of manifests/ for this process, in which mutants stand beside the tables and photos they name."""
    made = Path(tempfile.mkdtemp(prefix="torture-manifests-"))
    shutil.copytree(ROOT / "manifests", made / "m")
    return made / "m"


def forget() -> None:
    """Take the copy away."""
    if _folder.cache_info().currsize:
        shutil.rmtree(_folder().parent)
        _folder.cache_clear()


def judge_manifest(data: bytes) -> str:
    """Load a manifest and expand it twice; gives what is wrong, empty if nothing is."""
    path = _folder() / "mutant.yaml"
    path.write_bytes(data)
    made = []
    for _ in range(2):
        try:
            manifest = load_manifest(path, today=lambda: _TODAY)
        except UsageError as error:
            made.append(str(error))
            continue
        checked, problems = survey(manifest, limit=MOST_TASKS)
        tasks = list(islice(manifest.tasks([]), MOST_TASKS))
        made.append(f"{checked} {[str(p) for p in problems]} {[(t.id, t.key, t.path) for t in tasks]}")
        if not problems:
            ids = {task.id for task in tasks}
            paths = {unicodedata.normalize("NFC", task.path).casefold() for task in tasks}
            if not len(tasks) == len(ids) == len(paths):
                return "two tasks have one id or one path"
            if any(task.path.startswith("/") or ".." in Path(task.path).parts for task in tasks):
                return "a path leaves the folder"
    return "" if made[0] == made[1] else "it expands to other tasks the second time"


def try_manifest(rng: Random) -> str:
    """Draw a manifest; gives what went wrong."""
    data = make_manifest(rng)
    wrong = judge_manifest(data)
    return wrong and f"{wrong}: {data[:2000]!r}"


# Images


@dataclass(frozen=True, slots=True)
class Picture:
    """A sound image: `end` is where it may be cut off at the latest and still must be refused."""

    data: bytes
    end: int


@cache
def pictures() -> tuple[Picture, ...]:
    """Small images of every kind that is taken."""
    noise = Random(7).randbytes(17 * 13 * 4)
    image = Image.frombytes("RGBA", (17, 13), noise)
    made = []
    for kind, mode, options in (
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {"optimize": True}),
        ("PNG", "P", {}),
        ("PNG", "L", {"save_all": True, "append_images": [image.convert("L")]}),
        ("JPEG", "RGB", {"quality": 90}),
        ("JPEG", "L", {"progressive": True}),
        ("JPEG", "CMYK", {"restart_marker_blocks": 1}),
        ("WEBP", "RGB", {"quality": 50}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGBA", {"save_all": True, "append_images": [image.rotate(9)]}),
    ):
        stream = io.BytesIO()
        image.convert(mode).save(stream, kind, **options)
        data = stream.getvalue()
        made.append(Picture(data, {"PNG": len(data) - 12, "JPEG": len(data) - 2, "WEBP": len(data) - 2}[kind]))
    return tuple(made)


def try_image(rng: Random) -> str:
    """Draw mutated bytes of an image; gives what went wrong."""
    picture = rng.choice(pictures())
    data, cut = picture.data, False
    if rng.random() < 0.2:
        data, cut = data[: rng.randrange(picture.end)], True
    else:
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            data = _break(data, rng)
    wrong = judge_image(data, cut=cut)
    return wrong and f"{wrong}: {data!r}"


def judge_image(data: bytes, *, cut: bool = False) -> str:
    """Have bytes inspected; `cut`: they are the beginning of an image."""
    try:
        info = inspect_image(data)
    except BadImage as bad:
        return "" if bad.reason and bad.reason.isprintable() else f"the reason cannot be shown: {bad.reason!r}"
    if cut:
        return "an image that is cut off was taken"
    if not isinstance(info, ImageInfo) or not 0 < info.width * info.height <= MAX_PIXELS:
        return f"it was taken for {info}"
    return ""


def _break(data: bytes, rng: Random) -> bytes:
    at, made = rng.randrange(len(data) + 1), bytearray(data or b"x")
    what = rng.randrange(6)
    if what == 0:
        made[at % len(made)] ^= rng.randrange(1, 256)
    elif what == 1:  # lengths and sizes stand in the first bytes
        made[rng.randrange(min(64, len(made)))] = rng.choice((0, 1, 127, 128, 255))
    elif what == 2:
        del made[at : at + rng.choice((1, 4, 50))]
    elif what == 3:
        made[at:at] = rng.choice((b"\0" * 4, b"\xff" * 4, b"\xff\xd9", b"IEND", rng.randbytes(9), b"\xff\xd8"))
    elif what == 4:
        made[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\xc3\x50"))
    else:
        other = rng.choice(pictures()).data
        made[at:] = other[rng.randrange(len(other)) :]
    return bytes(made)
