"""What shows only between tasks, and that looking for it is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from manifest_help import Folder

from rsbatch.manifest.check import Checked


def test_checked(folder: Folder) -> None:
    text = "version: 1\ntasks: [{id: a, prompt: x}, {id: b, prompt: y}, {id: c, prompt: x}, {prompt: x}, "
    text += "{id: d, prompt: y}]"
    checked = folder.checked(text)
    assert checked.total == 5
    assert checked.same_key_groups[0][:2] == ("a", "c")
    assert checked.same_key_groups[1] == ("b", "d")
    assert folder.tasks(text)[0].id == "a"
    assert folder.checked("version: 1\ntasks: [{id: a, prompt: x}]") == Checked(1, ())


@pytest.mark.parametrize(
    ("tasks", "messages"),
    [
        (
            "- {id: a, prompt: x}\n- {id: b, prompt: x}\n- {id: a, prompt: y}",
            ["5:10 tasks[2].id: the id 'a' is that of tasks[0] in line 3 too"],
        ),
        (
            "- {prompt: x}\n- {prompt: x}",
            [
                "4:5 tasks[1]: the request is that of tasks[0] in line 3 again; "
                "for several images of one request use `samples: 2`, or set ids"
            ],
        ),
        (
            "- {prompt: x, matrix: {a: [1, 2, 3, 4, 5, 6]}}",
            [
                *["3:5 tasks[0]: the request is that of tasks[0] in line 3 again; "
                "for several images of one request use `samples: 2`, or set ids"],
                "3:5 tasks[0]: and 2 more like this",
            ],
        ),
        (
            "- {id: a, prompt: 'x{{ row.v }}', rows: t.csv}",
            ["3:10 tasks[0].id: the id 'a' is that of tasks[0] in line 3, row 1 too (row 2)"],
        ),
        (
            "- {id: a, prompt: 'x{{ file.stem }}', files: '*.csv'}",
            ["3:10 tasks[0].id: the id 'a' is that of tasks[0] in line 3, file 1 too (file 2)"],
        ),
        (
            "- {id: A, prompt: x}\n- {id: a, prompt: y}",
            ["4:5 tasks[1]: the tasks 'A' (tasks[0] in line 3) and 'a' have one path, 'a.EXT'"],
        ),
    ],
)  # fmt: skip
def test_twins(folder: Folder, tasks: str, messages: list[str]) -> None:
    folder.write("t.csv", "v\n1\n2\n")
    folder.write("u.csv", "v\n")
    assert folder.messages("version: 1\ntasks:\n" + "".join(f"  {line}\n" for line in tasks.splitlines())) == messages


def test_paths_that_are_one_although_ids_differ(folder: Folder) -> None:
    text = "version: 1\noutput: {path: 'all/{{ n }}.{{ ext }}'}\ntasks: [{id: a, prompt: x, matrix: {n: [1]}}"
    found = folder.messages(text + ", {id: b, prompt: x, matrix: {n: [1]}}]")
    assert len(found) == 1
    assert "have one path, 'all/1.EXT'" in found[0]


def test_an_id_that_is_the_key_of_another(folder: Folder) -> None:
    key = folder.tasks("version: 1\ntasks: [{prompt: x}]")[0].id
    (found,) = folder.messages(f"version: 1\ntasks: [{{id: '{key}', prompt: y}}, {{prompt: x}}]")
    assert found.endswith("is that of tasks[0] in line 2 too; set an id")


def test_other_problems_do_not_hide_twins(folder: Folder) -> None:
    found = folder.messages("version: 1\ntasks: [{id: a, prompt: x}, {id: a, prompt: y}, {id: b, prompt: '{{ z }}'}]")
    assert [line.split(": ")[0] for line in found] == ["2:34 tasks[1].id", "2:65 tasks[2].prompt"]


def test_no_task_at_all(folder: Folder) -> None:
    folder.write("t.csv", "n\n")
    assert folder.messages("version: 1\ntasks: [{prompt: x, rows: t.csv}]") == [
        "2:27 tasks[0].rows: the table 't.csv' has no rows"
    ]


MEASURE = """
import re, sys
from pathlib import Path
from rsbatch.manifest.check import check
from rsbatch.manifest.load import load_manifest
def peak():  # not ru_maxrss, which begins with that of the process that starts this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
manifest = load_manifest(Path(sys.argv[1]))
next(manifest.tasks([]))
before = peak()
print(check(manifest).total, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which is not here")
@pytest.mark.slow
def test_many_tasks_cost_little_memory(folder: Folder) -> None:
    numbers = list(range(450))
    path = folder.write(
        "m.yaml", f"version: 1\ntasks: [{{id: '{{{{ a }}}}-{{{{ b }}}}', prompt: 'x {{{{ a }}}} {{{{ b }}}}', "
        f"matrix: {{a: {numbers}, b: {numbers}}}}}]"
    )  # fmt: skip
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        capture_output=True, check=True, text=True, cwd=Path(__file__).parents[2],
    ).stdout  # fmt: skip
    total, kilobytes = map(int, output.split())
    assert total == 202_500
    assert 1000 < kilobytes < 202_500 * 30 / 1000
