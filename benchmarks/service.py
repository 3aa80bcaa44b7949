"""A service that costs next to nothing, in a process of its own: what is measured is the client.

Speaks the service's protocol as far as a client that makes no mistakes can tell: a job is DONE at its n-th query, so
that each client asks exactly as often, and every image is the same file. It answers at once, or after a delay, as one
that is far away; images may take longer. (`rsbatch simulate` draws each image: for rows that need real service times,
not for those that count CPU.)
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

SUBMIT, QUERY = b"POST /v1/aiart/openai/image/submit", b"POST /v1/aiart/openai/image/query"
JSON, PNG = b"application/json", b"image/png"


@dataclass
class Service:
    """What all connections share: a job is DONE at query `needed`; answers take `delay` s, an image `download` more."""

    image: bytes
    needed: int
    delay: float
    download: float
    port: int = 0
    ids: Iterator[int] = field(default_factory=lambda: count(1))
    queries: dict[str, int] = field(default_factory=dict)

    def answer(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Give the answer's body and what it is."""
        if head.startswith(SUBMIT):
            number = next(self.ids)
            return json.dumps({"request_id": f"req_{number}", "job_id": f"task_{number}"}).encode(), JSON
        if head.startswith(QUERY):
            job = json.loads(body)["job_id"]
            asked = self.queries.pop(job, 0) + 1
            if asked < self.needed:
                self.queries[job] = asked
                return b'{"status": "WAIT", "created": 1779993296}', JSON
            url = f"http://127.0.0.1:{self.port}/image/{job}.png?signature=abc"
            return json.dumps({"status": "DONE", "data": [{"url": url}]}).encode(), JSON
        return self.image, PNG


class Connection(asyncio.Protocol):
    """One connection to the service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4 : end + 4 + length])
            first = bytes(self.buffer[:end])
            del self.buffer[: end + 4 + length]
            self.send(*self.service.answer(first, body), closing=b"connection: close" in head)

    def send(self, body: bytes, kind: bytes, *, closing: bool) -> None:
        last = b"connection: close\r\n" if closing else b""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n" % (kind, len(body), last)
        delay = self.service.delay + (self.service.download if kind is PNG else 0.0)
        if delay:  # the two are joined when they go: every open answer would hold an image of its own
            asyncio.get_running_loop().call_later(delay, self.write, head, body, closing)
        else:
            self.write(head, body, closing)

    def write(self, head: bytes, body: bytes, closing: bool) -> None:
        self.transport.writelines((head, body))
        if closing:
            self.transport.close()


def _times(by: int, over: int) -> list[int]:
    return [value * by // over for value in range(256)]


def picture(width: int, height: int, spread: int) -> bytes:
    """Make a PNG; more `spread` (0 to 255) of noise makes it larger. 1024, 1024, 8 gives 1.5 MB, as they are sold."""
    from PIL import Image, ImageChops

    noise = random.Random(1)
    smooth = Image.radial_gradient("L").resize((width, height))
    bands = []
    for share in (2, 3, 4):
        grain = Image.frombytes("L", (width, height), noise.randbytes(width * height)).point(_times(spread, 256))
        bands.append(ImageChops.add(smooth.point(_times(share, 5)), grain))
    file = io.BytesIO()
    Image.merge("RGB", bands).save(file, "PNG")
    return file.getvalue()


async def _serve(service: Service) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=4096)
    service.port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{service.port}", flush=True)
    await server.serve_forever()


@contextmanager
def serving(image: Path, needed: int, delay: float = 0.0, download: float = 0.0) -> Iterator[str]:
    """Run the service, whose jobs are DONE at query number `needed`; gives its address.

    Each answer takes `delay` seconds, an image `download` more.
    """
    command = [sys.executable, __file__, str(image), str(needed), str(delay), str(download)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        path, needed, delay, download = sys.argv[1:]
        asyncio.run(_serve(Service(Path(path).read_bytes(), int(needed), float(delay), float(download))))
