"""A manifest's settings, with their defaults, and everything that can be wrong with them."""

from __future__ import annotations

import contextlib
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_help import Folder

from rsbatch.errors import Exit, ManifestError, UsageError
from rsbatch.manifest.check import check
from rsbatch.manifest.load import load_manifest, utc_today
from rsbatch.model import Api, Limits, Rules

ONE = "version: 1\ntasks: [{id: a, prompt: x}]\n"


def test_defaults(folder: Folder) -> None:
    manifest = folder.load(ONE)
    assert manifest.name == "m"
    assert manifest.path == folder.path / "m.yaml"
    assert manifest.output_dir == folder.path / "outputs" / "m"
    assert (manifest.limits, manifest.rules, manifest.api) == (Limits(), Rules(), Api())
    assert (manifest.prices, manifest.ping, manifest.sidecar) == ((), None, True)
    assert (manifest.run_date, manifest.dated_output) == ("2026-05-29", False)
    assert len(manifest.sha256) == 64
    assert check(manifest).total == 1


def test_all_settings(folder: Folder) -> None:
    manifest = folder.load(
        ONE
        + """
name: nightly
vars: {brand: Acme}
output: {dir: "../out/{{ name }}-{{ brand }}-{{ run.date }}", path: "{{ id }}.png", sidecar: false}
limits:
  in_flight: 3
  submits_per_second: 2.5
  queries_per_second: 7
  downloads: 1
  task_timeout: 1h30m
  max_image_bytes: 10MB
run: {budget: 25.10, stop_after: 6h, max_failures: 5, in_doubt: resubmit, max_in_doubt: 1}
prices:
  - {model: gpt-image-2, quality: low, output_compression: 80, usd: 0.0072}
  - {usd: "0.1"}
notify: {ping: https://hc-ping.example/uuid}
api: {base_url: "https://other.example/v2/", key_env: OTHER_KEY}
"""
    )
    assert manifest.name == "nightly"
    assert manifest.output_dir == folder.path.parent / "out" / "nightly-Acme-2026-05-29"
    assert manifest.dated_output
    assert not manifest.sidecar
    assert manifest.limits == Limits(3, 2.5, 7.0, 1, 5400.0, 10_000_000)
    assert manifest.rules == Rules(Decimal("25.10"), 21600.0, 5, "resubmit", 1)
    assert str(manifest.rules.budget) == "25.10"
    assert [(dict(rule.conditions), rule.usd) for rule in manifest.prices] == [
        ({"model": "gpt-image-2", "quality": "low", "output_compression": 80}, Decimal("0.0072")),
        ({}, Decimal("0.1")),
    ]
    assert manifest.ping == "https://hc-ping.example/uuid"
    assert manifest.api == Api("https://other.example/v2", "OTHER_KEY")


def test_empty_sections_are_as_good_as_none(folder: Folder) -> None:
    names = ("vars", "defaults", "output", "limits", "run", "prices", "notify", "api")
    assert folder.load(ONE + "".join(f"{name}:\n" for name in names)).limits == Limits()


@pytest.mark.parametrize(
    ("stem", "name"),
    [("icons", "icons"), ("my icons", "my-icons"), ("Größe", "Größe"), ("e\u0301", "é"), ("v1.2", "v1.2")],
)
def test_the_name_is_that_of_the_file(folder: Folder, stem: str, name: str) -> None:
    assert load_manifest(folder.write(f"{stem}.yaml", ONE)).name == name


def test_output_of_the_command_line_is_relative_to_the_working_directory(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path.parent)
    manifest = folder.load(ONE + 'output: {dir: "x-{{ run.date }}"}', output=Path("elsewhere"))
    assert manifest.output_dir == folder.path.parent / "elsewhere"
    assert not manifest.dated_output
    assert load_manifest(Path(folder.path.name) / "m.yaml").output_dir.parent == folder.path


