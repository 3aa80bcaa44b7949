"""Row 1 in its short form, and the fake disk held against a real one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rsbatch.disk import REAL
from torture import crashes
from torture.disk import Disk, FakeFileSystem, Fault, named
from torture.protocols import BROKEN
from torture.rows import Params

WRITE = os.O_WRONLY | os.O_CREAT


def test_short_form() -> None:
    figure = crashes.run(Params(short=True))
    assert figure.ok, "\n".join(figure.failures)
    assert len(BROKEN) >= 12


def test_a_seed_is_replayed_to_the_same_states() -> None:
    one, other = (crashes.Explorer(3, crashes.Protocol(), most=60).explore() for _ in range(2))
    assert one.states == other.states


class Both:
    """Does everything on a real disk and on a fake one, and compares what comes of it."""

    def __init__(self, root: Path) -> None:
        self._sides: list[tuple[Any, str, dict[int, int]]] = [
            (REAL, str(root), {}),
            (FakeFileSystem(Disk()), "", {}),
        ]

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        results = [self._one(*side, name, args, dict(options)) for side in self._sides]
        assert results[0] == results[1], (name, args, options)
        return results[0]

    def _one(self, fs: Any, root: str, fds: dict[int, int], name: str, args: Any, options: dict[str, Any]) -> Any:
        for key in ("dir_fd", "src_dir_fd", "dst_dir_fd"):
            if key in options:
                options[key] = fds[options[key]]
        args = [root + a if isinstance(a, str) and a.startswith("/") else a for a in args]
        try:
            if name == "open":
                number, *rest = args
                fds[number] = fs.open(*rest, **options)
                return "opened"
            if args and isinstance(args[0], int):
                args[0] = fds[args[0]]
            if name == "read":
                with fs.reader(fs.dup(args[0])) as file:
                    return file.read()
            given = getattr(fs, name)(*args, **options)
        except OSError as exc:
            return errno.errorcode[exc.errno or 0]
        if name in {"stat", "fstat"}:
            return (given.st_mode & 0o170000, given.st_size if given.st_mode & 0o100000 else 0)
        return sorted(given) if name == "listdir" else given


@pytest.mark.parametrize("seed", range(30))
def test_the_fake_disk_does_what_a_real_one_does(tmp_path: Path, seed: int) -> None:
    rng, both, opened = Random(seed), Both(tmp_path), 0
    paths = ["/a", "/b", "/d", "/d/a", "/d/e", "/d/e/f", "/missing/x"]
    for _ in range(150):
        path, other = rng.choice(paths), rng.choice(paths)
        match rng.randrange(11):
            case 0 | 1:
                flags = rng.choice((os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, 0))
                flags |= rng.choice((os.O_RDWR, os.O_RDWR | os.O_APPEND))
                if both.call("open", opened, path, flags, 0o600) == "opened":
                    opened += 1
            case 2 | 3 if opened:
                both.call("write", rng.randrange(opened), memoryview(rng.randbytes(rng.randrange(1, 900))))
            case 4 if opened:
                both.call("ftruncate", rng.randrange(opened), rng.randrange(1200))
            case 5 if opened:
                number = rng.randrange(opened)
                both.call(rng.choice(("sync_file", "fstat", "read")), number)
            case 6:
                both.call("mkdir", path)
            case 7:
                both.call("link", path, other)
            case 8:
                both.call("rename", path, other)
            case 9:
                both.call("unlink", path)
            case _:
                both.call("stat", path)
                if both.call("open", opened, rng.choice(("/", path)), os.O_RDONLY | os.O_DIRECTORY) == "opened":
                    both.call("listdir", opened)
                    both.call("sync_folder", opened)
                    opened += 1
    for number in range(opened):
        both.call("close", number)


def put(fs: FakeFileSystem, path: str, data: bytes, *, synced: bool = True) -> None:
    fd = fs.open(path, WRITE)
    fs.write(fd, memoryview(data))
    if synced:
        fs.sync_file(fd)
    fs.close(fd)


def sync_root(fs: FakeFileSystem) -> None:
    fd = fs.open("/", os.O_RDONLY | os.O_DIRECTORY)
    fs.sync_folder(fd)
    fs.close(fd)


def futures(disk: Disk, path: str, *, flip: bool = False) -> set[bytes | None]:
    """What power cuts leave of a file."""
    found = [disk.power_cut(Random(seed), flip=flip).files().get(path) for seed in range(300)]
    return {file.data if file is not None else None for file in found}


def test_a_name_needs_its_folder_synced_and_bytes_their_file() -> None:
    fs = FakeFileSystem(Disk())
    put(fs, "/a", b"x" * 10)
    assert futures(fs.disk, "/a") == {None, b"x" * 10}
    assert fs.disk.durable_bytes("/a") == b""
    sync_root(fs)
    assert futures(fs.disk, "/a") == {b"x" * 10}
    put(fs, "/a", b"y" * 10, synced=False)
    assert {b"x" * 10, b"y" * 10} < futures(fs.disk, "/a")
    assert fs.disk.durable_bytes("/a") == b""


def test_unsynced_sectors_are_lost_in_any_order_and_synced_ones_never() -> None:
    fs = FakeFileSystem(Disk())
    put(fs, "/a", b"k" * 512)
    sync_root(fs)
    fd = fs.open("/a", os.O_WRONLY | os.O_APPEND)
    fs.write(fd, memoryview(b"1" * 512 + b"2" * 512))
    left = futures(fs.disk, "/a", flip=True)
    assert all(data is not None and data.startswith(b"k" * 512) for data in left)
    assert b"k" * 512 + bytes(512) + b"2" * 512 in left, "a later sector without an earlier one"
    assert any(data is not None and set(data[512:]) - set(b"12\0") for data in left), "garbled"


def test_a_rename_is_whole_or_not_at_all() -> None:
    fs = FakeFileSystem(Disk())
    put(fs, "/old", b"1")
    put(fs, "/new", b"2")
    sync_root(fs)
    fs.rename("/new", "/old")
    states = {tuple(sorted((p, f.data) for p, f in fs.disk.power_cut(Random(n)).files().items())) for n in range(200)}
    assert states == {(("/new", b"2"), ("/old", b"1")), (("/old", b"2"),)}


def test_what_a_failed_sync_left_reads_well_and_is_never_written() -> None:
    disk = named(Disk()).disk
    fs = FakeFileSystem(disk, fault=Fault(1, errno.EIO, only="sync"))
    fd = fs.open("/a", WRITE)
    fs.write(fd, memoryview(b"x"))
    with pytest.raises(OSError, match="Input/output error"):
        fs.sync_file(fd)
    fs.sync_file(fd)
    sync_root(fs)
    assert disk.files()["/a"].data == b"x"
    assert futures(disk, "/a") == {b""}


def test_a_lock_dies_with_its_last_descriptor() -> None:
    fs = FakeFileSystem(Disk())
    put(fs, "/a", b"")
    one, other = fs.open("/a", os.O_RDWR), fs.open("/a", os.O_RDWR)
    again = fs.dup(one)
    fs.lock(one)
    fs.close(one)
    with pytest.raises(BlockingIOError):
        fs.lock(other)
    fs.close(again)
    fs.lock(other)


def test_copies_are_apart() -> None:
    fs = FakeFileSystem(Disk())
    before = fs.disk.copy()
    put(fs, "/a", b"x")
    assert before.files() == {}
    assert before.digest() != fs.disk.digest()
