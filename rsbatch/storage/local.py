"""The output folder on a real disk.

Rule: everything is reached from the output folder's own descriptor, one component at a time, and no symbolic
link inside is followed; what is published is durable (bytes, name, and the folders made for it) when the call
returns; nothing published is overwritten. Each method is one thread hop. The output folder itself may be a
link: it is the user's own word where the images go.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from anyio import CancelScope

from rsbatch.disk import REAL, AsyncFile, FileSystem, make_folders, read_at, release, write_all
from rsbatch.errors import StoreError
from rsbatch.storage.interface import NOT_A_FILE, PARTS, Occupied, T, components, part_name, sidecar_path
from rsbatch.text import printable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Never waits: a FIFO that was put in the place of an image must not hang the run.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# How file systems say that they have no hard links (FAT, exFAT, SMB, some FUSE), or not for this (folders).
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
# What is there cannot be looked at; anything else (EIO, EMFILE) says nothing about what is there.
_UNREACHABLE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
BUFFER = 2 * 1024 * 1024
"""Bytes gathered before they are handed to a thread: most images are no larger, and need one hop, where a file that
stays open needs four; a hop costs 0.15 ms of CPU. No more, because every download at work holds as much."""


class LocalPart:
    """A part file on disk. It is made once `buffer` bytes are here, and otherwise whole at the end."""

    def __init__(self, shown: str, create: Callable[[], int], fs: FileSystem, buffer: int) -> None:
        self._shown = shown
        self._create = create
        self._fs = fs
        self._buffer = buffer
        self._file: AsyncFile | None = None
        self._waiting: list[bytes] = []
        self._size = 0
        self._whole = True  # nothing that was taken from `_waiting` is missing in the file
        self._ended = False

    async def write(self, data: bytes) -> None:
        """Append `data`; see `Part`."""
        self._check_open()
        self._waiting.append(data)
        self._size += len(data)
        if self._size > self._buffer:
            await self.flush()

    async def flush(self) -> None:
        """Hand what is waiting to the system, but not after the end. Raises `StoreError`."""
        if self._ended:
            return
        if self._file is None:
            with _translated(self._shown), CancelScope(shield=True):
                self._file = await self._fs.open_async(self._create)
        if self._waiting:
            await self._fs.offload(self._write_and(lambda _: None))

    async def sync(self, check: Callable[[bytes], T]) -> T:
        """Write what is waiting, fsync and check, in one hop; see `Part`."""
        self._check_open()
        self._ended = True
        work = self._write_and(self._synced)
        return await self._fs.offload(lambda: check(work()))

    def _check_open(self) -> None:
        if self._ended:
            raise StoreError(f"{self._shown}: nothing can be added to a part after its sync")

    def _synced(self, fd: int) -> bytes:
        self._fs.sync_file(fd)
        return read_at(self._fs, fd, self._fs.fstat(fd).st_size, 0)

    def _write_and(self, then: Callable[[int], T]) -> Callable[[], T]:
        """Take what is waiting, and give what writes it in a thread and goes on with `then`.

        If that fails, or never begins, nothing more is done: what is lost would be missing in what is synced later.
        """
        pieces, self._waiting, self._size = self._waiting, [], 0
        whole, self._whole = self._whole, False

        def work() -> T:
            if not whole:
                raise StoreError(f"{self._shown}: an earlier write failed")
            with _translated(self._shown), self._opened() as fd:
                for piece in pieces:  # to join them would cost more
                    write_all(self._fs, fd, piece)
                pieces.clear()  # else they are in memory while what is read back is checked
                result = then(fd)
            self._whole = True
            return result

        return work

    @contextmanager
    def _opened(self) -> Iterator[int]:
        if self._file is not None:
            yield self._file.fileno()
            return
        fd = self._create()
        try:
            yield fd
        finally:
            release(self._fs, fd)

    async def close(self) -> None:
        """Close the file, if one is open. Raises `StoreError`."""
        if self._file is not None:
            with _translated(self._shown), CancelScope(shield=True):
                await self._file.close()


class LocalStorage:
    """One output folder on disk, made when first needed; see `Storage`. The real disk needs asyncio (aiofiles)."""

    buffer = BUFFER

    def __init__(self, root: Path, fs: FileSystem = REAL) -> None:
        self._root = root
        self._fs = fs
        # Folders whose own names were made durable by this process: a folder found may be one that a killed
        # run made and never synced.
        self._durable: set[tuple[str, ...]] = set()

    def open_part(self, name: str) -> AbstractAsyncContextManager[LocalPart]:
        """See `Storage`."""
        return self._open_part(part_name(name))

    @asynccontextmanager
    async def _open_part(self, name: str) -> AsyncIterator[LocalPart]:
        part = LocalPart(self._shown(f"{PARTS}/{name}"), lambda: self._create_part(name), self._fs, self.buffer)
        try:
            yield part
            await part.flush()
        except BaseException:
            with CancelScope(shield=True):
                # What happened first is what is told; the part is of no use anyhow.
                with suppress(StoreError):
                    await part.close()
            raise
        await part.close()

    async def part_sha256(self, name: str) -> str | None:
        """See `Storage`."""
        part_name(name)
        return await self._run(f"{PARTS}/{name}", lambda: self._using((PARTS, name), _sha256))

    async def parts(self) -> list[str]:
        """See `Storage`."""
        return await self._run(PARTS, self._list_parts)

    async def discard_part(self, name: str) -> None:
        """See `Storage`."""
        part_name(name)
        await self._run(f"{PARTS}/{name}", lambda: self._discard(name))

    async def publish(self, name: str, path: str, sidecar: bytes | None = None) -> bool:
        """See `Storage`."""
        place = components(path)
        part_name(name)

        def work() -> bool:
            with self._folder((PARTS,), make=True) as parts, self._folder(place[:-1], make=True) as folder:
                if self._lstat(parts, name) is not None:
                    self._rename_new(parts, name, folder, place[-1], self._shown(path))
                elif self._lstat(folder, place[-1]) is not None:
                    raise _occupied(self._shown(path))
                else:
                    raise StoreError(f"{self._shown(PARTS)}: no part {printable(name)}")
                if sidecar is None:
                    return False
                beside = components(sidecar_path(path))
                try:
                    self._write_whole(parts, folder, beside, sidecar, replace=False)
                except Occupied:
                    return False
                return True

        return await self._run(path, work)

    async def settle(self, path: str) -> None:
        """See `Storage`."""
        place = components(path)

        def work() -> None:
            descriptor = self._open_file(place)
            if descriptor is None:
                raise StoreError(f"{self._shown(path)}: No such file")
            try:
                self._fs.sync_file(descriptor)
            finally:
                release(self._fs, descriptor)
            with self._folder(place[:-1], make=True) as folder:
                self._fs.sync_folder(folder)

        await self._run(path, work)

    async def move(self, source: str, target: str) -> None:
        """See `Storage`."""
        old, new = components(source), components(target)

        def work() -> None:
            with self._folder(old[:-1], make=False) as here:
                if self._lstat(here, old[-1]) is None:
                    raise StoreError(f"{self._shown(source)}: No such file")
                with self._folder(new[:-1], make=True) as there:
                    self._rename_new(here, old[-1], there, new[-1], self._shown(target))
                self._fs.sync_folder(here)

        await self._run(target, work)

    async def write_atomic(self, path: str, data: bytes, *, replace: bool = True) -> None:
        """See `Storage`."""
        place = components(path)

        def work() -> None:
            with self._folder((PARTS,), make=True) as parts, self._folder(place[:-1], make=True) as folder:
                self._write_whole(parts, folder, place, data, replace=replace)

        await self._run(path, work)

    async def read(self, path: str, limit: int) -> bytes | None:
        """See `Storage`."""
        place = components(path)
        data = await self._run(path, lambda: self._using(place, lambda file: file.read(limit + 1)))
        if data is not None and len(data) > limit:
            raise StoreError(f"{printable(path)}: larger than {limit:,} bytes")
        return data

    async def exists(self, path: str) -> bool:
        """See `Storage`."""
        place = components(path)
        return await self._run(path, lambda: self._stat(place) is not None)

    async def size(self, path: str) -> int | None:
        """See `Storage`."""
        place = components(path)
        return await self._run(path, lambda: self._size(place))

    async def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """See `Storage`."""

        def one(path: str) -> int | None:
            try:
                return self._size(components(path))
            except StoreError:
                return NOT_A_FILE
            except OSError as exc:
                if exc.errno not in _UNREACHABLE:
                    raise
                return NOT_A_FILE

        return await self._run("", lambda: [one(path) for path in paths])

    async def sha256(self, path: str) -> str | None:
        """See `Storage`."""
        place = components(path)
        return await self._run(path, lambda: self._using(place, _sha256))

    async def files(self, pattern: str = "*") -> list[str]:
        """See `Storage`."""
        return await self._run("", lambda: sorted(self._walk(pattern)))

    # From here on everything blocks, and runs in a thread.

    async def _run(self, path: str, work: Callable[[], T]) -> T:
        with _translated(self._shown(path)):
            return await self._fs.offload(work)

    def _shown(self, path: str) -> str:
        return printable(str(self._root / path))

    @contextmanager
    def _folder(self, place: Sequence[str], *, make: bool) -> Iterator[int]:
        """Open a folder inside, component by component, and yield its descriptor.

        Raises `FileNotFoundError` if it is not there and `make` is false.
        """
        try:
            here = self._fs.open(self._root, _FOLDER)
        except FileNotFoundError:
            if not make:
                raise
            make_folders(self._fs, self._root)
            here = self._fs.open(self._root, _FOLDER)
        try:
            for depth, name in enumerate(place, start=1):
                if make and (known := tuple(place[:depth])) not in self._durable:
                    self._make_folder(here, name)
                    self._durable.add(known)
                try:
                    below = self._open_folder(here, name)
                except FileNotFoundError:  # somebody took it away
                    if not make:
                        raise
                    self._make_folder(here, name)
                    below = self._open_folder(here, name)
                release(self._fs, here)
                here = below
            yield here
        finally:
            release(self._fs, here)

    def _create_part(self, name: str) -> int:
        with self._folder((PARTS,), make=True) as parts:
            return self._create_in(parts, name)

    def _create_in(self, parts: int, name: str) -> int:
        try:
            return self._fs.open(name, _CREATE, 0o666, dir_fd=parts)
        except FileExistsError:  # of a run that was killed
            self._fs.unlink(name, dir_fd=parts)
            return self._fs.open(name, _CREATE, 0o666, dir_fd=parts)

    def _write_whole(self, parts: int, folder: int, place: tuple[str, ...], data: bytes, *, replace: bool) -> None:
        """Write the file `place`, whose folder is open, by way of the parts."""
        path = "/".join(place)
        with _translated(self._shown(path)):
            if not replace and self._lstat(folder, place[-1]) is not None:
                raise _occupied(self._shown(path))
            # Always the same for one path, so that a crash leaves at most one, which the next try replaces.
            temporary = f"~{hashlib.sha256(path.encode()).hexdigest()[:32]}"
            file = self._create_in(parts, temporary)
            try:
                write_all(self._fs, file, data)
                self._fs.sync_file(file)
            finally:
                self._fs.close(file)
            self._fs.rename(temporary, place[-1], src_dir_fd=parts, dst_dir_fd=folder)
            self._fs.sync_folder(folder)

    def _list_parts(self) -> list[str]:
        try:
            with self._folder((PARTS,), make=False) as parts:
                return sorted(name for name in self._fs.listdir(parts) if not name.startswith("~"))
        except FileNotFoundError:
            return []

    def _discard(self, name: str) -> None:
        with suppress(FileNotFoundError), self._folder((PARTS,), make=False) as parts:
            self._fs.unlink(name, dir_fd=parts)

    def _stat(self, place: tuple[str, ...]) -> os.stat_result | None:
        try:
            with self._folder(place[:-1], make=False) as folder:
                return self._lstat(folder, place[-1])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _size(self, place: tuple[str, ...]) -> int | None:
        status = self._stat(place)
        if status is None:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{self._shown('/'.join(place))}: {_kind(status)}, not a regular file")
        return status.st_size

    def _open_file(self, place: tuple[str, ...]) -> int | None:
        """Open a regular file for reading; None if there is nothing."""
        if self._size(place) is None:
            return None
        try:
            with self._folder(place[:-1], make=False) as folder:
                return self._fs.open(place[-1], _READ, dir_fd=folder)
        except FileNotFoundError:
            return None

    def _using(self, place: tuple[str, ...], use: Callable[[IO[bytes]], T]) -> T | None:
        """Open a regular file and use it; None if there is nothing."""
        descriptor = self._open_file(place)
        if descriptor is None:
            return None
        with self._fs.reader(descriptor) as file:
            return use(file)

    def _walk(self, pattern: str) -> Iterator[str]:
        try:
            root = self._fs.open(self._root, _FOLDER)
        except FileNotFoundError:
            return
        try:
            for at, folders, names, descriptor in self._fs.walk(root):
                inside = "" if at == "." else at[2:] + "/"
                folders[:] = [name for name in folders if inside or name.casefold() != PARTS]
                for name in names:
                    status = self._lstat(descriptor, name) if fnmatchcase(name, pattern) else None
                    if status is not None and stat.S_ISREG(status.st_mode):
                        yield inside + name
        finally:
            release(self._fs, root)

    def _rename_new(self, source_folder: int, source: str, folder: int, name: str, shown: str) -> None:
        """Rename without overwriting, and make the new name durable before the old one goes.

        A link fails where something stands, atomically. Without links there is a moment between look and rename;
        the ledger's lock keeps other runs out of it.
        """
        try:
            self._fs.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)
        except FileExistsError as exc:
            # A crash between link and unlink leaves one file under both names: go on from there.
            if not _same_file(self._lstat(source_folder, source), self._lstat(folder, name)):
                raise _occupied(shown) from exc
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            if self._lstat(folder, name) is not None:
                raise _occupied(shown) from exc
            self._fs.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)
            self._fs.sync_folder(folder)
            return
        self._fs.sync_folder(folder)
        self._fs.unlink(source, dir_fd=source_folder)

    def _make_folder(self, parent: int, name: str) -> None:
        """Make a folder where none is, and its name durable."""
        with suppress(FileExistsError):
            # Parts are nobody else's business; what is published has the mode that the umask gives.
            self._fs.mkdir(name, 0o700 if name == PARTS else 0o777, dir_fd=parent)
        self._fs.sync_folder(parent)

    def _open_folder(self, parent: int, name: str) -> int:
        try:
            return self._fs.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as exc:
            # Systems disagree on the error for a link (ELOOP, ENOTDIR), and it has to be told from a file.
            status = self._lstat(parent, name) if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) else None
            if status is not None and stat.S_ISLNK(status.st_mode):
                raise StoreError(
                    f"{printable(name)}: a symbolic link inside the output folder; rsbatch does not follow it"
                ) from exc
            raise

    def _lstat(self, folder: int, name: str) -> os.stat_result | None:
        try:
            return self._fs.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None


def _occupied(shown: str) -> Occupied:
    return Occupied(f"{shown}: something stands there already")


def _same_file(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    return "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"


def _sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


@contextmanager
def _translated(shown: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        reason = _REASONS.get(exc.errno or 0) or (os.strerror(exc.errno) if exc.errno else str(exc))
        raise StoreError(f"{shown}: {reason}") from exc


_REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "larger than this file system or limit allows",
    errno.EXDEV: "another file system inside the output folder; rsbatch cannot rename files into it",
}
