"""Manifests as real files in a temporary folder; nothing is patched."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rsbatch.errors import ManifestError, Problem
from rsbatch.manifest.check import Checked, check
from rsbatch.manifest.expand import Manifest
from rsbatch.manifest.load import load_manifest
from rsbatch.model import Task


def image_bytes(kind: str = "PNG", size: tuple[int, int] = (4, 4), colour: int = 7) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (colour, 1, 2)).save(stream, kind)
    return stream.getvalue()


class Folder:
    """A folder with a manifest in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, data: str | bytes) -> Path:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)
        return target

    def load(self, text: str | bytes, **options: Any) -> Manifest:
        options.setdefault("today", lambda: date(2026, 5, 29))
        return load_manifest(self.write("m.yaml", text), **options)

    def tasks(self, text: str, **options: Any) -> list[Task]:
        found: list[Task] = []
        checked = check(self.load(text, **options), found.append)
        assert checked.total == len(found)
        return found

    def entry(self, text: str, **options: Any) -> list[Task]:
        """Expand one entry, written as a YAML mapping without indentation."""
        indented = "".join(f"    {line}\n" for line in text.strip("\n").splitlines())
        return self.tasks("version: 1\ntasks:\n  -\n" + indented, **options)

    def checked(self, text: str, **options: Any) -> Checked:
        return check(self.load(text, **options))

    def problems(self, text: str | bytes, **options: Any) -> list[Problem]:
        with pytest.raises(ManifestError) as caught:
            check(self.load(text, **options))
        return list(caught.value.problems)

    def messages(self, text: str | bytes, **options: Any) -> list[str]:
        """Give the problems as `line:column path: message`."""
        return [f"{p.line}:{p.column} {p.path}: {p.message}" for p in self.problems(text, **options)]
