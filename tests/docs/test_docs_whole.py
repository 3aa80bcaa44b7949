"""Everything that users can name is documented, what is generated is fresh, and every link leads somewhere."""

from __future__ import annotations

import inspect
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote

import pytest
from docs_help import DOCS, PAGES, ROOT, blocks, generator, prose

from rsbatch import __all__ as python_names
from rsbatch import __version__
from rsbatch.cli import COMMANDS
from rsbatch.errors import Exit
from rsbatch.ledger import records
from rsbatch.ledger.state import Bucket
from rsbatch.lifecycle import State
from rsbatch.manifest.schema import json_schema
from rsbatch.planning import Action
from rsbatch.scheduler import Halt
from rsbatch.simulator.faults import FAMILIES, FAULTS

GENERATE = generator()


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def rows(text: str) -> dict[str, str]:
    """Lines of tables by the code in their first cell."""
    found = re.findall(r"^\| `?([^`|]+?)`? \|(.*)$", text, re.MULTILINE)
    return {name.strip(): rest for name, rest in found}


@pytest.mark.parametrize("name", GENERATE.PAGES)
def test_generated_parts_are_fresh(name: str) -> None:
    text = page(name)
    assert "<!-- generated:" in text
    assert GENERATE.fresh(text) == text, "run: python docs/generate.py"


def test_every_generated_part_has_a_place() -> None:
    placed = re.findall(r"<!-- generated: ([a-z-]+) -->", "".join(page(name) for name in GENERATE.PAGES))
    assert sorted(placed) == sorted(GENERATE.PARTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str) -> None:
    text = page("commands.md")
    assert f"\n## {command}\n" in text
    assert f"[`{command}`](#{command})" in text
    where = page("simulator.md") if command == "simulate" else text
    for action in GENERATE.command_actions(command):
        for option in action.option_strings or [str(action.metavar)]:
            assert f"`{option}" in where or option in {"MANIFEST", "TASK", "DIR", "SHELL"}, option
        assert action.help, option


def test_every_exit_code_is_documented() -> None:
    table = rows(page("exit-codes.md"))
    for code in Exit:
        assert str(int(code)) in table, code


def test_every_reason_is_documented() -> None:
    table = rows(page("exit-codes.md"))
    for reason in [*(halt.value for halt in Halt), "done", "failed", "parked", "pending"]:
        assert reason in table, reason


def test_every_record_and_field_is_documented() -> None:
    table = rows(page("ledger.md"))
    makers = [
        maker
        for name, maker in inspect.getmembers(records, inspect.isfunction)
        if maker.__module__ == records.__name__ and inspect.signature(maker).return_annotation == "Record"
    ]
    assert len(makers) == 16
    for maker in makers:
        assert maker.__name__ in table, maker.__name__
        for field in inspect.signature(maker).parameters:
            if field not in {"task", "key", "summary"}:
                assert f"`{field.rstrip('_')}`" in table[maker.__name__], f"{maker.__name__}: {field}"


def test_every_state_is_documented() -> None:
    text = page("architecture.md") + page("money.md")
    for state in State:
        assert f"`{state.value}`" in text
    table = rows(page("money.md"))
    for bucket in Bucket:
        assert bucket.value in table
    actions = rows(page("commands.md"))
    for action in Action:
        assert action.value in actions


def test_every_key_of_the_manifest_is_documented() -> None:
    text = page("manifest.md")
    schema = json_schema()
    for part in (schema, *schema["$defs"].values()):
        for key, value in part["properties"].items():
            assert re.search(rf"`{key}[`:]", text) or re.search(rf"^ *(- )?{key}:", text, re.MULTILINE), key
            assert value.get("description") or key in schema["properties"], f"{key} has no description in the schema"


def test_every_fault_is_documented() -> None:
    table = rows(page("simulator.md"))
    for fault in FAULTS:
        assert str(getattr(fault, "name", fault)) in table
    for family in FAMILIES:
        assert f"`{family}`" in page("simulator.md")


def test_every_name_for_python_is_documented() -> None:
    for name in python_names:
        assert re.search(rf"`(rsbatch\.)?{name}\b", page("python.md")), name


def test_the_version_is_in_the_changelog() -> None:
    assert f"## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text("utf-8")


OUTSIDE = ("No space left", "Permission denied", "Read-only", "content_policy")
"""Words of the system and the service."""


def test_messages_in_troubleshooting_are_those_of_the_program() -> None:
    """A piece of each message in a first column, between what varies, stands in the source."""
    sources = "".join(path.read_text("utf-8") for path in sorted((ROOT / "rsbatch").rglob("*.py")))
    sources = re.sub(r'"\n\s*f?"', "", sources)  # texts over several lines
    messages = re.findall(r"^\| (`.+?`[^|]*) \|", page("troubleshooting.md"), re.MULTILINE)
    assert len(messages) > 30
    for cell in messages:
        for message in re.findall(r"`([^`]+)`", cell):
            pieces = re.split(r"…|\d+|\$|\bhero\b|ROUTESCOPE_API_KEY|ConnectError|[:;] | HTTP|[()]", message)
            longest = max(pieces, key=len).strip()
            assert longest in sources or longest.startswith(OUTSIDE), message


# links


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    made = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", prose(path), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        kept = "".join(c for c in plain.lower() if c in "-_ " or unicodedata.category(c)[0] in "LNM")
        slug = kept.replace(" ", "-")
        made.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return made


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        file, _, anchor = unquote(target).partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name}: {target}"
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), f"{path.name}: {target}"


def test_every_page_can_be_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        assert f"(docs/{path.name})" in readme, path.name
    for path in (ROOT / "manifests").glob("*.yaml"):
        assert f"manifests/{path.name}" in readme, path.name


def test_pictures_are_small() -> None:
    pictures = list((DOCS / "images").iterdir())
    assert pictures
    for picture in [*pictures, *(ROOT / "manifests").rglob("*.png")]:
        assert picture.stat().st_size < 300_000, picture


# words

ELSEWHERE = re.compile(
    r"\.\./shared|/work/|\bissues? #?\d|\bagents?\b|\bAI[- ]|\bLLM|\bclaude|\banthropic|\bTODO\b|\bFIXME\b",
    re.IGNORECASE,
)
"""Words that speak of who makes the software, and how."""


def test_pages_speak_of_the_software_alone() -> None:
    texts = [*PAGES, *DOCS.glob("*.py"), *(p for p in (ROOT / "manifests").rglob("*") if p.suffix != ".png")]
    for path in texts:
        if path.is_file():
            found = ELSEWHERE.search(path.read_text("utf-8"))
            assert found is None, f"{path.name}: {found}"


def test_json_and_yaml_in_pages_can_be_read() -> None:
    import json

    import yaml

    for path in PAGES:
        for block in blocks(path):
            if block.language == "yaml":
                list(yaml.safe_load_all(block.text))
            if block.language == "json" and "…" not in block.text:
                json.loads(block.text)
