"""YAML is read as PyYAML's safe loader does, with places, and bounded whatever comes."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.errors import ManifestError
from rsbatch.manifest import yaml as ours
from rsbatch.manifest.nodes import find, path_text
from rsbatch.manifest.yaml import read_yaml

SAMES = [
    "a: 1",
    "[1, 0x1F, 1_000, 1.5, .inf, -3, 017, 1:30, 1e3, 1.5e+3]",
    "[yes, no, on, off, true, False, ~, null, '', Null]",
    "{d: 2001-12-14, t: 2001-12-14t21:59:43.10-05:00}",
    "a: 'quoted'\nb: \"esc\\n\\u732b\"\nc: |\n  block\n  text\nd: >-\n  folded\n  text\n",
    "- &a {x: 1, y: 2}\n- *a\n- {<<: *a, y: 3, z: 4}\n",
    "- &a {x: 1, y: 2}\n- &b {x: 10, r: 3}\n- {<<: [*a, *b], own: 1}\n- {own: 1, <<: *b, x: 5}\n",
    "a: &s text\nb: *s\nc: [*s, *s]",
    "a: !!str 007\nb: !!int '7'\nc: !!float 1\nd: ! 12\ne: !!map {x: 1}\nf: !!seq [1]",
    "# only a comment\n---\na: 1\n...\n",
    "%YAML 1.1\n---\na: b\n",
    "plain text",
    "a:\nb:\n  -\n  - c",
    "'<<': {a: 1}",
]


@pytest.mark.parametrize("text", SAMES)
def test_values_are_those_of_the_safe_loader(text: str) -> None:
    root, problems = read_yaml(text.encode(), "m.yaml")
    assert root is not None
    assert _typed(root.value) == _typed(yaml.safe_load(text))
    assert problems == []


def _typed(value: object) -> object:
    """Give a value in which 1, 1.0 and True differ.

    Without the order of keys: PyYAML's releases merge in different ones (6.0.4 changed it).
    """
    if isinstance(value, dict):
        return {repr(key): _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return repr(value)


@pytest.mark.parametrize("text", SAMES)
def test_the_loader_without_c_gives_the_same(text: str) -> None:
    root, _ = read_yaml(text.encode(), "m.yaml", loader=yaml.SafeLoader)
    assert root is not None
    assert root.value == yaml.safe_load(text)


def test_a_merge_sign_that_is_no_key_is_text() -> None:
    root, _ = read_yaml(b"- <<\n- {a: <<}", "m.yaml")
    assert root is not None
    assert root.value == ["<<", {"a": "<<"}]


def test_places() -> None:
    root, _ = read_yaml(b"version: 1\ntasks:\n  - id: a\n    images: [x, yy]\n", "m.yaml")
    assert root is not None
    node = find(root, ["tasks", 0, "images", 1])
    assert (node.line, node.column, node.raw) == (4, 17, "yy")
    assert find(root, ["tasks", 0]).keys["images"] == (4, 5)
    assert find(root, ["tasks", 7, "x"]) is find(root, ["tasks"])
    assert path_text(["tasks", 0, "images", 1]) == "tasks[0].images[1]"


def test_duplicate_keys_name_both_places() -> None:
    _, problems = read_yaml(b"a: 1\nb:\n  - {c: 1, c: 2}\na: 3\n<<: {x: 1}\n<<: {y: 1}\n", "m.yaml")
    assert [str(problem) for problem in problems] == [
        "m.yaml:3:12: b[0].c: the key 'c' is here a second time, first in line 3, column 6",
        "m.yaml:4:1: a: the key 'a' is here a second time, first in line 1, column 1",
        "m.yaml:6:1: <<: the key '<<' is here a second time, first in line 5, column 1; "
        "to merge several mappings use a list: <<: [*a, *b]",
    ]


def test_keys_are_text() -> None:
    _, problems = read_yaml(b"no: 1\n007: 2\n1:30: 3\n", "m.yaml")
    assert [problem.message for problem in problems] == ['quote it: "no"', 'quote it: "007"', 'quote it: "1:30"']


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (b"a: [*x]", (1, 5), "no anchor &x"),
        (b"a: &a [*a]", (1, 8), "inside of what it names"),
        (b"a: {{ x }}", (1, 5), "must be quoted"),
        (b"? [a]\n: b", (1, 3), "cannot be a key"),
        (b"a:\n\t- b", (2, 1), "a tab"),
        (b"a: @x", (1, 4), "is not YAML here"),
        (b"@x", (1, 1), "must be quoted"),
        (b"a: b: c", (1, 5), '": " in it must be quoted'),
        (b"a: 'x", (1, 6), "is not YAML here"),
        (b"ab: \x00", (1, 5), "'\\x00' may not be"),
        (b"a: 1\nbc: \xff", (2, 5), "is not UTF-8"),
        (b"\xef\xbb\xbfa: \xff", (1, 4), "is not UTF-8"),
        (b"\xff\xfea\x00:", (1, 2), "is not UTF-8"),
        (b"a: 1\n---\nb: 2", (2, 1), "second document"),
        (b"a: " + b"[" * 100, (1, 67), "levels deep"),
        (b"a: 2001-13-45", (1, 4), "not a timestamp"),
        (b"a: " + b"9" * 301, (1, 4), "too long"),
        (b"a: =", (1, 4), 'quote it: "="'),
        (b"a: !!int x", (1, 4), "not a int"),
        (b"a: !!python/object/apply:os.system ['id']", (1, 4), "not known"),
        (b"a: !!python/name:os.system x", (1, 4), "not known"),
        (b"a: !!binary eA==", (1, 4), "not known"),
        (b"a: !!set {x}", (1, 4), "not known"),
        (b"<<: 3", (1, 5), "<< wants a mapping"),
        (b"<<: [{a: 1}, 3]", (1, 5), "<< wants a mapping"),
    ],
)
def test_what_cannot_be_read(text: bytes, place: tuple[int, int], message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_yaml(text, "m.yaml")
    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.line, problem.column) == place


def test_utf_16_with_a_mark_is_read() -> None:
    root, _ = read_yaml("a: 猫".encode("utf-16"), "m.yaml")
    assert root is not None
    assert root.value == {"a": "猫"}


def test_an_empty_document_has_no_root() -> None:
    assert read_yaml(b"", "m.yaml") == (None, [])
    assert read_yaml(b"# nothing\n", "m.yaml") == (None, [])


def test_a_long_text_is_no_bomb() -> None:
    root, _ = read_yaml(b"a: data:image/png;base64," + b"A" * 20_000_000, "m.yaml")
    assert root is not None
    assert len(root.value["a"]) == 20_000_022


def test_a_huge_file_is_refused() -> None:
    with pytest.raises(ManifestError, match="64 MiB"):
        read_yaml(b"#" * (ours.MAX_BYTES + 1), "m.yaml")


def aliases(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int, width: int) -> str:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * width)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


def squares(count: int) -> str:
    keys = ", ".join(f"k{i}: 1" for i in range(count))
    return f"a: &a {{{keys}}}\nb:\n" + f"  - <<: [{', '.join(['*a'] * 200)}]\n" * count


def texts() -> str:
    return f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 10_000)}]"


@pytest.mark.parametrize("text", [aliases(12, 9), aliases(40, 2), squares(300), texts()])
def test_what_expands_out_of_proportion_is_refused_at_once(text: str) -> None:
    tracemalloc.start()
    with pytest.raises(ManifestError, match="far larger than the file"):
        read_yaml(text.encode(), "m.yaml")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


def test_nested_merges_cost_what_they_hold() -> None:
    """Some 400 bytes keep safe_load busy for seconds; nine levels more and it would never end."""
    root, _ = read_yaml(merges(18, 9).encode(), "m.yaml")
    assert root is not None
    assert root.value["a17"] == {"k": 1}


def test_a_number_in_base_60_without_end_is_refused() -> None:
    with pytest.raises(ManifestError, match="too long"):
        read_yaml(b"a: 1" + b":59" * 1_000_000, "m.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        read_yaml(data, "m.yaml")


@given(st.text(st.sampled_from("ab:-[]{}&*<>!|'\"#,?%@~ \n\t01.\\é"), max_size=60))
def test_text_like_yaml_is_read_as_the_safe_loader_does(text: str) -> None:
    try:
        root, problems = read_yaml(text.encode(), "m.yaml")
        theirs = yaml.load(text, yaml.CSafeLoader)
    except (ManifestError, yaml.YAMLError, ValueError):
        return
    if not problems:
        assert repr(root and root.value) == repr(theirs)
