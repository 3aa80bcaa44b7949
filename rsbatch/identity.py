"""What makes a task the same task: keys, ids and paths.

Rule: pure, and frozen. A key decides whether an image has been bought, so no change here may alter the key of
any body that could be sent before; a new form needs a new `v`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from rsbatch.model import EXT, LocalImage

KEY_VERSION: Final = 1
MAX_ID_BYTES: Final = 200
"""Leaves room in a file name of 255 bytes for `~2`, the extension, `.json` and a part file's suffix."""
MAX_PATH_BYTES: Final = 1000
IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_RESERVED_STEM: Final = re.compile(r"~(?:[0-9]+|[0-9a-fA-F]{8})\Z")
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSAFE: Final = frozenset(("Cc", "Cs", "Zl", "Zp"))
_SLUG_BYTES: Final = 100


def _stand_in(value: object) -> str:
    if isinstance(value, LocalImage):
        return f"sha256:{value.sha256}"
    raise ValueError(f"{type(value).__name__} {value!r} cannot be sent as JSON")


DEEPEST: Final = 64
"""Levels of nesting in a request; the ledger's decoder stops at about 200, and no request needs ten."""


def _check_shape(value: object, depth: int = 0) -> None:
    """JSON has text keys only; the encoder would turn others into text and sort them by another order."""
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} levels deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f'the key {key!r} must be text: quote it: "{key}"')
            _check_shape(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_shape(item, depth + 1)


_ENCODER: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_stand_in
)


def canonical_json(value: object) -> bytes:
    """Encode in the one JSON form: sorted keys, no spaces, UTF-8 unescaped; `LocalImage` as `sha256:<hex>`.

    Raises ValueError for NaN, infinities, lone surrogates, keys that are not text, what JSON does not have,
    and nesting of more than DEEPEST levels.
    """
    try:
        _check_shape(value)
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is in the text; it is no character") from error


def task_key(body: Mapping[str, Any], sample: int) -> str:
    """Compute the key of a request body and sample number: 64 lower-case hex digits.

    Raises ValueError as `canonical_json` does.
    """
    return hashlib.sha256(canonical_json({"body": body, "sample": sample, "v": KEY_VERSION})).hexdigest()


def _id_char(char: str) -> bool:
    return char in "._-" or unicodedata.category(char)[0] in "LM" or unicodedata.category(char) == "Nd"


def check_id(text: str) -> str | None:
    """Say why `text` cannot be an id; None if it can."""
    if _PLAIN_ID.fullmatch(text) and len(text) <= MAX_ID_BYTES:
        return None
    if not text:
        return "an id cannot be empty"
    if text.startswith("."):
        return f"the id {text!r} begins with a dot"
    bad = next((char for char in text if not _id_char(char)), None)
    if bad is not None:
        return f"the id {text!r} has {bad!r} in it; use letters, digits and ._- (the filter `slug` makes text fit)"
    if len(text.encode()) > MAX_ID_BYTES:
        return f"the id {text[:20]!r}… has {len(text.encode())} bytes; {MAX_ID_BYTES} is the most"
    if not unicodedata.is_normalized("NFC", text):
        return f"the id {text!r} is not in Unicode form NFC"
    return None


def slug(text: str) -> str:
    """Make any text fit for an id: lower-case letters and digits of any script, `-` for the rest.

    Never empty: text without letters becomes 8 hex digits of its hash, which also end what had to be cut.
    """
    lower = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    kept = "".join(char if char not in "._-" and _id_char(char) else "-" for char in lower)
    made = re.sub(r"-+", "-", kept).strip("-")
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    if not made:
        return digest
    if len(made.encode()) > _SLUG_BYTES:
        cut = made.encode()[: _SLUG_BYTES - 9].decode(errors="ignore").rstrip("-")
        return unicodedata.normalize("NFC", f"{cut}-{digest}")
    return made


def path_fold(path: str) -> str:
    """Bring a path into the form in which two are compared: without extension, NFC, case-folded.

    The extension is `EXT`'s place at the end, or that of an image file.
    """
    stem = path
    for suffix in (f".{EXT}", *IMAGE_SUFFIXES):
        if path.lower().endswith(suffix):
            stem = path[: -len(suffix)]
            break
    if stem.isascii():
        return stem.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())


def place(pattern: str, ext: str, number: int) -> str:
    """Give the path of image `number` (0-based) of a job: `a/b.{ext}` becomes `a/b.png`, `a/b~2.png`, …."""
    path = pattern.replace(EXT, ext)
    if number == 0:
        return path
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return f"{folder}{slash}{stem}~{number + 1}{dot}{suffix}"


def check_path(pattern: str) -> str | None:
    """Say why a task's path cannot be used inside the output folder; None if it can.

    `pattern` is relative, with POSIX separators, and ends in `.` and `EXT`.
    """
    if pattern.startswith("/"):
        return "is absolute; it must be relative to the output folder"
    bad = next((c for c in pattern if c in _BIDI or c == "\\" or unicodedata.category(c) in _UNSAFE), None)
    if bad is not None:
        return f"has {bad!r} in it"
    if not pattern.endswith(f".{EXT}"):
        return "must end in .{{ ext }}"
    if len(pattern.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    *folders, name = pattern[: -len(EXT) - 1].split("/")
    for part in (*folders, name):
        reason = _check_component(part.replace(EXT, "webp"))
        if reason is not None:
            return reason
    for folder in folders:
        if folder.lower().endswith((*IMAGE_SUFFIXES, ".json", f".{EXT}")):
            return f"has a folder {folder!r} that is named like a file"
    if _RESERVED_STEM.search(name):
        return f"ends in {name[name.rindex('~') :]!r}, which is kept for further images and for moved files"
    top = (folders or [name])[0].lower()
    if top.startswith("ledger.jsonl") or top == "simulator.jsonl":
        return f"has a name that rsbatch uses itself: {top!r}"
    return None


def _check_component(part: str) -> str | None:
    """Why one name of a path cannot be used, None if it can."""
    if part == "..":
        return "leaves the output folder by `..`"
    if part == "":
        return "has an empty name in it"
    if part.startswith("."):
        return f"has a name that begins with a dot: {part!r}"
    if part != part.strip():
        return f"has a name with a space at its edge: {part!r}"
    if "{" in part or "}" in part:
        return f"has a brace in it: {part!r}"
    if len(part.encode()) > MAX_ID_BYTES:
        return f"has a name of more than {MAX_ID_BYTES} bytes: {part[:20]!r}…"
    return None
