"""What an editor makes of the manifest's JSON Schema, asked of the YAML language server that editors use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "yaml-language-server@1.25.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path(tempfile.gettempdir())) / "rsbatch-tests" / PACKAGE
MANIFEST = """\
# yaml-language-server: $schema=./rsbatch.schema.json
version: 1
defaults:
  quality: low
  outpu
tasks:
  - id: a
    promt: a cat
limits:
  in_flight: 8
  task_timeout: 30 minutes
"""


def installed() -> Path:
    """Install the server from npm, once. Without npm the tests fail, unless they are told to do without."""
    main = CACHE / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
    if not main.exists():
        if os.environ.get("RSBATCH_TESTS_WITHOUT_NPM"):
            pytest.skip("told to do without npm")
        assert shutil.which("npm"), "install Node.js with npm, or set RSBATCH_TESTS_WITHOUT_NPM=1"
        CACHE.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(CACHE), PACKAGE]
        subprocess.run(words, check=True, capture_output=True, timeout=240)
    return main


class Server:
    """A language server on standard input and output; see the Language Server Protocol."""

    def __init__(self, folder: Path) -> None:
        words = ["node", str(installed()), "--stdio"]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
        self.uri = (folder / "manifest.yaml").as_uri()
        self.last = 0
        self.problems: list[dict[str, Any]] | None = None
        self.ask("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": {}})
        self.tell("initialized", {})
        document = {"uri": self.uri, "languageId": "yaml", "version": 1, "text": MANIFEST}
        self.tell("textDocument/didOpen", {"textDocument": document})

    def tell(self, method: str, params: object, **more: object) -> None:
        assert self.process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **more}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.process.stdin.flush()

    def ask(self, method: str, params: object) -> Any:
        self.last += 1
        self.tell(method, params, id=self.last)
        while True:
            message = self.read()
            if message.get("id") == self.last and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def at(self, method: str, line: int, character: int) -> Any:
        place = {"line": line, "character": character}
        return self.ask(f"textDocument/{method}", {"textDocument": {"uri": self.uri}, "position": place})

    def read(self) -> dict[str, Any]:
        """Read one message, answering what the server asks of us and keeping what it underlines."""
        assert self.process.stdout is not None
        length = 0
        while header := self.process.stdout.readline().strip():
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        assert length, "the language server has ended"
        message: dict[str, Any] = json.loads(self.process.stdout.read(length))
        if "method" in message and "id" in message:
            assert self.process.stdin is not None
            items = message["params"].get("items", []) if isinstance(message.get("params"), dict) else []
            body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": [{} for _ in items] or None}).encode()
            self.process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            self.process.stdin.flush()
        if message.get("method") == "textDocument/publishDiagnostics":
            self.problems = message["params"]["diagnostics"]
        return message

    def underlined(self) -> dict[int, str]:
        """Give messages by line, 0-based, once there are any."""
        while not self.problems:
            self.read()
        return {problem["range"]["start"]["line"]: problem["message"] for problem in self.problems}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("editor")
    schema = subprocess.run([sys.executable, "-m", "rsbatch", "schema"], capture_output=True, check=True).stdout
    (folder / "rsbatch.schema.json").write_bytes(schema)
    (folder / "manifest.yaml").write_text(MANIFEST)
    server = Server(folder)
    yield server
    server.process.kill()
    server.process.communicate()


def test_a_typo_is_underlined(editor: Server) -> None:
    said = editor.underlined()
    assert "promt" in said[7]
    assert 10 in said, "a duration that is none"
    assert not {1, 3, 6, 9} & set(said), "sound lines"


def test_keys_are_completed_with_their_descriptions(editor: Server) -> None:
    items = {item["label"]: item for item in editor.at("completion", 4, 7)["items"]}
    assert {"output_format", "output_compression", "model", "size"} <= set(items)
    assert "quality" not in items, "it is there already"
    assert items["output_format"]["documentation"]


def test_hovering_says_what_a_key_does(editor: Server) -> None:
    text = json.dumps(editor.at("hover", 9, 4))
    assert "The most jobs at the service at once." in text
    assert "LimitsSection" not in text, "a name of the code is no news to a reader"
