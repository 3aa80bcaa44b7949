"""The ledger file on a disk: lock, torn tail, durable appends, rescue.

Rule: what `append` returned from is on the disk. A failed sync is never tried again (the kernel may have dropped
the pages and call the next one a success); a write that a full disk cut short is cut back to the last whole
record, a small reserve is given up to make room, and it is written once more. What an earlier run left is made
durable before it is relied on: the ledger of a run that broke off is copied, of one that came to its end the last
line. Whoever puts another file in the ledger's place holds its lock before it has the name.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from rsbatch.disk import (
    REAL,
    FileSystem,
    check_folder,
    exists,
    make_folders,
    read_at,
    release,
    remove,
    sync_folder,
    sync_names,
    write_all,
)
from rsbatch.errors import LedgerBusy, StoreError
from rsbatch.ledger.large import LargeState
from rsbatch.ledger.records import UNDER_REPAIR
from rsbatch.ledger.replay import Replayed, replay
from rsbatch.ledger.rescue import Merged, merge
from rsbatch.ledger.state import LedgerState
from rsbatch.progress.work import reading

NAME = "ledger.jsonl"
_NO_FILE = "it is a folder, a pipe or a device, not a file; move it away"
TORN = "ledger.jsonl.torn"
RESCUE = "ledger.jsonl.rescue"
MERGED = "ledger.jsonl.rescue.merged"
RESERVE = "ledger.jsonl.reserve"
RESERVE_BYTES = 256 * 1024
"""Room for about a thousand job ids on a disk that is full."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_LOCK_TRIES = 10
_ALWAYS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""No link is followed, and nothing that is no file (a pipe, a device) is waited for."""
_CHUNK = 1024 * 1024
_LINE = 8 * 1024
"""Bytes that most lines do not come to."""


class LocalLedgerFile:
    """A ledger on disk, open for appending and locked. `open_ledger` makes one."""

    def __init__(self, folder: Path, fd: int, size: int, fs: FileSystem = REAL, lines: Lines | None = None) -> None:
        self.folder = folder
        self.path = folder / NAME
        self._fs = fs
        self._fd = fd
        self._size = size
        self._lines = lines or Lines(self.path, fs)
        self._reserve_spent = False
        self._at_work = Lock()

    @property
    def size(self) -> int:
        """Bytes that are in the file and durable."""
        return self._size

    async def append(self, data: bytes) -> None:
        """Add whole lines and make them durable; raises StoreError."""
        await self._fs.offload(lambda: self._append(data))

    def _append(self, data: bytes) -> None:
        with self._at_work:
            try:
                self._write(data)
                self._fs.sync_file(self._fd)
            except OSError as exc:
                raise _store_error("write", self.path, exc) from exc
            self._size += len(data)

    def _write(self, data: bytes) -> None:
        try:
            write_all(self._fs, self._fd, data)
        except OSError as exc:
            self._fs.ftruncate(self._fd, self._size)
            if exc.errno not in _FULL or not self._free_reserve():
                raise
            try:
                write_all(self._fs, self._fd, data)
            except OSError:
                self._fs.ftruncate(self._fd, self._size)
                raise

    def _free_reserve(self) -> bool:
        try:
            self._fs.unlink(self.folder / RESERVE)
        except OSError:
            return False
        self._reserve_spent = True
        return True

    @property
    def nearly_full(self) -> bool:
        """True once a full disk took the reserve: the run must come to its end."""
        return self._reserve_spent

    def line_at(self, offset: int) -> bytes:
        """Give the line that begins at `offset`, without its newline; raises StoreError."""
        return self._lines(offset)

    def rescue(self, lines: Sequence[bytes]) -> str:
        """Keep lines that the ledger could not take, in the first place that can be written, and on stderr."""
        data = b"".join(lines)
        places = [self.path.with_name(RESCUE)]
        places += [p / f"rsbatch-{self.folder.name}-{RESCUE}" for p in self._fs.refuges()]
        kept = next((place for place in places if _keep(self._fs, place, data)), None)
        with suppress(OSError, ValueError, AttributeError):  # nobody may be reading it
            sys.stderr.write("rsbatch: could not be written to the ledger:\n" + data.decode() + "\n")
        if kept is None:
            return (
                f"{len(lines)} records could be written nowhere but here, on standard error; put these lines into "
                f"{places[0]} before the next run"
            )
        if kept.parent == self.folder:
            return f"{len(lines)} records went to {kept}; the next run takes them in"
        add = f"cat {shlex.quote(str(kept))} >> {shlex.quote(str(places[0]))}"  # several places may have been needed
        return f"{len(lines)} records went to {kept}; add them to the ledger's before the next run: {add}"

    def close(self) -> None:
        """Give up the lock.

        An append whose caller was cancelled the asyncio way is still at work in its thread: it is waited for, since
        its descriptor's number could be another file's next. One that has not begun finds no file.
        """
        with self._at_work:
            fd, self._fd = self._fd, -1
            release(self._fs, fd)
        self._lines.close()


LARGE = 64 * 1024 * 1024
"""Bytes, from which on a ledger that is only read is held as places in it; a smaller one is faster held whole."""


def open_ledger(folder: Path, fs: FileSystem = REAL) -> tuple[LocalLedgerFile, LedgerState, str]:
    """Lock and read the ledger in `folder`, making both where they are missing, and take in what was rescued.

    The text says, in sentences, if a tail was torn or records were taken in. Raises LedgerBusy, LedgerDamaged or
    StoreError. A history that is saved is read from the file when it is asked for, which raises StoreError. Nothing
    that is durable is changed while the file is open, and a copy has it at the same places.
    """
    path = folder / NAME
    lines = Lines(path, fs)
    try:
        make_folders(fs, folder)
        fd = _lock(fs, path)
    except OSError as exc:
        raise _store_error("open", path, exc) from exc
    try:
        with fs.reader(fs.dup(fd)) as file:
            replayed = _replay(file, path, LargeState(lines, _size_of(file)))
        said = [_keep_torn(fs, path, replayed)]
        rescued, size = _read_rescue(fs, folder), replayed.end
        merged = merge(replayed.state, rescued or b"", size)
        if replayed.ends_with_a_run and not replayed.torn and rescued is None:
            _write_last_again(fs, fd, replayed)
        elif replayed.torn or size or merged.lines:
            fd, size = _renew(fs, fd, path, size, b"".join(merged.lines))
            lines.close()  # of the old file, to which nothing is added
        if rescued is not None:
            _put_away_rescue(fs, folder, rescued)
            said.append(_told(merged))
        # At every open, not only when it was made: a kill between making and syncing would leave a ledger that
        # a power cut removes, name and all.
        fs.sync_file(fd)
        sync_folder(fs, folder)
        sync_names(fs, folder)
        _make_reserve(fs, folder)
    except BaseException as exc:
        release(fs, fd)
        lines.close()
        if isinstance(exc, OSError):
            raise _store_error("open", path, exc) from exc
        raise
    return LocalLedgerFile(folder, fd, size, fs, lines), replayed.state, "; ".join(filter(None, said))


def read_ledger(folder: Path, fs: FileSystem = REAL, large: int = LARGE) -> LedgerState:
    """Read the ledger in `folder` without a lock, while a run may be writing it; empty where there is none.

    Rescued records are counted as the next open will take them in. Raises LedgerDamaged or StoreError. From `large`
    bytes on a history is read from the file when it is asked for, which raises StoreError.
    """
    path = folder / NAME
    try:
        rescued = _read_rescue(fs, folder)
        with _reader(fs, path) as file:
            size = _size_of(file)
            replayed = _replay(file, path, LargeState(Lines(path, fs), size) if size >= large else LedgerState())
    except FileNotFoundError:
        _check_way(fs, path)
        return LedgerState()
    except OSError as exc:
        raise _store_error("read", path, exc) from exc
    if rescued is not None:
        merge(replayed.state, rescued, replayed.end)
    return replayed.state


def _check_way(fs: FileSystem, path: Path) -> None:
    """Raise StoreError where a ledger is not found because a folder above it is a link that leads nowhere."""
    try:
        for folder in path.parents:
            check_folder(fs, folder)
    except OSError as exc:
        raise _store_error("read", path, exc) from exc


def _size_of(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _replay(file: BinaryIO, path: Path, state: LedgerState) -> Replayed:
    with reading(file, "reading the ledger") as told:
        return replay(told, str(path), state)


class Lines:
    """The lines of a ledger by where they begin, in bytes; it is opened for the first, and closed with this object."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path, self._fs = path, fs
        self._opened: tuple[int, weakref.finalize[[FileSystem, int], Lines]] | None = None

    def __call__(self, offset: int) -> bytes:
        """Give the line without its newline. Raises StoreError."""
        size = _LINE
        try:
            if self._opened is None:
                fd = _open(self._fs, self._path, os.O_RDONLY)
                self._opened = fd, weakref.finalize(self, release, self._fs, fd)
            while True:
                data = read_at(self._fs, self._opened[0], size, offset)
                line, newline, _ = data.partition(b"\n")
                if newline or len(data) < size:
                    return line
                size *= 8
        except OSError as exc:
            raise _store_error("read", self._path, exc) from exc

    def close(self) -> None:
        """Close the file; it is opened again if more is asked for."""
        if self._opened is not None:
            self._opened[1]()
            self._opened = None


