"""Images of rsbatch that lie in an output folder, told by the files beside them, and which of them no record is of.

Rule: reads only. An image whose job the ledger does not know was paid for all the same: then the ledger is an older
copy of what it was, or lost its end, and to go on from it would be to pay again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from rsbatch import sidecar
from rsbatch.errors import StoreError
from rsbatch.identity import place
from rsbatch.ledger.local import NAME
from rsbatch.ledger.mend import ends_before_a_job, job_of, may_be_given
from rsbatch.ledger.records import to_json
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.model import EXT
from rsbatch.sidecar import Sidecar

_ENDINGS = tuple(f".{ending}.json" for ending in sidecar.FORMATS)


def find_sidecars(folder: Path) -> Iterator[Path]:
    """Give the sidecars in a folder, in no order; raises StoreError where the folder itself may not be looked into."""

    def cannot_look(exc: OSError) -> None:
        if exc.filename == str(folder) and not isinstance(exc, FileNotFoundError):
            raise StoreError(f"cannot look into {folder}: {exc.strerror}; what was paid for may be in it")

    for parent, folders, files in os.walk(folder, onerror=cannot_look):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent) / name
            if name.endswith(_ENDINGS) and read_sidecar(path) is not None:
                yield path


def read_sidecar(path: Path) -> Sidecar | None:
    """Read a sidecar; None for anything else, and for what cannot be read."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > sidecar.MOST_BYTES:
            return None  # a pipe in its place must not hang the run
        return sidecar.parse(path.read_bytes())
    except OSError:
        return None


class Lookout:
    """Looks where the images of tasks that a run would submit belong, for those that were paid for.

    `service` and `name` are the ledger's. `locked`: no run can go on while it looks.
    """

    def __init__(self, folder: Path, state: LedgerState, service: str, name: str, *, locked: bool = False) -> None:
        self._folder = folder
        self._state = state
        self._whose = service, name
        self._locked = locked
        self._needed = state.seq > 0 and folder.is_dir()

    def find(self, key: str, path: str, history: History | None) -> tuple[Path, Sidecar] | None:
        """Give the sidecar of an image of this very request at its path, if no record is of its job.

        `history` is the task's, None where it has none; the path that it was last submitted with is looked at, too.
        Of a task that would only be submitted if asked for (it failed, or is held) it is an image that `repair` takes
        in: otherwise that would leave all as it is, and the run be refused again.
        """
        if not self._needed or not ends_before_a_job(history):
            return None
        settled = history is not None and history.state in {State.HELD, State.FAILED_FINAL}
        known = history.path if history is not None else ""
        for where in dict.fromkeys((path, known or path)):
            for ending in sidecar.FORMATS:
                beside = f"{self._folder}{os.sep}{where.replace(EXT, ending)}.json"
                if not os.path.lexists(beside):  # sooner told than by a path of pathlib, for each task that is new
                    continue
                one = read_sidecar(Path(beside))
                if one is None or one.key != key or not self._is_unrecorded(one):
                    continue
                if not settled or self._would_be_taken_in(where, one):
                    return Path(beside), one
        return None

    def _would_be_taken_in(self, where: str, one: Sidecar) -> bool:
        """Tell if `repair` gives the image to a task, as `lost_jobs` says: the one it names, if it is whole."""
        job = job_of(self._state, one)
        if not may_be_given(self._state.get(*job[:2]), one):
            return False
        for number in range(one.images):
            other = read_sidecar(self._folder / f"{place(where, one.file.format, number)}.json")
            if other is None or (job_of(self._state, other), other.image) != (job, number + 1):
                return False
        return True

    def check(self, key: str, path: str, history: History | None) -> None:
        """Raise StoreError if there is such an image."""
        found = self.find(key, path, history)
        if found is not None:
            beside, one = found
            raise StoreError(
                f"{beside.name} says that its image was paid for (job {one.job_id}), and {self._folder / NAME} knows "
                f"nothing of that: it is an older copy, or lost its end. Put the newest one back, or let `rsbatch "
                f"repair` with this manifest take in what is there; if that image is not wanted any more, move it "
                f"and {beside.name} away. Nothing was submitted"
            )

    def _is_unrecorded(self, one: Sidecar) -> bool:
        if not one.is_of(*self._whose) or self._state.of_job(one.job_id) is not None:
            return False
        if not self._locked and self._has_by_now(one.job_id):
            self._needed = False  # a run goes on while a plan is made, and it has looked for itself
        return self._needed

    def _has_by_now(self, job_id: str) -> bool:
        """Tell if the job is in the ledger's file: its id is, durably, before anything comes of it."""
        try:
            with (self._folder / NAME).open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                return data.find(b'"job_id":' + to_json(job_id)) >= 0
        except (OSError, ValueError):
            return False
