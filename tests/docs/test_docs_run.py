"""Every command and program in the documentation is run as it stands.

A block says what it is for in its info string: `sh run`, `python run`, or `sh norun (reason)`. More words: `exit=3` is
the exit code that the block ends with, `or-held` lets it end with a held task as well (it kills, and a busy machine may
be killed while a request is open), `jq` is a program that it needs, `server=OPTION,…` starts `rsbatch simulate` with
options. The blocks of a page run one after another in one folder; the port of the pages is replaced by a free one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs_help import DOCS, PAGES, PORT, ROOT, Block, blocks, copy_of_project, environment

ELSEWHERE = {"manifest.md", "simulator.md"}
"""These pages have tests of their own."""
MARKED = [page for page in PAGES if page.name not in ELSEWHERE]
SHELL = "set -euo pipefail\n"


def runnable(page: Path, language: str) -> list[Block]:
    return [b for b in blocks(page) if b.language == language and "run" in b.words]


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.name)
def test_every_block_of_a_shell_says_if_it_runs(page: Path) -> None:
    for block in blocks(page):
        if block.language in {"sh", "bash", "shell", "console"}:
            assert block.language == "sh", block.place
            known = "run" in block.words or re.fullmatch(r"sh norun \(.+\)", block.info)
            assert known, f"{block.place}: {block.info}"


def test_few_blocks_do_not_run() -> None:
    found = [b for page in MARKED for b in blocks(page) if b.language == "sh"]
    silent = [b.place for b in found if "norun" in b.words]
    assert len(silent) <= 14, silent
    assert len(found) - len(silent) >= 30


class Shell:
    """A folder that is taken along from block to block, as in a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = environment(folder)
        self.port = PORT

    def run(self, block: Block) -> None:
        script = SHELL + block.text.replace(f":{PORT}", f":{self.port}") + "\npwd > ~/.cwd\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        wanted = int(block.option("exit", "0"))
        if "or-held" in block.words and done.returncode == 1 and " held" in done.stdout:
            wanted = 1
        assert done.returncode == wanted, f"{block.place}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{block.place}\n{done.stderr}"
        cwd = Path(self.env["HOME"], ".cwd")
        if cwd.exists():
            self.folder = Path(cwd.read_text().strip())

    def serve(self, options: list[str]) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "rsbatch", "simulate", "--port", "0", *options]
        server = subprocess.Popen(words, env=self.env, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        self.port = server.stdout.readline().strip().rpartition(":")[2]
        assert self.port.isdigit()
        return server


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in MARKED if runnable(p, "sh")], ids=lambda page: page.name)
def test_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    for tool in ("jq",):
        if any(tool in b.words for b in runnable(page, "sh")) and shutil.which(tool) is None:
            pytest.skip(f"{page.name} needs {tool}")
    shell = Shell(copy_of_project(tmp_path))
    for block in runnable(page, "sh"):
        server = shell.serve(block.option("server").split(",")) if block.option("server") else None
        try:
            shell.run(block)
        finally:
            if server is not None:
                server.terminate()
                server.communicate(timeout=10)


@pytest.mark.slow
def test_the_page_for_python(tmp_path: Path) -> None:
    """Its blocks are one program, as in a notebook."""
    folder = copy_of_project(tmp_path)
    program = "\n".join(b.text for b in runnable(DOCS / "python.md", "python"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0 done 0." in done.stdout
    assert "tasks[0].promt" in done.stdout


@pytest.mark.slow
def test_example_manifests_plan_and_run(tmp_path: Path) -> None:
    """All at once: they mostly wait."""
    folder = copy_of_project(tmp_path)
    manifests = sorted((folder / "manifests").glob("*.yaml"))
    assert len(manifests) == 6
    runs = {}
    for manifest in manifests:
        words = [sys.executable, "-m", "rsbatch", "run", str(manifest), "--simulate", "--progress", "none"]
        runs[manifest.name] = subprocess.Popen(
            words, cwd=folder, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    try:
        for name, process in runs.items():
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, f"{name}\n{output}"
            assert re.search(r"^(\d+) of \1 saved;", output, re.MULTILINE), f"{name}\n{output}"
            assert "warning" not in output
    finally:
        for process in runs.values():
            process.kill()
            process.wait()
    made = {p.suffix for p in (folder / "outputs" / "quickstart-simulated").iterdir()}
    assert {".png", ".jpg", ".webp"} <= made
    planned = subprocess.run(
        [sys.executable, "-m", "rsbatch", "plan", str(manifests[0]), "--simulate"],
        cwd=folder,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert planned.returncode == 0
    assert "submit" not in planned.stdout


def test_examples_say_what_they_are_for() -> None:
    for manifest in sorted((ROOT / "manifests").glob("*.yaml")):
        lines = manifest.read_text("utf-8").splitlines()
        assert lines[0].startswith("# "), manifest
        assert sum("#" in line for line in lines) >= 4, manifest
