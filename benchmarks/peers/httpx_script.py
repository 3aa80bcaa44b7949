"""The script that most people would write: httpx, a semaphore, one coroutine a task, a query every few seconds.

It syncs nothing, checks nothing and keeps the job's id in memory: a crash costs what was under way.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx

from benchmarks.meter import metered

HEADERS = {"Authorization": "Bearer sk-bench"}


async def one(client: httpx.AsyncClient, limit: asyncio.Semaphore, task: dict, interval: float) -> None:
    async with limit:
        response = await client.post("/v1/aiart/openai/image/submit", json=task["body"])
        response.raise_for_status()
        job_id = response.json()["job_id"]
        while True:
            await asyncio.sleep(interval)
            response = await client.post("/v1/aiart/openai/image/query", json={"job_id": job_id})
            response.raise_for_status()
            answer = response.json()
            if answer["status"] == "DONE":
                break
        response = await client.get(answer["data"][0]["url"])
        response.raise_for_status()
        Path(f"{task['id']}.png").write_bytes(response.content)
        with open("done.jsonl", "a") as done:
            done.write(json.dumps({"task": task["id"], "job_id": job_id}) + "\n")


async def main(tasks: Path, url: str, in_flight: int, interval: float) -> None:
    limit = asyncio.Semaphore(in_flight)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=60, limits=limits) as client:
        lines = tasks.read_text().splitlines()
        await asyncio.gather(*(one(client, limit, json.loads(line), interval) for line in lines))


if __name__ == "__main__":
    with metered():
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
