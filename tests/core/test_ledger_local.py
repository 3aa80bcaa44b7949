"""The ledger on a real disk: locks, torn tails, damage, full disks and what is rescued from them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from core_help import NOW, Book, Steps, at, saved_file, snapshot, started

from rsbatch import disk
from rsbatch.errors import LedgerBusy, LedgerDamaged, StoreError
from rsbatch.ledger import local, records
from rsbatch.ledger.local import (
    MERGED,
    NAME,
    RESCUE,
    RESERVE,
    RESERVE_BYTES,
    TORN,
    LocalLedgerFile,
    lock_ledger,
    open_ledger,
    read_ledger,
    replace_ledger,
)
from rsbatch.ledger.records import encode
from rsbatch.lifecycle import State
from torture.disk import Disk, FakeFileSystem, Fault

CAT = Steps()
HERE = Path(__file__).parent


def append(file: LocalLedgerFile, data: bytes) -> None:
    anyio.run(file.append, data)


def write(folder: Path, book: Book, more: bytes = b"") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_bytes(book.data + more)
    return path


def python(code: str, *args: object, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with this folder's helpers; fails here if it fails there."""
    words = [sys.executable, "-W", "error", "-c", code, *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, cwd=HERE)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a rescue may go, too: the working folder and the one for temporary files, both our own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


# opening


def test_the_first_open_makes_everything_and_for_its_owner_alone(folder: Path) -> None:
    file, state, said = open_ledger(folder)
    assert (state.seq, said, file.size) == (0, "", 0)
    assert (folder / RESERVE).stat().st_size == RESERVE_BYTES
    assert len(zlib.compress((folder / RESERVE).read_bytes())) >= RESERVE_BYTES, "it has its size on any disk"
    for name in (NAME, RESERVE):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    file.close()


def test_what_was_appended_is_there_at_the_next_open(folder: Path) -> None:
    book = at(State.SUBMITTED)
    file, _, _ = open_ledger(folder)
    append(file, b"".join(book.lines[:2]))
    append(file, book.lines[2])
    assert file.size == len(book.data)
    assert file.line_at(len(book.lines[0])) == book.lines[1][:-1]
    file.close()
    file, state, _ = open_ledger(folder)
    assert state.of_job("job-cat") is not None
    assert (folder / NAME).read_bytes() == book.data
    file.close()


def test_a_ledger_that_is_a_link_or_a_folder_is_refused(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).symlink_to(folder / "elsewhere")
    for command in (open_ledger, read_ledger):
        with pytest.raises(StoreError, match=r"cannot .*ledger.jsonl: it is a symbolic link"):
            command(folder)
    assert not (folder / "elsewhere").exists()
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    for command in (open_ledger, read_ledger):
        with pytest.raises(StoreError, match="it is a folder, a pipe or a device"):
            command(folder)
    with pytest.raises(StoreError, match="it is a folder, a pipe or a device"), lock_ledger(folder / NAME):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open"):
        open_ledger(tmp_path / "file" / "out")
    with pytest.raises(StoreError, match=r"cannot open .*/file: it is no folder; move it away"):
        open_ledger(tmp_path / "file")


@pytest.mark.parametrize("place", ["link", "link/deeper/out"])
@pytest.mark.parametrize("command", [open_ledger, read_ledger])
def test_a_link_that_leads_nowhere_is_no_place_for_a_new_ledger(
    tmp_path: Path, place: str, command: Callable[[Path], object]
) -> None:
    disk = tmp_path / "disk"
    (tmp_path / "link").symlink_to(disk)
    with pytest.raises(StoreError, match=r"/link: it leads to a place that is not there; mount or restore that"):
        command(tmp_path / place)
    assert not disk.exists()
    disk.mkdir()
    command(tmp_path / place)


