"""Making bytes and names durable on a local disk.

Rule: a sync that failed is never tried again: the kernel may have dropped the pages and call the next one a
success. So another way of syncing is taken only where the first one does not exist.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

try:
    from fcntl import F_FULLFSYNC, fcntl  # type: ignore[attr-defined,unused-ignore]
except ImportError:
    F_FULLFSYNC = None

_NOT_THERE = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
"""How file systems say that they cannot sync in this way, or cannot sync folders (some network and FUSE ones)."""


def sync_file(descriptor: int) -> None:
    """Bring a file's bytes to the platters; raises OSError."""
    if F_FULLFSYNC is not None:
        try:
            fcntl(descriptor, F_FULLFSYNC)  # macOS' fsync stops at the drive's cache (fsync(2) there)
            return
        except OSError as exc:
            if exc.errno not in _NOT_THERE:
                raise
    os.fsync(descriptor)


def sync_folder_fd(descriptor: int) -> None:
    """Make the names in an open folder durable where its file system can do that; raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NOT_THERE:
            raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; see `sync_folder_fd`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_folder_fd(descriptor)
    finally:
        os.close(descriptor)
