"""Keys are frozen, ids and paths are safe."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.identity import canonical_json, check_id, check_path, path_fold, place, slug, task_key
from rsbatch.model import LocalImage

ANY_TEXT = st.text(st.characters(exclude_categories=[]))
TEXT = st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
IMAGE = LocalImage("ab" * 32, "image/png", 3, Path("/x.png"))


def test_canonical_json() -> None:
    value = {"b": [1, 2.5, True, None], "a": 'é"\n猫', "image": IMAGE}
    expected = f'{{"a":"é\\"\\n猫","b":[1,2.5,true,null],"image":"sha256:{"ab" * 32}"}}'
    assert canonical_json(value) == expected.encode()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "not JSON compliant"),
        ({"a": float("inf")}, "not JSON compliant"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({1: 2}, "must be text"),
        ([{"a": ({None: 2},)}], "must be text"),
        ({"a": {1, 2}}, "cannot be sent as JSON"),
        (b"x", "cannot be sent as JSON"),
    ],
)
def test_what_has_no_canonical_form(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical_json(value)


def test_nesting_without_end_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="deep"):
        canonical_json(value)


@pytest.mark.parametrize(
    ("body", "sample", "key"),
    [
        (
            {"prompt": "A red apple"},
            1,
            "e00246c335ba4e13358711f23a4e8cb2fe33b2a03a8d75675d420e03988c47ac",
        ),
        (
            {"model": "gpt-image-2", "prompt": "一只橘猫", "logo_add": 0, "images": [IMAGE, "https://x.example/a.png"]},
            2,
            "19354967a6e55cb54b5339610f59571a250cfeb25d865f7ffc7a1ffdcce0e737",
        ),
    ],
)
def test_keys_are_frozen(body: dict[str, Any], sample: int, key: str) -> None:
    """If this fails, every image that users have bought would be bought again."""
    assert task_key(body, sample) == key
    plain = json.loads(canonical_json(body))
    form = json.dumps(
        {"body": plain, "sample": sample, "v": 1}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert task_key(body, sample) == hashlib.sha256(form.encode()).hexdigest()


@given(st.dictionaries(TEXT, JSON), st.integers(1, 100), st.randoms())
def test_keys_do_not_depend_on_order(body: dict[str, Any], sample: int, random: Any) -> None:
    items = list(body.items())
    random.shuffle(items)
    assert task_key(dict(items), sample) == task_key(body, sample)
    assert task_key(body, sample) != task_key(body, sample + 1)
    assert task_key({**body, "": "other", "x": 1}, sample) != task_key({**body, "": "other", "x": 2}, sample)


@given(JSON)
def test_canonical_json_says_the_same(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@pytest.mark.parametrize(
    "text",
    ["a", "hero", "A-1_b.c", "猫", "äöü", "क्षि", "éa".replace("é", "é"), "-x", "_", "9", "a" * 200, "٣", "ひらがな"],
)
def test_ids(text: str) -> None:
    assert check_id(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (".hidden", "begins with a dot"),
        ("..", "begins with a dot"),
        ("a b", "slug"),
        ("a/b", "slug"),
        ("a\\b", "slug"),
        ("a\0", "slug"),
        ("a\n", "slug"),
        ("🦉", "slug"),
        ("a\u202eb", "slug"),
        ("a\u200db", "slug"),
        ("½", "slug"),
        ("{x}", "slug"),
        ("a~2", "slug"),
        ("\ud800", "slug"),
        ("a" * 201, "200 is the most"),
        ("猫" * 67, "200 is the most"),
        ("e\u0301", "NFC"),
    ],
)
def test_what_is_no_id(text: str, reason: str) -> None:
    found = check_id(text)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Pixel Art", "pixel-art"),
        ("  a -- b  ", "a-b"),
        ("Größe 猫!", "größe-猫"),
        ("a.b_c", "a-b-c"),
        ("İ", "i̇"),
        ("e\u0301", "é"),
        ("x/../y", "x-y"),
    ],
)
def test_slugs(text: str, made: str) -> None:
    assert slug(text) == made


@pytest.mark.parametrize("text", ["", "🦉", "---", "\ud800"])
def test_slug_of_what_has_no_letters(text: str) -> None:
    assert len(slug(text)) == 8
    assert slug(text) != slug(text + "!")


def test_slug_of_long_text_is_cut_and_stays_distinct() -> None:
    one, two = slug("猫" * 500 + "a"), slug("猫" * 500 + "b")
    assert one != two
    assert len(one.encode()) <= 100


@given(ANY_TEXT)
def test_any_slug_is_an_id(text: str) -> None:
    assert check_id(slug(text)) is None
    assert slug(slug(text)) == slug(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("A/Hero.{ext}", "a/hero.{ext}"),
        ("hero.png", "HERO.{ext}"),
        ("hero.PNG", "hero.webp"),
        ("Straße.jpg", "STRASSE.{ext}"),
        ("e\u0301.png", "é.{ext}"),
    ],
)
def test_paths_that_are_one(left: str, right: str) -> None:
    assert path_fold(left) == path_fold(right)


@pytest.mark.parametrize(
    ("left", "right"), [("a.{ext}", "b.{ext}"), ("a.1.{ext}", "a.2.{ext}"), ("a/b.png", "ab.png"), ("a.txt", "a.png")]
)
def test_paths_that_differ(left: str, right: str) -> None:
    assert path_fold(left) != path_fold(right)


@given(TEXT)
def test_folding_is_stable_under_normalisation(text: str) -> None:
    path = text + ".{ext}"
    assert path_fold(unicodedata.normalize("NFD", path)) == path_fold(unicodedata.normalize("NFC", path))


@pytest.mark.parametrize(
    "path",
    [
        "hero.{ext}",
        "a/b/c.{ext}",
        "{ext}/hero.{ext}",
        "with space.{ext}",
        "猫/é.{ext}",
        "a~b.{ext}",
        "a~2x.{ext}",
        "sub/ledger.jsonl.{ext}",
        "my-ledger.jsonl.{ext}",
        "a.png.{ext}",
        "👩\u200d🎨.{ext}",
    ],
)
def test_paths(path: str) -> None:
    assert check_path(path) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/x.{ext}", "absolute"),
        ("../x.{ext}", "leaves"),
        ("a/../../x.{ext}", "leaves"),
        ("a//x.{ext}", "empty name"),
        ("./x.{ext}", "begins with a dot"),
        ("a/.ssh/x.{ext}", "begins with a dot"),
        (".{ext}", "empty name"),
        ("a/.{ext}", "empty name"),
        (".x.{ext}", "begins with a dot"),
        ("a\\b.{ext}", "in it"),
        ("a\0.{ext}", "in it"),
        ("a\n.{ext}", "in it"),
        ("a\u2028.{ext}", "in it"),
        ("a\u202egnp.{ext}", "in it"),
        ("a\ud800.{ext}", "in it"),
        (" a.{ext}", "space at its edge"),
        ("a .{ext}", "space at its edge"),
        ("b /a.{ext}", "space at its edge"),
        ("x" * 201 + ".{ext}", "more than 200 bytes"),
        ("猫" * 67 + ".{ext}", "more than 200 bytes"),
        ("/".join(["x" * 150] * 7) + ".{ext}", "longer than 1000"),
        ("ledger.jsonl.{ext}", "uses itself"),
        ("Ledger.JSONL/x.{ext}", "uses itself"),
        ("ledger.jsonl.rescue.{ext}", "uses itself"),
        ("simulator.jsonl/x.{ext}", "uses itself"),
        ("{x}.{ext}", "brace"),
        ("a}.{ext}", "brace"),
        ("hero~2.{ext}", "further images"),
        ("hero~0a1b2c3d.{ext}", "further images"),
        ("hero~12345678.{ext}", "further images"),
        ("a.png/x.{ext}", "named like a file"),
        ("a.json/x.{ext}", "named like a file"),
        ("a.{ext}/x.{ext}", "named like a file"),
        ("hero.png", "must end in"),
        ("hero{ext}", "must end in"),
    ],
)
def test_what_is_no_path(path: str, reason: str) -> None:
    found = check_path(path)
    assert found is not None
    assert reason in found


@given(ANY_TEXT)
def test_no_path_leaves_the_folder(text: str) -> None:
    path = text + ".{ext}"
    if check_path(path) is None:
        real = Path("/out") / path.replace("{ext}", "png")
        assert real.is_relative_to("/out")
        assert ".." not in real.parts
        assert all(len(part.encode()) < 255 for part in real.parts)


@pytest.mark.parametrize(
    ("pattern", "number", "expected"),
    [
        ("cat.{ext}", 0, "cat.png"),
        ("a/b/cat.{ext}", 0, "a/b/cat.png"),
        ("cat.{ext}", 1, "cat~2.png"),
        ("a.b/c.at.{ext}", 2, "a.b/c.at~3.png"),
        ("{ext}/cat.{ext}", 1, "png/cat~2.png"),
    ],
)
def test_where_each_image_of_a_job_goes(pattern: str, number: int, expected: str) -> None:
    assert place(pattern, "png", number) == expected
