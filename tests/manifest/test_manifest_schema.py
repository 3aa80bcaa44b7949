"""The JSON Schema: every key is described, and real manifests fit."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from rsbatch.commands import schema as command
from rsbatch.manifest.schema import REQUEST_FIELDS, json_schema

API_FIELDS = {
    *("prompt", "model", "images", "mask", "input_fidelity", "size", "quality", "background", "n"),
    *("output_format", "output_compression", "response_format", "logo_add", "logo_param", "extra"),
}


def test_all_fields_of_the_service_are_there() -> None:
    assert set(REQUEST_FIELDS) == API_FIELDS


def test_every_key_is_described_and_no_other_is_allowed() -> None:
    schema = json_schema()
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        assert part["description"]
        for name, key in part["properties"].items():
            assert key.get("description"), name
            assert "title" not in key


def fits(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Check the little of JSON Schema that ours uses."""
    import re

    if "$ref" in schema:
        return fits(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], value, root)
    if "anyOf" in schema:
        return any(fits(one, value, root) for one in schema["anyOf"])
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    if kind in {"integer", "number"}:
        if isinstance(value, bool) or not isinstance(value, int if kind == "integer" else int | float):
            return False
    elif kind and not isinstance(value, kinds[kind]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if isinstance(value, list):
        return all(fits(schema.get("items", {}), item, root) for item in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        more = schema.get("additionalProperties", True)
        if not set(schema.get("required", [])) <= value.keys():
            return False
        return all(
            fits(known[key], item, root) if key in known else more and fits({} if more is True else more, item, root)
            for key, item in value.items()
        )
    return True


@pytest.mark.parametrize(
    ("task", "fit"),
    [
        ({"prompt": "x"}, True),
        ({"prompt": "x", "output_compression": 0, "logo_add": 0, "extra": {"revise": 0}}, True),
        ({"prompt": "x", "output_compression": "{{ q }}", "samples": "{{ row.n }}", "images": "{{ x }}"}, True),
        ({"prompt": "x", "output_format": "{{ f }}", "quality": None}, True),
        ({"matrix": {"a": [1], "include": [{"a": 1}], "exclude": [{"a": 2}]}, "rows": "x.csv"}, True),
        ({"prompt": 7}, False),
        ({"promt": "x"}, False),
        ({"n": 2}, False),
        ({"output_compression": 101}, False),
        ({"output_compression": "80"}, False),
        ({"output_format": "jpg"}, False),
        ({"images": ["x", 7]}, False),
        ({"matrix": {"a": 1}}, False),
        ({"samples": 0}, False),
    ],
)
def test_tasks_fit_the_schema(task: dict[str, Any], fit: bool) -> None:
    schema = json_schema()
    assert fits(schema, {"version": 1, "tasks": [task]}, schema) is fit


def test_settings_fit_the_schema() -> None:
    schema = json_schema()
    full = {
        "version": 1,
        "name": "n",
        "vars": {"a": [1]},
        "defaults": None,
        "tasks": [{}],
        "output": {"dir": "x", "path": "y", "sidecar": False},
        "limits": {"in_flight": 1, "task_timeout": "1h30m", "max_image_bytes": "64MiB"},
        "run": {"budget": 25.5, "stop_after": "6h", "in_doubt": "hold"},
        "prices": [{"usd": "0.0072", "model": "m"}],
        "notify": {"ping": "https://x"},
        "api": {"base_url": "https://x", "key_env": "K"},
    }
    assert fits(schema, full, schema)
    for section, wrong in (("limits", {"task_timeout": "30"}), ("run", {"in_doubt": "x"}), ("api", {"key": "sk-1"})):
        assert not fits(schema, full | {section: wrong}, schema)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([])) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
