"""Real processes: the command and the simulator's server, over real HTTP on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

KEY = "sk-canary-5f0e9d1c7b3a4e62"
"""The key of every test here: it must be found nowhere afterwards."""


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]

    def audit(self) -> dict[str, Any]:
        with urlopen(f"{self.url}/simulator/audit", timeout=30) as answer:
            value: dict[str, Any] = json.load(answer)
            return value

    def wait_until_accepted(self, count: int) -> None:
        """Wait until so many submissions were accepted: another process does that, so it can only be looked at."""
        until = time.monotonic() + 60
        while (accepted := self.audit()["totals"]["accepted"]) < count:
            assert time.monotonic() < until, f"{accepted} of {count} were accepted"
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def simulate() -> Iterator[Callable[..., Server]]:
    """Start `rsbatch simulate` with options; stopped at the end."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        command = [sys.executable, "-m", "rsbatch", "simulate", *options]
        if "--port" not in options:
            command += ["--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, line
        servers.append(Server(line[line.index("http://") :].split()[0], process))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return value


class Project:
    """A folder with a manifest, and the command to run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.yaml"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RSBATCH", "ROUTESCOPE"))}
        self.env["ROUTESCOPE_API_KEY"] = KEY

    def write(self, text: str) -> None:
        self.manifest.write_text(text, encoding="utf-8")

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rsbatch", *words]

    def __call__(self, *words: str, timeout: float = 240) -> Done:
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *words: str) -> Done:
        return self("run", "manifest.yaml", "--json", *words)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*words), cwd=self.folder, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def output(self) -> Path:
        return self.folder / "outputs" / "manifest"

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / "ledger.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    _no_key_in(tmp_path)


def _no_key_in(folder: Path) -> None:
    """The key is in no file that a run leaves."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".env":
            assert KEY.encode() not in path.read_bytes(), path


def many(url: str, count: int, *, more: str = "") -> str:
    """A manifest of `count` small tasks against a simulator's server."""
    values = ", ".join(str(n) for n in range(count))
    return f"""
version: 1
defaults: {{size: 64x64, quality: low}}
tasks:
  - id: "task-{{{{ n }}}}"
    prompt: "Picture number {{{{ n }}}}"
    matrix: {{n: [{values}]}}
limits: {{in_flight: 32, submits_per_second: 200, queries_per_second: 200}}
prices: [{{usd: 0.01}}]
api: {{base_url: "{url}"}}
{more}
"""
