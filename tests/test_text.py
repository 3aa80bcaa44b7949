"""Nothing from outside may act on a terminal, and no secret may be told."""

from __future__ import annotations

import unicodedata
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.text import printable, redact

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain, 猫 橘　全角, Ñandú, שלום, 🦉", "plain, 猫 橘　全角, Ñandú, שלום, 🦉"),
        ("no\u00a0break", "no\u00a0break"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\r\nb\tc\0\x7f", "a\\r\\nb\\tc\\x00\\x7f"),
        ("\x85\x9b31m", "\\x85\\x9b31m"),
        ("\u202egnp.exe\u2066\u061c", "\\u202egnp.exe\\u2066\\u061c"),
        ("zero\u200bwidth\ufeff\u2060\u00ad", "zero\\u200bwidth\\ufeff\\u2060\\xad"),
        ("line\u2028par\u2029", "line\\u2028par\\u2029"),
        ("\ud800x\udfff", "\\ud800x\\udfff"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("filler\u3164\u115f\u2800\u034f", "filler\\u3164\\u115f\\u2800\\u034f"),
        ("private\ue000", "private\\ue000"),
        ("none\ufffe\U0010ffff\ufdd0\ufff1\u2065", "none\\ufffe\\U0010ffff\\ufdd0\\ufff1\\u2065"),
        ("newer than Python: \u0378", "newer than Python: \u0378"),
    ],
)
def test_what_acts_or_hides_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abc\n", 5, "abc\\n"),
        ("abc\n", 4, "abc…"),
        ("ab\n\n", 5, "ab\\n…"),
        ("ab\nc", 4, "ab…"),
        ("\x1b\x1b", 3, "…"),
        ("abc", 1, "…"),
        ("a", 1, "a"),
        ("abc", 0, ""),
        ("", 0, ""),
        ("x" * 10_000_000, 4, "xxx…"),
    ],
)
def test_the_limit_cuts_no_escape_in_two(text: str, limit: int, shown: str) -> None:
    assert printable(text, limit) == shown


@given(ANY_TEXT, st.none() | st.integers(0, 20))
def test_any_text_becomes_one_harmless_line(text: str, limit: int | None) -> None:
    shown = printable(text, limit)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    shown.encode()
    assert printable(shown) == shown
    if limit is not None:
        assert len(shown) <= limit


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("key sk-abc123_DEF-4 refused", "key sk-… refused"),
        ("'sk-proj-abcdef'", "'sk-…'"),
        ("\\nsk-abcdef", "\\nsk-…"),
        (
            "task-20260529123456_abcd1234 desk-lamp risk-free sk-",
            "task-20260529123456_abcd1234 desk-lamp risk-free sk-",
        ),
        ("Authorization: Bearer abc.def\nnext: line", "Authorization: …\nnext: line"),
        ("{'authorization': 'Bearer abc', 'x': 1}", "{'authorization': '…', 'x': 1}"),
        ('{"Authorization":"Basic Zm9v"}', '{"Authorization":"…"}'),
        ("[(b'Authorization', b'Bearer abc'), (b'Accept', b'*')]", "[(b'Authorization', b'…'), (b'Accept', b'*')]"),
        ("Proxy-Authorization=Basic Zm9v", "Proxy-Authorization=…"),
        ("got bearer eyJhbGciOi.J9 there", "got bearer … there"),
        ("the authorization failed, says it", "the authorization failed, says it"),
        ("GET https://h.example/a.png?X-Amz-Signature=1&b=2 failed", "GET https://h.example/a.png?… failed"),
        ('"http://h/x?sig=1"', '"http://h/x?…"'),
        ("HTTPS://H/x?sig=1#part", "HTTPS://H/x?…"),
        ("https://me:secret@h/x", "https://…@h/x"),
        ("https://u:p@ss@h/x", "https://…@h/x"),
        ("https://h/x#a?sig=1 b", "https://h/x#… b"),
        (r'{"url": "https:\/\/h\/x?sig=1"}', r'{"url": "https:\/\/h\/x?…"}'),
        ("https://h/x, and why? because", "https://h/x, and why? because"),
        ("/a.png?X-Amz-Signature=abc&X-Amz-Date=1", "/a.png?X-Amz-Signature=…&X-Amz-Date=1"),
        ("/a.png?q-signature=abc&token=def&api_key=ghi", "/a.png?q-signature=…&token=…&api_key=…"),
        ("design=5", "design=5"),
        ("data:image/png;base64,iVBORw0KGgo= sent", "data:image/png;base64,… sent"),
        ("metadata: image, not a URL", "metadata: image, not a URL"),
    ],
)
def test_what_looks_like_a_secret_is_replaced(text: str, safe: str) -> None:
    assert redact(text) == safe
    assert redact(safe) == safe


def test_the_secrets_that_are_known() -> None:
    secrets = ["my/odd key+", "my", "", "  "]
    assert redact("a my/odd key+ b my%2Fodd%20key%2B c", secrets) == "a … b … c"
    assert redact("enemy  lines", [""]) == "enemy  lines"
    assert redact("\ud800 key\ud800", ["key\ud800"]) == "\ud800 …"


@given(ANY_TEXT, st.lists(ANY_TEXT, max_size=3))
def test_any_text_can_be_redacted(text: str, secrets: list[str]) -> None:
    safe = redact(text, secrets)
    assert all(secret not in safe for secret in secrets if len(secret) > 1 and "…" not in secret and secret.strip())


@given(st.from_regex(r"[A-Za-z0-9_-]{20,40}", fullmatch=True), ANY_TEXT, ANY_TEXT)
def test_a_known_key_never_gets_through(key: str, before: str, after: str) -> None:
    assert key not in redact(f"{before}{key}{after}", [key])


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "https://",
            "https://a@",
            "http:",
            "authorization",
            "authorization ",
            "data:a/",
            "data:a;b=c",
            "bearer ",
            "sk-",
        ),
        *(
            "x-a-",
            "q-",
            "token",
            "?",
            "sk-abc?",
            "Authorization:'",
        ),
    ],
)
def test_redacting_takes_linear_time(piece: str) -> None:
    """A quadratic expression takes minutes for these; so does a hostile answer that is logged."""
    for text in (piece * 100_000, piece + "a" * 500_000, piece + " " * 500_000, piece + "a-" * 200_000):
        started = process_time()
        redact(text)
        assert process_time() - started < 5
