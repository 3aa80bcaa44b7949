"""Nights as cron has them: a dated folder, a SIGTERM in the middle, the next run, and a monitor that is pinged."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Project, Server, many


class Monitor:
    """A server of pings that answers as it is told to: `pings` are the paths that came."""

    def __init__(self, status: int = 200) -> None:
        self.pings: list[str] = []
        monitor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                monitor.pings.append(self.path)
                assert "authorization" not in {name.lower() for name in self.headers}
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/uuid"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def monitored() -> Iterator[Callable[..., Monitor]]:
    monitors: list[Monitor] = []

    def start(status: int = 200) -> Monitor:
        monitors.append(Monitor(status))
        return monitors[-1]

    yield start
    for monitor in monitors:
        monitor.stop()


def metrics(path: Path) -> dict[str, float]:
    families = text_string_to_metric_families(path.read_text("utf-8"))
    return {s.labels.get("state") or s.name.removeprefix("rsbatch_"): s.value for f in families for s in f.samples}


def night(url: str, ping: str, count: int) -> str:
    more = f"notify: {{ping: '{ping}'}}\noutput: {{dir: 'outputs/{{{{ name }}}}/{{{{ run.date }}}}'}}\n"
    return many(url, count, more=more)


def test_a_night_that_is_cut_off_is_finished_the_next(
    project: Project, simulate: Callable[..., Server], monitored: Callable[..., Monitor]
) -> None:
    monitor, server = monitored(), simulate("--service-time", "3s", "--slots", "4")
    project.write(night(server.url, monitor.url, 12))
    common = ["run", "manifest.yaml", "--log-format", "json", "--metrics", "rsbatch.prom"]
    cut = subprocess.Popen(
        project.command(*common, "--date", "2026-11-21", "--grace", "0s"),
        cwd=project.folder,
        env=project.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    server.wait_until_accepted(2)
    assert metrics(project.folder / "rsbatch.prom")["run_in_progress"] == 1
    cut.send_signal(signal.SIGTERM)
    said = [json.loads(line) for line in cut.communicate(timeout=60)[1].splitlines()]
    assert cut.returncode == 143
    assert monitor.pings == ["/uuid/start", "/uuid/143"]
    assert {line["manifest"] for line in said} == {"manifest"}
    assert (said[-1]["event"], said[-1]["summary"]["reason"]) == ("end", "signal")
    assert metrics(project.folder / "rsbatch.prom")["run_exit_code"] == 143

    # The next night: first what is left of the day before, as its own notice says; then the day's own.
    today = project(*common, "--date", "2026-11-22", "--limit", "0")
    notice = json.loads(today.err.splitlines()[0])
    assert notice["message"].endswith("to finish it: rsbatch run manifest.yaml --date 2026-11-21")
    finished = project(*common, "--date", "2026-11-21", "--json")
    assert (today.code, finished.code) == (0, 0)
    assert finished.summary["tasks"]["saved"] == 12
    totals = server.audit()["totals"]
    assert totals["accepted"] == 12, "something was bought twice, or not at all"
    assert monitor.pings[2:] == ["/uuid/start", "/uuid/0"] * 2
    values = metrics(project.folder / "rsbatch.prom")
    assert (values["saved"], values["pending"], values["run_exit_code"], values["spent_dollars"]) == (12, 0, 0, 0.12)


def test_a_ping_that_fails_changes_nothing(
    project: Project, simulate: Callable[..., Server], monitored: Callable[..., Monitor]
) -> None:
    monitor, server = monitored(500), simulate("--speed", "50")
    project.write(night(server.url, monitor.url, 2))
    done = project.run()
    assert (done.code, done.summary["tasks"]["saved"]) == (0, 2)
    assert monitor.pings == ["/uuid/start", "/uuid/0"]
    assert "the ping 0 was not taken (HTTP 500); the run is not affected" in done.err


def test_what_could_not_begin_pings_nobody_and_leaves_the_figures_alone(
    project: Project, monitored: Callable[..., Monitor]
) -> None:
    monitor = monitored()
    project.write(night("http://127.0.0.1:9", monitor.url, 2) + "typo: 1\n")
    done = project("run", "manifest.yaml", "--log-format", "json", "--metrics", "rsbatch.prom")
    assert done.code == 2
    assert json.loads(done.err)["exit_code"] == 2
    assert monitor.pings == []
    assert not (project.folder / "rsbatch.prom").exists()


def test_a_bar_is_no_json(project: Project) -> None:
    project.write("version: 1\ntasks: [{prompt: x}]\n")
    done = project("run", "manifest.yaml", "--simulate", "--progress", "bar", "--log-format", "json")
    assert (done.code, json.loads(done.err)["level"]) == (2, "error")


def test_every_line_of_a_json_log_is_an_object(project: Project) -> None:
    json_log = ["--simulate", "--log-format", "json"]
    wrong = project("run", "manifest.yaml", *json_log, "--bogus", "\x1b\n")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "unrecognized arguments: --bogus" in json.loads(wrong.err)["message"]
    missing = project("run", "manifest.yaml", *json_log, "--debug")
    said = json.loads(missing.err)
    assert (missing.code, said["exit_code"]) == (2, 2)
    assert "there is no such file" in said["message"]
    assert "Traceback" in said["traceback"]
    project.write("version: 1\ntasks: [{id: a, prompt: x}, {id: b, prompt: x}]\n")
    dry = project("run", "manifest.yaml", *json_log, "--dry-run")
    assert "the same request under several ids" in json.loads(dry.err)["message"]


@pytest.mark.parametrize(
    ("text", "dated"),
    [
        ("tasks: [{id: a, prompt: x}]\noutput: {dir: 'out/{{ run.date }}'}", True),
        ("tasks: [{id: a, prompt: 'of {{ run.date }}'}]", True),
        ('tasks: [{id: a, prompt: x, extra_body: \'{"seed": "{{ run.date }}"}\'}]', True),
        ("tasks: [{id: a, prompt_file: dated.md}]", True),
        ("tasks: [{prompt_file: '{{ f }}.md', matrix: {f: [dated, plain]}}]", True),
        ("tasks: [{id: a, prompt_file: plain.md}]", False),
        ("tasks: [{id: a, prompt: run}]", False),
    ],
)
def test_what_a_run_says_to_do_next_is_meant_for_its_day(project: Project, text: str, dated: bool) -> None:
    """Read in the morning, a hint without the date would buy the new day's images, or settle its tasks."""
    (project.folder / "dated.md").write_text("of {{ run.date }}")
    (project.folder / "plain.md").write_text("plain")
    project.write(f"version: 1\n{text}\nprices: [{{usd: 1}}]\nrun: {{budget: 0.5}}\n")
    days = [datetime.now(UTC).date()]
    stopped = project("run", "manifest.yaml", "--simulate", "--report")
    days.append(datetime.now(UTC).date())  # a test may be run at midnight
    said = stopped.out.partition("run again: rsbatch run manifest.yaml --simulate")[2].partition("\n")[0]
    assert said in ({f" --date {day}" for day in days} if dated else {""})
    page = next(Path(line.removeprefix("report: ")) for line in stopped.out.splitlines() if line.startswith("report: "))
    assert f"rsbatch redo manifest.yaml --simulate{said} --from rejects.json" in page.read_text("utf-8")
