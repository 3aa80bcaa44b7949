"""Row 10: a key that is easy to find is used in real runs, and must be found nowhere afterwards.

Rule: real processes against real servers on loopback; httpx and httpcore log at DEBUG into the run's own standard
error. The key does not look like one (no `sk-`), so that no pattern hides it by luck. A search that finds
nothing proves nothing: each hostile server has to have sent the key back, and a planted key has to be found.

A case's seed is its number in `CASES`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from torture.rows import Figure, Params

KEY = "canary/5f0e9d1c+7b3a=4e62'8d"
_PRELUDE = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from rsbatch.cli import main
sys.exit(main(sys.argv[1:]))
"""
PATIENCE = 90.0
"""Seconds that a command may take on a busy machine."""
ENOUGH = 10
"""Requests after which a hostile server has said all that it has to say."""
COMMANDS = (
    "plan manifest.yaml --debug --requests",
    "status manifest.yaml --debug",
    "status manifest.yaml --debug --json",
    "show manifest.yaml task-0 --debug",
    "report manifest.yaml --debug",
    "verify manifest.yaml --debug",
    "verify manifest.yaml --debug --fix",
    "resolve manifest.yaml task-0 --debug --not-sent",
    "repair manifest.yaml --debug",
    "run manifest.yaml --debug --json --retry-failed --in-doubt resubmit",
)
SHORT_COMMANDS = (
    "status manifest.yaml --debug",
    "show manifest.yaml task-0 --debug",
    "report manifest.yaml --debug",
)

Answer = tuple[int, dict[str, str], bytes]


def _needles() -> list[bytes]:
    """Every form in which the key counts as told."""
    forms = {KEY, quote(KEY, safe=""), KEY.encode().hex(), json.dumps(KEY)[1:-1], KEY.replace("/", "\\/")}
    for text in (KEY, f"Bearer {KEY}"):
        for pad in range(3):  # the three ways in which a base64 text can hold it
            encoded = base64.b64encode(b"\0" * pad + text.encode()).decode().rstrip("=")
            inner = encoded[4 if pad else 0 : -1]
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return [form.encode() for form in forms]


_HEADER = re.compile(rb"authorization\W{1,6}(?:bearer|basic)\s+[\w+/=-]{4,}", re.IGNORECASE)


def told(data: bytes) -> str:
    """Say in what form `data` tells the key, empty if it does not."""
    found = next((needle for needle in _needles() if needle in data), None)
    if found is None and (header := _HEADER.search(data)) is not None:
        found = header[0]
    return "" if found is None else found.decode("utf-8", "replace")


# the servers


@dataclass
class Hostile:
    """A server that sends back what it was told. `answer` is given the path, the key and its own address."""

    answer: Callable[[str, str, str], Answer]
    seen: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve on a free port; gives the address."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append({name.lower(): value for name, value in self.headers.items()})
                given = self.headers.get("Authorization", "")
                address = f"http://{self.headers.get('Host')}"
                status, headers, body = outer.answer(self.path, given.removeprefix("Bearer "), address)
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815 - the base class wants this name

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


def _echo(key: str) -> str:
    bearer = f"Bearer {key}"
    forms = (key, quote(key, safe=""), base64.b64encode(key.encode()).decode())
    return f"you sent Authorization: {bearer} and {' '.join(forms)} {base64.b64encode(bearer.encode()).decode()} to us"


def _flat(code: str, text: str) -> bytes:
    return json.dumps({"code": code, "message": text, "data": None}).encode()


