"""The disk that the ledger and the images are on: one narrow interface, and the real one.

Rule: whatever touches the output folder goes through a `FileSystem`, so that a simulated one can take its place
and fail or lose power at any call. The calls mean what `os` means by them, and block; async code hands them to
`offload`. A sync that failed is never tried again: the kernel may have dropped the pages and call the next one a
success. So another way of syncing is taken only where the first one does not exist.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

T = TypeVar("T")
StrPath = str | Path

_NOT_THERE = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
"""How file systems say that they cannot sync in this way, or cannot sync folders (some network and FUSE ones)."""
_BUFFER = 128 * 1024
"""Bytes that a reader has at hand: the lines of a large ledger are read in half the time it takes with 8 KiB."""
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
# link() must not follow a symbolic link that is moved aside.
_AS_IT_IS = {"follow_symlinks": False} if os.link in os.supports_follow_symlinks else {}


class AsyncFile(Protocol):
    """A file that async code has opened; `close` raises OSError."""

    async def close(self) -> None:
        """Close the descriptor."""
        ...

    def fileno(self) -> int:
        """Give the descriptor."""
        ...


class FileSystem(Protocol):
    """What is asked of a disk. Names and errors are those of `os`; a descriptor belongs to who opened it."""

    def open(self, path: StrPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """See `os.open`."""
        ...

    def close(self, fd: int) -> None:
        """See `os.close`."""
        ...

    def dup(self, fd: int) -> int:
        """See `os.dup`."""
        ...

    def reader(self, fd: int) -> BinaryIO:
        """Read from the start of an open file, whose descriptor is closed with the reader, or if this fails."""
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See `os.pread`."""
        ...

    def write(self, fd: int, data: memoryview) -> int:
        """See `os.write`."""
        ...

    def ftruncate(self, fd: int, size: int) -> None:
        """See `os.ftruncate`."""
        ...

    def sync_file(self, fd: int) -> None:
        """Bring a file's bytes to the platters."""
        ...

    def sync_folder(self, fd: int) -> None:
        """Make the names in an open folder durable, where its file system can do that."""
        ...

    def lock(self, fd: int) -> None:
        """Lock a file for this process alone; raises BlockingIOError where another holds it."""
        ...

    def fstat(self, fd: int) -> os.stat_result:
        """See `os.fstat`."""
        ...

    def stat(self, path: StrPath, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        """See `os.stat`."""
        ...

    def mkdir(self, path: StrPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        """See `os.mkdir`."""
        ...

    def link(
        self, source: StrPath, target: StrPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        """See `os.link`; a symbolic link is linked itself."""
        ...

    def rename(
        self, source: StrPath, target: StrPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        """See `os.replace`: what stands at `target` is replaced."""
        ...

    def unlink(self, path: StrPath, *, dir_fd: int | None = None) -> None:
        """See `os.unlink`."""
        ...

    def listdir(self, fd: int) -> list[str]:
        """See `os.listdir`."""
        ...

    def walk(self, fd: int) -> Iterator[tuple[str, list[str], list[str], int]]:
        """Walk an open folder as `os.fwalk` does, from `.`; errors are raised."""
        ...

    def refuges(self) -> list[Path]:
        """Name folders elsewhere that may take what this disk does not."""
        ...

    async def offload(self, work: Callable[[], T]) -> T:
        """Do blocking work without holding up the event loop; once begun it is not cancelled."""
        ...

    async def open_async(self, create: Callable[[], int]) -> AsyncFile:
        """Give an unbuffered file for writing round the descriptor that `create` makes, in the thread that it uses."""
        ...


class RealFileSystem:
    """The system's own; see `FileSystem`. `open_async` needs asyncio."""

    def open(self, path: StrPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """See `os.open`."""
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def close(self, fd: int) -> None:
        """See `os.close`."""
        os.close(fd)

    def dup(self, fd: int) -> int:
        """See `os.dup`."""
        return os.dup(fd)

    def reader(self, fd: int) -> BinaryIO:
        """See `FileSystem`."""
        try:
            file = open(fd, "rb", _BUFFER)  # noqa: SIM115 - the caller closes it
        except OSError:  # a folder
            os.close(fd)
            raise
        if file.seekable():  # a pipe has no start
            file.seek(0)
        return file

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See `os.pread`."""
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: memoryview) -> int:
        """See `os.write`."""
        return os.write(fd, data)

    def ftruncate(self, fd: int, size: int) -> None:
        """See `os.ftruncate`."""
        os.ftruncate(fd, size)

    def sync_file(self, fd: int) -> None:
        """See `FileSystem`."""
        if _FULL_SYNC is not None:
            try:
                fcntl.fcntl(fd, _FULL_SYNC)  # macOS' fsync stops at the drive's cache (fsync(2) there)
                return
            except OSError as exc:
                if exc.errno not in _NOT_THERE:
                    raise
        os.fsync(fd)

    def sync_folder(self, fd: int) -> None:
        """See `FileSystem`."""
        try:
            os.fsync(fd)
        except OSError as exc:
            if exc.errno not in _NOT_THERE:
                raise

    def lock(self, fd: int) -> None:
        """See `FileSystem`."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def fstat(self, fd: int) -> os.stat_result:
        """See `os.fstat`."""
        return os.fstat(fd)

    def stat(self, path: StrPath, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        """See `os.stat`."""
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def mkdir(self, path: StrPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        """See `os.mkdir`."""
        os.mkdir(path, mode, dir_fd=dir_fd)

    def link(
        self, source: StrPath, target: StrPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        """See `os.link`; a symbolic link is linked itself."""
        os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **_AS_IT_IS)

    def rename(
        self, source: StrPath, target: StrPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        """See `os.replace`: what stands at `target` is replaced."""
        os.replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(self, path: StrPath, *, dir_fd: int | None = None) -> None:
        """See `os.unlink`."""
        os.unlink(path, dir_fd=dir_fd)

    def listdir(self, fd: int) -> list[str]:
        """See `os.listdir`."""
        return os.listdir(fd)

    def walk(self, fd: int) -> Iterator[tuple[str, list[str], list[str], int]]:
        """See `os.fwalk`."""
        return os.fwalk(".", dir_fd=fd, onerror=_raise)

    def refuges(self) -> list[Path]:
        """See `FileSystem`: the working folder and the one for temporary files."""
        found = []
        for folder in (Path.cwd, tempfile.gettempdir):
            with suppress(OSError):  # the one that was deleted, or none that can be written to
                found.append(Path(folder()))
        return found

    async def offload(self, work: Callable[[], T]) -> T:
        """See `FileSystem`: in a worker thread."""
        import anyio.to_thread

        return await anyio.to_thread.run_sync(work)

    async def open_async(self, create: Callable[[], int]) -> AsyncFile:
        """See `FileSystem`: by aiofiles, whose thread does all the work through its opener."""
        import aiofiles

        return await aiofiles.open("", "wb", buffering=0, opener=lambda _name, _flags: create())


REAL = RealFileSystem()


def sync_folder(fs: FileSystem, folder: Path) -> None:
    """Make the names in `folder` durable; raises OSError."""
    fd = fs.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fs.sync_folder(fd)
    finally:
        release(fs, fd)


def sync_names(fs: FileSystem, folder: Path) -> None:
    """Make the names of a folder and of all above it durable, as far as its disk goes; raises OSError.

    Any of them may be one that a killed run made and never synced. A folder that may not be read is passed over:
    nobody made one there who cannot read it.
    """
    device = fs.stat(folder).st_dev
    for above in folder.absolute().parents:
        try:
            fd = fs.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            continue
        try:
            if fs.fstat(fd).st_dev != device:
                return
            fs.sync_folder(fd)
        finally:
            release(fs, fd)


def make_folders(fs: FileSystem, folder: Path) -> None:
    """Make a folder and those above it where they are missing; raises OSError, as `check_folder` does."""
    try:
        fs.mkdir(folder)
    except FileNotFoundError:
        make_folders(fs, folder.parent)
        make_folders(fs, folder)
    except FileExistsError:
        check_folder(fs, folder)
    except OSError:  # such as EROFS, where it is there all the same
        if not _is_folder(fs, folder):
            raise


def check_folder(fs: FileSystem, folder: Path) -> None:
    """Raise OSError, with what to do, where something else than a folder stands at `folder`.

    A link that leads nowhere may lead to a disk that is not mounted, and with it to a ledger. Who made a new folder
    in its place would buy everything once more.
    """
    try:
        status = fs.stat(folder)
    except FileNotFoundError:
        if exists(fs, folder):
            why = "it leads to a place that is not there; mount or restore that, for what was bought is recorded in it"
            raise NotADirectoryError(errno.ENOTDIR, why, str(folder)) from None
        return
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder; move it away", str(folder))


def release(fs: FileSystem, fd: int) -> None:
    """Close what needs nothing more: only read, synced, or given up. It is closed even where that fails."""
    with suppress(OSError):
        fs.close(fd)


def write_all(fs: FileSystem, fd: int, data: bytes) -> None:
    """Write all of `data`; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[fs.write(fd, view) :]


def read_at(fs: FileSystem, fd: int, size: int, offset: int) -> bytes:
    """Read `size` bytes from `offset` on, fewer only where the file ends; raises OSError."""
    data = fs.pread(fd, size, offset)
    while len(data) < size and (more := fs.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data


def exists(fs: FileSystem, path: Path) -> bool:
    """Tell if anything stands at `path`, a dangling link included; raises OSError."""
    try:
        fs.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove(fs: FileSystem, path: Path) -> None:
    """Remove a file if it is there; raises OSError."""
    with suppress(FileNotFoundError):
        fs.unlink(path)


def _is_folder(fs: FileSystem, folder: Path) -> bool:
    try:
        return stat.S_ISDIR(fs.stat(folder).st_mode)
    except OSError:
        return False


def _raise(error: OSError) -> None:
    raise error
