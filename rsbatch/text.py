"""Text from outside made safe to show: for the terminal and the log.

Rule: pure, and total: any string goes in, lone surrogates too, and what comes out is one line that cannot
move the cursor, reorder what stands beside it, hide characters, or tell a secret. (HTML and CSV have rules of
their own.)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

ELLIPSIS = "…"

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

# Letters and marks to Unicode, but nothing to the eye; `str.isprintable` lets them through.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0]")

# Not assigned yet, but reserved for characters that are not to be seen (Default_Ignorable_Code_Point).
_IGNORABLE = ((0x2065, 0x2065), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF))


def printable(text: str, limit: int | None = None) -> str:
    r"""Escape visibly what a terminal would act on or not show, such as `\x1b`, `\u202e`, `\n`.

    Escaped are control characters (C0, C1), format characters (bidi, zero-width, tags), line and paragraph
    separators, private use, lone surrogates and invisible fillers. With `limit` the result has at most that
    many characters, the last of them `…` if something was cut; no escape is cut in two.
    """
    if limit is not None and limit < 1:
        return ""
    if text.isprintable() and not _INVISIBLE.search(text) and (limit is None or len(text) <= limit):
        return text
    shown: list[str] = []
    fits = length = 0
    for char in text:
        piece = _escape(char)
        length += len(piece)
        if limit is not None and length > limit:
            return "".join(shown[:fits]) + ELLIPSIS
        shown.append(piece)
        if limit is None or length < limit:  # one place must stay for the ellipsis
            fits = len(shown)
    return "".join(shown)


def _escape(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    if char.isprintable():
        hidden = _INVISIBLE.match(char) is not None
    else:
        category = unicodedata.category(char)
        # Wide and no-break spaces are ordinary text. Unassigned is often just newer than Python's tables.
        hidden = category != "Zs" and not (category == "Cn" and not _reserved(ord(char)))
    return escape(ord(char)) if hidden else char


def escape(code: int) -> str:
    r"""Write a character's number as Python does: `\x1b`, `\u202e`, `\U000e0001`."""
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _reserved(code: int) -> bool:
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return noncharacter or any(low <= code <= high for low, high in _IGNORABLE)


_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A header in any print: `Authorization: Bearer x`, `'authorization': 'Bearer x'`, `(b'Authorization',
    # b'…')`.
    (
        re.compile(
            r"""(authorization(?:["']\s*[:,]|\s*[:=])\s*)"""
            r"""(?:(b?["'])[^"'\r\n]*|[^"'\s][^\r\n]*)""",
            re.IGNORECASE,
        ),
        rf"\1\2{ELLIPSIS}",
    ),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{4,}", re.IGNORECASE), rf"\1{ELLIPSIS}"),
    # Not inside a word (`task-20260529`, `desk-lamp`), but after an escaped newline.
    (re.compile(r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))sk-[\w-]{4,}"), f"sk-{ELLIPSIS}"),
    # Reference images inside requests: no secret to us, but private, and megabytes long.
    (re.compile(r"""(\bdata:[\w.+/-]*(?:;[\w=.+-]+)*,)[^\s"'<>]+""", re.IGNORECASE), rf"\1{ELLIPSIS}"),
    # Slashes may be escaped, as some print JSON.
    (re.compile(r"""(\bhttps?:(?:\\?/){2})[^\s/"'<>?#]+@""", re.IGNORECASE), rf"\1{ELLIPSIS}@"),
    # A signed URL whose beginning got lost, as in messages that print only the target.
    (
        re.compile(
            r"""\b((?:x-[a-z]+-|q-)?(?:signature|sig|sign|token|security-token|credential|ak|api[_-]?key)=)"""
            r"""[^\s&"'<>]+""",
            re.IGNORECASE,
        ),
        rf"\1{ELLIPSIS}",
    ),
)

# A whole URL at once, and its query cut off by `_without_query`: one expression for both would look for a
# question mark from each of many beginnings, in quadratic time.
_URL = re.compile(r"""\bhttps?:(?:\\?/){2}[^\s"'<>]*""", re.IGNORECASE)
_QUERY = re.compile("[?#]")


def _without_query(found: re.Match[str]) -> str:
    query = _QUERY.search(found[0])
    return found[0] if query is None else found[0][: query.end()] + ELLIPSIS


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace by `…` the given `secrets` (as they are and percent-encoded) and whatever looks like one.

    That is: `sk-…` keys, `Authorization` values, bearer tokens, passwords and queries in URLs, signatures,
    and the contents of `data:` URLs. Doing it twice changes nothing more.
    """
    for form in _forms(tuple(secrets)):
        text = text.replace(form, ELLIPSIS)
    if text.isalnum():  # as most of a service's words; each pattern asks for a sign
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _URL.sub(_without_query, text)


@lru_cache(maxsize=16)
def _forms(secrets: tuple[str, ...]) -> list[str]:
    """Give the secrets as they are and percent-encoded, the longest first."""
    forms = {form for secret in secrets if secret.strip() for form in (secret, _quoted(secret))}
    return sorted(forms, key=len, reverse=True)


def _quoted(secret: str) -> str:
    return quote(secret, safe="", errors="replace")
