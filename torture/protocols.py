"""Protocols that are broken on purpose: each must be caught by the checks that the shipped one passes.

Rule: each takes one defence out of the real classes, from outside: by a subclass, or by a file system that lies.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rsbatch.disk import FileSystem, StrPath, exists, sync_folder, sync_names
from rsbatch.errors import LedgerDamaged
from rsbatch.ledger import records
from rsbatch.ledger.local import NAME, RESCUE, LocalLedgerFile, open_ledger
from rsbatch.ledger.records import Record, encode
from rsbatch.ledger.replay import Replayed, lines, replay
from rsbatch.ledger.state import History, LedgerState
from rsbatch.ledger.writer import Ledger
from rsbatch.lifecycle import State
from rsbatch.model import Rules, SavedFile
from rsbatch.runner import Runner
from rsbatch.saver import Saver, part_name
from rsbatch.scheduler import Job
from rsbatch.storage.interface import free_name, sidecar_path
from rsbatch.storage.local import LocalStorage
from torture.site import Protocol
from torture.world import BASE

Opened = tuple[LocalLedgerFile, LedgerState, str]


class Lying:
    """A file system that passes everything on; the broken ones lie in one call."""

    def __init__(self, inner: FileSystem) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# the ledger


class IntentAfterTheAnswer(Ledger):
    """Records the intent and the job together, when the answer is there, as most batch clients do."""

    def put(self, record: Record) -> int:
        seq = super().put(record)
        if record.type == "submitting":
            self._intent = seq
        return seq

    async def commit(self, seq: int) -> None:
        if seq != getattr(self, "_intent", None):
            await super().commit(seq)


class UnsyncedIntent(LocalLedgerFile):
    def _append(self, data: bytes) -> None:
        _append(self, data, synced=b'"type":"submitting"' not in data)


class UnsyncedJob(LocalLedgerFile):
    def _append(self, data: bytes) -> None:
        _append(self, data, synced=b'"type":"submitted"' not in data)


class Unlinking(LocalLedgerFile):
    def close(self) -> None:
        self._fs.unlink(self.path)
        super().close()


def _append(file: LocalLedgerFile, data: bytes, *, synced: bool) -> None:
    file._write(data)
    if synced:
        file._fs.sync_file(file._fd)
    file._size += len(data)


def opening(kind: type[LocalLedgerFile]) -> Any:
    """Open the ledger as shipped, and go on with another class."""

    def opened(folder: Path, fs: FileSystem) -> Opened:
        file, state, said = open_ledger(folder, fs)
        file.__class__ = kind
        return file, state, said

    return opened


class NoFolderSync(Lying):
    def sync_folder(self, fd: int) -> None:
        pass


def _sync_at_creation_only(folder: Path, fs: FileSystem) -> Opened:
    lying: Any = NoFolderSync(fs) if exists(fs, folder / NAME) else fs
    file, state, said = open_ledger(folder, lying)
    file._fs = fs
    return file, state, said


class TwoFoldersOnly(Lying):
    """Syncs the ledger's folder and the one above, and none that was made further up."""

    def __init__(self, inner: FileSystem, folder: Path) -> None:
        super().__init__(inner)
        self._known = {inner.stat(path).st_ino for path in (folder, folder.parent) if exists(inner, path)}

    def sync_folder(self, fd: int) -> None:
        if self._inner.fstat(fd).st_ino in self._known:
            self._inner.sync_folder(fd)


def _two_folders_only(folder: Path, fs: FileSystem) -> Opened:
    if not exists(fs, folder.parent):
        fs.mkdir(folder.parent)
    if not exists(fs, folder):
        fs.mkdir(folder)
    lying: Any = TwoFoldersOnly(fs, folder)
    return open_ledger(folder, lying)


def as_found(when: Callable[[Replayed], bool]) -> Any:
    """Go on with the file of an earlier run as it is, in the cases of `when`."""

    def opened(folder: Path, fs: FileSystem) -> Opened:
        path = folder / NAME
        if not exists(fs, path) or exists(fs, folder / RESCUE):
            return open_ledger(folder, fs)
        fd = fs.open(path, os.O_RDWR | os.O_APPEND)
        with fs.reader(fs.dup(fd)) as file:
            replayed = replay(file, str(path))
        if not when(replayed):
            fs.close(fd)
            return open_ledger(folder, fs)
        fs.lock(fd)
        fs.sync_file(fd)
        sync_folder(fs, folder)
        sync_names(fs, folder)
        return LocalLedgerFile(folder, fd, replayed.end, fs), replayed.state, ""

    return opened


def _cut_at_the_first_bad_record(folder: Path, fs: FileSystem) -> Opened:
    try:
        return open_ledger(folder, fs)
    except LedgerDamaged as exc:
        fd = fs.open(folder / NAME, os.O_RDWR)
        with fs.reader(fs.dup(fd)) as file:
            good = b"".join(line for number, line in enumerate(lines(file), 1) if number < exc.line)
        fs.ftruncate(fd, len(good))
        fs.close(fd)
        return _cut_at_the_first_bad_record(folder, fs)


