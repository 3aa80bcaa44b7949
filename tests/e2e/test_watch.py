"""`status --watch` and `report --watch` beside a run: the first ends with the run, both end by Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable

import pexpect

from tests.e2e.conftest import Project, Server, many


def watching(project: Project, *words: str) -> subprocess.Popen[str]:
    command = project.command("status", "manifest.yaml", "--watch", *words)
    return subprocess.Popen(command, cwd=project.folder, env=project.env, stdout=subprocess.PIPE, text=True)


def test_watchers_see_a_run_to_its_end_and_take_its_exit_code(
    project: Project, simulate: Callable[..., Server]
) -> None:
    server = simulate("--service-time", "2s", "--slots", "4", "--faults", "fail=1")
    project.write(many(server.url, 8))
    words = project.command("status", "manifest.yaml", "--watch")
    env = {**project.env, "TERM": "xterm"}
    terminal = pexpect.spawn(words[0], words[1:], cwd=str(project.folder), env=env, encoding="utf-8", timeout=60)
    terminal.expect("no run yet")
    pipe, objects = watching(project), watching(project, "--json")
    run = project.start("run", "manifest.yaml")
    terminal.expect(r"jobs still out: \d")
    terminal.expect("Ctrl-C stops watching, not the run")
    terminal.expect("8 tasks: 8 failed")
    terminal.expect(pexpect.EOF)
    terminal.close()
    lines = pipe.communicate(timeout=60)[0].splitlines()
    values = [json.loads(line) for line in objects.communicate(timeout=60)[0].splitlines()]
    assert [run.wait(60), terminal.exitstatus, pipe.returncode, objects.returncode] == [1] * 4
    assert "8 failed" in lines[-1]
    assert not any("\x1b" in line for line in lines)
    assert values[0]["runs"] == 0
    assert values[-1]["tasks"]["failed"] == 8
    assert len({json.dumps(value) for value in values}) == len(values), "the same thing was said twice"


def test_ctrl_c_stops_watching_and_nothing_else(project: Project) -> None:
    project.write("version: 1\ntasks: [{prompt: x}]\n")
    watcher = watching(project, "--json")
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["tasks"]["pending"] == 1
    watcher.send_signal(signal.SIGINT)
    assert (watcher.communicate(timeout=60)[0], watcher.returncode) == ("", 130)
    assert not project.output.exists()


def test_a_run_that_has_ended_is_told_at_once(project: Project) -> None:
    project.write("version: 1\ndefaults: {size: 64x64}\ntasks: [{id: a, prompt: cat}]\n")
    assert project("run", "manifest.yaml", "--simulate").code == 0
    done = project("status", "manifest.yaml", "--simulate", "--watch")
    assert (done.code, "1 of 1 saved (100%)" in done.out) == (0, True)


def test_a_page_is_written_anew_until_ctrl_c(project: Project, simulate: Callable[..., Server]) -> None:
    server = simulate("--service-time", "2s", "--slots", "2")
    project.write(many(server.url, 4))
    run = project.start("run", "manifest.yaml")
    server.wait_until_accepted(2)
    command = project.command("report", "manifest.yaml", "--watch")
    watcher = subprocess.Popen(command, cwd=project.folder, env=project.env, stdout=subprocess.PIPE, text=True)
    page = project.output / "report.html"
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == f"4 tasks: {page}\n"
    assert "4 saved" not in page.read_text("utf-8")
    assert run.wait(60) == 0
    until = time.monotonic() + 60
    while "4 saved" not in page.read_text("utf-8"):  # another process writes it, so it can only be looked at
        assert time.monotonic() < until
        time.sleep(0.05)
    assert '"stamp":null' not in page.read_text("utf-8").replace(" ", "")
    watcher.send_signal(signal.SIGINT)
    assert (watcher.communicate(timeout=60)[0], watcher.returncode) == ("", 0)
    assert '"stamp":null' in page.read_text("utf-8").replace(" ", ""), "it still waits for a newer one"
    assert not list(project.output.glob("*.new"))
