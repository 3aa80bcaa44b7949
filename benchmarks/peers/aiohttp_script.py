"""A careful author's own script, with aiohttp: it does what rsbatch does for a task, and nothing else.

The same order of writes with the same syncs (intent, job id, part file, hash, rename, sidecar, saved), group commit,
submissions on fresh connections, every image decoded. No retries, no limits, no resume, no manifest, no checks of
addresses or answers: what those cost is what it is held against.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import zlib
from pathlib import Path

import aiohttp
import orjson
from PIL import Image

from benchmarks.meter import metered


class Ledger:
    """Lines that are durable when `write` returns; those of one sync's time go with the next."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.waiting: list[bytes] = []
        self.lock = asyncio.Lock()
        self.seq = self.durable = 0

    async def write(self, **fields: object) -> None:
        self.seq = mine = self.seq + 1
        line = orjson.dumps({"seq": self.seq, **fields})[:-1]
        self.waiting.append(b'%s,"crc":"%08x"}\n' % (line, zlib.crc32(line)))
        async with self.lock:
            if self.durable < mine:
                lines, self.waiting, last = self.waiting, [], self.seq
                await asyncio.to_thread(self.append, b"".join(lines))
                self.durable = last

    def append(self, data: bytes) -> None:
        os.write(self.fd, data)
        os.fsync(self.fd)


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def keep_part(part: Path, data: bytes) -> tuple[str, tuple[int, int]]:
    write_synced(part, data)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return hashlib.sha256(data).hexdigest(), image.size


def publish(part: Path, path: Path, sidecar: bytes) -> None:
    os.rename(part, path)
    sync_folder(path.parent)
    write_synced(part, sidecar)
    os.rename(part, path.with_name(path.name + ".json"))
    sync_folder(path.parent)


async def one(
    session: aiohttp.ClientSession, ledger: Ledger, task: dict[str, object], url: str, interval: float
) -> None:
    name, body = str(task["id"]), task["body"]
    path = Path(f"{name}.png")
    await ledger.write(type="submitting", task=name, request=body)
    post = session.post(f"{url}/v1/aiart/openai/image/submit", json=body, headers={"Connection": "close"})
    async with post as response:
        job = orjson.loads(await response.read())["job_id"]
    await ledger.write(type="submitted", task=name, job_id=job)
    while True:
        await asyncio.sleep(interval)
        async with session.post(f"{url}/v1/aiart/openai/image/query", json={"job_id": job}) as response:
            answer = orjson.loads(await response.read())
        if answer["status"] == "DONE":
            break
    await ledger.write(type="generated", task=name, job_id=job)
    async with session.get(answer["data"][0]["url"]) as response:
        data = await response.read()
    part = Path(f".{name}.part")
    sha256, size = await asyncio.to_thread(keep_part, part, data)
    file = {"path": str(path), "bytes": len(data), "sha256": sha256, "size": size}
    await ledger.write(type="downloaded", task=name, job_id=job, files=[file])
    sidecar = orjson.dumps({"task": name, "request": body, "job_id": job, "file": file})
    await asyncio.to_thread(publish, part, path, sidecar)
    await ledger.write(type="saved", task=name, job_id=job, files=[file])


async def main(tasks: Path, url: str, in_flight: int, interval: float) -> None:
    with tasks.open("rb") as lines:
        ledger = Ledger(Path("ledger.jsonl"))
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": "Bearer sk-bench"}
        async with aiohttp.ClientSession(connector=connector, headers=headers, json_serialize=as_text) as session:

            async def worker() -> None:
                for line in lines:
                    await one(session, ledger, orjson.loads(line), url, interval)

            await asyncio.gather(*(worker() for _ in range(in_flight)))


def as_text(value: object) -> str:
    return orjson.dumps(value).decode()


if __name__ == "__main__":
    with metered():
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
