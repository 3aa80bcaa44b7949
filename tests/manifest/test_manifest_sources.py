"""Tables stream row by row, globs are sorted, and every fault names its line."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from manifest_help import Folder

from rsbatch.manifest import sources
from rsbatch.manifest.faults import Fault
from rsbatch.manifest.sources import files, read_prompt, rows


def values(folder: Folder, name: str, data: str | bytes) -> list[dict[str, object]]:
    folder.write(name, data)
    return [dict(item.value) for item in rows(folder.path, name)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", b'\xef\xbb\xbfsku, name\r\nA,x\r\n\r\nB,"y, z"\r\n'),
        ("t.tsv", "sku\tname\nA\tx\nB\ty, z\n"),
        ("T.CSV", 'sku,name\nA,x\nB,"y, z"'),
        ("t.jsonl", b'\xef\xbb\xbf{"sku": "A", "name": "x"}\n\n{"sku": "B", "name": "y, z"}'),
        ("t.ndjson", '{"sku": "A", "name": "x"}\r\n{"sku": "B", "name": "y, z"}\r\n'),
        ("t.json", b'\xef\xbb\xbf[{"sku": "A", "name": "x"}, {"sku": "B", "name": "y, z"}]'),
        ("t.yaml", "- {sku: A, name: x}\n- sku: B\n  name: y, z\n"),
        ("t.yml", "- &a {sku: A, name: x}\n- {<<: *a, sku: B, name: 'y, z'}\n"),
    ],
)
def test_tables(folder: Folder, name: str, data: str | bytes) -> None:
    assert values(folder, name, data) == [{"sku": "A", "name": "x"}, {"sku": "B", "name": "y, z"}]


def test_json_values_keep_their_types(folder: Folder) -> None:
    assert values(folder, "t.jsonl", '{"a": 1, "b": null, "c": [1.5, true], "d": "007"}') == [
        {"a": 1, "b": None, "c": [1.5, True], "d": "007"}
    ]


def test_rows_are_numbered_and_labelled(folder: Folder) -> None:
    folder.write("t.csv", 'a\n"x\ny"\n\nz\n')
    assert [(item.number, item.label) for item in rows(folder.path, "t.csv")] == [
        (1, "row 1, t.csv:2"),
        (2, "row 2, t.csv:5"),
    ]
    folder.write("t.json", '[{"a": 1}]')
    assert [item.label for item in rows(folder.path, "t.json")] == ["row 1 of t.json"]


@pytest.mark.parametrize(
    ("name", "data", "line", "message"),
    [
        ("t.csv", "a,b\n1,2\n1\n", 3, "has 1 cells, the header 2"),
        ("t.csv", 'a,b\n"1\n1",2\n1,2,3\n', 4, "has 3 cells"),
        ("t.csv", "a,a\n1,2\n", 1, "'a' is there twice"),
        ("t.csv", "\n\na,\n1,2\n", 3, "column 2 has no name"),
        ("t.csv", "", 0, "is empty"),
        ("t.csv", "\n\n", 0, "is empty"),
        ("t.csv", 'a\n"x" y\n', 2, "not a table"),
        ("t.csv", 'a\n1\n"x\n', 3, "not a table"),
        ("t.csv", b"a\n\xff\n", 1, "not UTF-8"),
        ("t.csv", "a\n", None, "has no rows"),
        ("t.tsv", "a\tb\n1\n", 2, "quote cells"),
        ("t.jsonl", '{"a": 1}\n{"a": }\n', 2, "not JSON"),
        ("t.jsonl", '{"a": 1}\n[1]\n', 2, "must be an object"),
        ("t.jsonl", '{"a": 1, "a": 2}\n', 1, "'a' is there twice"),
        ("t.jsonl", '{"a": NaN}\n', 1, "NaN is not JSON"),
        ("t.jsonl", b'{"a": "\xff"}\n', 1, "not UTF-8"),
        ("t.jsonl", "[" * 100_000, 1, "nested too deeply"),
        ("t.jsonl", '{"a": ' + "9" * 5000 + "}", 1, "not JSON"),
        ("t.jsonl", "\n\n", None, "has no rows"),
        ("t.json", '{"a": 1}', 0, "must be a list"),
        ("t.json", "[1]", 0, "must be an object"),
        ("t.json", "[]", None, "has no rows"),
        ("t.yaml", "a: 1", 1, "must be a list"),
        ("t.yaml", "", 1, "must be a list"),
        ("t.yaml", "- a\n", 1, "must be an object"),
        ("t.yaml", "- {a: 1}\n- {a: 007}\n", 2, 'quote it: "007"'),
        ("t.yaml", "- {a: 1, a: 2}\n", 1, "second time"),
        ("t.yaml", "- {a: [}\n", 1, "not YAML"),
        ("t.xlsx", "x", None, "no table that rsbatch reads"),
        ("t", "x", None, "no table that rsbatch reads"),
    ],
)
def test_what_is_no_table(folder: Folder, name: str, data: str | bytes, line: int | None, message: str) -> None:
    with pytest.raises(Fault) as caught:
        values(folder, name, data)
    assert message in caught.value.message
    if line is None:
        assert caught.value.place is None
    else:
        assert caught.value.place is not None
        assert (caught.value.place.file, caught.value.place.line) == (name, line)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope.csv", "there is no file"),
        ("sub.csv", "is a folder"),
        ("", "no table"),
        ("a\0.csv", "NUL"),
        ("x.csv/y.csv", "there is no file"),
    ],
)
def test_what_is_no_file(folder: Folder, name: str, message: str) -> None:
    (folder.path / "sub.csv").mkdir()
    folder.write("x.csv", "a\n1\n")
    with pytest.raises(Fault, match=message):
        list(rows(folder.path, name))


def test_a_pipe_is_no_table(folder: Folder) -> None:
    os.mkfifo(folder.path / "p.csv")
    with pytest.raises(Fault, match="not a regular file"):
        list(rows(folder.path, "p.csv"))


def test_a_name_too_long_is_a_fault(folder: Folder) -> None:
    with pytest.raises(Fault, match="cannot be read"):
        list(rows(folder.path, "x" * 300 + ".csv"))


def test_tables_that_are_held_have_a_bound(folder: Folder) -> None:
    with open(folder.path / "t.json", "wb") as stream:
        stream.truncate(sources.MAX_TABLE_BYTES + 1)
    with pytest.raises(Fault, match="streamed"):
        list(rows(folder.path, "t.json"))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_rows_are_not_held(folder: Folder, name: str) -> None:
    row = '{"a": "' + "x" * 200 + '"}\n' if name == "t.jsonl" else "x" * 200 + "\n"
    folder.write(name, ("" if name == "t.jsonl" else "a\n") + row * 50_000)
    tracemalloc.start()
    assert sum(1 for _ in rows(folder.path, name)) == 50_000
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_files(folder: Folder) -> None:
    for name in ("photos/b.png", "photos/a.png", "photos/sub/c.png", "photos/.hidden.png", "x.png"):
        folder.write(name, "x")
    (folder.path / "photos" / "dir.png").mkdir()
    assert [dict(item.value) for item in files(folder.path, "photos/*.png")] == [
        {"path": "photos/a.png", "name": "a.png", "stem": "a"},
        {"path": "photos/b.png", "name": "b.png", "stem": "b"},
    ]
    assert [item.value["path"] for item in files(folder.path, "**/*.png")] == [
        "photos/a.png",
        "photos/b.png",
        "photos/sub/c.png",
        "x.png",
    ]
    assert [item.label for item in files(folder.path, "x.png")] == ["file x.png"]
    assert [item.value["path"] for item in files(folder.path / "photos", "../x.png")] == ["../x.png"]
    assert [item.value["stem"] for item in files(folder.path, str(folder.path / "x.*"))] == ["x"]


def test_stars_without_end_take_no_time(folder: Folder) -> None:
    folder.write("a/b/c/d/e/f/g/x.png", b"")
    assert [item.value["name"] for item in files(folder.path, "**/" * 60 + "*.png")] == ["x.png"]


def test_a_glob_without_a_match_is_a_fault(folder: Folder) -> None:
    with pytest.raises(Fault, match=r"no file matches 'photos/\*\.png'"):
        files(folder.path, "photos/*.png")
    with pytest.raises(Fault, match="empty"):
        files(folder.path, "")
    with pytest.raises(Fault, match="cannot be used"):
        files(folder.path, "\ud800/*.png")


def test_a_file_name_that_is_no_text_is_a_fault(folder: Folder) -> None:
    Path(os.fsdecode(os.fsencode(folder.path) + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(Fault, match="no text"):
        files(folder.path, "*.png")


def test_prompt_files(folder: Folder) -> None:
    folder.write("p.md", b"\xef\xbb\xbfA cat.\n")
    assert read_prompt(folder.path, "p.md") == "A cat.\n"
    folder.write("bad.md", b"\xff")
    with pytest.raises(Fault, match="not UTF-8"):
        read_prompt(folder.path, "bad.md")
    folder.write("big.md", "x" * (1024 * 1024 + 1))
    with pytest.raises(Fault, match="1 MiB"):
        read_prompt(folder.path, "big.md")
    with pytest.raises(Fault, match="there is no file"):
        read_prompt(folder.path, "nope.md")
