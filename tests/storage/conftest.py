"""Every storage, on every event loop that it supports."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsbatch.storage.interface import Storage
from rsbatch.storage.local import LocalStorage
from rsbatch.storage.memory import MemoryStorage
from torture.disk import Disk, FakeFileSystem


@pytest.fixture(params=["local-asyncio", "memory-asyncio", "memory-trio", "fake-asyncio", "fake-trio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    return kind.partition("-")[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The output folder of the local storage; not made yet, in a folder that is not made either."""
    return tmp_path / "outputs" / "run"


@pytest.fixture
def storage(kind: str, root: Path) -> Storage:
    if kind.startswith("fake"):  # the torture suite's disk: the same code, without threads
        return LocalStorage(root, FakeFileSystem(Disk()))
    return LocalStorage(root) if kind.startswith("local") else MemoryStorage()
