"""Images of rsbatch that lie in an output folder, told by the files beside them, and which of them no record is of.

Rule: reads only. An image whose job the ledger does not know was paid for all the same: then the ledger is an older
copy of what it was, or lost its end, and to go on from it would be to pay again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rsbatch import sidecar
from rsbatch.errors import StoreError
from rsbatch.ledger.local import NAME
from rsbatch.ledger.state import LedgerState
from rsbatch.lifecycle import SUBMITTABLE
from rsbatch.model import EXT

_ENDINGS = (".png.json", ".jpg.json", ".webp.json")


def find_sidecars(folder: Path) -> Iterator[Path]:
    """Give the sidecars in a folder, in no order; raises StoreError where it may not be looked into."""
    for parent, folders, files in os.walk(folder, onerror=_cannot_look):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent) / name
            if name.endswith(_ENDINGS) and read_sidecar(path) is not None:
                yield path


def _cannot_look(exc: OSError) -> None:
    if not isinstance(exc, FileNotFoundError):
        raise StoreError(f"cannot look into {exc.filename}: {exc.strerror}; what was paid for may be in it")


def read_sidecar(path: Path) -> sidecar.Sidecar | None:
    """Read a sidecar; None for anything else, and for what cannot be read."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > sidecar.MOST_BYTES:
            return None  # a pipe in its place must not hang the run
        return sidecar.parse(path.read_bytes())
    except OSError:
        return None


def unrecorded(one: sidecar.Sidecar, state: LedgerState) -> bool:
    """Tell if a ledger knows neither an image's job nor anything that its task may have been paid for."""
    history = state.get(one.task, one.key)
    return state.of_job(one.job_id) is None and (history is None or history.state in SUBMITTABLE)


class Lookout:
    """Looks where the images of tasks that a ledger has no job of would be; `service` and `name` are the ledger's."""

    def __init__(self, folder: Path, state: LedgerState, service: str, name: str) -> None:
        self._folder = f"{folder}{os.sep}"
        self._state = state
        self._whose = service, name
        self._needed = state.seq > 0 and folder.is_dir()

    def check(self, key: str, path: str) -> None:
        """Raise StoreError if an image of this very request is at its path, and no record is of it."""
        if not self._needed:
            return
        stem = self._folder + path.removesuffix(f".{EXT}")
        for ending in _ENDINGS:
            if os.path.lexists(stem + ending):
                self._check(Path(stem + ending), key)

    def _check(self, path: Path, key: str) -> None:
        one = read_sidecar(path)
        if one is None or one.key != key or (one.service, one.manifest) != self._whose:
            return
        if unrecorded(one, self._state):
            raise StoreError(
                f"{path.name} says that its image was paid for (job {one.job_id}), and {self._folder}{NAME} knows "
                f"nothing of that: it is an older copy, or lost its end. Put the newest one back, or let `rsbatch "
                f"repair` with this manifest take in what is there; nothing was submitted"
            )