def stamp_of(folder: Path) -> tuple[int, int, int] | None:
    """Tell one state of the ledger's file from another; None where it cannot be looked at."""
    try:
        status = (folder / NAME).stat()
    except OSError:  # not there yet; what cannot be read is told by reading it
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def lock_ledger(path: Path, fs: FileSystem = REAL) -> Iterator[int]:
    """Lock the ledger at `path` for a repair, without judging it; gives its descriptor.

    A missing one is made as one that no run accepts: a repair that is killed must not leave an empty ledger, which
    would be taken for a new one while jobs are out.
    """
    try:
        if exists(fs, path):
            fd = _lock(fs, path)
        else:
            make_folders(fs, path.parent)
            fd = _put_in_place(fs, path, lambda new: write_all(fs, new, UNDER_REPAIR))
    except OSError as exc:
        raise _store_error("open", path, exc) from exc
    try:
        yield fd
    finally:
        release(fs, fd)


def replace_ledger(path: Path, data: bytes, fs: FileSystem = REAL) -> Path | None:
    """Put `data` in the place of the locked ledger at `path`, in one step; the old one is kept beside it.

    Gives where the old one is, None if there was nothing in it. Raises StoreError.
    """
    try:
        kept = None
        with _reader(fs, path) as file:
            nothing = file.read(len(UNDER_REPAIR) + 1) in {b"", UNDER_REPAIR}
        if not nothing:
            kept = _free_name(fs, path)
            fs.link(path, kept)  # first, so that there is no moment without a ledger
        release(fs, _put_in_place(fs, path, lambda new: write_all(fs, new, data)))
    except OSError as exc:
        raise _store_error("replace", path, exc) from exc
    return kept