def test_a_home_folder_is_expanded(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert folder.load(ONE + "output: {dir: ~/pictures}").output_dir == Path("/home/me/pictures")


def test_the_date(folder: Folder) -> None:
    assert folder.load(ONE, date="2025-01-31").run_date == "2025-01-31"
    assert folder.load(ONE, today=utc_today).run_date in {utc_today().isoformat(), date.today().isoformat()}
    for wrong in ("yesterday", "2025-02-30", "20250131", "2025-1-31", ""):
        with pytest.raises(UsageError, match="YYYY-MM-DD"):
            folder.load(ONE, date=wrong)


def test_variables_win_and_may_be_new(folder: Folder) -> None:
    text = "version: 1\nvars: {a: 1, b: 2}\ntasks: [{prompt: '{{ a }}-{{ b }}-{{ c }}'}]"
    (task,) = folder.tasks(text, variables={"b": "B", "c": "C"})
    assert task.body == {"prompt": "1-B-C"}
    for wrong in ("row", "a-b", "", "if"):
        with pytest.raises(UsageError, match="--var"):
            folder.load(ONE, variables={wrong: "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a/b", "3:7 name: the name 'a/b' has '/' in it"),
        ("name: 007", '3:7 name: text belongs here; quote it: "007"'),
        ("nmae: x", "3:1 nmae: unknown key 'nmae'; did you mean 'name'?"),
        ("Output: {}", "3:1 Output: unknown key 'Output'; did you mean 'output'?"),
        ("quality: low", "3:1 quality: unknown key 'quality' here; fields of a request go under defaults or a task"),
        ("zzz: 1", "3:1 zzz: unknown key 'zzz'; known: version, name"),
        ("vars: [a]", "3:7 vars: must be a mapping"),
        ("vars: {row: 1}", "3:8 vars.row: 'row' has a meaning in templates already"),
        ("vars: {a-b: 1}", "3:8 vars.a-b: 'a-b' is not a name; use letters, digits and _"),
        ("vars: {a: 1:30}", '3:11 vars.a: YAML reads this as 90; quote it: "1:30"'),
        ("vars: {a: [x, 010]}", '3:15 vars.a[1]: YAML reads this as 8; quote it: "010"'),
        ("vars: {a: 2026-05-29}", '3:11 vars.a: YAML reads this as 2026-05-29; quote it: "2026-05-29"'),
        ("vars: {a: 1.10}", '3:11 vars.a: YAML reads this as 1.1; quote it: "1.10"'),
        ("vars: {a: no}", '3:11 vars.a: YAML reads this as false; quote it: "no"'),
        ("vars: {no: 1}", '3:8 vars.no: quote it: "no"'),
        ("limits: {in_flight: 0}", "3:21 limits.in_flight: must be greater than or equal to 1"),
        ("limits: {in_flight: 2.5}", "3:21 limits.in_flight: must be a whole number, not 2.5"),
        ("limits: {in_flight: '8'}", "3:21 limits.in_flight: must be a whole number, not 8"),
        ("limits: {in_flight: true}", "3:21 limits.in_flight: must be a whole number, not true"),
        ("limits: {in_flight: 010}", '3:21 limits.in_flight: YAML reads this as 8; quote it: "010"'),
        ("limits: {in_flight: }", "3:21 limits.in_flight: must be a whole number, not nothing"),
        ("limits: {downloads: [1]}", "3:21 limits.downloads: must be a whole number, not a list"),
        ("limits: {submits_per_second: 0}", "3:30 limits.submits_per_second: must be greater than 0"),
        ("limits: {submits_per_second: .nan}", "3:30 limits.submits_per_second: must be"),
        ("limits: {submits_per_second: x}", "3:30 limits.submits_per_second: must be a number, not x"),
        ("limits: {task_timeout: 30}", "3:24 limits.task_timeout: '30' is not a duration; write one such as 90s"),
        ("limits: {task_timeout: 0s}", "3:24 limits.task_timeout: must be more than 0"),
        ("limits: {task_timeout: 1:30}", "3:24 limits.task_timeout: '90' is not a duration"),
        ("limits: {task_timeout: [1]}", "3:24 limits.task_timeout: a single value belongs here"),
        ("limits: {max_image_bytes: 64MX}", "3:27 limits.max_image_bytes: '64MX' is not a size"),
        ("limits: {in_fligth: 1}", "3:10 limits.in_fligth: unknown key 'in_fligth'; did you mean 'in_flight'?"),
        ("limits: 3", "3:9 limits: must be a mapping (key: value), not 3"),
        ("run: {budget: 1e3}", "3:15 run.budget: '1e3' is not an amount of US dollars"),
        ("run: {budget: -1}", "3:15 run.budget: '-1' is not an amount"),
        ("run: {budget: 1:30}", '3:15 run.budget: YAML reads this as 90; quote it: "1:30"'),
        ("run: {budget: 1_000.5}", "3:15 run.budget: '1_000.5' is not an amount"),
        ("run: {budget: true}", "3:15 run.budget: a single value belongs here"),
        ("run: {in_doubt: maybe}", "3:17 run.in_doubt: must be 'hold' or 'resubmit', not maybe"),
        ("run: {stop_after: soon}", "3:19 run.stop_after: 'soon' is not a duration"),
        ("prices: {usd: 1}", "3:9 prices: must be a list, such as - {model: gpt-image-2, usd: 0.0636}"),
        ("prices: [{model: x}]", "3:10 prices[0]: the key 'usd' is missing"),
        ("prices: [{usd: 1, qualty: x}]", "3:19 prices[0].qualty: unknown key 'qualty'; did you mean 'quality'?"),
        ("prices: [{usd: 1, quality: no}]", '3:28 prices[0].quality: text belongs here; quote it: "no"'),
        ("prices: [{usd: 1, logo_add: 01}]", '3:29 prices[0].logo_add: YAML reads this as 1; quote it: "01"'),
        ("prices: [7]", "3:10 prices[0]: must be a mapping (key: value), not 7"),
        ("notify: {ping: ftp://x}", "3:16 notify.ping: is not an http(s) URL with a host"),
        ("notify: {ping: 7}", "3:16 notify.ping: text belongs here"),
        ("api: {base_url: http://api.routescope.ai}", "3:17 api.base_url: must begin with https://"),
        ("api: {base_url: http://127.evil.example}", "3:17 api.base_url: must begin with https://"),
        ("api: {base_url: 'https://u:p@x.example'}", "3:17 api.base_url: must not have a name or password"),
        ("api: {base_url: 'https://x.example?a=b'}", "3:17 api.base_url: must not have a ? or #"),
        ("api: {base_url: 'https://x.example/#'}", "3:17 api.base_url: must not have a ? or #"),
        ("api: {base_url: 'https://x.example:99999'}", "3:17 api.base_url: is not a URL"),
        ("api: {base_url: 'https://x y.example'}", "3:17 api.base_url: is not an http(s) URL"),
        ("api: {base_url: 'https://x\\y'}", "3:17 api.base_url: is not an http(s) URL"),
        ("api: {base_url: x.example}", "3:17 api.base_url: is not an http(s) URL"),
        ("api: {base_url: 7}", "3:17 api.base_url: text belongs here"),
        ("api: {key_env: a b}", "3:16 api.key_env: 'a b' is not a name of an environment variable"),
        ("api: {key: sk-123}", "3:7 api.key: unknown key 'key'"),
        ("output: {dir: '{{ row.x }}'}", "3:15 output.dir: the name 'row' is not known here"),
        ("output: {dir: '{{'}", "3:15 output.dir: template"),
        ("output: {dir: ''}", "3:15 output.dir: is empty"),
        ('output: {dir: "a\\0b"}', "3:15 output.dir: is empty, or has characters"),
        (
            "output: {path: '{{ nope }}'}",
            "3:16 output.path: the name 'nope' is not known here; known: name, run, sample, id, ext",
        ),
        ("output: {path: '{{'}", "3:16 output.path: template"),
        ("output: {path: ../x}", "3:16 output.path: the path '../x.EXT' leaves the output folder by `..` (tasks[0])"),
        ("output: {path: 7}", '3:16 output.path: text belongs here; quote it: "7"'),
        ("output: {sidecar: maybe}", "3:19 output.sidecar: must be true or false, not maybe"),
        ("output: {folder: x}", "3:10 output.folder: unknown key 'folder'"),
        ("output: {quality: x}", "3:10 output.quality: unknown key 'quality'; fields of a request go under defaults"),
    ],
)
def test_what_is_wrong_with_settings(folder: Folder, text: str, message: str) -> None:
    (found,) = folder.messages(ONE + text)
    assert found.startswith(message)