def _nested(code: str, text: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": text}}).encode()


def _refuse(status: int, code: str) -> Callable[[str, str, str], Answer]:
    return lambda path, key, url: (status, {}, _flat(code, _echo(key)))


def _job(answer: Callable[[str, str], bytes], status: int = 200) -> Callable[[str, str, str], Answer]:
    """A service that accepts, and answers queries in its own way."""

    def given(path: str, key: str, url: str) -> Answer:
        if path.endswith("submit"):
            job = {"job_id": f"task_{os.urandom(6).hex()}", "request_id": _echo(key)}
            return 200, {}, json.dumps(job).encode()
        if path.endswith("query"):
            return status, {}, answer(key, url)
        return 404, {}, _echo(key).encode()

    return given


def _fails(key: str, url: str) -> bytes:
    return json.dumps({"status": "FAIL", "error_message": _echo(key), "error": {"code": key}}).encode()


def _done(key: str, url: str) -> bytes:
    return json.dumps(
        {"status": "DONE", "data": [{"url": f"{url}/image?key={quote(key)}&Authorization={key}"}]}
    ).encode()


ECHOES: dict[str, Callable[[str, str, str], Answer]] = {
    "401 with the key in its message": _refuse(401, "invalid_api_key"),
    "401 with the key as its code": lambda path, key, url: (401, {}, _flat(key, "no")),
    "401 as an HTML page": lambda path, key, url: (401, {"Content-Type": "text/html"}, f"<p>{_echo(key)}</p>".encode()),
    "403 of a proxy": lambda path, key, url: (403, {}, _echo(key).encode()),
    "402": _refuse(402, "insufficient_balance"),
    "400": _refuse(400, "content_policy_violation"),
    "400 with the key as its code": lambda path, key, url: (400, {}, _flat(key, _echo(key))),
    "429 with the key": _refuse(429, "rate_limit_exceeded"),
    "500 with a code": _refuse(500, "internal_error"),
    "502 without a code: a doubt": lambda path, key, url: (502, {}, _echo(key).encode()),
    "200 that cannot be read: a doubt": lambda path, key, url: (200, {}, _echo(key).encode()),
    "200 with an error": lambda path, key, url: (200, {}, _nested("refused", _echo(key))),
    "a failed job": _job(_fails),
    "an unknown job": _job(lambda key, url: _flat("job_not_found", _echo(key)), 404),
    "a key refused while polling": _job(lambda key, url: _flat("invalid_api_key", _echo(key)), 401),
    "an image URL with the key": _job(_done),
    "the key as the state": _job(lambda key, url: json.dumps({"status": key}).encode()),
    "the key in headers": lambda path, key, url: (401, {"X-Echo": _echo(key), "Retry-After": key}, _flat("no", "no")),
}  # fmt: skip
"""What hostile servers do, by name."""

REDIRECTS = (301, 302, 303, 307, 308)
LONG_ONLY = {"redirect 301", "redirect 302", "redirect 303", "402", "500 with a code", "the key as the state"}
"""Left out of the short form, which has another case of the same way through the code."""
CASES = ["simulator", ".env", *ECHOES, *(f"redirect {status}" for status in REDIRECTS)]


# the runs


class _Site:
    """A folder with a manifest, in which commands are run; `outputs` is all that they said."""

    def __init__(self, folder: Path, url: str, *, dotenv: bool = False, log: bool = True) -> None:
        self.folder = folder
        self.said: dict[str, bytes] = {}
        self._log = log
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(("RSBATCH", "ROUTESCOPE"))}
        if dotenv:
            (folder / ".env").write_text(f'ROUTESCOPE_API_KEY="{KEY}"\n', encoding="utf-8")
        else:
            self._env["ROUTESCOPE_API_KEY"] = KEY
        self.serve_at(url)

    def serve_at(self, url: str) -> None:
        """Write the manifest for a service at `url`."""
        (self.folder / "manifest.yaml").write_text(
            "version: 1\n"
            "defaults: {size: 64x64}\n"
            'tasks: [{id: "task-{{ n }}", prompt: "Picture {{ n }}", matrix: {n: [0, 1, 2, 3]}}]\n'
            "limits: {submits_per_second: 100, queries_per_second: 100}\n"
            "run: {max_in_doubt: 100, stop_after: 2s}\n"
            f'api: {{base_url: "{url}"}}\n',
            encoding="utf-8",
        )

    def __call__(self, command: str, enough: Callable[[], bool] = lambda: False) -> None:
        """Run a command to its end, or interrupt it twice once it has had `enough` of the server."""
        start = ["-c", _PRELUDE] if self._log else ["-m", "rsbatch"]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                [sys.executable, *start, *command.split()], cwd=self.folder, env=self._env, stdout=out, stderr=err
            )
            end, interrupt = time.monotonic() + PATIENCE, float("inf")
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
                if enough() and interrupt == float("inf"):
                    interrupt = time.monotonic() + 1.0
                if time.monotonic() >= interrupt:
                    process.send_signal(signal.SIGINT)
                    interrupt = time.monotonic() + 1.0
            process.kill()
            process.wait()
            for name, file in (("stdout", out), ("stderr", err)):
                file.seek(0)
                place = f"{name} of {command}"
                self.said[place] = self.said.get(place, b"") + file.read()

    def tells(self) -> Iterator[str]:
        """Where the key stands, in sentences."""
        for name, data in self.said.items():
            if form := told(data):
                yield f"{name} has {form!r}"
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name != ".env" and (form := told(path.read_bytes())):
                yield f"{path.relative_to(self.folder)} has {form!r}"
            if form := told(str(path.relative_to(self.folder)).encode()):
                yield f"a file is named {form!r}"