def _put_in_place(fs: FileSystem, path: Path, fill: Callable[[int], None], mode: int = 0o600) -> int:
    """Put a new file, which `fill` writes, in the place of the locked one at `path`; gives its descriptor, locked.

    It is locked before it has the name: whoever opens the name finds it taken. Half a file is not left behind: a
    full disk has no room for it.
    """
    new = path.with_name(path.name + ".new")
    remove(fs, new)
    fd = fs.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        fs.lock(fd)
        fill(fd)
        fs.sync_file(fd)
        fs.rename(new, path)
        sync_folder(fs, path.parent)
    except BaseException:
        release(fs, fd)
        with suppress(OSError):
            fs.unlink(new)
        raise
    return fd


def _write_last_again(fs: FileSystem, fd: int, replayed: Replayed) -> None:
    """Write the last line of a ledger again, which is the end of a run.

    All before that line was durable when it was written. The sync after it may have failed, and its bytes be in the
    cache alone, where another sync takes them for written; so they are written again. If they are lost now, the
    next open has a run without an end.
    """
    with fs.reader(fs.dup(fd)) as file:
        file.seek(replayed.last)
        line = file.read(replayed.end - replayed.last)
    fs.ftruncate(fd, replayed.last)
    write_all(fs, fd, line)


def _renew(fs: FileSystem, fd: int, path: Path, size: int, more: bytes) -> tuple[int, int]:
    """Write the ledger's first `size` bytes and `more` to a new file; gives its descriptor and size, closes `fd`.

    What a failed sync left reads well, and may be in the cache alone: job ids that are nowhere else, and that a
    power cut takes. Another sync of the old file would not write them, so they are copied before they are relied on.
    """

    def fill(new: int) -> None:
        with fs.reader(fs.dup(fd)) as file:
            for at in range(0, size, _CHUNK):
                write_all(fs, new, file.read(min(_CHUNK, size - at)))
        write_all(fs, new, more)

    try:
        new = _put_in_place(fs, path, fill, fs.fstat(fd).st_mode & 0o777)
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        needs = f"a copy is made after a crash, it takes {size + len(more)} bytes"
        raise StoreError(f"cannot copy {path}: the disk is full; {needs}; free them, and run again") from exc
    release(fs, fd)
    return new, size + len(more)


