"""The same hostile answers as bytes on a real socket, framed well or badly.

Rule: what is framed well is judged as if it had been read by `rsbatch.wire` at once; of what is framed badly, and of
everything else after the request has left, nothing may be called a refusal or not sent.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import anyio

from rsbatch import wire
from rsbatch.clock import SystemClock
from rsbatch.net.service import HttpService
from torture import answers
from torture.answers import Case

_BODILESS = {204, 304}
_BAD = ("short", "status", "gzip", "chunk", "headers", "interim", "nothing", "twice", "switching", "long")


def draw(rng: Random) -> tuple[Case, str, bytes]:
    """Draw an answer, the way it is framed (`well` or what is wrong), and the bytes that are sent."""
    case = answers.make(rng)
    if not 200 <= case.status <= 599 or case.status in _BODILESS:
        case = replace(case, status=rng.choice((200, 400, 429, 500, 503, 504)))
    headers = {name: value for name, value in case.headers.items() if value.isascii() and value.isprintable()}
    case = replace(case, headers=headers)
    how = "well" if rng.random() < 0.6 else rng.choice(_BAD)
    return case, how, _framed(case, how, rng)


def _framed(case: Case, how: str, rng: Random) -> bytes:
    body = case.body
    head = [f"HTTP/1.1 {case.status} X", *(f"{name}: {value}" for name, value in case.headers.items())]
    if how == "status":
        head[0] = rng.choice(
            ("HTTP/1.1 2000 OK", "HTTP/1.x 200 OK", "200", "", "ICY 200 OK", "HTTP/1.1 \x00", "HTTP/1.1 -200 X")
        )
    if how == "gzip":
        head.append(f"Content-Encoding: {rng.choice(('gzip', 'deflate', 'br', 'zstd', 'gzip, gzip'))}")
    if how == "headers":
        head.append(
            rng.choice(("no colon", ": empty", "a b: c", "x: \x00", "X" * 200_000 + ": y", "Content-Length: -1"))
        )
    if how == "twice":
        head.append(f"Content-Length: {len(body) + 5}")
    if how == "chunk":
        head.append("Transfer-Encoding: chunked")
        pieces = rng.choice((b"zz\r\n%s", b"ffffffffffffffff\r\n%s", b"5\r\n%s", b"-1\r\n%s\r\n0\r\n\r\n")) % body
        return _headed(head) + pieces
    if how == "well" and rng.random() < 0.3:
        head.append("Transfer-Encoding: chunked")
        half = len(body) // 2
        parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        return _headed(head) + parts + b"0\r\n\r\n"
    if how != "well" or rng.random() < 0.7:
        head.append(f"Content-Length: {len(body) + (rng.randrange(1, 99) if how == 'short' else 0)}")
    if how == "interim":
        return b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 3 + _headed(head) + body
    if how == "switching":
        return b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n" + body
    if how == "nothing":
        return b""
    return _headed(head) + (body + b"\n" * 50 if how == "long" else body)


def _headed(head: list[str]) -> bytes:
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"


def judge(case: Case, how: str, submitted: object, asked: object) -> str:
    """Say what is wrong with what came of an answer; empty if nothing is."""
    if isinstance(submitted, wire.NotSent):
        return f"it was sent, and called not sent: {submitted.reason}"
    if isinstance(submitted, wire.Doubt):
        direct = wire.read_submit(case.answer, answers.NOW)
        if how in {"well", "interim"} and not isinstance(direct, wire.Doubt):
            return f"read at once it is {direct}, over a socket {submitted}"
    else:
        sound = answers.judge_submit(case, submitted)
        if sound:
            return sound
    if how in {"short", "status", "nothing", "switching"} and not isinstance(submitted, wire.Doubt):
        return f"an answer that is not whole ({how}) was taken for {submitted}"
    if how in {"short", "status", "nothing"} and not isinstance(asked, wire.Trouble):
        return f"an answer that is not whole ({how}) to a query was taken for {asked}"
    return ""


def try_many(seeds: list[int]) -> list[tuple[int, str]]:
    """Send the answers of these seeds over loopback, to a submission and to a query; gives what went wrong."""
    return asyncio.run(_try_many(seeds))


async def _try_many(seeds: list[int]) -> list[tuple[int, str]]:
    current = [b""]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length"))
            await reader.readexactly(size)
            writer.write(current[0])
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client may hang up whenever it likes
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wrong = []
    async with HttpService(f"http://127.0.0.1:{port}", "sk-canary", clock=SystemClock(), max_answer=10**6) as service:
        for seed in seeds:
            case, how, current[0] = draw(Random(seed))
            try:
                with anyio.fail_after(20):
                    said = judge(case, how, await service.submit(b'{"prompt":"x"}'), await service.query("task_1"))
            except Exception as exc:
                said = f"it raised {exc!r}"
            if said:
                wrong.append((seed, f"{said}: {how}, {current[0][:2000]!r}"))
    server.close()
    await server.wait_closed()
    return wrong
