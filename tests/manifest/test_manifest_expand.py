"""What an entry makes: bodies, ids, paths, prices, and the faults found on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from manifest_help import Folder

from rsbatch.errors import Problem
from rsbatch.identity import task_key
from rsbatch.model import LocalImage, Origin

Picture = Callable[..., bytes]


def bodies(folder: Folder, entry: str, **options: Any) -> list[Any]:
    return [dict(task.body) for task in folder.entry(entry, **options)]


def ids(folder: Folder, entry: str, **options: Any) -> list[str]:
    return [task.id for task in folder.entry(entry, **options)]


def faults(folder: Folder, entry: str) -> list[str]:
    """Give the problems of one entry as `path: message`."""
    indented = "".join(f"    {line}\n" for line in entry.strip("\n").splitlines())
    return [f"{p.path}: {p.message}" for p in folder.problems("version: 1\ntasks:\n  -\n" + indented)]


def test_a_plain_task(folder: Folder) -> None:
    (task,) = folder.entry("id: hero\nprompt: 一只橘猫")
    assert (task.id, task.sample, task.path, task.usd) == ("hero", 1, "hero.{ext}", None)
    assert task.body == {"prompt": "一只橘猫"}
    assert task.key == task_key({"prompt": "一只橘猫"}, 1)
    assert task.origin == Origin(0, 4, 0)


def test_every_field_reaches_the_body(folder: Folder) -> None:
    entry = """
