"""What the simulator's tests share: requests by hand, engines with one setting, the server as a process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rsbatch.simulator.answers import Answer
from rsbatch.simulator.engine import Engine
from rsbatch.simulator.settings import Settings
from rsbatch.simulator.wire import QUERY, SUBMIT, Request

ORIGIN = "http://127.0.0.1:8765"
KEY = "sk-test"
NOW = 1_800_000_000.0
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
CAT = {"model": "gpt-image-2", "prompt": "A cat", "size": "64x64"}


def engine(**settings: Any) -> Engine:
    return Engine(Settings(**settings))


def post(it: Engine, path: str, body: object, now: float = NOW, headers: Mapping[str, str] = HEADERS) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return it.handle(Request("POST", path, ORIGIN, headers=headers, body=raw), now)


def submit(it: Engine, body: object = CAT, now: float = NOW) -> Answer:
    return post(it, SUBMIT, body, now)


def accepted(it: Engine, body: object = CAT, now: float = NOW) -> str:
    answer = submit(it, body, now)
    assert answer.status == 200, answer.body
    return str(answer.json()["job_id"])


def query(it: Engine, job_id: str, now: float = NOW) -> Answer:
    return post(it, QUERY, {"job_id": job_id}, now)


def get(it: Engine, url: str, now: float = NOW) -> Answer:
    path, _, query_string = url.removeprefix(ORIGIN).partition("?")
    return it.handle(Request("GET", path, ORIGIN, query=query_string), now)


def image_url(it: Engine, now: float = NOW + 1000) -> str:
    """Order an image and return its URL as of `now`."""
    job_id = accepted(it)
    return str(query(it, job_id, now).json()["data"][0]["url"])


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the server on a free port; yield its address and the process."""
    code = (
        "import argparse, sys\n"
        "from rsbatch.commands import simulate\n"
        "parser = argparse.ArgumentParser(); simulate.add_arguments(parser)\n"
        "sys.exit(simulate.run(parser.parse_args()))\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("simulator listening on "), process.communicate()
            yield line.split()[-1], process
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=10)
            if process.poll() is None:
                process.kill()
