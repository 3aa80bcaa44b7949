"""Carry an answer out: wait, draw, send in pieces, stop in the middle.

Rule: the shells (`transport`, `app`) share this and nothing else; it knows neither httpx nor ASGI. Drawing
happens here, when somebody really asks for the bytes.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import anyio.to_thread

from rsbatch.simulator import wire
from rsbatch.simulator.answers import Answer
from rsbatch.simulator.brief import Picture
from rsbatch.simulator.settings import Settings

CHUNK = 64 * 1024
"""Bytes sent at a time."""

Sleep = Callable[[float], Awaitable[None]]
Draw = Callable[[Picture], Awaitable[bytes]]


class HungUp(Exception):
    """The connection ends here, as the fault wants it: before the answer, or in the middle of its body."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """An answer ready to go.

    `headers` has Content-Length; `body` may be shorter, then the connection ends after it. Its bytes take `seconds`.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    stall: float
    hang_up: bool
    seconds: float = 0.0

    async def chunks(self, sleep: Sleep) -> AsyncIterator[bytes]:
        """Return the body in pieces. Raises HungUp in the middle where the answer says so."""
        async for piece in self._pieces(sleep):
            if self.seconds > 0:
                await sleep(self.seconds * len(piece) / len(self.body))
            yield piece

    async def _pieces(self, sleep: Sleep) -> AsyncIterator[bytes]:
        middle = len(self.body) // 2
        stalled = self.stall <= 0
        for at in range(0, len(self.body), CHUNK):
            if not stalled and at + CHUNK > middle:
                stalled = True
                if at < middle:
                    yield self.body[at:middle]
                    at, end = middle, at + CHUNK  # noqa: PLW2901
                    await sleep(self.stall)
                    yield self.body[at:end]
                    continue
                await sleep(self.stall)
            yield self.body[at : at + CHUNK]
        if self.hang_up:
            raise HungUp


async def pack(answer: Answer, settings: Settings, *, sleep: Sleep, draw: Draw) -> Parcel:
    """Wait and draw as the answer says, and take the way back. Raises HungUp where there is to be no answer."""
    manner = answer.manner
    if (wait := manner.wait + settings.one_way) > 0:
        await sleep(wait)
    if manner.reset:
        raise HungUp
    body = await _body(answer, draw)
    whole = len(body)
    if manner.cut:
        body = body[: whole // 2]
    length = whole if manner.cut == "length" else len(body)
    headers = (("content-type", answer.content_type), ("content-length", str(length)), *answer.headers)
    seconds = settings.download_time / settings.speed if answer.pictures else 0.0
    return Parcel(answer.status, headers, body, manner.stall, length > len(body), seconds)


async def _body(answer: Answer, draw: Draw) -> bytes:
    if not answer.pictures:
        return answer.body
    drawn = [await draw(picture) for picture in answer.pictures]
    if answer.envelope is None:
        return drawn[0]
    data = [{"b64_json": base64.b64encode(image).decode()} for image in drawn]
    return wire.dump({**answer.envelope, "data": data})


async def draw_here(picture: Picture) -> bytes:
    """Draw at once, on the event loop's own thread."""
    from rsbatch.simulator.painter import paint

    return paint(picture)


async def draw_in_thread(picture: Picture) -> bytes:
    """Draw in a worker thread, so that other requests are served meanwhile."""
    from rsbatch.simulator.painter import paint

    return await anyio.to_thread.run_sync(paint, picture)
