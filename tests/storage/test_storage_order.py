"""What is synced before what: the order of calls that a real folder sees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rsbatch.disk import RealFileSystem
from rsbatch.ledger.local import open_ledger
from rsbatch.storage.local import LocalStorage

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Noting(RealFileSystem):
    """Notes the calls that matter, folders and files by their names."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def _name(self, fd: int) -> str:
        return next(str(name) for name in [os.readlink(f"/proc/self/fd/{fd}")]).rpartition("/")[2]

    def sync_file(self, fd: int) -> None:
        self.calls.append(("sync", self._name(fd)))
        super().sync_file(fd)

    def sync_folder(self, fd: int) -> None:
        self.calls.append(("sync", self._name(fd)))
        super().sync_folder(fd)

    def link(self, source: Any, target: Any, **more: Any) -> None:
        self.calls.append(("link", str(target)))
        super().link(source, target, **more)

    def unlink(self, path: Any, **more: Any) -> None:
        self.calls.append(("unlink", str(path)))
        super().unlink(path, **more)

    def rename(self, source: Any, target: Any, **more: Any) -> None:
        self.calls.append(("rename", str(target)))
        super().rename(source, target, **more)

    def mkdir(self, path: Any, *args: Any, **more: Any) -> None:
        super().mkdir(path, *args, **more)
        self.calls.append(("mkdir", str(path)))


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of descriptors come from /proc")


@needs_proc
async def test_a_name_is_durable_before_the_part_goes(tmp_path: Path) -> None:
    fs = Noting()
    storage = LocalStorage(tmp_path, fs)
    async with storage.open_part("k-1") as part:
        await part.write(b"image")
        await part.sync()
    await storage.publish("k-1", "sub/a.png")
    calls = fs.calls
    assert calls.index(("sync", "k-1")) < calls.index(("link", "a.png"))
    after = calls[calls.index(("link", "a.png")) :]
    assert after.index(("sync", "sub")) < after.index(("unlink", "k-1"))
    made = calls[calls.index(("mkdir", "sub")) :]
    assert ("sync", tmp_path.name) in made[:2]


@needs_proc
async def test_a_sidecar_is_durable_before_it_has_its_name(tmp_path: Path) -> None:
    fs = Noting()
    await LocalStorage(tmp_path, fs).write_atomic("a.png.json", b"{}")
    (rename,) = [n for n, call in enumerate(fs.calls) if call == ("rename", "a.png.json")]
    assert any(kind == "sync" and name.startswith("~") for kind, name in fs.calls[:rename])


@needs_proc
async def test_a_rescue_is_durable_before_it_is_told(tmp_path: Path) -> None:
    fs = Noting()
    file, _, _ = open_ledger(tmp_path, fs)
    fs.calls.clear()
    file.rescue([b"line\n"])
    file.close()
    assert ("sync", "ledger.jsonl.rescue") in fs.calls