class SyncsAgain(Lying):
    def sync_file(self, fd: int) -> None:
        try:
            self._inner.sync_file(fd)
        except OSError:
            self._inner.sync_file(fd)


def _syncs_again(fs: Any) -> Any:
    return SyncsAgain(fs)


def _nothing_was_sent(folder: Path, fs: FileSystem) -> Opened:
    """Takes a crash between intent and answer for "not sent"."""
    file, state, said = open_ledger(folder, fs)
    for h in [h for h in state.histories() if h.state is State.SUBMITTING]:
        record = records.not_submitted(h.task, h.key, attempt=h.attempt, reason="a crash", status=None)
        line, value = encode(record, seq=state.seq + 1, ts=BASE, run="broken")
        state.apply(value, file.size)
        file._append(line)
    return file, state, said


# the storage and the saver


class FolderUnsynced(LocalStorage):
    def __init__(self, root: Path, fs: FileSystem) -> None:
        lying: Any = NoFolderSync(fs)
        super().__init__(root, lying)


class NoFileSync(Lying):
    def sync_file(self, fd: int) -> None:
        pass


class PartUnsynced(LocalStorage):
    def __init__(self, root: Path, fs: FileSystem) -> None:
        lying: Any = NoFileSync(fs)
        super().__init__(root, lying)


class RenameOver(Lying):
    """A plain rename in the place of a link: what stands there is gone."""

    def link(self, source: StrPath, target: StrPath, **folders: Any) -> None:
        raise OSError(errno.EPERM, "no links")

    def stat(self, path: StrPath, **options: Any) -> os.stat_result:
        if options.get("dir_fd") is not None and str(path).endswith(".png"):
            raise FileNotFoundError
        return self._inner.stat(path, **options)


class Overwriting(LocalStorage):
    async def publish(self, name: str, path: str, sidecar: bytes | None = None) -> bool:
        real, lying = self._fs, RenameOver(self._fs)
        self._fs = lying  # type: ignore[assignment]
        try:
            return await super().publish(name, path, sidecar)
        finally:
            self._fs = real


class SavedFirst(Saver):
    async def _finish(self, history: History) -> None:
        record = records.saved(history.task, history.key, job_id=str(history.job_id), files=history.files)
        await self._write(record)
        for number, file in enumerate(history.files):
            await self._publish(history, number, file, None)


class Trusting(Saver):
    """Takes whatever stands at the path for the file that it is to put there."""

    async def _found(self, file: SavedFile) -> str | None:
        return file.sha256 if await self._storage.exists(file.path) else None


class PublishFirst(Saver):
    async def save(self, job: Job) -> None:
        files = []
        for number, url in enumerate(job.images):
            files.append(await self._fetch(job, number, url))
        history = job.history
        for number, file in enumerate(files):
            if not await self._storage.exists(file.path):
                await self._storage.publish(part_name(history, number), file.path)
        await self._write(records.downloaded(history.task, history.key, job_id=str(history.job_id), files=files))
        await self._finish(history)


class MovedAfterwards(Saver):
    async def _move_aside(self, history: History, path: str) -> None:
        owner = self._ledger.state.owner_of(path) or history
        target = await free_name(self._storage, path, f"~{owner.key[:8]}")
        await self._storage.move(path, target)
        if await self._storage.exists(sidecar_path(path)):
            await self._storage.move(sidecar_path(path), sidecar_path(target))
        await self._write(records.moved(owner.task, owner.key, from_=path, to=target))


def _saving(kind: type[Saver]) -> type[Runner]:
    class Broken(Runner):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._saver.__class__ = kind

    return Broken


BROKEN = [
    Protocol("no intent before the answer", ledger=IntentAfterTheAnswer),
    Protocol("intent without fsync", open=opening(UnsyncedIntent)),
    Protocol("`submitted` acted on without fsync", open=opening(UnsyncedJob)),
    Protocol("folder fsync at creation only", open=_sync_at_creation_only),
    Protocol("new folders above not synced", open=_two_folders_only),
    Protocol("retry of a failed fsync", fs=_syncs_again, sick=True),
    Protocol("truncation at the first bad record", open=_cut_at_the_first_bad_record),
    Protocol("torn tail left in place", open=as_found(lambda found: bool(found.torn))),
    Protocol("cached lines believed after a failed fsync", open=as_found(lambda found: not found.torn), sick=True),
    Protocol("lock unlinked at close", open=opening(Unlinking)),
    Protocol("crash taken for not sent", open=_nothing_was_sent),
    Protocol("resubmission of a held task", rules=Rules(in_doubt="resubmit")),
    Protocol("part not synced before `downloaded`", storage=PartUnsynced),
    Protocol("published before `downloaded`", runner=_saving(PublishFirst)),
    Protocol("rename without folder fsync", storage=FolderUnsynced),
    Protocol("rename over what stands there", storage=Overwriting),
    Protocol("`saved` before the rename", runner=_saving(SavedFirst)),
    Protocol("file adopted without checking its bytes", runner=_saving(Trusting)),
    Protocol("`moved` after the move", runner=_saving(MovedAfterwards)),
]