@pytest.mark.parametrize(
    "url", ["https://x.example", "http://localhost:8765", "http://127.0.0.1:1", "http://[::1]:8765"]
)
def test_addresses(folder: Folder, url: str) -> None:
    assert folder.load(ONE + f"api: {{base_url: '{url}'}}").api.base_url == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0:0 : is empty; `rsbatch init` writes a manifest to start from"),
        ("[a]", "1:1 : must be a mapping with version and tasks"),
        ("tasks: [{prompt: x}]", "1:1 : the key 'version' is missing; write version: 1"),
        ("version: 2\ntasks: [{prompt: x}]", "1:10 version: must be 1"),
        ("version: true\ntasks: [{prompt: x}]", "1:10 version: must be 1"),
        ("version: '1'\ntasks: [{prompt: x}]", "1:10 version: must be 1"),
        ("version: 1", "1:1 : the key 'tasks' is missing"),
        ("version: 1\ntasks:", "2:7 tasks: must be a list of at least one entry"),
        ("version: 1\ntasks: []", "2:8 tasks: must be a list of at least one entry"),
        ("version: 1\ntasks: {a: b}", "2:8 tasks: must be a list of at least one entry"),
        ("version: 1\ntasks: [x]", "2:9 tasks[0]: must be a mapping (key: value), not x"),
        ("version: 1\ndefaults: 3\ntasks: [{prompt: x}]", "2:11 defaults: must be a mapping (key: value), not 3"),
        ("version: 1\nversion: 1\ntasks: [{prompt: x}]", "2:1 version: the key 'version' is here a second time"),
    ],
)
def test_what_is_no_manifest(folder: Folder, text: str, message: str) -> None:
    (found,) = folder.messages(text)
    assert found.startswith(message)


