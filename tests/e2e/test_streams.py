"""What becomes of a run whose standard streams are closed, full, or lose their reader: nothing but silence."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from rsbatch import cli
from tests.e2e.conftest import Project, Server

TWO = "version: 1\ndefaults: {size: 64x64}\ntasks: [{id: a, prompt: cat}, {id: b, prompt: dog}]\n"
FULL = Path("/dev/full")


def shell(project: Project, redirections: str, *words: str) -> int:
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", *project.command(*words)]
    done = subprocess.run(command, cwd=project.folder, env=project.env, timeout=120, stdin=subprocess.DEVNULL)
    return done.returncode


@pytest.mark.parametrize("redirections", [">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_a_run_does_not_need_its_streams(project: Project, redirections: str) -> None:
    if "full" in redirections and not FULL.exists():
        pytest.skip("no /dev/full here")
    project.write(TWO)
    assert shell(project, redirections, "run", "manifest.yaml", "--simulate") == 0
    assert project("status", "manifest.yaml", "--simulate").out.startswith("2 tasks: 2 saved")


def test_closed_streams_leave_no_number_to_the_ledger(tmp_path: Path) -> None:
    """What a library prints would go there."""
    script = """
import os
from rsbatch.cli import _safe_streams
for number in range(3):
    os.close(number)
with _safe_streams():
    for number in range(3):
        os.fstat(number)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=60).returncode == 0


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_half_a_line_that_cannot_be_written_is_let_go() -> None:
    """As a bar draws: nothing is written before it is flushed."""
    stream = FULL.open("w")
    remarks = cli._Remarks(stream)
    remarks.write("100%")
    remarks.flush()
    with suppress(OSError):
        stream.close()


def test_errors_keep_their_exit_code_when_nobody_can_be_told(project: Project) -> None:
    assert shell(project, ">&- 2>&-", "status", "nope.yaml") == 2


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_results_that_cannot_be_written_are_exit_4(project: Project) -> None:
    project.write(TWO)
    assert shell(project, ">/dev/full", "plan", "manifest.yaml") == 4


def test_a_log_whose_reader_is_gone_does_not_end_the_run_nor_hide_its_end(project: Project) -> None:
    project.write(TWO)
    reader, writer = os.pipe()
    os.close(reader)
    command = project.command("run", "manifest.yaml", "--simulate", "--select", "a")
    done = subprocess.run(command, cwd=project.folder, env=project.env, stdout=writer, stderr=writer, timeout=120)
    assert done.returncode == 0
    project.env["ROUTESCOPE_API_KEY"] = "sk-x"
    project.write(TWO + "api: {base_url: 'http://127.0.0.1:9'}\nrun: {stop_after: 1s}\n")
    for buffering in ({}, {"PYTHONUNBUFFERED": "1"}):
        command = project.command("run", "manifest.yaml")
        env = project.env | buffering
        stopped = subprocess.run(command, cwd=project.folder, env=env, stdout=writer, stderr=writer, timeout=120)
        assert stopped.returncode == 3
    os.close(writer)


def test_a_terminal_that_closes_lets_the_run_harvest(project: Project, simulate: Callable[..., Server]) -> None:
    server = simulate("--service-time", "2s")
    project.write(TWO + f"api: {{base_url: '{server.url}'}}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project.folder)
        os.execve(project.command()[0], project.command("run", "manifest.yaml"), project.env)
    server.wait_until_accepted(2)
    os.close(terminal)  # SIGHUP, and every write fails from here on
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert project("status", "manifest.yaml").out.startswith("2 tasks: 2 saved")


def test_an_encoding_that_lacks_letters_escapes_them(project: Project) -> None:
    project.write("version: 1\ntasks: [{id: 猫, prompt: 一只橘猫}]\n")
    project.env["PYTHONIOENCODING"] = "ascii"
    assert r"submit   \u732b" in project("plan", "manifest.yaml").out
    assert r'{"task": "\u732b"' in project("plan", "manifest.yaml", "--json").out


def test_fix_that_was_stopped_says_why(project: Project, simulate: Callable[..., Server]) -> None:
    server = simulate("--speed", "20", "--key", project.env["ROUTESCOPE_API_KEY"])
    project.write(TWO + f"api: {{base_url: '{server.url}'}}\n")
    assert project("run", "manifest.yaml").code == 0
    (project.output / "a.png").unlink()
    project.env["ROUTESCOPE_API_KEY"] = "sk-another-one"
    done = project("verify", "manifest.yaml", "--fix")
    assert (done.code, "no longer answer" in done.out) == (3, False)
    assert "refused the key" in done.out