class Syncs:
    """Counts what is synced, and does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inodes: list[int] = []
        real = os.fsync

        def fsync(fd: int) -> None:
            self.inodes.append(os.fstat(fd).st_ino)
            real(fd)

        monkeypatch.setattr(disk.os, "fsync", fsync)

    def take(self) -> list[int]:
        found, self.inodes = self.inodes, []
        return found


def test_the_folder_is_synced_at_every_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at creation alone: kill between creation and sync, restart, power cut was measured to pay twice."""
    syncs = Syncs(monkeypatch)
    for _ in range(3):
        file, _, _ = open_ledger(folder)
        file.close()
        synced = syncs.take()
        for path in (folder, folder.parent, folder / NAME):
            assert path.stat().st_ino in synced, path


def test_every_folder_that_was_made_above_is_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every open: a first run in a new `outputs/name` lost its ledger, name and all, to a power cut."""
    syncs = Syncs(monkeypatch)
    for _ in range(2):
        open_ledger(folder / "a" / "b")[0].close()
        synced = syncs.take()
        for path in (folder / "a", folder, folder.parent, folder.parent.parent):
            assert path.stat().st_ino in synced, path


def test_folders_above_that_may_not_be_read_or_are_on_another_disk(folder: Path) -> None:
    class Guarded(disk.RealFileSystem):
        def open(self, path: disk.StrPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if path == folder.parent:
                raise PermissionError(errno.EACCES, "no")
            asked.append(path)
            return super().open(path, flags, mode, dir_fd=dir_fd)

        def fstat(self, fd: int) -> os.stat_result:
            there = super().fstat(fd)
            if there.st_ino != folder.parent.parent.stat().st_ino:
                return there
            return os.stat_result((there.st_mode, there.st_ino, there.st_dev + 1, *there[3:]))

    asked: list[disk.StrPath] = []
    open_ledger(folder, Guarded())[0].close()
    assert folder.parent.parent in asked
    assert folder.parent.parent.parent not in asked


def test_each_append_is_synced_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _, _ = open_ledger(folder)
    syncs = Syncs(monkeypatch)
    append(file, b"".join(at(State.SAVED).lines))
    assert syncs.take() == [(folder / NAME).stat().st_ino]
    file.close()


# the lock

HOLD = """
import sys
from pathlib import Path
from rsbatch.ledger.local import open_ledger
file, _, _ = open_ledger(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_another_process_holds_it_and_a_killed_one_does_not(folder: Path) -> None:
    with holder(folder) as process:
        with pytest.raises(LedgerBusy, match="another run holds"):
            open_ledger(folder)
        with pytest.raises(LedgerBusy), lock_ledger(folder / NAME):
            pass
        assert read_ledger(folder).seq == 0, "reading needs no lock"
        process.kill()
        process.wait()
        open_ledger(folder)[0].close()


def test_a_ledger_that_is_replaced_between_opening_and_locking_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, times = write(folder, at(None)), fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        times.append(fd)
        if len(times) == 1:  # replaced by another file
            write(folder / "new", at(State.SUBMITTED)).replace(path)
        elif len(times) == 2:  # removed
            content = path.read_bytes()
            path.unlink()
            write(folder / "new", Book(), content)
        elif len(times) == 3:
            (folder / "new" / NAME).replace(path)
        real(fd, how)

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    file, state, _ = open_ledger(folder)
    assert len(times) == 4 + 1, "and the copy that takes its place, for its last run did not come to its end"
    assert state.of_job("job-cat") is not None, "it reads and holds the file that has the name"
    file.close()


def test_a_ledger_that_is_replaced_again_and_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, at(None))
    monkeypatch.setattr(disk.fcntl, "flock", lambda fd, how: write(folder / "new", Book()).replace(path))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(LedgerBusy, match="again and again"):
        open_ledger(folder)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before, "nothing is left open"


def test_a_lock_that_cannot_be_had_for_another_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    with pytest.raises(StoreError, match="No locks available"):
        open_ledger(folder)


