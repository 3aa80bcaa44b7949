"""The simulator as a server on loopback.

Rule: the only module that knows uvicorn. The address is bound before anything else, so that a port in use is
a clean error, and said on standard output when requests are really answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rsbatch.errors import UsageError
from rsbatch.simulator.app import HANG_UP, App, Receive, Scope, Send, create_app
from rsbatch.simulator.delivery import HungUp, Sleep
from rsbatch.simulator.engine import Engine
from rsbatch.simulator.journal import Journal, open_simulator
from rsbatch.simulator.settings import Settings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
_BACKLOG = 2048
_GRACE = 3  # seconds that open answers get at the end
_KEEP_ALIVE = 75  # seconds, as nginx; clients give up idle connections sooner, so the two do not cross


def serve(settings: Settings, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, state: Path | None = None) -> None:
    """Serve until SIGINT or SIGTERM. Port 0 takes any free one; the line on standard output says which.

    Raises UsageError when the address or the state file is in use, StoreError when the state cannot be read.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(_listen(host, port)))
        if state is not None:
            stack.enter_context(Journal(state).locked())
        engine = open_simulator(settings, state, time.time)
        stack.enter_context(_signals_end_quietly())
        asyncio.run(_Server(engine, _address(listener, host)).serve(sockets=[listener]))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as exc:
        listener.close()
        raise UsageError(
            f"the simulator cannot listen on {host}:{port}: {exc}; choose another with --port (0: any)"
        ) from exc
    return listener


def _address(listener: socket.socket, host: str) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _config(engine: Engine, sleep: Sleep) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(engine, sleep=sleep, paint_in_thread=True),
        http=_Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=_KEEP_ALIVE,
    )


class _Server(uvicorn.Server):
    def __init__(self, engine: Engine, address: str) -> None:
        super().__init__(_config(engine, self._sleep))
        self._address = address
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(f"simulator listening on {self._address}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)

    async def _sleep(self, seconds: float) -> None:
        """Wait; when the server stops meanwhile, end the connection instead."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
                raise HungUp


class _Protocol(H11Protocol):
    """uvicorn's own protocol, with a way for the application to end the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app: Any = _with_hang_up(self.app, transport)


def _with_hang_up(app: Any, transport: asyncio.Transport) -> App:
    def hang_up(reset: bool) -> None:
        if not reset:
            transport.close()
            return
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def extended(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {**scope.get("extensions", {}), HANG_UP: hang_up}
        await app(scope, receive, send)

    return extended


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Let the signals that stop the server have no other effect.

    Uvicorn raises them again when it has stopped; for a server that was told to stop that is no error.
    """
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
