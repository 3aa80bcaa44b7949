"""A storage that lives in memory: whole runs on virtual time, without threads, on asyncio and on trio.

Rule: it behaves as `LocalStorage` does, and the conformance tests hold it to that. It outlives a run: hand
the same one to the next run and that finds what the first left. Folders exist as far as files need them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from fnmatch import fnmatchcase

from anyio.lowlevel import checkpoint

from rsbatch.errors import StoreError
from rsbatch.storage.interface import NOT_A_FILE, Occupied, T, components, part_name, write_beside
from rsbatch.text import printable


class MemoryPart:
    """The part `name` of a `MemoryStorage` that keeps `parts`, open for writing."""

    def __init__(self, parts: dict[str, bytearray], name: str) -> None:
        self._parts = parts
        self._name = name
        self._data = bytearray()
        self._ended = False

    async def write(self, data: bytes) -> None:
        """Append `data`; see `Part`."""
        await checkpoint()
        self._check_open()
        self._data += data

    async def sync(self, check: Callable[[bytes], T]) -> T:
        """See `Part`; nothing is more stable than memory here."""
        self._check_open()
        self._ended = True
        await checkpoint()
        self.keep()
        return check(bytes(self._data))

    def keep(self) -> None:
        """Put it in the place of a stale one."""
        self._parts[self._name] = self._data

    def _check_open(self) -> None:
        if self._ended:
            raise StoreError("nothing can be added to a part after its sync")


class MemoryStorage:
    """Keeps files and parts in dictionaries; see `Storage`."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._parts: dict[str, bytearray] = {}
        self._folders: Counter[str] = Counter()  # how many files are in each, at any depth

    def open_part(self, name: str) -> AbstractAsyncContextManager[MemoryPart]:
        """See `Storage`."""
        return self._open_part(part_name(name))

    @asynccontextmanager
    async def _open_part(self, name: str) -> AsyncIterator[MemoryPart]:
        await checkpoint()
        part = MemoryPart(self._parts, name)
        yield part
        part.keep()

    async def part_sha256(self, name: str) -> str | None:
        """See `Storage`."""
        await checkpoint()
        data = self._parts.get(part_name(name))
        return None if data is None else hashlib.sha256(data).hexdigest()

    async def parts(self) -> list[str]:
        """See `Storage`."""
        await checkpoint()
        return sorted(self._parts)

    async def discard_part(self, name: str) -> None:
        """See `Storage`."""
        await checkpoint()
        self._parts.pop(part_name(name), None)

    async def publish(self, name: str, path: str, sidecar: bytes | None = None) -> bool:
        """See `Storage`."""
        await checkpoint()
        self._take(path)
        self._put(path, bytes(self._part(name)))
        del self._parts[name]
        return sidecar is not None and await write_beside(self, path, sidecar)

    async def settle(self, path: str) -> None:
        """See `Storage`."""
        await checkpoint()
        if self._file(path) is None:
            raise StoreError(f"{printable(path)}: No such file")

    async def move(self, source: str, target: str) -> None:
        """See `Storage`."""
        await checkpoint()
        components(source)
        inside = f"{source}/"
        moving = [path for path in self._files if path == source or path.startswith(inside)]
        if not moving:
            raise StoreError(f"{printable(source)}: No such file")
        self._take(target)
        for path in moving:
            self._folders.subtract(_parents(path))
            self._put(target + path[len(source) :], self._files.pop(path))

    async def write_atomic(self, path: str, data: bytes, *, replace: bool = True) -> None:
        """See `Storage`."""
        await checkpoint()
        if not replace:
            self._take(path)
        components(path)
        self._need_parents(path)
        if self._is_folder(path):
            raise StoreError(f"{printable(path)}: Is a directory")
        self._put(path, bytes(data))

    async def read(self, path: str, limit: int) -> bytes | None:
        """See `Storage`."""
        await checkpoint()
        data = self._file(path)
        if data is not None and len(data) > limit:
            raise StoreError(f"{printable(path)}: larger than {limit:,} bytes")
        return data

    async def exists(self, path: str) -> bool:
        """See `Storage`."""
        await checkpoint()
        components(path)
        return path in self._files or self._is_folder(path)

    async def size(self, path: str) -> int | None:
        """See `Storage`."""
        await checkpoint()
        data = self._file(path)
        return None if data is None else len(data)

    async def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """See `Storage`."""
        await checkpoint()
        found: list[int | None] = []
        for path in paths:
            try:
                data = self._file(path)
            except StoreError:
                found.append(NOT_A_FILE)
            else:
                found.append(None if data is None else len(data))
        return found

    async def sha256(self, path: str) -> str | None:
        """See `Storage`."""
        await checkpoint()
        data = self._file(path)
        return None if data is None else hashlib.sha256(data).hexdigest()

    async def files(self, pattern: str = "*") -> list[str]:
        """See `Storage`."""
        await checkpoint()
        return sorted(path for path in self._files if fnmatchcase(path.rpartition("/")[2], pattern))

    def _part(self, name: str) -> bytearray:
        try:
            return self._parts[part_name(name)]
        except KeyError:
            raise StoreError(f"{name}: no such part") from None

    def _file(self, path: str) -> bytes | None:
        components(path)
        if self._is_folder(path):
            raise StoreError(f"{printable(path)}: not a regular file")
        return self._files.get(path)

    def _is_folder(self, path: str) -> bool:
        return self._folders[path] > 0

    def _put(self, path: str, data: bytes) -> None:
        if path not in self._files:
            self._folders.update(_parents(path))
        self._files[path] = data

    def _take(self, path: str) -> None:
        """See that `path` is free and can be made."""
        components(path)
        self._need_parents(path)
        if path in self._files or self._is_folder(path):
            raise Occupied(f"{printable(path)}: something stands there already")

    def _need_parents(self, path: str) -> None:
        if any(folder in self._files for folder in _parents(path)):
            raise StoreError(f"{printable(path)}: Not a directory")


def _parents(path: str) -> list[str]:
    folders = path.split("/")[:-1]
    return ["/".join(folders[:depth]) for depth in range(1, len(folders) + 1)]
