"""What is synced before what: the order of calls that a real folder sees."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from rsbatch.disk import RealFileSystem
from rsbatch.ledger.local import open_ledger, replace_ledger
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
        self.calls.append(("link", Path(target).name))
        super().link(source, target, **more)

    def unlink(self, path: Any, **more: Any) -> None:
        self.calls.append(("unlink", Path(path).name))
        super().unlink(path, **more)

    def rename(self, source: Any, target: Any, **more: Any) -> None:
        self.calls.append(("rename", Path(target).name))
        super().rename(source, target, **more)

    def mkdir(self, path: Any, *args: Any, **more: Any) -> None:
        super().mkdir(path, *args, **more)
        self.calls.append(("mkdir", str(path)))


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of descriptors come from /proc")


async def put(storage: LocalStorage, path: str, sidecar: bytes | None = None) -> None:
    """Save an image by the part `k-1`."""
    async with storage.open_part("k-1") as part:
        await part.write(b"image")
        await part.sync(len)
    await storage.publish("k-1", path, sidecar)


@needs_proc
async def test_a_name_is_durable_before_the_part_goes(tmp_path: Path) -> None:
    fs = Noting()
    storage = LocalStorage(tmp_path, fs)
    await put(storage, "sub/a.png")
    calls = fs.calls
    assert calls.index(("sync", "k-1")) < calls.index(("link", "a.png"))
    after = calls[calls.index(("link", "a.png")) :]
    assert after.index(("sync", "sub")) < after.index(("unlink", "k-1"))
    made = calls[calls.index(("mkdir", "sub")) :]
    assert ("sync", tmp_path.name) in made[:2]


@needs_proc
async def test_a_sidecar_comes_after_its_image_is_durable(tmp_path: Path) -> None:
    fs = Noting()
    storage = LocalStorage(tmp_path, fs)
    await put(storage, "sub/a.png", b"{}")
    after = fs.calls[fs.calls.index(("unlink", "k-1")) :]
    named = after.index(("rename", "a.png.json"))
    assert [kind for kind, name in after[:named] if name.startswith("~")] == ["sync"]
    assert after[named + 1 :] == [("sync", "sub")]


@needs_proc
async def test_a_folder_that_was_taken_away_is_made_again_and_synced(tmp_path: Path) -> None:
    fs = Noting()
    storage = LocalStorage(tmp_path / "out", fs)
    await storage.write_atomic("sub/a.json", b"{}")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    fs.calls.clear()
    await storage.write_atomic("sub/b.json", b"{}")
    assert (tmp_path / "out/sub/b.json").exists()
    assert fs.calls[fs.calls.index(("mkdir", "sub")) :][1] == ("sync", "out")


@needs_proc
async def test_a_sidecar_is_durable_before_it_has_its_name(tmp_path: Path) -> None:
    fs = Noting()
    await LocalStorage(tmp_path, fs).write_atomic("a.png.json", b"{}")
    (rename,) = [n for n, call in enumerate(fs.calls) if call == ("rename", "a.png.json")]
    assert any(kind == "sync" and name.startswith("~") for kind, name in fs.calls[:rename])
    assert ("sync", tmp_path.name) in fs.calls[rename:]


@needs_proc
async def test_a_rescue_is_durable_before_it_is_told(tmp_path: Path) -> None:
    fs = Noting()
    file, _, _ = open_ledger(tmp_path, fs)
    fs.calls.clear()
    file.rescue([b"line\n"])
    file.close()
    assert ("sync", "ledger.jsonl.rescue") in fs.calls


def _after(calls: list[tuple[str, str]], call: tuple[str, str]) -> list[tuple[str, str]]:
    return calls[calls.index(call) + 1 :]


@needs_proc
async def test_names_are_durable_where_there_are_no_hard_links(tmp_path: Path) -> None:
    class Fat(Noting):
        def link(self, source: Any, target: Any, **more: Any) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    fs = Fat()
    storage = LocalStorage(tmp_path, fs)
    async with storage.open_part("k-1") as part:
        await part.write(b"image")
    await storage.publish("k-1", "sub/a.png")
    assert ("sync", "sub") in _after(fs.calls, ("rename", "a.png"))


@needs_proc
async def test_what_is_settled_is_synced_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"image")
    fs = Noting()
    await LocalStorage(tmp_path, fs).settle("sub/a.png")
    assert ("sync", "sub") in _after(fs.calls, ("sync", "a.png"))
    assert ("sync", tmp_path.name) in fs.calls, "a killed run may have made the folder, and not synced it"


@needs_proc
async def test_a_move_is_durable_on_both_sides(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "a.png").write_bytes(b"image")
    fs = Noting()
    await LocalStorage(tmp_path, fs).move("old/a.png", "new/a.png")
    assert ("sync", "old") in _after(fs.calls, ("unlink", "a.png"))
    assert ("sync", "new") in _after(fs.calls, ("link", "a.png"))


@needs_proc
async def test_a_folder_that_was_there_is_synced_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    fs = Noting()
    storage = LocalStorage(tmp_path, fs)
    for number in (1, 2):
        await storage.write_atomic(f"sub/{number}.json", b"{}")
    assert fs.calls.count(("sync", tmp_path.name)) == 2, "for its own name and that of the parts"


@needs_proc
async def test_a_rescues_name_is_durable(tmp_path: Path) -> None:
    fs = Noting()
    file, _, _ = open_ledger(tmp_path, fs)
    assert ("sync", "ledger.jsonl.reserve") in fs.calls, "its room is taken before it is needed"
    fs.calls.clear()
    file.rescue([b"line\n"])
    file.close()
    assert ("sync", tmp_path.name) in _after(fs.calls, ("sync", "ledger.jsonl.rescue"))


@needs_proc
async def test_a_ledger_is_whole_before_it_takes_anothers_name(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b"damaged\n")
    fs = Noting()
    replace_ledger(tmp_path / "ledger.jsonl", b"sound\n", fs)
    (rename,) = [n for n, call in enumerate(fs.calls) if call == ("rename", "ledger.jsonl")]
    assert ("sync", "ledger.jsonl.new") in fs.calls[:rename]
    assert ("sync", tmp_path.name) in fs.calls[rename:]
    assert (tmp_path / "ledger.jsonl").stat().st_mode & 0o777 == 0o600
