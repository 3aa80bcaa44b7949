"""A disk in memory that loses power: what is durable, what is only cached, and what a crash may leave of it.

Rule: adversarial within what POSIX and journaling file systems allow. A sync of a file makes its bytes durable and
not its name; a sync of a folder its names and not their bytes. Of everything else a power cut keeps any subset:
bytes by sectors of 512, each whole, cut short, garbled or absent; names by whole calls (a rename is one). After a
failed sync the cached bytes read well and are never written, as on Linux. States are values: `copy` is cheap.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import BinaryIO, TypeVar

from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from rsbatch.disk import AsyncFile, StrPath

T = TypeVar("T")
SECTOR = 512
ROOT = 1

Change = tuple[int, str, int | None]
"""A name in a folder: (the folder's inode, the name, the inode that it now stands for or None)."""


@dataclass(frozen=True)
class File:
    """`data` is what a reader sees, `synced` what is durable, `log` the writes and truncations since, in order."""

    data: bytes = b""
    synced: bytes = b""
    log: tuple[tuple[int, bytes | None], ...] = ()

    @cached_property
    def digest(self) -> bytes:
        return blake2b(self.data, digest_size=16).digest()

    @cached_property
    def whole_digest(self) -> bytes:
        """Of all of it, what a later power cut may make of it included."""
        mark = blake2b(self.digest, digest_size=16)
        mark.update(blake2b(self.synced, digest_size=16).digest())
        for at, piece in self.log:
            mark.update(repr((at, piece)).encode())
        return mark.digest()


@dataclass(frozen=True)
class Folder:
    names: dict[str, int] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)


class Disk:
    """All inodes, and the changes of names that are not durable yet (each call's changes together)."""

    def __init__(self) -> None:
        self.inodes: dict[int, File | Folder] = {ROOT: Folder()}
        self.pending: tuple[tuple[Change, ...], ...] = ()
        self.next = ROOT + 1

    def copy(self) -> Disk:
        """Give the same state again, on its own."""
        new = Disk()
        new.inodes, new.pending, new.next = dict(self.inodes), self.pending, self.next
        return new

    # looking

    def files(self, *, durable: bool = False) -> dict[str, File]:
        """All files by path; with `durable` those whose names are, whatever pending changes do."""
        found: dict[str, File] = {}
        self._gather(ROOT, "", found, durable)
        return found

    def _gather(self, number: int, at: str, found: dict[str, File], durable: bool) -> None:
        folder = self.inodes[number]
        assert isinstance(folder, Folder)
        for name, below in (folder.synced if durable else folder.names).items():
            inode = self.inodes[below]
            if isinstance(inode, File):
                found[f"{at}/{name}"] = inode
            else:
                self._gather(below, f"{at}/{name}", found, durable)

    def durable_bytes(self, path: str) -> bytes:
        """What a power cut at this instant is certain to leave of a file: b"" if its name may be lost."""
        number = ROOT
        for name in path.strip("/").split("/"):
            folder = self.inodes[number]
            if not isinstance(folder, Folder) or name not in folder.synced:
                return b""
            if any(change[:2] == (number, name) for op in self.pending for change in op):
                return b""
            number = folder.synced[name]
        inode = self.inodes[number]
        if not isinstance(inode, File):
            return b""
        cuts = [at for at, piece in inode.log] or [len(inode.synced)]
        return inode.synced[: min(cuts)]

    def digest(self, ignore: Callable[[str], bool] = lambda path: False) -> bytes:
        """Tell states apart: all names and bytes, and what a power cut may do to them. `ignore`d files by size."""
        mark = blake2b(digest_size=16)
        numbers: dict[int, int] = {}
        self._mark(ROOT, "", mark.update, numbers, ignore)
        for op in self.pending:
            for folder, name, target in op:
                if folder in numbers:
                    mark.update(repr((numbers[folder], name, numbers.get(target or 0, target))).encode())
        return mark.digest()

    def _mark(
        self,
        number: int,
        at: str,
        update: Callable[[bytes], None],
        numbers: dict[int, int],
        ignore: Callable[[str], bool],
    ) -> None:
        numbers[number] = len(numbers)
        folder = self.inodes[number]
        assert isinstance(folder, Folder)
        for name in sorted({*folder.names, *folder.synced}):
            below, durable = folder.names.get(name), folder.synced.get(name)
            update(f"{name}\0{below is not None}{durable is not None}{below == durable}\0".encode())
            for one in {below, durable} - {None}:
                inode = self.inodes[one]  # type: ignore[index]
                if isinstance(inode, Folder):
                    if one not in numbers:
                        self._mark(one, f"{at}/{name}", update, numbers, ignore)  # type: ignore[arg-type]
                elif ignore(f"{at}/{name}"):
                    update(str(len(inode.data)).encode())
                else:
                    update(inode.whole_digest)

    # crashes

    def tear(self, number: int, at: int, piece: bytes) -> None:
        """Put bytes into a file's cache: all of a write, or what got there before the process died."""
        file = self.inodes[number]
        assert isinstance(file, File)
        data = bytearray(file.data)
        _put(data, at, piece)
        self.inodes[number] = File(bytes(data), file.synced, (*file.log, (at, piece)))

    def power_cut(self, rng: Random, *, flip: bool = False) -> Disk:
        """Give what a power cut leaves, one of many; with `flip` unsynced bytes may be garbage."""
        keep = rng.choice((0.0, 0.0, 0.25, 0.5, 0.75, 1.0))
        keep_names = rng.choice((0.0, 0.0, 0.25, 0.5, 0.75, 1.0))
        new = self.copy()
        names = {n: dict(i.synced) for n, i in new.inodes.items() if isinstance(i, Folder)}
        for op in new.pending:
            if rng.random() < keep_names:
                _apply(names, op)
        for number, inode in list(new.inodes.items()):
            if isinstance(inode, Folder):
                new.inodes[number] = Folder(names[number], dict(names[number]))
            elif inode.log or inode.data is not inode.synced:
                data = _survive(inode, rng, keep, flip)
                new.inodes[number] = File(data, data)
        new.pending = ()
        new._drop_unreachable()
        return new

    def _drop_unreachable(self) -> None:
        reached = {ROOT}
        waiting = [ROOT]
        while waiting:
            inode = self.inodes[waiting.pop()]
            if isinstance(inode, Folder):
                waiting += [n for n in inode.names.values() if n not in reached]
                reached.update(inode.names.values())
        self.inodes = {n: i for n, i in self.inodes.items() if n in reached}