def test_a_replaced_ledger_is_kept_and_numbered(folder: Path) -> None:
    path = write(folder, at(None))
    with lock_ledger(path):
        assert replace_ledger(path, b"new\n") == path.with_name("ledger.jsonl.damaged-1")
        assert replace_ledger(path, b"newer\n") == path.with_name("ledger.jsonl.damaged-2")
    assert path.read_bytes() == b"newer\n"
    assert path.with_name("ledger.jsonl.damaged-1").read_bytes() == at(None).data
    path.write_bytes(b"")
    assert replace_ledger(path, at(None).data) is None
    open_ledger(folder)[0].close()
    with pytest.raises(StoreError, match="cannot replace"):
        replace_ledger(folder / "gone" / NAME, b"")


def test_a_repair_of_a_lost_ledger_that_is_killed_leaves_none_that_is_taken_for_new() -> None:
    fs = FakeFileSystem(Disk())
    path = Path("/out") / NAME
    with lock_ledger(path, fs), pytest.raises(LedgerBusy):
        open_ledger(path.parent, fs)
    with pytest.raises(LedgerDamaged, match="rsbatch repair"):
        open_ledger(path.parent, fs)
    assert fs.disk.files()[str(path)].data.startswith(b"this ledger was lost")
    with lock_ledger(path, fs):
        assert replace_ledger(path, at(None).data, fs) is None, "nothing in it is worth keeping"
    open_ledger(path.parent, fs)[0].close()


# torn tails and damage


@pytest.mark.parametrize("torn", [b"{", b'{"v":1,"seq":2', at(State.SUBMITTING).lines[1][:-1], b"\x00" * 4096])
def test_a_torn_tail_is_cut_and_kept_and_said_once(folder: Path, torn: bytes) -> None:
    book = at(None)
    write(folder, book, torn)
    assert read_ledger(folder).seq == 1
    assert (folder / NAME).read_bytes() == book.data + torn, "reading changes nothing"
    file, state, said = open_ledger(folder)
    assert (state.seq, file.size) == (1, len(book.data))
    assert f"its {len(torn)} bytes were cut off" in said
    append(file, at(State.SUBMITTING).lines[1])
    file.close()
    assert (folder / NAME).read_bytes() == at(State.SUBMITTING).data
    assert (folder / TORN).read_bytes() == torn + b"\n"
    file, _, said = open_ledger(folder)
    assert said == ""
    file.close()


@pytest.mark.parametrize("line", [1, 3, 6])
def test_damage_is_refused_with_its_line_and_nothing_is_changed(folder: Path, line: int) -> None:
    lines = list(at(State.SAVED).lines)
    lines[line - 1] = lines[line - 1].replace(b'"seq":', b'"seq":9')
    path = write(folder, Book(), b"".join(lines) + b"torn")
    before = path.read_bytes()
    for command in (open_ledger, read_ledger):
        with pytest.raises(LedgerDamaged, match=f"line {line}: the checksum does not fit") as caught:
            command(folder)
        assert caught.value.line == line
    assert path.read_bytes() == before
    assert not (folder / TORN).exists()
    with lock_ledger(path):  # and it is not held any more
        pass


# full disks and failing ones