def run(params: Params) -> Figure:
    """Run all cases, or the one of the seed."""
    numbers = [n for n in range(len(CASES)) if not (params.short and CASES[n] in LONG_ONLY)]
    if params.seed is not None:
        numbers = [params.seed]
    commands = SHORT_COMMANDS if params.short else COMMANDS
    failures: list[str] = []
    searched = 0
    with ThreadPoolExecutor(6) as pool:  # most of the time they wait
        for number, (places, wrong) in zip(
            numbers, pool.map(lambda n: _case(CASES[n], commands), numbers), strict=True
        ):
            searched += places
            failures += [f"{CASES[number]}: {text} (python -m torture canary --seed {number})" for text in wrong]
    if not all(told(planted) for planted in _planted()):
        failures.append("a planted key was not found: the search is broken")
    return Figure(
        f"{len(numbers)} services, {searched} outputs and files searched, the key in {len(failures)}",
        "a canary key is nowhere",
        failures,
    )


def _planted() -> Iterator[bytes]:
    yield f'"message": "{KEY}"'.encode()
    for text in (KEY, f"Bearer {KEY}", f"xBearer {KEY}y", f"xy{KEY}z"):
        yield b"..." + base64.b64encode(text.encode()) + b"..."
    yield b"'Authorization': 'Bearer abcdefgh'"


def _case(name: str, commands: tuple[str, ...]) -> tuple[int, list[str]]:
    with tempfile.TemporaryDirectory(prefix="rsbatch-canary-") as folder:
        wrong: list[str] = []
        if name in {"simulator", ".env"}:
            site = _against_the_simulator(Path(folder), commands, dotenv=name == ".env")
        elif name.startswith("redirect"):
            site = _against_a_redirect(Path(folder), int(name.split()[1]), wrong)
        else:
            # httpcore logs an answer's headers itself, at DEBUG: there the key is not ours to hide
            site = _against_an_echo(Path(folder), name, commands, wrong, log=name != "the key in headers")
        places = len(site.said) + sum(path.is_file() for path in site.folder.rglob("*"))
        return places, wrong + list(site.tells())


def _against_an_echo(folder: Path, name: str, commands: tuple[str, ...], wrong: list[str], *, log: bool) -> _Site:
    server = Hostile(ECHOES[name])
    with server.serve() as url:
        site = _Site(folder, url, log=log)
        site("run manifest.yaml --debug --json --grace 0s", partial(_more_than, server, ENOUGH))
        for command in commands if commands is COMMANDS else ():  # they tell what the ledger tells, which is searched
            seen = len(server.seen)
            site(command, partial(_more_than, server, seen + ENOUGH))
    if not any(KEY in headers.get("authorization", "") for headers in server.seen):
        wrong.append("the server never got the key: nothing was tried")
    return site


def _more_than(server: Hostile, count: int) -> bool:
    return len(server.seen) >= count


def _against_a_redirect(folder: Path, status: int, wrong: list[str]) -> _Site:
    other = Hostile(lambda path, key, url: (200, {}, b"{}"))
    with other.serve() as target:
        first = Hostile(lambda path, key, url: (status, {"Location": f"{target}{path}"}, b""))
        with first.serve() as url:
            site = _Site(folder, url)
            site("run manifest.yaml --debug --json")
    if not first.seen:
        wrong.append("nothing was asked: nothing was tried")
    if other.seen:
        wrong.append(f"the redirect was followed with {sorted(other.seen[0])}")
    return site


def _against_the_simulator(folder: Path, commands: tuple[str, ...], *, dotenv: bool) -> _Site:
    """Every command, with faults, and with a key that the service does not take."""
    site = _Site(folder, "http://127.0.0.1:1", dotenv=dotenv)
    for name, options in (("wrong", ["--key", "sk-another"]), ("right", ["--key", KEY, "--faults", "all=0.15"])):
        process = subprocess.Popen(
            [sys.executable, "-m", "rsbatch", "simulate", "--port", "0", "--service-time", "100ms", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        site.serve_at(line[line.index("http://") :].split()[0])
        site(f"run manifest.yaml --debug --json --output out-{name}")
        for command in commands if name == "right" else ():
            site(f"{command} --output out-{name}")
        process.terminate()
        process.wait(30)
        process.stdout.close()
    site("init new")
    site("schema")
    site("run manifest.yaml --simulate --debug --json")
    return site
