"""A manifest file to a `Manifest`.

Rule: every problem is collected before anything is raised. Where the file has some, what is sound of it is
expanded all the same, so that one run shows the faults of both kinds.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from rsbatch.collector import collector_off
from rsbatch.errors import ManifestError, Problem, UsageError
from rsbatch.identity import check_id, slug
from rsbatch.manifest.check import manifest_error, survey
from rsbatch.manifest.compile import RESERVED, Context, Findings, compile_entry, compile_fields
from rsbatch.manifest.expand import DEFAULT_PATH, Entry, Manifest, Text
from rsbatch.manifest.explain import text_message, unknown_key, validate
from rsbatch.manifest.faults import Fault, Place
from rsbatch.manifest.images import Images
from rsbatch.manifest.nodes import Node, find
from rsbatch.manifest.prices import PriceRule
from rsbatch.manifest.schema import (
    REQUEST_FIELDS,
    ApiSection,
    LimitsSection,
    ManifestModel,
    Notify,
    Output,
    Price,
    RequestFields,
    RunSection,
    TaskEntry,
)
from rsbatch.manifest.templates import is_name, template
from rsbatch.manifest.yaml import MAX_BYTES, read_yaml
from rsbatch.model import Api, Limits, Rules

_TRIED_TASKS: Final = 20_000
"""How many tasks of a manifest with problems are expanded to find more of them."""
_DECIDING: Final = frozenset(("id", "prompt", "prompt_file", "images", "matrix", "rows", "files", "samples"))
"""Keys without which an entry would make other tasks, whose faults would mislead."""


def utc_today() -> date:
    """Give the day in UTC."""
    return datetime.now(UTC).date()


def load_manifest(
    path: Path,
    *,
    variables: Mapping[str, str] | None = None,
    date: str | None = None,
    output: Path | None = None,
    today: Callable[[], date] = utc_today,
) -> Manifest:
    """Read, validate and compile a manifest.

    `variables` win over its `vars`; `date` (`YYYY-MM-DD`) is `run.date` instead of `today()`; `output` replaces
    `output.dir` and is relative to the working directory. Raises ManifestError with all problems, UsageError for
    wrong arguments.
    """
    with collector_off():
        return _load(path, dict(variables or {}), date, output, today)


def _load(
    path: Path, given: dict[str, str], date: str | None, output: Path | None, today: Callable[[], date]
) -> Manifest:
    for name in given:
        if not is_name(name) or name in RESERVED:
            raise UsageError(f"--var {name}=…: {name!r} is not a name that vars can have")
    run_date = _run_date(date, today)
    data = _read(path)
    file = str(path)
    root, problems = read_yaml(data, file)
    if root is None:
        raise ManifestError([Problem(file, 0, 0, "", "is empty; `rsbatch init` writes a manifest to start from")])
    if not isinstance(root.value, dict):
        raise ManifestError([Problem(file, root.line, root.column, "", "must be a mapping with version and tasks")])
    found = Findings(file, root, problems)
    manifest = _Loader(path, data, found, given, run_date).load(output)
    if found.problems:
        _, more = survey(manifest, limit=_TRIED_TASKS)
        raise manifest_error(file, [*found.problems, *more])
    return manifest


def _run_date(given: str | None, today: Callable[[], date]) -> str:
    if given is None:
        return today().isoformat()
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", given, re.ASCII):
            raise ValueError
        return date.fromisoformat(given).isoformat()
    except ValueError as error:
        raise UsageError(f"--date {given}: write a day as YYYY-MM-DD") from error


def _read(path: Path) -> bytes:
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise ManifestError([Problem(str(path), 0, 0, "", "is a folder; name the manifest in it")])
        if not stat.S_ISREG(kind):  # to read a pipe may take for ever, and later runs need the manifest again
            raise ManifestError([Problem(str(path), 0, 0, "", "is a pipe or a device; save the manifest in a file")])
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ManifestError([Problem(str(path), 0, 0, "", "there is no such file")]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError([Problem(str(path), 0, 0, "", f"cannot be read: {reason}")]) from error


class _Loader:
    """One manifest on its way; each method turns one section into its part."""

    def __init__(self, path: Path, data: bytes, found: Findings, given: Mapping[str, str], run_date: str) -> None:
        self.path = path
        self.data = data
        self.found = found
        self.root = found.root
        self.items = found.root.items or {}
        self.given = given
        self.run_date = run_date
        self.folder = Path(os.path.abspath(path)).parent

    def load(self, output: Path | None) -> Manifest:
        self._check_top()
        name = self._name()
        limits = self._section("limits", LimitsSection)
        rules = self._section("run", RunSection)
        api = self._section("api", ApiSection)
        placing = self._section("output", Output)
        constants = {**self._vars(), **self.given}
        names = {**constants, "name": name, "run": {"date": self.run_date}}
        folder, dated = self._output_dir(placing.dir, names, output)
        output_path = self._output_path(placing.path)
        return Manifest(
            path=self.path,
            name=name,
            sha256=hashlib.sha256(self.data).hexdigest(),
            output_dir=folder,
            sidecar=placing.sidecar,
            limits=Limits(**limits.model_dump()),
            rules=Rules(**rules.model_dump()),
            prices=self._prices(),
            ping=self._section("notify", Notify).ping,
            api=Api(**api.model_dump()),
            run_date=self.run_date,
            dated_output=dated,
            folder=self.folder,
            entries=self._entries(constants, output_path),
            output_path=output_path,
            names=names,
            images=Images(self.folder),
        )

    def _check_top(self) -> None:
        known = ManifestModel.model_fields
        for key in self.items:
            if key not in known:
                hint = "fields of a request go under defaults or a task" if key in REQUEST_FIELDS else ""
                self.found.at_key([key], (hint and f"unknown key {key!r} here; {hint}") or unknown_key(key, known))
        version = self.items.get("version")
        if version is None:
            self.found.at([], "the key 'version' is missing; write version: 1")
        elif version.raw != "1" or not isinstance(version.value, int):
            self.found.at(["version"], "must be 1")

    def _validated(self, kind: Any, steps: list[Any]) -> Any:
        made, wrong = validate(kind, self.root, steps, self.found.file)
        for _, place, message in wrong:
            self.found.add(place, message)
        return made

    def _section(self, key: str, kind: Any) -> Any:
        node = self.items.get(key)
        made = None if node is None or node.value is None else self._validated(kind, [key])
        if node is not None and made is not None and kind is not Output:
            self.found.misread([key], node, exact=False)
        return kind() if made is None else made

    def _name(self) -> str:
        node = self.items.get("name")
        if node is not None and not isinstance(node.value, str):
            self.found.at(["name"], text_message(node))
        elif node is not None:
            made = self._validated(ManifestModel.model_fields["name"].rebuild_annotation(), ["name"])
            if made is not None:
                return str(made)
        stem = unicodedata.normalize("NFC", self.path.stem)
        return slug(stem) if check_id(stem) else stem

    def _vars(self) -> dict[str, Any]:
        node = self.items.get("vars")
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.found.at(["vars"], "must be a mapping (key: value)")
            return {}
        for key in node.value:
            if key in RESERVED:
                self.found.at_key(["vars", key], f"{key!r} has a meaning in templates already; use another name")
            elif not is_name(key):
                self.found.at_key(["vars", key], f"{key!r} is not a name; use letters, digits and _")
        self.found.misread(["vars"], node, exact=True)
        return dict(node.value)

    def _prices(self) -> tuple[PriceRule, ...]:
        node = self.items.get("prices")
        if node is None or node.value is None:
            return ()
        if not isinstance(node.value, list):
            self.found.at(["prices"], "must be a list, such as - {model: gpt-image-2, usd: 0.0636}")
            return ()
        made = []
        for index in range(len(node.value)):
            rule = self._validated(Price, ["prices", index])
            if rule is not None:
                self.found.misread(["prices", index], find(node, [index]), exact=False)
                conditions = rule.model_dump(exclude={"usd"}, exclude_none=True)
                made.append(PriceRule(conditions, rule.usd))
        return tuple(made)

    def _output_dir(self, text: str, names: Mapping[str, Any], output: Path | None) -> tuple[Path, bool]:
        node = (self.items["output"].items or {}).get("dir") if "output" in self.items else None
        place = Place(self.found.file, node.line if node else 0, node.column if node else 0, "output.dir")
        folder, dated = text, False
        try:
            made = template(text)
            dated = "run" in made.names
            folder = made.render(names)
            if not folder.strip() or not folder.isprintable():
                raise Fault("is empty, or has characters in it that a folder's name cannot have")
            home = Path(folder.strip()).expanduser()
        except RuntimeError:  # of `expanduser`
            user = folder.strip().partition("/")[0]
            self.found.add(place, f"{user} is nobody's home folder; if it is a name, write ./{user}")
            home = Path("outputs")
        except Fault as fault:
            self.found.add(place, fault.message)
            home = Path("outputs")
        if output is not None:
            return Path(os.path.abspath(output)), False
        return Path(os.path.abspath(self.folder / home)), dated

    def _output_path(self, text: str) -> Text:
        node = (self.items["output"].items or {}).get("path") if "output" in self.items else None
        if node is not None and isinstance(node.value, str):
            made = self.found.text("output.path", node)
            if made is not None:
                return made
        return Text(template(DEFAULT_PATH), Place(self.found.file, 0, 0, "output.path"))

    def _entries(self, constants: Mapping[str, Any], output_path: Text) -> tuple[Entry, ...]:
        node = self.items.get("tasks")
        if node is None:
            self.found.at([], "the key 'tasks' is missing")
            return ()
        if not isinstance(node.value, list) or not node.value:
            self.found.at(["tasks"], "must be a list of at least one entry, such as - prompt: A red apple")
            return ()
        context = Context(self.folder, self._defaults(), constants.keys(), output_path.made.names)
        made = []
        for index, item in (node.items or {}).items():
            sound = self._sound(TaskEntry, ["tasks", index], item)
            entry = None if sound is None else compile_entry(self.found, context, index, sound)
            if entry is not None:
                made.append(entry)
        return tuple(made)

    def _defaults(self) -> dict[str, tuple[Place, Any]]:
        node = self.items.get("defaults")
        if node is None or node.value is None:
            return {}
        sound = self._sound(RequestFields, ["defaults"], node)
        return compile_fields(self.found, ["defaults"], (sound.items if sound else None) or {})

    def _sound(self, kind: Any, steps: list[Any], node: Node) -> Node | None:
        """Validate a mapping; give it back without the keys that are wrong, or None if those decide."""
        _, wrong = validate(kind, self.root, steps, self.found.file)
        for _, place, message in wrong:
            self.found.add(place, message)
        if not wrong:
            return node
        bad = {path[len(steps)] if len(path) > len(steps) else "" for path, _, _ in wrong}
        if "" in bad or (bad & _DECIDING and kind is TaskEntry):
            return None
        items = {key: value for key, value in (node.items or {}).items() if key not in bad}
        return Node(node.value, node.line, node.column, None, items, node.keys)