def _apply(names: dict[int, dict[str, int]], op: tuple[Change, ...]) -> None:
    for folder, name, target in op:
        if target is None:
            names[folder].pop(name, None)
        else:
            names[folder][name] = target


def _survive(file: File, rng: Random, keep: float, flip: bool) -> bytes:
    data = bytearray(file.synced)
    most = len(data)
    for at, piece in file.log:
        if piece is None:
            if rng.random() < keep:
                del data[at:]
                most = max(most, at)
            continue
        most = max(most, at + len(piece))
        if len(piece) > 64 * SECTOR:  # the reserve: nothing reads it
            if rng.random() < keep:
                _put(data, at, piece[: rng.randrange(len(piece) + 1)])
            continue
        begin = at
        while begin < at + len(piece):
            end = min((begin // SECTOR + 1) * SECTOR, at + len(piece))
            if rng.random() < keep:
                sector = piece[begin - at : end - at]
                if rng.random() < 0.1:
                    sector = sector[: rng.randrange(len(sector) + 1)]
                if flip and sector and rng.random() < 0.5:
                    sector = _garbled(sector, rng)
                _put(data, begin, sector)
            begin = end
    if len(data) < most and rng.random() < 0.15:  # the size got there, the bytes did not
        data += bytes(rng.randrange(most - len(data) + 1))
    return bytes(data)


def _put(data: bytearray, at: int, piece: bytes) -> None:
    if len(data) < at:
        data += bytes(at - len(data))
    data[at : at + len(piece)] = piece


def _garbled(sector: bytes, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return rng.randbytes(len(sector))
    bits = bytearray(sector)
    bits[rng.randrange(len(bits))] ^= 1 << rng.randrange(8)
    return bytes(bits)


@dataclass
class _Open:
    number: int
    flags: int
    position: int = 0
    fds: int = 1


@dataclass
class Fault:
    """Operation number `at` (1-based) fails with `code`, or writes short; `lasting`: and so do all later ones.

    A lasting one strikes the kinds of operation in `kinds`, and the first one's own kind. With `only` nothing but
    operations of that kind are counted.
    """

    at: int
    code: int | None
    lasting: bool = False
    kinds: frozenset[str] = frozenset()
    only: str = ""
    struck: str = ""
    seen: int = 0

    def strikes(self, count: int, kind: str) -> bool:
        if self.only:
            self.seen += kind == self.only
            return kind == self.only and self.seen == self.at
        if count == self.at:
            self.struck = kind
            return True
        return self.lasting and count > self.at and (kind in self.kinds or kind == self.struck)


class FakeFileSystem:
    """One process' view of a disk: its descriptors and locks. See `rsbatch.disk.FileSystem`.

    `before` is called before each operation that changes anything durable or cached, with its kind; `writing` is the
    write that is about to happen then (inode, offset, bytes). `count` counts all operations.
    """

    def __init__(self, disk: Disk, *, fault: Fault | None = None) -> None:
        self.disk = disk
        self.fault = fault
        self.count = 0
        self.before: Callable[[str], None] = lambda kind: None
        self.writing: tuple[int, int, bytes] | None = None
        self._fds: dict[int, _Open] = {}
        self._next = 3
        self._locks: dict[int, _Open] = {}

    @property
    def open_files(self) -> int:
        return len(self._fds)

    def _op(self, kind: str) -> None:
        """Count an operation, and fail it if it is to fail."""
        self.count += 1
        if self.fault is not None and self.fault.strikes(self.count, kind) and self.fault.code is not None:
            raise _error(self.fault.code)

    # paths

    def _at(self, dir_fd: int | None, path: StrPath) -> int:
        return ROOT if dir_fd is None or str(path).startswith("/") else self._get(dir_fd).number

    def _parent(self, path: StrPath, dir_fd: int | None) -> tuple[int, str]:
        number = self._at(dir_fd, path)
        *above, name = [p for p in str(path).split("/") if p not in ("", ".")] or ["."]
        for one in above:
            number = self._below(number, one)
        self._folder(number)
        return number, name

    def _below(self, number: int, name: str) -> int:
        names = self._folder(number).names
        if name == ".":
            return number
        if name not in names:
            raise _error(errno.ENOENT)
        return names[name]

    def _folder(self, number: int) -> Folder:
        inode = self.disk.inodes[number]
        if not isinstance(inode, Folder):
            raise _error(errno.ENOTDIR)
        return inode

    def _find(self, path: StrPath, dir_fd: int | None) -> int:
        return self._below(*self._parent(path, dir_fd))

    def _get(self, fd: int) -> _Open:
        if fd not in self._fds:
            raise _error(errno.EBADF)
        return self._fds[fd]

    def _file(self, number: int) -> File:
        inode = self.disk.inodes[number]
        if not isinstance(inode, File):
            raise _error(errno.EISDIR)
        return inode

    def _rename_all(self, *changes: Change) -> None:
        disk = self.disk
        for number, name, target in changes:
            names = dict(self._folder(number).names)
            if target is None:
                names.pop(name, None)
            else:
                names[name] = target
            disk.inodes[number] = replace(self._folder(number), names=names)
        disk.pending = (*disk.pending, changes)

    def _new(self, inode: File | Folder) -> int:
        number = self.disk.next
        self.disk.next += 1
        self.disk.inodes[number] = inode
        return number

    # the interface

    def open(self, path: StrPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self._op("create" if flags & os.O_CREAT else "open")
        parent, name = self._parent(path, dir_fd)
        names = self._folder(parent).names
        if name != "." and name not in names:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT)
            self.before("create")
            number = self._new(File())
            self._rename_all((parent, name, number))
        else:
            if flags & os.O_CREAT and flags & os.O_EXCL:
                raise _error(errno.EEXIST)
            number = self._below(parent, name)
            inode = self.disk.inodes[number]
            if isinstance(inode, Folder) and flags & (os.O_WRONLY | os.O_RDWR):
                raise _error(errno.EISDIR)
            if isinstance(inode, File) and flags & os.O_DIRECTORY:
                raise _error(errno.ENOTDIR)
            if flags & os.O_TRUNC and isinstance(inode, File) and inode.data:
                self.before("truncate")
                self._truncate(number, 0)
        fd = self._next
        self._next += 1
        self._fds[fd] = _Open(number, flags)
        return fd

    def close(self, fd: int) -> None:
        opened = self._get(fd)
        del self._fds[fd]  # also where it fails, as on Linux
        opened.fds -= 1
        if opened.fds == 0 and self._locks.get(opened.number) is opened:
            del self._locks[opened.number]
        self._op("close")

    def dup(self, fd: int) -> int:
        self._op("open")
        opened = self._get(fd)
        opened.fds += 1
        self._next += 1
        self._fds[self._next - 1] = opened
        return self._next - 1

    def reader(self, fd: int) -> BinaryIO:
        try:
            self._op("read")
            opened = self._get(fd)
            data = self._file(opened.number).data
            opened.position = len(data)
        except OSError:
            with suppress(OSError):
                self.close(fd)
            raise
        return _Reader(data, self, fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._op("read")
        return self._file(self._get(fd).number).data[offset : offset + size]

    def write(self, fd: int, data: memoryview) -> int:
        short = False
        self._op("write")
        if self.fault is not None and self.fault.code is None:
            short = self.fault.strikes(self.count, "write")
        opened = self._get(fd)
        if not opened.flags & (os.O_WRONLY | os.O_RDWR):
            raise _error(errno.EBADF)
        file = self._file(opened.number)
        at = len(file.data) if opened.flags & os.O_APPEND else opened.position
        piece = bytes(data[: max(1, len(data) // 2)] if short else data)
        self.writing = (opened.number, at, piece)
        self.before("write")
        self.writing = None
        self.disk.tear(opened.number, at, piece)
        opened.position = at + len(piece)
        return len(piece)

    def ftruncate(self, fd: int, size: int) -> None:
        self._op("truncate")
        if not self._get(fd).flags & (os.O_WRONLY | os.O_RDWR):
            raise _error(errno.EINVAL)
        if len(self._file(self._get(fd).number).data) != size:
            self.before("truncate")
            self._truncate(self._get(fd).number, size)

    def _truncate(self, number: int, size: int) -> None:
        file = self._file(number)
        data = file.data[:size] + bytes(max(0, size - len(file.data)))
        self.disk.inodes[number] = File(data, file.synced, (*file.log, (size, None)))

    def sync_file(self, fd: int) -> None:
        number = self._get(fd).number
        if isinstance(self.disk.inodes[number], Folder):
            return self.sync_folder(fd)
        file = self._file(number)
        try:
            self._op("sync")
        except OSError:
            self.before("failed sync")  # the cached pages are clean from now on, and were never written
            self.disk.inodes[number] = File(file.data, file.synced, ())
            raise
        if file.log:
            self.before("sync")
            kept = bytearray(file.synced)
            for at, piece in file.log:
                if piece is None:
                    kept[at:] = bytes(max(0, at - len(kept)))
                else:
                    _put(kept, at, piece)
            data = file.data if kept == file.data else bytes(kept)
            self.disk.inodes[number] = File(file.data, data, ())
        return None

    def sync_folder(self, fd: int) -> None:
        self._op("sync")
        number, disk = self._get(fd).number, self.disk
        self._folder(number)
        if not any(change[0] == number for op in disk.pending for change in op):
            return
        self.before("sync folder")
        names = {n: dict(i.synced) for n, i in disk.inodes.items() if isinstance(i, Folder)}
        left: list[tuple[Change, ...]] = []
        for op in disk.pending:
            here = tuple(c for c in op if c[0] == number)
            rest = tuple(c for c in op if c[0] != number)
            if here and any(c[2] is None for c in here):  # a rename never loses both names
                here, rest = op, ()
            _apply(names, here)
            if rest:
                left.append(rest)
        for n, synced in names.items():
            disk.inodes[n] = Folder(self._folder(n).names, synced)
        disk.pending = tuple(left)

    def lock(self, fd: int) -> None:
        self._op("lock")
        opened = self._get(fd)
        if self._locks.setdefault(opened.number, opened) is not opened:
            raise _error(errno.EWOULDBLOCK)

    def fstat(self, fd: int) -> os.stat_result:
        self._op("stat")
        return self._stat(self._get(fd).number)

    def stat(self, path: StrPath, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        self._op("stat")
        return self._stat(self._find(path, dir_fd))

    def _stat(self, number: int) -> os.stat_result:
        inode = self.disk.inodes[number]
        mode = stat.S_IFREG | 0o644 if isinstance(inode, File) else stat.S_IFDIR | 0o755
        size = len(inode.data) if isinstance(inode, File) else 4096
        return os.stat_result((mode, number, 1, 1, 0, 0, size, 0, 0, 0))

    def mkdir(self, path: StrPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._op("mkdir")
        parent, name = self._parent(path, dir_fd)
        if name == "." or name in self._folder(parent).names:
            raise _error(errno.EEXIST)
        self.before("mkdir")
        self._rename_all((parent, name, self._new(Folder())))

    def link(
        self, source: StrPath, target: StrPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        self._op("link")
        number = self._find(source, src_dir_fd)
        parent, name = self._parent(target, dst_dir_fd)
        if name in self._folder(parent).names:
            raise _error(errno.EEXIST)
        if isinstance(self.disk.inodes[number], Folder):
            raise _error(errno.EPERM)
        self.before(f"link {number} {target}")
        self._rename_all((parent, name, number))

    def rename(
        self, source: StrPath, target: StrPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        self._op("rename")
        here, old = self._parent(source, src_dir_fd)
        there, new = self._parent(target, dst_dir_fd)
        number = self._below(here, old)
        stands = self._folder(there).names.get(new)
        if stands == number:
            return
        moved, taken = self.disk.inodes[number], None if stands is None else self.disk.inodes[stands]
        if isinstance(moved, Folder) and self._inside(there, number):
            raise _error(errno.EINVAL)
        if stands is not None and self._inside(here, stands):
            raise _error(errno.ENOTEMPTY)
        if isinstance(taken, Folder) and not isinstance(moved, Folder):
            raise _error(errno.EISDIR)
        if isinstance(taken, File) and isinstance(moved, Folder):
            raise _error(errno.ENOTDIR)
        if isinstance(taken, Folder) and taken.names:
            raise _error(errno.ENOTEMPTY)
        self.before(f"rename {number} {target}")
        self._rename_all((there, new, number), (here, old, None))

    def _inside(self, number: int, folder: int) -> bool:
        """Whether a folder is another one, or lies somewhere below it."""
        inode = self.disk.inodes[folder]
        return number == folder or (
            isinstance(inode, Folder) and any(self._inside(number, below) for below in inode.names.values())
        )

    def unlink(self, path: StrPath, *, dir_fd: int | None = None) -> None:
        self._op("unlink")
        parent, name = self._parent(path, dir_fd)
        if isinstance(self.disk.inodes[self._below(parent, name)], Folder):
            raise _error(errno.EISDIR)
        self.before("unlink")
        self._rename_all((parent, name, None))

    def listdir(self, fd: int) -> list[str]:
        self._op("read")
        return list(self._folder(self._get(fd).number).names)

    def walk(self, fd: int) -> Iterator[tuple[str, list[str], list[str], int]]:
        yield from self._walk(fd, ".")

    def _walk(self, fd: int, at: str) -> Iterator[tuple[str, list[str], list[str], int]]:
        inodes = self.disk.inodes
        names = self._folder(self._get(fd).number).names
        folders = [name for name in self.listdir(fd) if isinstance(inodes[names[name]], Folder)]
        yield at, folders, [name for name in names if name not in folders], fd
        for name in folders:
            below = self.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            try:
                yield from self._walk(below, f"{at}/{name}")
            finally:
                self.close(below)

    def refuges(self) -> list[Path]:
        return [Path("/cwd"), Path("/tmp")]

    async def offload(self, work: Callable[[], T]) -> T:
        await checkpoint()
        try:
            return work()
        finally:  # as with a thread, others come between
            await cancel_shielded_checkpoint()

    async def open_async(self, create: Callable[[], int]) -> AsyncFile:
        return _AsyncFile(self, await self.offload(create))


class _Reader(io.BytesIO):
    """What `reader` gives."""

    def __init__(self, data: bytes, fs: FakeFileSystem, fd: int) -> None:
        super().__init__(data)
        self._fs = fs
        self._fd: int | None = fd

    def close(self) -> None:
        super().close()
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)


class _AsyncFile:
    """What `open_async` gives: unbuffered."""

    def __init__(self, fs: FakeFileSystem, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        self._closed = False

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._fs.offload(lambda: self._fs.close(self._fd))

    def fileno(self) -> int:
        return self._fd


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def named(disk: Disk) -> FakeFileSystem:
    """Give a disk with the folders that every machine has, as a process sees it."""
    fs = FakeFileSystem(disk)
    for name in ("/cwd", "/tmp", "/out"):
        fs.mkdir(name)
    fd = fs.open("/", os.O_RDONLY | os.O_DIRECTORY)
    fs.sync_folder(fd)
    fs.close(fd)
    return fs