def test_a_short_write_is_cut_back(folder: Path) -> None:
    """RLIMIT_FSIZE for real: the system takes a part of the write and refuses the rest."""
    done = python(
        """
import resource, sys
from pathlib import Path
import anyio
from core_help import Steps, at
from rsbatch.errors import StoreError
from rsbatch.ledger.local import open_ledger, read_ledger
from rsbatch.lifecycle import State
folder, book = Path(sys.argv[1]), at(State.SUBMITTED)
file, _, _ = open_ledger(folder)
anyio.run(file.append, book.data)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(book.data) + 10, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        anyio.run(file.append, b"x" * 1000)
    except StoreError as exc:
        print(exc)
    assert (folder / "ledger.jsonl").stat().st_size == file.size == len(book.data)
assert read_ledger(folder).seq == 3
""",
        folder,
    )
    assert done.stdout.count(f"cannot write {folder / NAME}: File too large") == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB, real."""
    if os.getuid() != 0 or sys.platform != "linux":
        pytest.skip("NOT TESTED: a full disk needs root on Linux, to mount a small tmpfs")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def test_a_full_disk_takes_the_reserve_and_then_the_rescue(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = at(State.SUBMITTING)
    file, _, _ = open_ledger(small_disk)
    append(file, book.data)
    fill(small_disk)
    big = encode(CAT.in_doubt(reason="x" * 40_000), seq=3, ts=NOW, run="r1")[0]
    assert not file.nearly_full
    append(file, big)  # one page is not enough: the reserve is given up, and it is written
    assert file.nearly_full
    assert (small_disk / NAME).read_bytes() == book.data + big
    fill(small_disk)
    with pytest.raises(StoreError, match="the disk is full"):
        append(file, big)
    assert (small_disk / NAME).read_bytes() == book.data + big, "cut back to the last whole record"
    said = file.rescue([big])
    kept = tmp_path / f"rsbatch-small-{RESCUE}"
    assert said == (
        f"1 records went to {kept}; add them to the ledger's before the next run: cat {kept} >> {small_disk / RESCUE}"
    )
    assert not (small_disk / RESCUE).exists(), "no half line is left"
    assert (tmp_path / f"rsbatch-small-{RESCUE}").read_bytes() == big
    assert "x" * 40_000 in capsys.readouterr().err
    file.close()


class Short(disk.RealFileSystem):
    """Once `full`, every first write takes a few bytes, and every second one none."""

    def __init__(self) -> None:
        self.full = False
        self.took = False

    def write(self, fd: int, data: memoryview) -> int:
        if not self.full:
            return super().write(fd, data)
        self.took = not self.took
        if self.took:
            return super().write(fd, data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_does_not_fit_with_the_reserve_given_up_is_cut_back_too(folder: Path) -> None:
    fs = Short()
    file, _, _ = open_ledger(folder, fs)
    append(file, at(None).data)
    fs.full = True
    with pytest.raises(StoreError, match="the disk is full"):
        append(file, b"x" * 1000)
    assert file.nearly_full
    assert (folder / NAME).read_bytes() == at(None).data
    (folder / RESCUE).write_bytes(b"earlier\n")
    assert "nowhere but here" in file.rescue([line(CAT.submitted())])
    assert (folder / RESCUE).read_bytes() == b"earlier\n", "no half line"
    file.close()


def test_a_run_does_not_begin_on_a_full_disk(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(StoreError, match="the disk is full"):
        open_ledger(small_disk)
    assert not (small_disk / RESERVE).exists()
    (small_disk / "filler").unlink()
    open_ledger(small_disk)[0].close()


def test_a_failed_sync_is_not_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _, _ = open_ledger(folder)
    tried = []

    def fsync(fd: int) -> None:
        tried.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk.os, "fsync", fsync)
    with pytest.raises(StoreError, match="Input/output error"):
        append(file, at(None).data)
    assert len(tried) == 1
    assert file.size == 0
    file.close()


def test_what_a_failed_sync_left_in_the_cache_is_made_durable_before_it_is_relied_on() -> None:
    """It reads well and is nowhere else: a job's id, that a power cut would take, or a second look at the disk."""
    fs = FakeFileSystem(Disk())
    out, data = Path("/out"), at(State.SUBMITTED).data
    file, _, _ = open_ledger(out, fs)
    fs.fault = Fault(1, errno.EIO, only="sync")
    with pytest.raises(StoreError, match="Input/output error"):
        trio.run(file.append, data)
    again = FakeFileSystem(fs.disk)  # killed before it could put its lines into the rescue
    assert (fs.disk.files()[f"/out/{NAME}"].data, fs.disk.durable_bytes(f"/out/{NAME}")) == (data, b"")
    file, state, said = open_ledger(out, again)
    assert state.of_job("job-cat") is not None
    assert (said, file.size) == ("", len(data))
    assert fs.disk.durable_bytes(f"/out/{NAME}") == data