def test_files_that_are_no_manifests(folder: Folder) -> None:
    for path, message in (
        (folder.path / "nope.yaml", "there is no such file"),
        (folder.path, "is a folder"),
        (folder.path / "x" / "y", "there is no such file"),
        (folder.path / ("x" * 300), "cannot be read: File name too long"),
    ):
        with pytest.raises(ManifestError, match=message) as caught:
            load_manifest(path)
        assert caught.value.exit_code == Exit.USAGE


def test_many_mistakes_are_shown_at_once_in_order(folder: Folder) -> None:
    found = folder.messages(
        """\
version: 1
nmae: x
limits: {in_flight: 0, task_timeout: 30}
defaults: {size: 1024}
run: {budget: 1:30}
tasks:
  - id: a
    promt: a typo
    prompt: x
  - id: a
    prompt: the id again
  - id: b
    prompt: "{{ unknown }}"
  - id: c
    prompt: more images
    n: 4
  - id: 007
    prompt: x
  - id: d
    prompt: x
    rows: nope.csv
  - id: ../e
    prompt: x
  - {prompt: same}
  - {prompt: same}
"""
    )
    assert [line.split(": ")[0] for line in found] == [
        "2:1 nmae",
        "3:21 limits.in_flight",
        "3:38 limits.task_timeout",
        "4:18 defaults.size",
        "5:15 run.budget",
        "8:5 tasks[0].promt",
        "10:9 tasks[1].id",
        "13:13 tasks[2].prompt",
        "16:8 tasks[3].n",
        "17:9 tasks[4].id",
        "21:11 tasks[5].rows",
        "22:9 tasks[6].id",
        "25:5 tasks[8]",
    ]


def test_a_long_list_is_cut_short(folder: Folder) -> None:
    entries = "".join(f"  - {{id: a{i}, prompt: x, typo{i}: 1}}\n" for i in range(250))
    found = folder.messages("version: 1\ntasks:\n" + entries)
    assert len(found) == 101
    assert found[-1] == "0:0 : and 150 more problems"


LINES = st.sampled_from(
    [
        "version: 1",
        "tasks:",
        "  - id: a",
        "    prompt: x",
        "    prompt: '{{ a }}'",
        "    matrix: {a: [1, 2]}",
        "    include: 3",
        "    samples: 2",
        "    n: 2",
        "    rows: t.csv",
        "    files: '*'",
        "    images: [m.yaml, '']",
        "    extra_body: {prompt: 1}",
        "    mask: ''",
        "defaults:",
        "  size: 1024",
        "  extra: {a: [1, {b: c}]}",
        "vars: {a: 1}",
        "  : x",
        "- y",
        "output: {path: '{{ id }}/x'}",
        "prices: [{usd: 1}]",
        "limits: []",
        "  <<: *a",
        "  x: &a {b: 1}",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(LINES, max_size=14).map("\n".join) | st.text(max_size=50))
def test_any_text_is_a_manifest_or_an_error(folder: Folder, text: str) -> None:
    folder.write("t.csv", "a,b\n1,2\n")
    with contextlib.suppress(ManifestError):
        check(folder.load(text.encode(errors="replace")))
