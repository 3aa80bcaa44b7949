"""From a finished job's URLs to files in place: the second half of a task's order of writes.

Rule: part file → sync → `downloaded` → publish → sidecar → `saved`, each durable before the next. Nothing here
submits, and nothing here overwrites: a file that stands in the way is moved aside first, by the record `moved`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from rsbatch import __version__, sidecar
from rsbatch.identity import place
from rsbatch.images import inspect_image
from rsbatch.ledger import records
from rsbatch.ledger.records import timestamp
from rsbatch.ledger.state import History
from rsbatch.ledger.writer import Ledger
from rsbatch.model import SavedFile
from rsbatch.net.fetch import Fetcher
from rsbatch.scheduler import Job
from rsbatch.storage.interface import Occupied, Storage, free_name, sidecar_path, write_beside


@dataclass(frozen=True, slots=True)
class SaverOptions:
    """How files are saved: the byte cap of one image, whether sidecars are written, and names for them."""

    max_image_bytes: int
    sidecar: bool
    service: str
    name: str


class Saver:
    """Downloads, verifies and places the images of jobs. `write` makes records durable."""

    def __init__(
        self,
        storage: Storage,
        fetcher: Fetcher,
        ledger: Ledger,
        write: Callable[..., Awaitable[None]],
        options: SaverOptions,
    ) -> None:
        self._storage = storage
        self._fetcher = fetcher
        self._ledger = ledger
        self._write = write
        self._options = options

    async def save(self, job: Job) -> None:
        """Bring in those of `job.images` that are not `fetched` yet. Raises FetchError, BadImage or StoreError."""
        history = job.history
        for number in range(len(job.fetched), len(job.images)):
            job.fetched += (await self._fetch(job, number, job.images[number]),)
        await self._write(records.downloaded(history.task, history.key, job_id=_job_id(history), files=job.fetched))
        await self._finish(history)

    async def resume(self, history: History) -> bool:
        """Finish a `downloaded` history from its parts or files; False where their bytes are not there any more."""
        for number, file in enumerate(history.files):
            if await self._storage.part_sha256(part_name(history, number)) == file.sha256:
                continue
            if await self._found(file) != file.sha256:
                return False
        await self._finish(history)
        return True

    async def redo_moves(self, history: History) -> None:
        """Finish the moves of a history's files that were recorded and then cut off by a crash."""
        for source, target in history.moves:
            file = next((f for f in history.files if f.path == target), None)
            if file is None:
                continue
            # A crash in the midst of a move leaves one file under both names: then to move it again ends the move.
            # Where two files stand, both are left alone.
            there = await self._storage.exists(target)
            free = self._ledger.state.owner_of(source) is None
            if free and await self._found(replace(file, path=source)) == file.sha256:
                with suppress(Occupied):
                    await self._storage.move(source, target)
            elif not there:
                continue  # it was moved, and then deleted: what stands at the source now is another's
            if await self._is_ours(sidecar_path(source), history):
                with suppress(Occupied):
                    await self._storage.move(sidecar_path(source), sidecar_path(target))

    async def _found(self, file: SavedFile) -> str | None:
        """Give the hash of what stands at a file's path, if it has the file's size."""
        size = (await self._storage.sizes([file.path]))[0]
        return await self._storage.sha256(file.path) if size == file.bytes else None

    async def _fetch(self, job: Job, number: int, url: str) -> SavedFile:
        name = part_name(job.history, number)
        digest = hashlib.sha256()
        async with self._storage.open_part(name) as part:

            async def sink(data: bytes) -> None:
                digest.update(data)
                await part.write(data)

            size = await self._fetcher.fetch(url, sink, max_bytes=self._options.max_image_bytes)
            info = await part.sync(inspect_image)
        path = await self._choose_path(job, number, info.format)
        return SavedFile(path, size, digest.hexdigest(), info.format, info.width, info.height)

    async def _choose_path(self, job: Job, number: int, ext: str) -> str:
        history = job.history
        if number < len(history.files) and history.files[number].format == ext:
            return history.files[number].path  # it had a place before: nothing saved moves
        path = place(job.path, ext, number)
        if job.orphan and await self._storage.exists(path):
            return await free_name(self._storage, path, f"~{history.key[:8]}")
        return path

    async def _finish(self, history: History) -> None:
        for number, file in enumerate(history.files):
            beside = self._sidecar(history, number, file) if self._options.sidecar else None
            if not await self._publish(history, number, file, beside) and beside is not None:
                await self._write_sidecar(history, file, beside)
        record = records.saved(history.task, history.key, job_id=_job_id(history), files=history.files)
        await self._write(record)

    async def _publish(self, history: History, number: int, file: SavedFile, beside: bytes | None) -> bool:
        """Put an image in its place; tells if its sidecar is there, too."""
        name = part_name(history, number)
        with suppress(Occupied):
            return await self._storage.publish(name, file.path, beside)
        if await self._found(file) == file.sha256 and (
            # Another may own an image of the same bytes. Without our part it is ours all the same: what made way for
            # it was recorded, and that record is lost.
            self._ledger.state.owner_of(file.path) in {None, history} or await self._storage.part_sha256(name) is None
        ):
            await self._storage.settle(file.path)
            await self._storage.discard_part(name)
            return False
        await self._move_aside(history, file.path)
        return await self._storage.publish(name, file.path, beside)

    async def _move_aside(self, history: History, path: str) -> None:
        owner = self._ledger.state.owner_of(path)
        if owner is not None:
            mark = owner.key[:8]
        else:
            size = await self._storage.sizes([path])
            digest = await self._storage.sha256(path) if (size[0] or -1) >= 0 else None
            mark = (digest or history.key)[:8]
        owner = owner or history
        target = await free_name(self._storage, path, f"~{mark}")
        await self._write(records.moved(owner.task, owner.key, from_=path, to=target))
        await self._storage.move(path, target)
        if await self._storage.exists(sidecar_path(path)):
            await self._storage.move(sidecar_path(path), sidecar_path(target))

    def _sidecar(self, history: History, number: int, file: SavedFile) -> bytes:
        facts = sidecar.Sidecar(
            task=history.task,
            key=history.key,
            service=self._options.service,
            manifest=self._options.name,
            attempt=history.attempt,
            job_id=_job_id(history),
            request_id=history.request_id,
            usd=history.usd,
            request=self._ledger.request_of(history.request_at),
            image=number + 1,
            images=len(history.files),
            file=file,
            submitted=timestamp(history.submitted_at),
            run=self._ledger.run,
            rsbatch=__version__,
        )
        return sidecar.dump(facts)

    async def _write_sidecar(self, history: History, file: SavedFile, data: bytes) -> None:
        if await write_beside(self._storage, file.path, data):
            return
        path = sidecar_path(file.path)
        if not await self._is_ours(path, history):
            await self._storage.move(path, await free_name(self._storage, path, f"~{history.key[:8]}"))
        await self._storage.write_atomic(path, data)

    async def _is_ours(self, path: str, history: History) -> bool:
        size = (await self._storage.sizes([path]))[0]
        if size is None or not 0 <= size <= sidecar.MOST_BYTES:
            return False
        found = sidecar.parse(await self._storage.read(path, sidecar.MOST_BYTES) or b"")
        return found is not None and found.key == history.key


def part_name(history: History, number: int) -> str:
    """Name the part of a history's image `number` (0-based): known again after a crash."""
    return f"{history.key[:32]}-{zlib.crc32(history.task.encode()):08x}-{number + 1}"


def _job_id(history: History) -> str:
    if history.job_id is None:  # the lifecycle gives every history with images a job
        raise AssertionError(f"{history.task} has images and no job")
    return history.job_id
