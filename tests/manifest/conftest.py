"""Fixtures for tests of manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from manifest_help import Folder, image_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return image_bytes