def test_the_end_of_a_run_that_a_failed_sync_left_is_written_again() -> None:
    fs = FakeFileSystem(Disk())
    out, book = Path("/out"), at(State.SUBMITTED)
    file, _, _ = open_ledger(out, fs)
    trio.run(file.append, book.data)
    end = encode(records.run_ended({"exit_code": 0}), seq=book.state.seq + 1, ts=NOW, run="r1")[0]
    fs.fault = Fault(1, errno.EIO, only="sync")
    with pytest.raises(StoreError, match="Input/output error"):
        trio.run(file.append, end)
    number = fs.stat(out / NAME).st_ino
    file, state, said = open_ledger(out, FakeFileSystem(fs.disk))
    assert (state.ended, said, file.size) == (True, "", len(book.data + end))
    assert fs.disk.durable_bytes(f"/out/{NAME}") == book.data + end
    assert fs.stat(out / NAME).st_ino == number, "a run that came to its end costs no copy"


def test_a_disk_too_full_for_a_copy_keeps_the_ledger_and_no_half_of_one() -> None:
    fs = FakeFileSystem(Disk())
    out, book = Path("/out"), at(State.SUBMITTED)
    file, _, _ = open_ledger(out, fs)
    trio.run(file.append, book.data)
    again = FakeFileSystem(fs.disk, fault=Fault(1, errno.ENOSPC, only="write"))
    with pytest.raises(StoreError, match="the disk is full") as caught:
        open_ledger(out, again)
    assert f"it takes {len(book.data)} bytes" in str(caught.value)
    assert again.open_files == 0
    assert set(again.disk.files()) == {f"/out/{NAME}", f"/out/{RESERVE}"}
    assert again.disk.durable_bytes(f"/out/{NAME}") == book.data
    assert open_ledger(out, again)[1].of_job("job-cat") is not None


def test_a_copy_is_for_whom_the_ledger_was(folder: Path) -> None:
    write(folder, at(State.SUBMITTED)).chmod(0o640)
    open_ledger(folder)[0].close()
    assert (folder / NAME).stat().st_mode & 0o777 == 0o640


class Slow(disk.RealFileSystem):
    """Syncs until somebody closes the file, or for a moment if nobody dares."""

    def __init__(self) -> None:
        self.syncing = threading.Event()
        self._closed = threading.Event()
        self.closed_too_early = False

    def sync_file(self, fd: int) -> None:
        self.syncing.set()
        self.closed_too_early = self._closed.wait(0.2)
        super().sync_file(fd)
        self.syncing.clear()

    def close(self, fd: int) -> None:
        if self.syncing.is_set():
            self._closed.set()
        super().close(fd)


