"""`init --from`: whatever is given, `plan` takes what is written, and finds the tasks that were meant."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rsbatch.cli import main
from rsbatch.manifest.check import survey
from rsbatch.manifest.load import load_manifest
from rsbatch.model import Task


def started(folder: Path, source: Path, into: str = "new") -> list[Task]:
    """Run init, and give the tasks of what it wrote."""
    assert main(["init", str(folder / into), "--from", str(source)]) == 0
    assert main(["plan", str(folder / into / "manifest.yaml"), "--json"]) == 0
    manifest = load_manifest(folder / into / "manifest.yaml")
    tasks: list[Task] = []
    _, problems = survey(manifest, tasks.append)
    assert problems == []
    assert all(task.usd is not None for task in tasks), "there is a budget, so each needs a price"
    return tasks


def table(folder: Path, text: str, name: str = "Rows of 2026.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_prompts_become_tasks_with_ids_to_read(tmp_path: Path) -> None:
    prompts = [
        "A cat",
        "A cat!",
        "a CAT",
        "A cat-2",
        '一只橘猫: "坐着" # neon',
        "- {{ not a template }}",
        "{% odd",
        "line\u2028end \x07",
        "🎨",
        "no",
    ]
    tasks = started(tmp_path, table(tmp_path, "\ufeff" + "\n\n".join(prompts) + "\r\n", "prompts.txt"))
    assert [task.body["prompt"] for task in tasks] == prompts
    assert [task.id for task in tasks[:5]] == ["a-cat", "a-cat-2", "a-cat-3", "a-cat-2-2", "一只橘猫-坐着-neon"]


@pytest.mark.parametrize(
    ("text", "ids", "prompts"),
    [
        ("sku,name\nA 1,mug\nA-2,cup\n", ["a-1", "a-2"], ["mug", "cup"]),
        ("SKU,Prompt,x\nA1,a mug,1\nA2,a cup,\n", ["A1", "A2"], ["a mug", "a cup"]),
        ("name,main colour\nmug,red\nmug,blue\n", None, ["mug, red", "mug, blue"]),
        ("id,it's\n1,a\n2,b\n", ["1", "2"], ["a", "b"]),
        ("id\nx\ny\n", ["x", "y"], ["x", "y"]),
        ("id,prompt\nx,cat\nX,dog\n", None, ["cat", "dog"]),
        ("id,name,caption\nx,a,cat\ny,b,\n", ["x", "y"], ["a", "b"]),
        ("id, prompt\nx, cat\ny,dog\n", ["x", "y"], [" cat", "dog"]),
        ("a,b\n,1\n2,\n", None, [", 1", "2, "]),
        ("id,prompt\n,cat\nb,dog\n", ["b"], ["cat", "dog"]),
    ],
)
def test_a_table_is_read_for_its_columns(tmp_path: Path, text: str, ids: list[str] | None, prompts: list[str]) -> None:
    tasks = started(tmp_path, table(tmp_path, text))
    assert [task.body["prompt"] for task in tasks] == prompts
    if ids is None:
        assert all(len(task.id) == 12 for task in tasks)
    else:
        assert [task.id for task in tasks][-len(ids) :] == ids


def test_columns_of_images_become_reference_images(tmp_path: Path) -> None:
    picture(tmp_path / "new" / "pics" / "a.png")
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": "cat", "photo": "pics/a.png"},
        {"id": "b", "prompt": "dog", "photo": "https://x/b.png"},
    ]
    path = table(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    assert [len(task.body["images"]) for task in started(tmp_path, path)] == [1, 1]
    rows[1]["photo"] = "pics/nowhere.png"
    path = table(tmp_path, json.dumps(rows), "rows.json")
    assert all("images" not in task.body for task in started(tmp_path, path, "other"))
    assert '# images: ["{{ row.photo }}"]' in (tmp_path / "other" / "manifest.yaml").read_text("utf-8")


def test_a_folder_becomes_a_task_an_image(tmp_path: Path) -> None:
    photos = tmp_path / "photos [1] {{x}}"
    for name in ("Cat 1.png", "dog.PNG", "owl.jpg"):
        picture(photos / name)
    (photos / "notes.txt").touch()
    tasks = started(tmp_path, photos)
    assert sorted(task.id for task in tasks) == ["cat-1", "dog", "owl"]
    assert all(len(task.body["images"]) == 1 for task in tasks)
    picture(photos / "Dog.webp")
    assert "dog-webp" in {task.id for task in started(tmp_path, photos, "again")}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("prompts.txt", b"\n \n", "has no prompts"),
        ("prompts.txt", b"\xff", "is not UTF-8"),
        ("rows.csv", b"a,b\n", "has no rows"),
        ("rows.csv", b"a,b\n1\n", "has 1 cells"),
        ("rows.csv", b"id,Prompt\na,cat\nb, \n", "row 2, rows.csv:3: the column 'Prompt' is empty there; fill it in"),
        ("rows.csv", b"id,caption\n,\nb,dog\nc,\n", "row 1, rows.csv:2: the column 'caption' is empty there"),
        (
            "rows.jsonl",
            b'{"id": "a", "prompt": "x"}\n{"id": "b"}\n',
            "row 2, rows.jsonl:2: the column 'prompt' is empty",
        ),
        ("rows.jsonl", b'{"id": "a"}\n{"id": "b", "prompt": "x"}\n', "row 1: the column 'prompt' is empty"),
        ("nope.txt", None, "No such file"),
        ("nope.csv", None, "there is no file"),
    ],
)
def test_what_cannot_be_read_is_told_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes | None, words: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert main(["init", str(tmp_path / "new"), "--from", str(tmp_path / name)]) == 2
    assert words in (said := capsys.readouterr().err)
    assert "othing was written" in said
    assert not (tmp_path / "new").exists()


def test_a_folder_without_images_and_a_manifest_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "new"), "--from", str(tmp_path)]) == 2
    assert "has no images" in capsys.readouterr().err
    prompts = table(tmp_path, "cat\n", "p.txt")
    (tmp_path / "manifest.yaml").write_text("mine")
    assert main(["init", str(tmp_path), "--from", str(prompts)]) == 2
    assert (tmp_path / "manifest.yaml").read_text() == "mine"


@pytest.mark.parametrize("stem", ["2026", "no", "null", "2026-11-22", "1:30"])
def test_the_name_is_text_whatever_the_source_is_called(tmp_path: Path, stem: str) -> None:
    assert len(started(tmp_path, table(tmp_path, "a cat\n", f"{stem}.txt"))) == 1


@pytest.mark.parametrize("line", ["Hi {% endraw %}{{ 7*7 }}", r'{%- endraw -%} {{ "x\n" { 猫 😀', "{% raw %}{{ x }}"])
def test_a_prompt_of_template_marks_stays_as_it_is(tmp_path: Path, line: str) -> None:
    assert [task.body["prompt"] for task in started(tmp_path, table(tmp_path, f"{line}\n", "p.txt"))] == [line]


def test_names_that_cannot_be_written_down_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "photos" / "a\nb.png")
    assert main(["init", str(tmp_path / "new"), "--from", str(tmp_path / "photos")]) == 2
    assert r"rename 'a\nb.png'" in capsys.readouterr().err


def test_half_a_manifest_does_not_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = table(tmp_path, "\n".join(f"picture {n}" for n in range(2000)), "p.txt")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # as a full disk: the write fails half way
    try:
        assert main(["init", str(tmp_path / "new"), "--from", str(prompts)]) == 4
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "manifest.yaml: File too large" in capsys.readouterr().err
    assert not list((tmp_path / "new").iterdir())
