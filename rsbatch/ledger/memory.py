"""A ledger file in memory: a real implementation, for virtual time and for trying things out.

Rule: no threads and no disk, so that it runs under any clock; what was appended stays for the next open.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import anyio.lowlevel

from rsbatch.errors import LedgerBusy
from rsbatch.ledger.large import LargeState
from rsbatch.ledger.replay import replay
from rsbatch.ledger.rescue import merge
from rsbatch.ledger.state import LedgerState


class MemoryDisk:
    """Holds the bytes of one ledger between openings, and its lock; a `large` one is read as large ledgers are."""

    def __init__(self, data: bytes = b"", *, large: bool = False) -> None:
        self.data = bytearray(data)
        self.large = large
        self.rescued = b""
        self.locked = False

    def open(self) -> tuple[MemoryLedgerFile, LedgerState]:
        """Lock and read; raises LedgerBusy or LedgerDamaged."""
        if self.locked:
            raise LedgerBusy("another run holds the ledger in memory")
        state = LargeState(self.line_at) if self.large else LedgerState()
        replayed = replay(io.BytesIO(bytes(self.data)), "memory", state)
        del self.data[replayed.end :]
        self.data += b"".join(merge(replayed.state, self.rescued, replayed.end).lines)
        self.rescued = b""
        self.locked = True
        return MemoryLedgerFile(self), replayed.state

    def line_at(self, offset: int) -> bytes:
        """Give the line that begins at `offset`, without its newline."""
        return bytes(self.data[offset : self.data.index(b"\n", offset)])


class MemoryLedgerFile:
    """An open ledger of a MemoryDisk."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return len(self._disk.data)

    @property
    def nearly_full(self) -> bool:
        """Memory is never nearly full."""
        return False

    async def append(self, data: bytes) -> None:
        """Add whole lines."""
        await anyio.lowlevel.checkpoint()
        self._disk.data += data

    def line_at(self, offset: int) -> bytes:
        """Give the line that begins at `offset`, without its newline."""
        return self._disk.line_at(offset)

    def rescue(self, lines: Sequence[bytes]) -> str:
        """Keep the lines apart."""
        self._disk.rescued += b"".join(lines)
        return f"{len(lines)} records were rescued in memory"

    def close(self) -> None:
        """Give up the lock."""
        self._disk.locked = False
