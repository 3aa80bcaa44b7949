"""The kill switch: ends its own process by SIGKILL at its n-th operation on files, locks and sockets.

Rule: for child processes only, which it leaves changed for good. It counts what changes the world outside of the
process (a read changes nothing): so stopping before operation 1, 2, 3 … N leaves every state that a kill can leave.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

_FILES = ("fsync", "link", "unlink", "remove", "rename", "replace", "mkdir", "ftruncate", "truncate", "write", "open")
_SOCKETS = ("connect", "send", "recv")


@dataclass(frozen=True, slots=True)
class KillAt:
    """When: before the 1-based operation `number`; with `half` in its middle (of a write) or right after it."""

    number: int
    half: bool = False


class Switch:
    """Arms this process; made once."""

    def __init__(self, at: KillAt | None) -> None:
        self._at = at
        self._numbers = count(1)
        self._armed = True
        for name in _FILES:
            setattr(os, name, self._watch(getattr(os, name), name))
        fcntl.flock = self._watch(fcntl.flock, "flock")
        for name in _SOCKETS:
            setattr(socket.socket, name, self._watch(getattr(socket.socket, name), name))

    def disarm(self) -> None:
        """Count and kill no more: the run is at its end."""
        self._armed = False

    def _watch(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*args: Any, **named: Any) -> Any:
            if not self._armed or not _changes(name, args):
                return real(*args, **named)
            if self._at is None or next(self._numbers) != self._at.number:
                return real(*args, **named)
            try:
                if self._at.half:
                    if name in {"write", "send"} and len(args[1]) > 1:
                        args = (args[0], bytes(args[1])[: len(args[1]) // 2])
                    real(*args, **named)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("a process that outlives SIGKILL")

        return watched


def _changes(name: str, args: tuple[Any, ...]) -> bool:
    if name == "open":
        return len(args) > 1 and bool(args[1] & os.O_CREAT)
    if name in _SOCKETS:  # asyncio wakes itself up over socket pairs
        return bool(args[0].family == socket.AF_INET)
    return True
