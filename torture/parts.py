"""Both ways of writing a part: whole at its end, and while it comes, as images do that are larger than the buffer.

The images of these rows are small, so a buffer smaller than they are takes the place of the usual one by turns.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from rsbatch.storage.local import BUFFER, LocalPart, LocalStorage

SMALL = 64
"""Bytes; every image has more."""


class BothWays(LocalStorage):
    """Takes every other image for a large one."""

    def open_part(self, name: str) -> AbstractAsyncContextManager[LocalPart]:
        self.buffer = SMALL if self.buffer == BUFFER else BUFFER
        return super().open_part(name)
