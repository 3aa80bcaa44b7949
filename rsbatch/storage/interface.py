"""What the runner needs of a place for images: one output folder, behind a narrow interface.

Rule: nothing here ever overwrites an image, and no name leads out of the folder. All paths are relative POSIX
strings inside one output folder. A download first goes to a *part*, named by the caller (one path component,
such as `<key>-1`), and stands at its final path only by `publish`. The interface knows no ledger and no
manifest.

The order of a download (docs/architecture.md): `open_part`, `Part.write`…, `Part.sync`, the ledger's `downloaded`,
`publish` with the sidecar, the ledger's `saved`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from rsbatch.errors import StoreError
from rsbatch.text import printable

T = TypeVar("T")

PARTS = ".parts"
"""The hidden folder inside the output folder that has the parts; no path of an image may begin with it."""

NOT_A_FILE = -1
"""What `Storage.sizes` gives for something that is there but is no regular file, or cannot be reached
safely.
"""

_NAME_BYTES = 255
"""Longest name of one component on every common file system, in bytes of UTF-8."""


class Occupied(StoreError):
    """Something stands at the path that was to be taken; nothing was changed."""


class Part(Protocol):
    """A part file that is open for writing."""

    async def write(self, data: bytes) -> None:
        """Append `data`; it may stay in a buffer until `sync` or the end of the `async with`.

        Raises `StoreError`.
        """

    async def sync(self, check: Callable[[bytes], T]) -> T:
        """Return when all that was written is on stable storage, with what `check` says of it, which may block.

        It is the end: whatever comes of it, both methods raise `StoreError` from then on. Raises `StoreError` (a sync
        is never retried), and what `check` raises.
        """
        ...


class Storage(Protocol):
    """One output folder. Every method raises `StoreError` with path and reason when the folder fails it."""

    def open_part(self, name: str) -> AbstractAsyncContextManager[Part]:
        """Open the part `name` for writing. When it is made, a stale one of that name is removed first.

        Leaving the block closes the part and keeps it. After an error before its sync there may be all of it, a piece
        of it, or still the stale one; `discard_part` throws it away.
        """

    async def part_sha256(self, name: str) -> str | None:
        """Hash the part: 64 lower-case hex digits, None if there is no such part."""

    async def parts(self) -> list[str]:
        """Name all parts, sorted: those of interrupted downloads among them."""

    async def discard_part(self, name: str) -> None:
        """Remove the part; no error if there is none."""

    async def publish(self, name: str, path: str, sidecar: bytes | None = None) -> bool:
        """Give the part its final path, durably, and take it from the parts; never overwrites.

        Missing parent folders are made. May be repeated after a crash: a path that already is this very part
        is finished, not refused. Raises `Occupied` if anything else stands there, whether or not there is such a
        part; `StoreError` also if there is none, or a parent is a symbolic link.

        Only when all that is done, `sidecar` is written beside it, as by `write_atomic` without `replace`, in the same
        thread hop. Tells if it was: not where something stands in its place, which is left alone. Where it cannot be
        written, the `StoreError` names it, and the image is in its place.
        """

    async def settle(self, path: str) -> None:
        """Make durable what already stands at `path`: its bytes and its folders.

        For a file found in place after a crash, whose folder was perhaps never synced. Raises `StoreError`,
        also if there is no such regular file.
        """

    async def move(self, source: str, target: str) -> None:
        """Rename inside the folder, durably; never overwrites. `source` may be anything, a folder too.

        May be repeated after a crash. Raises `Occupied` if anything stands at `target`, `StoreError` also if
        there is nothing at `source`.
        """

    async def write_atomic(self, path: str, data: bytes, *, replace: bool = True) -> None:
        """Write a small file whole or not at all, durably; replaces what stands there, or raises `Occupied`.

        For sidecars, not images. The mode is what the umask leaves of 0666. Raises `StoreError`.
        """

    async def read(self, path: str, limit: int) -> bytes | None:
        """Read a regular file; None if there is nothing. Raises `StoreError` if larger than `limit` bytes."""

    async def exists(self, path: str) -> bool:
        """Tell if anything stands there: file, folder, or symbolic link, even a dangling one."""

    async def size(self, path: str) -> int | None:
        """Size in bytes of the regular file there; None if there is nothing.

        Raises `StoreError` for a symbolic link or anything else that is no regular file.
        """

    async def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """`size` of many at once, in their order; `NOT_A_FILE` where `size` would object to what is there.

        One thread hop for all: a batch of 100,000 saved images is checked in seconds.
        """

    async def sha256(self, path: str) -> str | None:
        """Hash the regular file there: 64 lower-case hex digits; None if there is nothing. Else as `size`."""

    async def files(self, pattern: str = "*") -> list[str]:
        """Relative paths, sorted, of all regular files whose *name* matches the glob, such as `*.json`.

        Parts and what lies behind symbolic links are left out. Nothing if the output folder does not exist.
        """


def components(path: str) -> tuple[str, ...]:
    """Split a path of an image into its folder names and its file name.

    Raises `StoreError` for one that could lead out of the folder or into the parts: absolute, empty, with
    empty, `.` or `..` components, NUL, lone surrogates, or a component of more than 255 bytes.
    """
    parts = tuple(path.split("/"))
    for part in parts:
        _check_component(part, path)
    # On a file system that folds case `.PARTS` is the same folder.
    if parts[0].casefold() == PARTS:
        raise StoreError(f"{printable(path)}: {PARTS} is rsbatch's own folder")
    return parts


def part_name(name: str) -> str:
    """Check the name of a part: one component without a leading `~` (those are ours).

    Raises `StoreError`.
    """
    _check_component(name, name)
    if "/" in name or name.startswith("~"):
        raise StoreError(f"{printable(name)}: not a name for a part")
    return name


def _check_component(part: str, path: str) -> None:
    if part in ("", ".", "..") or "\0" in part:
        raise StoreError(f"{printable(path) or 'an empty path'}: not a path inside the output folder")
    try:
        encoded = part.encode()
    except UnicodeEncodeError as exc:
        raise StoreError(f"{printable(path)}: not a path that can be written as UTF-8") from exc
    if len(encoded) > _NAME_BYTES:
        raise StoreError(f"{printable(path, 100)}: File name too long (at most {_NAME_BYTES} bytes)")


def sidecar_path(path: str) -> str:
    """Where the sidecar of an image is: `a/b.png.json` beside `a/b.png`."""
    return f"{path}.json"


async def write_beside(storage: Storage, path: str, sidecar: bytes) -> bool:
    """Write the sidecar of the image at `path` where nothing stands in its place; tells if it was written."""
    try:
        await storage.write_atomic(sidecar_path(path), sidecar, replace=False)
    except Occupied:
        return False
    return True


async def free_name(storage: Storage, path: str, suffix: str) -> str:
    """Give a path like `path` with `suffix` before the extension, where neither image nor sidecar stands.

    `a/b.png` and `~1234abcd` give `a/b~1234abcd.png`; if that is taken `a/b~1234abcd~2.png`, `…~3.png` and so
    on.
    """
    folder, slash, name = path.rpartition("/")
    # A leading dot belongs to the stem: `.png` is a hidden file, not an extension.
    dot = name.rfind(".", 1)
    stem, extension = (name, "") if dot < 0 else (name[:dot], name[dot:])
    candidate = f"{folder}{slash}{stem}{suffix}{extension}"
    count = 2
    while await storage.exists(candidate) or await storage.exists(sidecar_path(candidate)):
        candidate = f"{folder}{slash}{stem}{suffix}~{count}{extension}"
        count += 1
    return candidate
