"""What only a real disk has: links, modes, crashes between two calls, a full disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rsbatch.disk import AsyncFile, RealFileSystem, StrPath, T
from rsbatch.errors import StoreError
from rsbatch.storage.interface import NOT_A_FILE, Occupied
from rsbatch.storage.local import LocalStorage
from torture.disk import Disk, FakeFileSystem, Fault

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def local(root: Path) -> LocalStorage:
    return LocalStorage(root)


async def put(storage: LocalStorage, path: str, data: bytes) -> None:
    async with storage.open_part("put") as part:
        await part.write(data)
        await part.sync(len)
    await storage.publish("put", path)


async def test_parts_are_hidden_and_on_the_same_disk(local: LocalStorage, root: Path) -> None:
    async with local.open_part("k") as part:
        await part.write(b"x")
    assert (root / ".parts" / "k").read_bytes() == b"x"
    assert stat.S_IMODE((root / ".parts").stat().st_mode) == 0o700


async def test_modes_are_what_the_umask_gives(local: LocalStorage, root: Path) -> None:
    before = os.umask(0o027)
    try:
        await put(local, "a/b.png", b"x")
        await local.write_atomic("a/b.png.json", b"{}")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((root / name).stat().st_mode) for name in ("a", "a/b.png", "a/b.png.json")]
    assert modes == [0o750, 0o640, 0o640]
    assert (root / "a/b.png").stat().st_nlink == 1


async def test_a_link_in_place_of_a_folder_is_not_followed(local: LocalStorage, root: Path) -> None:
    outside = root.parent.parent / "outside"
    outside.mkdir()
    (outside / "c.png").write_bytes(b"theirs")
    root.mkdir(parents=True)
    (root / "a").symlink_to(outside)
    for path in ("a/b.png", "a/b/c.png"):
        with pytest.raises(StoreError, match="symbolic link"):
            await put(local, path, b"x")
        with pytest.raises(StoreError, match="symbolic link"):
            await local.write_atomic(path, b"x")
    for call in (local.size, local.sha256, local.exists, local.settle):
        with pytest.raises(StoreError, match="symbolic link"):
            await call("a/c.png")
    with pytest.raises(StoreError, match="symbolic link"):
        await local.move("a/c.png", "d.png")
    assert await local.sizes(["a/c.png"]) == [NOT_A_FILE]
    assert await local.files() == []
    assert os.listdir(outside) == ["c.png"]


async def test_a_link_in_place_of_the_parts_is_not_followed(local: LocalStorage, root: Path) -> None:
    outside = root.parent.parent / "outside"
    outside.mkdir()
    root.mkdir(parents=True)
    (root / ".parts").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        async with local.open_part("k") as part:
            await part.write(b"x")
    with pytest.raises(StoreError, match="symbolic link"):
        await local.write_atomic("a.json", b"{}")
    assert os.listdir(outside) == []


@pytest.mark.parametrize("dangling", [True, False])
async def test_a_link_in_place_of_an_image(local: LocalStorage, root: Path, dangling: bool) -> None:
    root.mkdir(parents=True)
    target = root.parent / "target"
    if not dangling:
        target.write_bytes(b"theirs")
    (root / "a.png").symlink_to(target)
    with pytest.raises(Occupied):
        await put(local, "a.png", b"x")
    for call in (local.size, local.sha256, local.settle):
        with pytest.raises(StoreError, match="a symbolic link, not a regular file"):
            await call("a.png")
    assert await local.exists("a.png")
    assert await local.sizes(["a.png"]) == [NOT_A_FILE]
    assert await local.files() == []

    await local.move("a.png", "a~1.png")

    assert (root / "a~1.png").is_symlink()
    assert not (root / "a.png").is_symlink()
    assert target.exists() is not dangling


async def test_a_stale_part_that_is_a_link_is_removed_not_written_through(local: LocalStorage, root: Path) -> None:
    (root / ".parts").mkdir(parents=True)
    target = root.parent / "target"
    target.write_bytes(b"theirs")
    (root / ".parts" / "k").symlink_to(target)
    async with local.open_part("k") as part:
        await part.write(b"x")
    assert target.read_bytes() == b"theirs"
    assert (root / ".parts" / "k").read_bytes() == b"x"


async def test_a_sidecar_replaces_a_link_and_not_its_target(local: LocalStorage, root: Path) -> None:
    root.mkdir(parents=True)
    target = root.parent / "target"
    target.write_bytes(b"theirs")
    (root / "a.json").symlink_to(target)
    await local.write_atomic("a.json", b"{}")
    assert target.read_bytes() == b"theirs"
    assert (root / "a.json").read_bytes() == b"{}"
    assert not (root / "a.json").is_symlink()


async def test_the_output_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    real = tmp_path / "big-disk"
    real.mkdir()
    root.parent.mkdir(parents=True)
    root.symlink_to(real)
    storage = LocalStorage(root)
    await put(storage, "a/b.png", b"x")
    assert (real / "a/b.png").read_bytes() == b"x"
    assert await storage.files() == ["a/b.png"]


async def test_a_pipe_in_place_of_an_image_does_not_hang(local: LocalStorage, root: Path) -> None:
    root.mkdir(parents=True)
    os.mkfifo(root / "a.png")
    with anyio.fail_after(5):
        with pytest.raises(StoreError, match="device or pipe"):
            await local.sha256("a.png")
        with pytest.raises(Occupied):
            await put(local, "a.png", b"x")
    assert await local.files() == []


class Racing(RealFileSystem):
    """Somebody puts another thing at `place` just after it was looked at, or removed."""

    def __init__(self, place: Path, put: Callable[[Path], object]) -> None:
        self.place = place
        self.put = put

    def stat(self, path: StrPath, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        found = super().stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == self.place.name:
            self.place.unlink()
            self.put(self.place)
        return found

    def unlink(self, path: StrPath, *, dir_fd: int | None = None) -> None:
        super().unlink(path, dir_fd=dir_fd)
        if path == self.place.name:
            self.put(self.place)


async def test_a_link_that_takes_an_images_place_meanwhile_is_not_read(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "a.png").write_bytes(b"ours")
    (root / "theirs").write_bytes(b"theirs")
    storage = LocalStorage(root, Racing(root / "a.png", lambda place: place.symlink_to("theirs")))
    with pytest.raises(StoreError):
        await storage.read("a.png", 10)


async def test_a_pipe_that_takes_an_images_place_meanwhile_is_not_waited_for(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "a.png").write_bytes(b"ours")
    assert await LocalStorage(root, Racing(root / "a.png", os.mkfifo)).read("a.png", 10) == b""


async def test_a_file_that_takes_a_parts_place_meanwhile_is_not_written_to(root: Path) -> None:
    (root / ".parts").mkdir(parents=True)
    (root / ".parts" / "k").write_bytes(b"stale")
    theirs = root / "theirs"
    theirs.write_bytes(b"theirs")
    storage = LocalStorage(root, Racing(root / ".parts" / "k", lambda place: os.link(theirs, place)))
    with pytest.raises(StoreError):
        async with storage.open_part("k") as part:
            await part.write(b"x")
    assert theirs.read_bytes() == b"theirs"


LARGE = 2**21 + 1
"""Bytes of a part that is written while they come."""


class Held:
    """A file whose `close` goes on in a thread when its caller is cancelled, as those of aiofiles do."""

    def __init__(self, inner: AsyncFile) -> None:
        self._inner = inner
        self.at_work, self.goes_on = anyio.Event(), anyio.Event()
        self.closed = 0

    async def close(self) -> None:
        self.at_work.set()
        await self.goes_on.wait()
        await self._inner.close()
        self.closed += 1

    def fileno(self) -> int:
        return self._inner.fileno()


async def test_a_part_is_closed_once_though_its_download_is_given_up_meanwhile(root: Path) -> None:
    files: list[Held] = []

    class Holding(RealFileSystem):
        async def open_async(self, create: Callable[[], int]) -> AsyncFile:
            files.append(Held(await super().open_async(create)))
            return files[0]

    async def download() -> None:
        with scope:
            async with LocalStorage(root, Holding()).open_part("k") as part:
                await part.write(b"x" * LARGE)
                await part.sync(len)

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(download)
        while not files:
            await anyio.lowlevel.checkpoint()
        await files[0].at_work.wait()
        scope.cancel()
        await anyio.lowlevel.checkpoint()
        files[0].goes_on.set()
    assert files[0].closed == 1


async def test_a_part_is_read_back_whole_where_the_system_gives_less_at_once(root: Path) -> None:
    class Sparing(RealFileSystem):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            return super().pread(fd, min(size, 3), offset)

    async with LocalStorage(root, Sparing()).open_part("k") as part:
        await part.write(b"an image")
        assert await part.sync(bytes) == b"an image"


async def test_a_part_that_cannot_be_read_back_is_the_folders_failure(root: Path) -> None:
    class Worn(RealFileSystem):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(StoreError, match=r"\.parts/k: Input/output error"):
        async with LocalStorage(root, Worn()).open_part("k") as part:
            await part.sync(len)


class Full(RealFileSystem):
    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.full = True

    def _fail(self, name: str) -> None:
        if self.full and name == self.fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, fd: int, data: memoryview) -> int:
        self._fail("write")
        return super().write(fd, data)

    def sync_file(self, fd: int) -> None:
        self._fail("sync_file")
        super().sync_file(fd)


@pytest.mark.parametrize("fails", ["write", "sync_file"])
async def test_after_a_write_that_failed_a_part_is_of_no_use(root: Path, fails: str) -> None:
    """What could not be written is gone, and a second fsync tells nothing of what the first one lost."""
    fs = Full(fails)
    async with LocalStorage(root, fs).open_part("k") as part:
        await part.write(b"image")
        with pytest.raises(StoreError, match=r"\.parts/k: disk full"):
            await part.sync(len)
        fs.full = False
        with pytest.raises(StoreError, match="after its sync"):
            await part.sync(len)


async def test_after_a_piece_that_could_not_be_written_a_part_is_of_no_use(root: Path) -> None:
    fs = Full("write")
    async with LocalStorage(root, fs).open_part("k") as part:
        with pytest.raises(StoreError, match=r"\.parts/k: disk full"):
            await part.write(b"x" * LARGE)
        fs.full = False
        with pytest.raises(StoreError, match="an earlier write failed"):
            await part.sync(len)


async def test_what_an_image_of_usual_size_needs_takes_two_hops(root: Path) -> None:
    class Counting(RealFileSystem):
        hops = 0

        async def offload(self, work: Callable[[], T]) -> T:
            self.hops += 1
            return await super().offload(work)

        async def open_async(self, create: Callable[[], int]) -> AsyncFile:
            self.hops += 1
            return await super().open_async(create)

    fs = Counting()
    storage = LocalStorage(root, fs)
    async with storage.open_part("k") as part:
        for _ in range(16):
            await part.write(b"x" * 100_000)
        assert await part.sync(len) == 1_600_000
    assert await storage.publish("k", "a.png", b"{}")
    assert fs.hops == 2
    assert sorted(os.listdir(root)) == [".parts", "a.png", "a.png.json"]


async def test_after_a_write_that_never_began_a_part_is_of_no_use(root: Path) -> None:
    async with LocalStorage(root).open_part("k") as part:
        await part.write(b"image")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await part.flush()
        assert scope.cancelled_caught
        with pytest.raises(StoreError, match="an earlier write failed"):
            await part.sync(len)


async def test_a_part_is_not_closed_while_it_is_written(root: Path) -> None:
    at_work, goes_on = threading.Event(), threading.Event()
    written: list[int] = []
    files: list[Held] = []

    class Holding(RealFileSystem):
        async def open_async(self, create: Callable[[], int]) -> AsyncFile:
            files.append(Held(await super().open_async(create)))
            files[0].goes_on.set()
            return files[0]

        def write(self, fd: int, data: memoryview) -> int:
            at_work.set()
            assert goes_on.wait(60)
            written.append(super().write(fd, data))
            return written[-1]

    async def download() -> None:
        with scope:
            async with LocalStorage(root, Holding()).open_part("k") as part:
                await part.write(b"x" * LARGE)
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(download)
        while not at_work.is_set():
            await anyio.lowlevel.checkpoint()
        scope.cancel()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        closed_early = files[0].at_work.is_set()
        goes_on.set()
    assert not closed_early
    assert written == [LARGE]
    assert files[0].closed == 1


async def test_a_kill_between_link_and_unlink_is_finished(local: LocalStorage, root: Path) -> None:
    async with local.open_part("k") as part:
        await part.write(b"x")
    os.link(root / ".parts" / "k", root / "a.png")
    await local.publish("k", "a.png")
    assert await local.parts() == []
    assert (root / "a.png").stat().st_nlink == 1

    os.link(root / "a.png", root / "a~1.png")
    await local.move("a.png", "a~1.png")
    assert await local.files() == ["a~1.png"]


async def test_an_equal_file_that_is_not_the_part_is_still_occupied(local: LocalStorage, root: Path) -> None:
    async with local.open_part("k") as part:
        await part.write(b"x")
    (root / "a.png").write_bytes(b"x")
    with pytest.raises(Occupied):
        await local.publish("k", "a.png")
    assert await local.parts() == ["k"]


async def test_a_file_system_without_hard_links(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)  # as FAT answers; a real one takes a mount
    await put(local, "a/b.png", b"x")
    assert await local.read("a/b.png", 10) == b"x"
    async with local.open_part("k") as part:
        await part.write(b"other")
    with pytest.raises(Occupied):
        await local.publish("k", "a/b.png")
    await local.move("a/b.png", "c.png")
    assert await local.files() == ["c.png"]
    assert await local.parts() == ["k"]


async def test_a_failing_link_is_told(local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with local.open_part("k") as part:
        await part.write(b"x")
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StoreError, match=r"a\.png: disk full"):
        await local.publish("k", "a.png")
    assert (root / ".parts" / "k").read_bytes() == b"x"


async def test_leftovers_of_sidecars_are_not_parts(local: LocalStorage, root: Path) -> None:
    await local.write_atomic("a.json", b"1")
    (root / ".parts" / "~0123").write_bytes(b"left by a kill")
    assert await local.parts() == []
    assert await local.files() == ["a.json"]


async def test_errors_name_the_path_and_the_reason(local: LocalStorage, root: Path) -> None:
    await put(local, "a.png", b"x")
    root.chmod(0o500)
    if os.access(root, os.W_OK):
        root.chmod(0o700)
        pytest.skip("root may write anywhere")
    try:
        with pytest.raises(StoreError, match=r"b\.json.*Permission denied"):
            await local.write_atomic("sub/b.json", b"x")
    finally:
        root.chmod(0o700)


async def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    storage = LocalStorage(tmp_path / "out")
    with pytest.raises(StoreError, match="out"):
        await put(storage, "a.png", b"x")
    with pytest.raises(StoreError, match="out"):
        await storage.write_atomic("a.json", b"x")


async def test_a_folder_that_fails_to_close_is_not_closed_twice(root: Path) -> None:
    """The second close would have hit whatever another thread had opened meanwhile, the ledger for one."""
    fs = FakeFileSystem(Disk())
    storage = LocalStorage(root, fs)
    await put(storage, "a/b.png", b"x")
    for number in range(1, 20):
        fs.fault = Fault(number, errno.EIO, only="close")
        with suppress(StoreError):  # where it is the file's own
            assert await storage.read("a/b.png", 10) == b"x"
        assert fs.open_files == 0
    fs.fault = Fault(fs.count + 1, errno.EIO, lasting=True, kinds=frozenset({"close"}))
    with pytest.raises(StoreError):
        await put(storage, "a/c.png", b"x")
    assert fs.open_files == 0


@pytest.mark.parametrize("size", [1, LARGE])
async def test_wherever_the_disk_fails_no_descriptor_stays_and_no_sidecar_is_alone(root: Path, size: int) -> None:
    named = set()
    for number in range(1, 100):
        fs = FakeFileSystem(Disk())
        storage = LocalStorage(root, fs)
        fs.fault = Fault(number, errno.EIO)
        try:
            async with storage.open_part("k") as part:
                await part.write(b"x" * size)
                await part.sync(len)
            await storage.publish("k", "a/b.png", b"{}")
        except StoreError as exc:
            named.add(str(exc).removeprefix(str(root)).partition(":")[0])
        assert fs.open_files == 0
        fs.fault = None
        if await storage.exists("a/b.png.json"):
            assert await storage.size("a/b.png") == size
    assert named >= {"/.parts/k", "/a/b.png", "/a/b.png.json"}


async def test_an_error_of_the_disk_is_not_taken_for_an_altered_file(root: Path) -> None:
    """A run said "has another size than was saved" and ended with 1, where no descriptor was free."""
    fs = FakeFileSystem(Disk())
    storage = LocalStorage(root, fs)
    await put(storage, "a.png", b"x")
    for code in (errno.EIO, errno.EMFILE):
        fs.fault = Fault(fs.count + 1, code)
        with pytest.raises(StoreError):
            await storage.sizes(["a.png"])
    fs.fault = Fault(fs.count + 1, errno.EACCES)
    assert await storage.sizes(["a.png", "a.png"]) == [NOT_A_FILE, 1]


def _with_small_files(root: Path, then: str) -> None:
    """In a process of its own, where no file may grow over 300,000 bytes: as on a full disk, for real."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    async def main() -> None:
        storage = LocalStorage(root)
        with pytest.raises(StoreError, match=f"k: {os.strerror(errno.EFBIG)}|larger than this file system"):  # noqa: PT012
            async with storage.open_part("k") as part:
                await part.write(b"x" * 299_000)
                await part.write(b"x" * 500_000)
                if then == "sync":
                    await part.sync(len)
        with pytest.raises(StoreError, match="larger"):
            await storage.write_atomic("a.json", b"x" * 400_000)
        assert await storage.files() == []

    anyio.run(main, backend="asyncio")


@pytest.mark.parametrize("then", ["sync", "leave"])
def test_writes_that_fail_are_reported_and_nothing_is_published(root: Path, then: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_with_small_files, args=(root, then))
    process.start()
    process.join(60)
    assert process.exitcode == 0