prompt: p
model: m
images: [https://x.example/a.png, "", "  "]
mask: https://x.example/m.png
input_fidelity: high
size: 1024x1024
quality: low
background: transparent
n: 1
output_format: jpeg
output_compression: 0
response_format: url
logo_add: 0
logo_param: {text: "{{ name }}", alpha: 0.50, "on": ["{{ sample }}", true, null]}
extra: {revise: 0}
extra_body: {seed: 42, deep: {a: [1.0, "{{ run.date }}"]}}
"""
    assert bodies(folder, entry) == [
        {
            "prompt": "p",
            "model": "m",
            "images": ["https://x.example/a.png"],
            "mask": "https://x.example/m.png",
            "input_fidelity": "high",
            "size": "1024x1024",
            "quality": "low",
            "background": "transparent",
            "n": 1,
            "output_format": "jpeg",
            "output_compression": 0,
            "response_format": "url",
            "logo_add": 0,
            "logo_param": {"text": "m", "alpha": 0.5, "on": ["1", True, None]},
            "extra": {"revise": 0},
            "seed": 42,
            "deep": {"a": [1.0, "2026-05-29"]},
        }
    ]


def test_rendered_text_becomes_its_fields_type(folder: Folder) -> None:
    entry = """
prompt: p
matrix: {q: [80, " 0 ", ""]}
output_compression: "{{ q }}"
logo_add: "{{ 1 if q == 80 else 0 }}"
n: "{{ 1 }}"
extra: '{"q": "{{ q }}", "list": [{{ q | int }}]}'
logo_param: "{{ none }}"
output_format: " {{ 'png' }} "
images: "{{ ['https://x.example/' ~ q | trim, '', ' '] | tojson }}"
mask: "{{ '' }}"
"""
    first, second, third = bodies(folder, entry)
    assert (first["output_compression"], first["logo_add"], first["n"]) == (80, 1, 1)
    assert first["extra"] == {"q": "80", "list": [80]}
    assert first["images"] == ["https://x.example/80"]
    assert (second["output_compression"], second["logo_add"], second["output_format"]) == (0, 0, "png")
    assert "output_compression" not in third
    assert not {"logo_param", "mask"} & first.keys()


def test_what_renders_empty_is_left_out(folder: Folder) -> None:
    assert bodies(folder, "prompt: x\nn: ' '\nimages: '{{ none }}'\nextra_body: '{{ none }}'") == [{"prompt": "x"}]


def test_objects_from_text_may_not_be_nested_without_end(folder: Folder) -> None:
    for levels, message in ((60, None), (80, "more than 64 levels"), (50_000, "nested too deeply")):
        folder.write("t.jsonl", '{"e": "' + '{\\"a\\": ' * levels + "1" + "}" * levels + '"}\n')
        entry = "id: a\nprompt: x\nextra: '{{ row.e }}'\nrows: t.jsonl"
        if message is None:
            assert len(folder.entry(entry)) == 1
        else:
            assert message in faults(folder, entry)[0]


def test_many_prompt_files(folder: Folder) -> None:
    for index in range(150):
        folder.write(f"{index}.md", f"prompt {index}")
    assert len(bodies(folder, f"prompt_file: '{{{{ a }}}}.md'\nmatrix: {{a: {list(range(150))}}}")) == 150


def test_white_space_is_kept_in_prompts_alone(folder: Folder) -> None:
    assert bodies(folder, 'prompt: |\n  two\n  lines\nsize: " 1024x1024 "\nquality: " "') == [
        {"prompt": "two\nlines\n", "size": "1024x1024"}
    ]


def test_defaults_stand_under_each_task(folder: Folder) -> None:
    folder.write("p.md", "from a file\n")
    made = folder.tasks(
        """
version: 1
defaults: {prompt: default, size: 1x1, quality: "{{ name }}", extra: {a: 1, b: 2}}
tasks:
  - id: a
  - {id: b, prompt: own, size: 2x2, extra: {a: 3}}
  - {id: c, size: ~, quality: }
  - {id: d, prompt_file: p.md}
"""
    )
    assert [dict(task.body) for task in made] == [
        {"prompt": "default", "size": "1x1", "quality": "m", "extra": {"a": 1, "b": 2}},
        {"prompt": "own", "size": "2x2", "quality": "m", "extra": {"a": 3}},
        {"prompt": "default", "extra": {"a": 1, "b": 2}},
        {"prompt": "from a file\n", "size": "1x1", "quality": "m", "extra": {"a": 1, "b": 2}},
    ]


def test_a_prompt_replaces_the_prompt_file_of_defaults(folder: Folder) -> None:
    text = "version: 1\ndefaults: {prompt_file: nope.md}\ntasks: [{prompt: own}]"
    assert folder.tasks(text)[0].body == {"prompt": "own"}


def test_prompt_files_are_templates_with_templates_in_their_names(folder: Folder) -> None:
    folder.write("p/cat.md", "A {{ a }}, {{ sample }}.")
    folder.write("p/dog.md", "  ")
    entry = (
        "prompt_file: p/{{ a }}.md\nimages: [https://x.example/]\nmatrix: {a: [cat, dog]}\nid: '{{ a }}'\nsamples: 2"
    )
    assert [body.get("prompt") for body in bodies(folder, entry)] == ["A cat, 1.", "A cat, 2.", None, None]
    assert bodies(folder, "prompt_file: p/cat.md\nmatrix: {a: [b]}\nsamples: 2")[1] == {"prompt": "A b, 2."}


def test_matrix_include_names_reach_the_templates(folder: Folder) -> None:
    made = folder.entry(
        """
id: "{{ animal }}-{{ style | slug }}"
prompt: A {{ animal }} in {{ style }} style
quality: "{{ q | default('medium') }}"
matrix:
  animal: [cat, dog]
  style: [ink, pixel art]
  exclude: [{animal: dog, style: ink}]
  include: [{animal: owl, style: ink, q: high}]
samples: 2
"""
    )
    assert [(task.id, task.body["quality"], task.sample) for task in made] == [
        ("cat-ink-1", "medium", 1),
        ("cat-ink-2", "medium", 2),
        ("cat-pixel-art-1", "medium", 1),
        ("cat-pixel-art-2", "medium", 2),
        ("dog-pixel-art-1", "medium", 1),
        ("dog-pixel-art-2", "medium", 2),
        ("owl-ink-1", "high", 1),
        ("owl-ink-2", "high", 2),
    ]


def test_rows_times_matrix(folder: Folder) -> None:
    folder.write("t.csv", "sku,x y\nA,1\nB,2\n")
    entry = "id: '{{ row.sku }}-{{ s }}'\nprompt: \"{{ row['x y'] }}\"\nrows: t.csv\nmatrix: {s: [k, l]}"
    made = folder.entry(entry)
    assert [(task.id, task.body["prompt"], task.origin.row) for task in made] == [
        ("A-k", "1", 1),
        ("A-l", "1", 1),
        ("B-k", "2", 2),
        ("B-l", "2", 2),
    ]


def test_rows_times_a_large_matrix(folder: Folder) -> None:
    folder.write("t.csv", "sku\nA\nB\n")
    numbers = list(range(65))
    entry = f"prompt: '{{{{ row.sku }}}} {{{{ a }}}} {{{{ b }}}}'\nrows: t.csv\nmatrix: {{a: {numbers}, b: {numbers}}}"
    assert len(folder.entry(entry)) == 2 * 65 * 65


def test_tables_and_globs_may_be_named_by_templates(folder: Folder) -> None:
    folder.write("t-2026-05-29.csv", "a\n1\n")
    assert ids(folder, "id: '{{ row.a }}'\nprompt: x\nrows: t-{{ run.date }}.csv") == ["1"]
    assert ids(folder, "id: '{{ file.stem }}'\nprompt: x\nfiles: 't-{{ run.date }}.*'") == ["t-2026-05-29"]


def test_local_images(folder: Folder, picture: Picture) -> None:
    for name in ("photos/b.png", "photos/a.png", "masks/a.png", "masks/b.png"):
        folder.write(name, picture(colour=len(name) + ord(name[-5])))
    entry = """
id: cut-{{ file.stem }}
files: photos/*.png
images: ["{{ file.path }}", https://x.example/]
mask: masks/{{ file.stem }}.png
"""
    made = folder.entry(entry)
    assert [task.id for task in made] == ["cut-a", "cut-b"]
    image = made[0].body["images"][0]
    data = (folder.path / "photos/a.png").read_bytes()
    assert image == LocalImage(hashlib.sha256(data).hexdigest(), "image/png", len(data), folder.path / "photos/a.png")
    assert isinstance(made[0].body["mask"], LocalImage)
    folder.write("photos/a.png", picture(colour=99))
    again = folder.entry(entry)
    assert again[0].key != made[0].key
    assert again[1].key == made[1].key


@pytest.mark.parametrize(
    ("entry", "made"),
    [
        ("id: a\nsamples: 1", ["a-1"]),
        ("id: a\nsamples: 3", ["a-1", "a-2", "a-3"]),
        ("id: 'a{{ sample }}'\nsamples: 2", ["a1", "a2"]),
        ("id: '{{ a }}'\nmatrix: {a: [x, y]}\nsamples: \"{{ 2 if a == 'x' else 1 }}\"", ["x-1", "x-2", "y-1"]),
        ("id: a\nsamples: '{{ none }}'", ["a"]),
        ("id: e\u0301", ["é"]),
    ],
)
def test_ids_and_samples(folder: Folder, entry: str, made: list[str]) -> None:
    assert ids(folder, entry + "\nprompt: p{{ 1 }}") == made


def test_without_an_id_it_is_the_start_of_the_key(folder: Folder) -> None:
    made = folder.entry("prompt: x\nsamples: 2")
    assert [task.id for task in made] == [task.key[:12] for task in made]
    assert [task.key for task in made] == [task_key({"prompt": "x"}, 1), task_key({"prompt": "x"}, 2)]


def test_a_prompt_may_use_the_sample_number(folder: Folder) -> None:
    assert [body["prompt"] for body in bodies(folder, "prompt: 'no. {{ sample }}'\nsamples: 2")] == ["no. 1", "no. 2"]


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("{{ id }}.{{ ext }}", "a.{ext}"),
        ("{{ name }}/{{ id }}", "m/a.{ext}"),
        ("{{ id }}.PNG", "a.{ext}"),
        ("{{ id }}.jpeg", "a.{ext}"),
        ("{{ ext }}/{{ id }}.{{ ext }}", "{ext}/a.{ext}"),
        ("{{ id }}-{{ sample }}-{{ run.date }}", "a-1-2026-05-29.{ext}"),
        ("e\u0301/{{ id | upper }}.v1", "é/A.v1.{ext}"),
    ],
)
def test_paths(folder: Folder, path: str, made: str) -> None:
    text = f"version: 1\noutput: {{path: '{path}'}}\ntasks: [{{id: a, prompt: x}}]"
    assert [task.path for task in folder.tasks(text)] == [made]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../{{ id }}.{{ ext }}", "leaves the output folder"),
        ("/tmp/{{ id }}.{{ ext }}", "is absolute"),
        ("ledger.jsonl.{{ ext }}", "has a name that rsbatch uses itself"),
    ],
)
def test_paths_that_lead_elsewhere(folder: Folder, path: str, message: str) -> None:
    (said,) = folder.messages(f"version: 1\noutput: {{path: '{path}'}}\ntasks: [{{id: a, prompt: x}}]")
    assert message in said


def test_a_new_sample_has_an_id_and_a_path_too(folder: Folder) -> None:
    manifest = folder.load(f"version: 1\ntasks: [{{id: {'a' * 199}, prompt: x}}]")
    (one,) = manifest.tasks([])
    problems: list[Problem] = []
    found = list(replace(manifest, redos={(one.id, one.key): 1}).tasks(problems))
    assert found == [replace(one, replaced=True)]
    assert "the new sample" in problems[0].message


def test_samples_have_an_end(folder: Folder) -> None:
    for count in ("10001", "'{{ 10001 }}'"):
        assert folder.problems(f"version: 1\ntasks: [{{id: a, prompt: x, samples: {count}}}]")


def test_prices(folder: Folder) -> None:
    made = folder.tasks(
        """
version: 1
tasks:
  - {id: a, prompt: x, quality: low}
  - {id: b, prompt: x, quality: low, model: gpt-image-2}
  - {id: c, prompt: x, quality: high, model: other}
  - {id: d, prompt: x, extra_body: {quality: low}}
  - {id: e, prompt: x, logo_add: 1, model: other}
prices:
  - {model: gpt-image-2, quality: low, usd: 0.0072}
  - {model: gpt-image-2, usd: 0.0636}
  - {logo_add: 1, usd: 1}
"""
    )
    assert [task.usd for task in made] == [Decimal("0.0072"), Decimal("0.0072"), None, Decimal("0.0072"), Decimal(1)]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("id: a", "tasks[0]: has neither a prompt nor images"),
        ("prompt: ''", "tasks[0]: has neither a prompt nor images"),
        ("prompt: ' '\nimages: ['', '{{ none }}']", "tasks[0]: has neither a prompt nor images"),
        ("prompt: x\nprompt_file: p.md", "tasks[0].prompt_file: prompt and prompt_file exclude each other"),
        ("prompt_file: nope.md", "tasks[0].prompt_file: there is no file 'nope.md'"),
        ("prompt_file: '{{ 1 }}.md'", "tasks[0].prompt_file: there is no file '1.md'"),
        ("prompt_file: bad.md", "tasks[0].prompt_file: in bad.md: the name 'nope' is not known here"),
        ("prompt_file: broken.md", "tasks[0].prompt_file: template: unexpected end"),
        ("prompt_file: 7", 'tasks[0].prompt_file: text belongs here; quote it: "7"'),
        ("promt: x\nprompt: x", "tasks[0].promt: unknown key 'promt'; did you mean 'prompt'?"),
        ("prompt: x\nseed: 1", "tasks[0].seed: unknown key 'seed'; fields of the service that are not listed go under"),
        ("prompt: 007", 'tasks[0].prompt: text belongs here; quote it: "007"'),
        ("prompt: [x]", "tasks[0].prompt: text belongs here, not a list"),
        ("prompt: {a: b}", "tasks[0].prompt: text belongs here, not a mapping"),
        ("prompt: x\nid:", "tasks[0].id: is empty; write a text or remove the key"),
        ("prompt: x\nid: ''", "tasks[0].id: is empty; write a text or remove the key"),
        ("prompt: x\nid: '{{ none }}'", "tasks[0].id: an id cannot be empty"),
        ("prompt: x\nid: '{{ none }}'\nsamples: 2", "tasks[0].id: an id cannot be empty"),
        ("prompt: x\nid: a b", "tasks[0].id: the id 'a b' has ' ' in it"),
        ("prompt: x\nsize: 1024", 'tasks[0].size: text belongs here; quote it: "1024"'),
        ("prompt: x\nquality: no", 'tasks[0].quality: text belongs here; quote it: "no"'),
        ("prompt: x\nsize: 1:30", 'tasks[0].size: text belongs here; quote it: "1:30"'),
        ("prompt: x\nn: 2", "tasks[0].n: n can be 1 only; the service makes one image a task; use `samples: 2`"),
        ("prompt: x\nn: '{{ 3 }}'", "tasks[0].n: n can be 1 only; the service makes one image a task; use `samples: 3"),
        ("prompt: x\nn: ' '\nimages: '{{ none }}'\nextra_body: '{{ none }}'\nsize: 7", "tasks[0].size: text"),
        ("prompt: x\nn: many", "tasks[0].n: n can be 1 only; the service makes one image a task; use"),
        ("prompt: x\nn: true", "tasks[0].n: must be a whole number, not true"),
        ("prompt: x\nextra_body: {n: 4}", "tasks[0].extra_body: n can be 1 only"),
        ("prompt: x\nextra_body: '{\"n\": {{ 4 }}}'", "tasks[0].extra_body: n can be 1 only"),
        ("prompt: x\nextra_body: {prompt: y}", "tasks[0].extra_body: extra_body has 'prompt', which the task sets too"),
        ("prompt: x\nextra_body: '{\"prompt\": \"{{ 4 }}\"}'", "tasks[0].extra_body: extra_body has 'prompt', which"),
        ("prompt_file: ok.md\nextra_body: {prompt: y}", "tasks[0].extra_body: extra_body has 'prompt', which"),
        ("prompt: x\nextra_body: [1]", "tasks[0].extra_body: must be a mapping (key: value), not a list"),
        ("prompt: x\nextra_body: x", "tasks[0].extra_body: must be a mapping (key: value), not x"),
        ("prompt: x\nextra: '{{ 1 }}'", "tasks[0].extra: must render to a JSON object"),
        ("prompt: x\nextra: '{{ \"{\" }}'", "tasks[0].extra: is not JSON"),
        ("prompt: x\nextra: {a: ['{{ nope }}']}", "tasks[0].extra.a[0]: the name 'nope' is not known here"),
        ("prompt: x\nextra: {a: ['{{']}", "tasks[0].extra.a[0]: template"),
        ("prompt: x\nextra: {a: no}", 'tasks[0].extra.a: YAML reads this as false; quote it: "no"'),
        ("prompt: x\nextra: {a: 010}", 'tasks[0].extra.a: YAML reads this as 8; quote it: "010"'),
        ("prompt: x\nextra: {a: 2026-01-01}", "tasks[0].extra.a: YAML reads this as 2026-01-01; quote it"),
        ("prompt: x\nextra: {a: .nan}", "tasks[0]: the request cannot be sent: Out of range float"),
        ("prompt: x\nextra: {1: a}", 'tasks[0].extra.1: quote it: "1"'),
        ("prompt: \"{{ '\\ud800' }}\"", None),
        ("prompt: \"{{ '\\\\ud800' }}\"", "tasks[0]: the request cannot be sent: half of a surrogate pair"),
        ("prompt: x\nimages: https://x.example/", "tasks[0].images: must be a list, not https://x.example/"),
        ("prompt: x\nimages: [7]", 'tasks[0].images[0]: text belongs here; quote it: "7"'),
        ("prompt: x\nimages: ['{{']", "tasks[0].images[0]: template"),
        ("prompt: x\nimages: ['', '{{ nope }}']", "tasks[0].images[1]: the name 'nope' is not known"),
        ("prompt: x\nimages: '{{ 1 }}'", "tasks[0].images: must render to a JSON list of texts"),
        ("prompt: x\nimages: ['', ok.md]", "tasks[0].images[1]: 'ok.md' is not a PNG, JPEG, WebP or GIF image"),
        ("prompt: x\nmask: ../../../../../../etc/passwd", "tasks[0].mask: '../../../../../../etc/passwd' is not"),
        ("prompt: x\noutput_format: jpg", "tasks[0].output_format: 'jpg' is none of png, jpeg, webp; write jpeg"),
        ("prompt: x\noutput_format: '{{ \"gif\" }}'", "tasks[0].output_format: 'gif' is none of png, jpeg, webp"),
        ("prompt: x\noutput_format: 7", 'tasks[0].output_format: text belongs here; quote it: "7"'),
        ("prompt: x\noutput_compression: 101", "tasks[0].output_compression: must be less than or equal to 100"),
        ("prompt: x\noutput_compression: '101'", "tasks[0].output_compression: must be 0 to 100, not 101"),
        ("prompt: x\noutput_compression: '{{ 1.5 }}'", "tasks[0].output_compression: must be a whole number, not '1"),
        ("prompt: x\noutput_compression: 8.5", "tasks[0].output_compression: must be a whole number, not 8.5"),
        ("prompt: x\noutput_compression: 010", 'tasks[0].output_compression: YAML reads this as 8; quote it: "010"'),
        ("prompt: x\nlogo_add: true", "tasks[0].logo_add: must be a whole number, not true"),
        ("prompt: x\nlogo_add: '2'", "tasks[0].logo_add: must be 0 or 1, not 2"),
        ("prompt: x\nsamples: 0", "tasks[0].samples: must be greater than or equal to 1"),
        ("prompt: x\nsamples: 010", 'tasks[0].samples: YAML reads this as 8; quote it: "010"'),
        ("prompt: x\nsamples: '3'", "tasks[0].samples: must be a whole number, not 3"),
        ("prompt: x\nsamples: '{{ 0 }}'", "tasks[0].samples: must be 1 to 10000, not 0"),
        ("prompt: x\nrows: t.csv\nfiles: '*'", "tasks[0].files: rows and files exclude each other"),
        ("prompt: x\nrows: nope.csv", "tasks[0].rows: there is no file 'nope.csv'"),
        ("prompt: x\nrows: '{{ name }}.csv'", "tasks[0].rows: there is no file 'm.csv'"),
        ("prompt: x\nrows: '{{ nope }}.csv'", "tasks[0].rows: the name 'nope' is not known here"),
        ("prompt: x\nrows: ''", "tasks[0].rows: is empty"),
        ("prompt: x\nrows: ok.md", "tasks[0].rows: 'ok.md' is no table that rsbatch reads"),
        ("prompt: x\nfiles: '*.nope'", "tasks[0].files: no file matches '*.nope'"),
        ("prompt: x\nmatrix: [a]", "tasks[0].matrix: must be a mapping (key: value), not a list"),
        ("prompt: x\nmatrix: {}", "tasks[0].matrix: is empty"),
        ("prompt: x\nmatrix: {a: b}", "tasks[0].matrix.a: must be a list, such as [b]"),
        ("prompt: x\nmatrix: {a: []}", "tasks[0].matrix.a: is empty"),
        ("prompt: x\nmatrix: {a: [1:30]}", 'tasks[0].matrix.a[0]: YAML reads this as 90; quote it: "1:30"'),
        ("prompt: x\nmatrix: {row: [b]}", "tasks[0].matrix.row: 'row' has a meaning in templates already"),
        ("prompt: x\nmatrix: {a-b: [b]}", "tasks[0].matrix.a-b: 'a-b' is not a name that templates can use"),
        ("prompt: x\nmatrix: {a: [b], exclude: [{c: 1}]}", "tasks[0].matrix.exclude[0].c: 'c' is no axis of this"),
        ("prompt: x\nmatrix: {a: [b], exclude: {a: b}}", "tasks[0].matrix.exclude: must be a list"),
        ("prompt: x\nmatrix: {a: [b], exclude: [b]}", "tasks[0].matrix.exclude[0]: must be a mapping, such as {a: v"),
        ("prompt: x\nmatrix: {a: [b], include: [{}]}", "tasks[0].matrix.include[0]: must be a mapping"),
        ("prompt: x\nmatrix: {a: [b], include: [{id: c}]}", "tasks[0].matrix.include[0].id: 'id' has a meaning"),
        ("prompt: x\nmatrix: {a: [b], exclude: [{a: b}]}", "tasks[0]: the matrix has no combinations left"),
        (
            "prompt: x{{ a }}\nmatrix: {a: [b], include: [{a: c, quality: high}]}",
            "tasks[0].matrix.include[0].quality: include adds names for templates only; "
            'to set the field write quality: "{{ quality }}" too',
        ),
    ],
)  # fmt: skip
def test_faults(folder: Folder, entry: str, message: str | None) -> None:
    folder.write("ok.md", "x")
    folder.write("p.md", "x")
    folder.write("bad.md", "{{ nope }}")
    folder.write("broken.md", "{{ nope")
    folder.write("t.csv", "a\n1\n")
    if message is None:
        folder.problems("version: 1\ntasks:\n  - " + entry)
        return
    (found,) = faults(folder, entry)
    assert found.startswith(message)


def test_include_may_add_a_field_that_a_template_uses(folder: Folder) -> None:
    entry = "prompt: x{{ a }}\nquality: '{{ quality }}'\nmatrix: {a: [b], include: [{quality: high}]}"
    assert bodies(folder, entry) == [{"prompt": "xb", "quality": "high"}]
    folder.write("p.md", "{{ a }}{{ size }}")
    assert bodies(folder, "prompt_file: p.md\nmatrix: {a: [b], include: [{size: big}]}") == [{"prompt": "bbig"}]
    folder.write("b.md", "{{ size }}")
    assert bodies(folder, "prompt_file: '{{ a }}.md'\nmatrix: {a: [b], include: [{size: big}]}") == [{"prompt": "big"}]


def test_names_of_vars_and_axes_may_not_meet(folder: Folder) -> None:
    text = "version: 1\nvars: {a: 1}\ntasks: [{prompt: x, matrix: {a: [1], include: [{a: 1, b: 2}]}}]"
    assert [m.split(": ", 1)[1] for m in folder.messages(text)] == ["'a' is in vars too; use another name"]
    (found,) = folder.messages(text.replace("vars: {a: 1}", ""), variables={"b": "x"})
    assert "'b' is in vars too" in found


def test_problems_of_defaults_come_once(folder: Folder) -> None:
    text = "version: 1\ndefaults: {prompt_file: nope.md, size: '{{'}\ntasks: [{id: a}, {id: b}]"
    assert len(folder.messages(text)) == 2
    (found,) = folder.messages("version: 1\ndefaults: {prompt: a, prompt_file: b}\ntasks: [{id: a, prompt: x}]")
    assert "exclude each other" in found


def test_alike_faults_are_folded(folder: Folder) -> None:
    folder.write("t.csv", "a\n" + "x\n" * 10)
    found = folder.messages("version: 1\ntasks: [{prompt: '{{ row.b }}', rows: t.csv, matrix: {s: [1, 2]}}]")
    assert found == [
        "2:18 tasks[0].prompt: the table has no column 'b'; it has: a (row 1, t.csv:2; s=1)",
        "2:18 tasks[0].prompt: the table has no column 'b'; it has: a (row 1, t.csv:2; s=2)",
        "2:18 tasks[0].prompt: the table has no column 'b'; it has: a (row 2, t.csv:3; s=1)",
        "2:18 tasks[0].prompt: and 17 more like this",
    ]


def test_a_fault_in_one_row_does_not_hide_the_others(folder: Folder) -> None:
    folder.write("t.jsonl", '{"a": "1"}\n{"b": "2"}\n{"a": "3"}\n[]\n')
    manifest = folder.load("version: 1\ntasks: [{id: '{{ row.a }}', prompt: x, rows: t.jsonl}, {id: z, prompt: x}]")
    problems: list[Problem] = []
    assert [task.id for task in manifest.tasks(problems)] == ["1", "3", "z"]
    assert [(p.file, p.line) for p in problems] == [(str(folder.path / "m.yaml"), 2), ("t.jsonl", 4)]


def test_faults_of_defaults_and_paths_name_the_task(folder: Folder) -> None:
    text = "version: 1\ndefaults: {size: '{{ a }}'}\ntasks: [{prompt: x}, {prompt: x, matrix: {a: [1]}}]"
    assert folder.messages(text) == [
        "2:18 defaults.size: the name 'a' is not known here; known: name, run, sample (tasks[0])"
    ]


def test_anchors_and_merges_make_tasks(folder: Folder) -> None:
    made = folder.tasks(
        """
version: 1
tasks:
  - &base {id: a, prompt: x, size: 1x1, extra: &e {k: "{{ name }}"}}
  - {<<: *base, id: b, size: 2x2}
  - {id: c, prompt: y, extra: *e}
"""
    )
    assert [dict(task.body) for task in made] == [
        {"prompt": "x", "size": "1x1", "extra": {"k": "m"}},
        {"prompt": "x", "size": "2x2", "extra": {"k": "m"}},
        {"prompt": "y", "extra": {"k": "m"}},
    ]