def test_a_file_is_not_closed_under_a_thread_that_asyncio_gave_up(folder: Path) -> None:
    """Task.cancel goes through shields: the write is still under way, and its descriptor would be another file's."""
    write(folder, at(None))
    opened, _, _ = open_ledger(folder)
    opened.close()
    data = at(State.SUBMITTED).data[len(at(None).data) :]
    slow = Slow()
    file = LocalLedgerFile(folder, os.open(folder / NAME, os.O_RDWR | os.O_APPEND), opened.size, slow)

    async def main() -> None:
        task = asyncio.create_task(file.append(data))
        await asyncio.to_thread(slow.syncing.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        file.close()
        with pytest.raises(StoreError, match="Bad file descriptor"):
            await file.append(data)

    asyncio.run(main())
    assert not slow.closed_too_early
    assert (folder / NAME).read_bytes() == at(None).data + data


@pytest.mark.parametrize("most", [7, 10**9])
def test_a_line_is_read_whole_however_long_it_is(folder: Path, most: int) -> None:
    class Sparing(disk.RealFileSystem):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            return super().pread(fd, min(size, most), offset)

    lines = [b"a" * size for size in (0, 1, 8 * 1024, 70_000)]
    file, _, _ = open_ledger(folder, Sparing())
    (folder / NAME).write_bytes(b"\n".join([*lines, b"torn"]))
    at = 0
    for line in [*lines, b"torn"]:
        assert file.line_at(at) == line
        at += len(line) + 1
    file.close()


def test_a_line_that_cannot_be_read_is_the_stores_failure(folder: Path) -> None:
    file, _, _ = open_ledger(folder)
    (folder / NAME).unlink()
    with pytest.raises(StoreError, match="cannot read"):
        file.line_at(0)
    file.close()


def test_a_close_that_fails_is_no_failure_of_the_run() -> None:
    """All that matters is synced by then; and a lock that cannot be had closes what it opened."""
    fs = FakeFileSystem(Disk())
    file, _, _ = open_ledger(Path("/out"), fs)
    fs.fault = Fault(1, errno.EIO, only="close")
    file.close()
    fs.fault = Fault(fs.count + 1, errno.EIO, lasting=True, kinds=frozenset({"close", "sync", "lock"}))
    with pytest.raises(StoreError, match="Input/output error"):
        open_ledger(Path("/out"), fs)
    assert fs.open_files == 0


@pytest.mark.parametrize(("code", "raised"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_file_systems_that_cannot_sync_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, raised: bool
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(disk.os, "fsync", fsync)
    with pytest.raises(OSError, match="no") if raised else contextlib.nullcontext():
        disk.sync_folder(disk.REAL, tmp_path)


@pytest.mark.parametrize(("code", "synced", "raised"), [(0, 0, False), (errno.ENOTTY, 1, False), (errno.EIO, 0, True)])
def test_macos_brings_the_bytes_to_the_platters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, synced: int, raised: bool
) -> None:
    """A real error of F_FULLFSYNC is one: fsync after it would be a second try."""

    def full(fd: int, command: int) -> None:
        assert command == 51
        if code:
            raise OSError(code, "no")

    syncs = Syncs(monkeypatch)
    monkeypatch.setattr(disk, "_FULL_SYNC", 51)
    monkeypatch.setattr(disk.fcntl, "fcntl", full)
    expected = pytest.raises(OSError, match="no") if raised else contextlib.nullcontext()
    with (tmp_path / "file").open("wb") as file, expected:
        disk.REAL.sync_file(file.fileno())
    assert len(syncs.take()) == synced


def test_a_reserve_of_another_size_is_made_anew(folder: Path) -> None:
    open_ledger(folder)[0].close()
    (folder / RESERVE).write_bytes(b"short")
    open_ledger(folder)[0].close()
    assert (folder / RESERVE).stat().st_size == RESERVE_BYTES


# rescue


def line(record: Any, seq: int = 3) -> bytes:
    return encode(record, seq=seq, ts=NOW, run="r1")[0]


def test_what_was_rescued_is_taken_in_by_the_next_open(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder, at(State.SUBMITTING))
    file, _, _ = open_ledger(folder)
    rescued = line(CAT.submitted())
    assert file.rescue([rescued]) == f"1 records went to {folder / RESCUE}; the next run takes them in"
    assert rescued.decode() in capsys.readouterr().err
    assert stat.S_IMODE((folder / RESCUE).stat().st_mode) == 0o600
    file.close()
    assert read_ledger(folder).of_job("job-cat") is not None, "`plan` shows what `run` will do"
    old = path.stat().st_ino

    file, state, said = open_ledger(folder)
    history = state.of_job("job-cat")
    assert history is not None
    assert history.state is State.SUBMITTED
    assert said == (
        f"1 records that could not be written before were taken in from {RESCUE} (1 job ids), which is now {MERGED}"
    )
    assert path.stat().st_ino != old, "rewritten whole: pages of the old one may be lost"
    assert file.size == path.stat().st_size
    assert not (folder / RESCUE).exists()
    assert (folder / MERGED).read_bytes() == rescued
    append(file, encode(CAT.generated(), seq=4, ts=NOW, run="r2")[0])
    file.close()
    file, state, said = open_ledger(folder)
    assert (state.seq, said) == (4, "")
    file.close()


def test_the_new_ledger_is_locked_before_it_has_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, at(State.SUBMITTING))
    (folder / RESCUE).write_bytes(line(CAT.submitted()))
    real, seen = os.replace, []

    def replace(old: Path, new: Path, **folders: Any) -> None:
        if new.name != NAME:
            return real(old, new, **folders)
        with old.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(new)
        real(old, new, **folders)
        with pytest.raises(LedgerBusy):
            open_ledger(folder)
        return None

    monkeypatch.setattr(local.os, "replace", replace)
    file, _, _ = open_ledger(folder)
    assert seen == [folder / NAME]
    with pytest.raises(LedgerBusy):
        open_ledger(folder)
    file.close()
    open_ledger(folder)[0].close()


class Breaking(disk.RealFileSystem):
    """Breaks off at one call of a kind (1-based), and at every later one."""

    def __init__(self, call: str, number: int) -> None:
        self._left = number
        real = getattr(self, call)

        def counted(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left <= 0:
                raise OSError(errno.EIO, "broken off")
            return real(*args, **options)

        setattr(self, call, counted)


@pytest.mark.parametrize(
    ("call", "number"),
    [("rename", 1), ("rename", 2), ("unlink", 2), ("sync_file", 1), ("sync_file", 2), ("sync_file", 3)],
)
def test_a_merge_that_is_broken_off_is_done_again(folder: Path, call: str, number: int) -> None:
    """At whichever step: the job is known once, and nothing is lost."""
    write(folder, at(State.SUBMITTING), b"torn")
    (folder / RESCUE).write_bytes(line(CAT.submitted()))
    if call == "unlink":
        (folder / MERGED).write_bytes(b"older\n")
    with pytest.raises(StoreError, match="broken off"):
        open_ledger(folder, Breaking(call, number))
    file, state, _ = open_ledger(folder)
    assert state.of_job("job-cat") is not None
    assert not (folder / RESCUE).exists()
    assert line(CAT.submitted()) in (folder / MERGED).read_bytes()
    assert (folder / NAME).read_bytes().count(b"job-cat") == 1
    file.close()


def test_a_second_rescue_is_added_to_the_first_and_troubles_are_told(folder: Path) -> None:
    write(folder, at(State.SUBMITTING))
    for data in (line(CAT.submitted()), b"garbage\n"):
        (folder / RESCUE).write_bytes(data)
        file, _, said = open_ledger(folder)
        file.close()
    assert (folder / MERGED).read_bytes() == line(CAT.submitted()) + b"garbage\n"
    assert "line 1 of the rescued records cannot be used: not a whole record" in said


def test_a_rescue_that_is_a_link_is_refused(folder: Path) -> None:
    write(folder, at(None))
    (folder / RESCUE).symlink_to("/etc/passwd")
    for command in (open_ledger, read_ledger):
        with pytest.raises(StoreError):
            command(folder)


def test_a_rescue_without_its_ledger(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / RESCUE).write_bytes(line(CAT.submitted()))
    file, state, _ = open_ledger(folder)
    assert state.of_job("job-cat") is not None
    file.close()


def test_a_rescue_that_can_be_written_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _, _ = open_ledger(folder)

    def fail(*args: Any) -> int:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(local.os, "write", fail)
        said = file.rescue([line(CAT.submitted())])
    assert said.startswith("1 records could be written nowhere but here, on standard error; put these lines into ")
    assert "job-cat" in capsys.readouterr().err
    assert not (folder / RESCUE).exists(), "nothing is left that looks like a rescue"
    file.close()


def test_a_rescue_does_not_depend_on_anyone_reading_standard_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _, _ = open_ledger(folder)
    for broken in (None, os.fdopen(os.open(os.devnull, os.O_RDONLY), "r")):
        monkeypatch.setattr(sys, "stderr", broken)
        assert "the next run takes them in" in file.rescue([line(CAT.submitted())])
    assert (folder / RESCUE).read_bytes() == line(CAT.submitted()) * 2
    broken.close()
    file.close()


def test_an_empty_folder_reads_as_an_empty_ledger(folder: Path) -> None:
    assert read_ledger(folder).seq == 0
    assert not folder.exists(), "reading makes nothing"


def test_a_book_of_many_lines_is_found_line_by_line(folder: Path) -> None:
    book = Book().put(started())
    for number in range(50):
        book.put(Steps(f"t{number}").submitting(request={"prompt": "é" * number}))
    write(folder, book)
    file, state, _ = open_ledger(folder)
    for number in range(50):
        history = state.of_id(f"t{number}")[0]
        assert history.request_at is not None
        assert file.line_at(history.request_at) + b"\n" == book.lines[number + 1]
    file.close()


def test_a_large_ledger_is_read_from_the_file_when_it_is_asked_for(folder: Path) -> None:
    path = write(folder, at(State.SAVED))
    whole = snapshot(read_ledger(folder))
    state = read_ledger(folder, large=0)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreError, match=r"cannot read .*ledger.jsonl: No such file"):
        state.get("cat", CAT.key)
    path.with_name("elsewhere").rename(path)
    assert snapshot(state)[:4] == whole[:4]
    assert state.get("cat", CAT.key) is not None


@pytest.mark.parametrize("more", [b"", b"torn"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_large_ledger_is_held_small_by_who_writes_it_too(folder: Path, more: bytes, ended: bool) -> None:
    """Also where it was copied, its torn tail cut off, or its last line written again; and while it grows."""
    book = at(State.SAVED)
    if ended:
        book.put(records.run_ended({}))
    write(folder, book, more)
    file, state, _ = open_ledger(folder)
    assert not list(state.unsettled())
    assert [told.task for told in state.histories()] == ["cat"]
    line, value = encode(CAT.generated(), seq=state.seq + 1, ts=1.0, run="r2")
    state.apply(value, file.size)
    append(file, line)
    (held,) = state.unsettled()
    assert state.get("cat", CAT.key) is held
    assert held.state is State.GENERATED
    file.close()
    assert snapshot(read_ledger(folder)) == snapshot(read_ledger(folder, large=0))


def test_a_large_ledger_that_is_open_and_cannot_be_read(folder: Path) -> None:
    path = write(folder, at(State.SAVED))
    file, state, _ = open_ledger(folder)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(StoreError, match="was replaced while it was read"):
        state.get("cat", CAT.key)
    file.close()


def test_rescued_records_of_a_large_ledger_that_is_opened(folder: Path) -> None:
    dog = Steps("dog")
    book = at(State.SAVED).put(dog.submitting())
    write(folder, book)
    more = Book().put(started(), *CAT.to(State.SAVED), *dog.to(State.SUBMITTED))
    (folder / RESCUE).write_bytes(b"".join(more.lines[-1:]))
    file, state, _ = open_ledger(folder)
    assert state.of_job(dog.job) is state.get("dog", dog.key)
    cat = state.of_job(CAT.job)
    assert cat is not None
    assert cat.state is State.SAVED
    file.close()


def test_what_is_saved_after_a_copy_is_read_from_the_copy(folder: Path) -> None:
    """For the rescue a saved image was looked at, whose lines are in the old file."""
    write(folder, at(State.SAVED))
    more = Book().put(started(), *CAT.to(State.SUBMITTED))
    (folder / RESCUE).write_bytes(b"".join(more.lines[-1:]))
    file, state, _ = open_ledger(folder)
    state.written(file.size)
    dog, image = Steps("dog"), saved_file("dog.png")
    steps = (dog.submitting(request={}), dog.submitted(), dog.generated(), dog.downloaded(image), dog.saved(image))
    for record in steps:
        line, value = encode(record, seq=state.seq + 1, ts=1.0, run="r2")
        state.apply(value, file.size)
        append(file, line)
        state.written(file.size)
    assert not list(state.unsettled())
    assert [told.task for told in state.histories()] == ["cat", "dog"]
    file.close()


def test_rescued_records_of_a_large_ledger(folder: Path) -> None:
    book = at(State.SAVED)
    path = write(folder, book)
    dog = Steps("dog")
    more = Book().put(started(), *CAT.to(State.SAVED), *dog.to(State.SUBMITTED))
    (folder / RESCUE).write_bytes(b"".join(more.lines[len(book.lines) :]))
    state = read_ledger(folder, large=path.stat().st_size)
    assert [(h.task, h.state) for h in state.histories()] == [("cat", State.SAVED), ("dog", State.SUBMITTED)]
    assert state.of_job(dog.job) is state.get("dog", dog.key)