def _open(fs: FileSystem, path: Path, flags: int) -> int:
    """Open a regular file of its owner's alone; raises OSError for anything else that stands there."""
    fd = fs.open(path, flags | _ALWAYS, 0o600)
    try:
        if not stat.S_ISREG(fs.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, _NO_FILE, str(path))
    except BaseException:
        release(fs, fd)
        raise
    return fd


def _reader(fs: FileSystem, path: Path) -> BinaryIO:
    return fs.reader(_open(fs, path, os.O_RDONLY))


def _read_rescue(fs: FileSystem, folder: Path) -> bytes | None:
    try:
        fd = _open(fs, folder / RESCUE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with fs.reader(fd) as file:
        return file.read()


def _put_away_rescue(fs: FileSystem, folder: Path, rescued: bytes) -> None:
    """Rename the rescue, or add it to what was renamed before."""
    rescue, merged = folder / RESCUE, folder / MERGED
    if not exists(fs, merged):
        fs.rename(rescue, merged)
        return
    _append_to(fs, merged, rescued)
    fs.unlink(rescue)


def _told(merged: Merged) -> str:
    text = (
        f"{len(merged.lines)} records that could not be written before were taken in from {RESCUE} "
        f"({merged.jobs} job ids), which is now {MERGED}"
    )
    return "; ".join([text, *merged.troubles])


def _keep(fs: FileSystem, place: Path, data: bytes) -> bool:
    """Add rescued lines to the file at `place` and make them durable; False, leaving no half line, if that fails."""
    try:
        _append_to(fs, place, data)
        sync_folder(fs, place.parent)
    except OSError:
        with suppress(OSError):
            if fs.stat(place).st_size == 0:
                fs.unlink(place)
        return False
    return True


def _append_to(fs: FileSystem, path: Path, data: bytes) -> None:
    fd = _open(fs, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        before = fs.fstat(fd).st_size
        try:
            write_all(fs, fd, data)
            fs.sync_file(fd)
        except OSError:
            fs.ftruncate(fd, before)
            raise
    finally:
        release(fs, fd)


def _free_name(fs: FileSystem, path: Path) -> Path:
    for number in count(1):
        kept = path.with_name(f"{path.name}.damaged-{number}")
        if not exists(fs, kept):
            return kept
    raise AssertionError("unreachable")


def _lock(fs: FileSystem, path: Path) -> int:
    for _ in range(_LOCK_TRIES):
        fd = _open(fs, path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            fs.lock(fd)
            mine, there = fs.fstat(fd), fs.stat(path)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                return fd
        except BlockingIOError:
            release(fs, fd)
            raise LedgerBusy(
                f"another run holds {path}; wait for it to end, or stop it (nothing was submitted here)"
            ) from None
        except FileNotFoundError:
            pass  # replaced or removed between opening and locking: look again
        except BaseException:
            release(fs, fd)
            raise
        release(fs, fd)
    raise LedgerBusy(
        f"{path} is being replaced again and again by another program; nothing was submitted here. "
        f"Stop that program, then run again"
    )


def _keep_torn(fs: FileSystem, path: Path, replayed: Replayed) -> str:
    """Keep a torn tail beside the ledger, which goes on without it; says so."""
    if not replayed.torn:
        return ""
    _append_to(fs, path.with_name(TORN), replayed.torn + b"\n")
    return (
        f"the last line of {path} was torn off by a crash; its {len(replayed.torn)} bytes were cut off "
        f"and are kept in {TORN}"
    )


def _make_reserve(fs: FileSystem, folder: Path) -> None:
    path = folder / RESERVE
    try:
        if fs.stat(path).st_size == RESERVE_BYTES:
            return
    except FileNotFoundError:
        pass
    try:
        fd = _open(fs, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(fs, fd, os.urandom(RESERVE_BYTES))  # random: a file system that compresses must not shrink it
            fs.sync_file(fd)
        finally:
            fs.close(fd)
    except OSError as exc:
        if exc.errno in _FULL:
            remove(fs, path)
        raise


def _store_error(verb: str, path: Path, exc: OSError) -> StoreError:
    """Name the very file: it may be one beside the ledger."""
    place = exc.filename if isinstance(exc.filename, str | Path) else path
    why = _WHY.get(exc.errno or 0) or exc.strerror or str(exc)
    return StoreError(f"cannot {verb} {place}: {why}")


_WHY = dict.fromkeys(_FULL, "the disk is full") | {
    errno.ELOOP: "it is a symbolic link, which is not followed; put the file itself in its place",
    errno.EISDIR: _NO_FILE,
}
