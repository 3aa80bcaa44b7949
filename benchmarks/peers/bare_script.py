"""What cannot be left out, and nothing else: one task after another over bare sockets, without HTTP library or loop.

Five requests, 1.5 MB received, inflated, hashed and synced under its final name with its sidecar, five lines that no
sync waits for. It can keep no two jobs in flight and checks no answer: what it takes is what any client must.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import zlib
from pathlib import Path

import orjson
from isal import isal_zlib

from benchmarks.meter import metered
from benchmarks.peers.aiohttp_script import sync_folder, write_synced

POST = b"POST /v1/aiart/openai/image/"


class Caller:
    """Speaks to one address; an answer stands in one buffer until the next."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.address = host, int(port)
        self.kept = socket.create_connection(self.address)
        self.buffer = memoryview(bytearray(2**22))

    def anew(self, what: bytes, body: bytes = b"") -> memoryview:
        """Ask on a connection of its own."""
        with socket.create_connection(self.address) as connection:
            return self.ask(connection, what, body, b"Connection: close\r\n")

    def ask(self, connection: socket.socket, what: bytes, body: bytes, more: bytes = b"") -> memoryview:
        connection.sendall(
            b"%s HTTP/1.1\r\nHost: here\r\n%sContent-Length: %d\r\n\r\n%s" % (what, more, len(body), body)
        )
        got = connection.recv_into(self.buffer)
        begin = bytes(self.buffer[:512]).index(b"\r\n\r\n") + 4
        length = bytes(self.buffer[:begin]).partition(b"content-length: ")[2].partition(b"\r\n")[0]
        end = begin + int(length)
        while got < end:
            got += connection.recv_into(self.buffer[got:])
        return self.buffer[begin:end]


def prove_pixels(image: memoryview) -> None:
    """Inflate a PNG's pixels, whose sum is proved by that."""
    parts, place = [], 8
    while place < len(image):
        length = int.from_bytes(image[place : place + 4], "big")
        if image[place + 4 : place + 8] == b"IDAT":
            parts.append(image[place + 8 : place + 8 + length])
        place += 12 + length
    isal_zlib.decompress(b"".join(parts))


def main(tasks: Path, url: str) -> None:
    caller, seq = Caller(url), 0
    with tasks.open("rb") as lines, Path("ledger.jsonl").open("ab", buffering=0) as ledger:

        def write(kind: str, **fields: object) -> None:
            nonlocal seq
            seq += 1
            line = orjson.dumps({"seq": seq, "type": kind, **fields})[:-1]
            ledger.write(b'%s,"crc":"%08x"}\n' % (line, zlib.crc32(line)))

        for line in lines:
            task = orjson.loads(line)
            name, body = task["id"], task["body"]
            write("submitting", task=name, request=body)
            job = orjson.loads(caller.anew(POST + b"submit", orjson.dumps(body)))["job_id"]
            write("submitted", task=name, job_id=job)
            query, answer = orjson.dumps({"job_id": job}), {"status": ""}
            while answer["status"] != "DONE":
                answer = orjson.loads(caller.ask(caller.kept, POST + b"query", query))
            write("generated", task=name, job_id=job)
            image = caller.ask(caller.kept, b"GET " + answer["data"][0]["url"].removeprefix(url).encode(), b"")
            prove_pixels(image)
            file = {"path": f"{name}.png", "bytes": len(image), "sha256": hashlib.sha256(image).hexdigest()}
            part = Path(f".{name}.part")
            write_synced(part, image)
            write("downloaded", task=name, job_id=job, files=[file])
            for content, path in ((None, f"{name}.png"), (orjson.dumps({**task, "file": file}), f"{name}.png.json")):
                if content:
                    write_synced(part, content)
                os.rename(part, path)
                sync_folder(Path())
            write("saved", task=name, job_id=job, files=[file])


if __name__ == "__main__":
    with metered():
        main(Path(sys.argv[1]), sys.argv[2])
