"""The reference documents every key, and its examples are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from manifest_help import Folder

from rsbatch.manifest.schema import ManifestModel, json_schema

DOCS = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)


def test_every_key_is_documented() -> None:
    schema = json_schema()
    keys = set(ManifestModel.model_fields)
    for part in schema["$defs"].values():
        keys |= set(part["properties"])
    missing = {key for key in keys if f"`{key}`" not in DOCS}
    assert not missing


def test_defaults_are_documented_as_they_are() -> None:
    for section in ("LimitsSection", "RunSection"):
        for name, key in json_schema()["$defs"][section]["properties"].items():
            row = re.search(rf"^\| `{name}` \|.*\| ([^|]*) \|$", DOCS, re.MULTILINE)
            assert row is not None, name
            default = key.get("default")
            shown = {None: "none", 1800.0: "30m", 64 * 2**20: "64MiB", 5.0: "5", 10.0: "10"}.get(default, str(default))
            assert row.group(1).strip("`") == shown


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_work(folder: Folder, picture: object, example: str) -> None:
    assert callable(picture)
    folder.write("products.csv", "sku,name,main colour,photo\nA1,Mug,red,https://x.example/a.png\n")
    folder.write("photos/mug.png", picture())
    folder.write("masks/mug.png", picture())
    if example.startswith("#"):
        text = example + "version: 1\ntasks: [{prompt: x}]"
    elif example.startswith("- "):
        text = "version: 1\ntasks:\n" + "".join(f"  {line}\n" for line in example.splitlines())
    elif example.startswith(("matrix:", "prompt:")):
        text = "version: 1\ntasks:\n  - id: x{{ animal | default }}{{ style | default('') | slug }}\n"
        text += "" if "prompt:" in example else "    prompt: a {{ animal }}\n"
        text += "".join(f"    {line}\n" for line in example.splitlines())
    else:
        text = example if "version:" in example else "version: 1\n" + example
        text += "" if "tasks:" in example else "tasks: [{prompt: x}]"
    ids = [task.id for task in folder.tasks(text)]
    assert ids
    if "hero" in example:
        assert ids == ["hero", "cat-ink", "cat-pixel-art", "dog-ink", "dog-pixel-art"]
