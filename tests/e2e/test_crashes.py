from __future__ import annotations

import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable

from tests.e2e.conftest import Project, Server, many


def test_twenty_kills_lose_nothing_and_pay_nothing_twice(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--slots", "32", "--service-time", "1s")
    project.write(many(server.url, 100))
    rng = random.Random(20)
    for _ in range(20):
        process = project.start("run", "manifest.yaml")
        try:
            process.wait(rng.uniform(0.4, 1.6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    last = project.run()
    assert last.code in (0, 1), last.err
    audit = server.audit()
    tasks = last.summary["tasks"]
    assert tasks["saved"] + tasks["held"] == 100
    assert max(Counter(job["prompt"] for job in audit["jobs"]).values()) == 1
    saved = {r["job_id"] for r in project.records() if r["type"] == "saved"}
    unsaved = {job["prompt"] for job in audit["jobs"] if job["job_id"] not in saved}
    held = {r["task"] for r in project.records() if r["type"] == "in_doubt"}
    assert {p.replace("Picture number ", "task-") for p in unsaved} <= held
    assert len(list(project.output.glob("*.png"))) == tasks["saved"]


def test_the_second_of_two_runs_exits_75(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--slots", "4", "--service-time", "30s")
    project.write(many(server.url, 4))
    first = project.start("run", "manifest.yaml")
    try:
        ledger = project.output / "ledger.jsonl"
        while first.poll() is None and not (ledger.exists() and b"submitted" in ledger.read_bytes()):
            pass
        second = project.run()
        assert second.code == 75, second.err
        assert "another run holds" in second.err
        assert project("status", "manifest.yaml").code == 0
    finally:
        first.kill()
        first.wait()


def test_signals_end_a_real_run(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--slots", "4", "--service-time", "60s")
    for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)):
        project.write(many(server.url, 8, more=f"output: {{dir: out-{code}}}"))
        process = project.start("run", "manifest.yaml", "--grace", "1s")
        ledger = project.folder / f"out-{code}" / "ledger.jsonl"
        while process.poll() is None and not (ledger.exists() and ledger.read_bytes().count(b'"submitted"') >= 4):
            pass
        process.send_signal(number)
        assert process.wait(30) == code
        assert b'"run_ended"' in ledger.read_bytes()
        assert b'"in_doubt"' not in ledger.read_bytes()


def test_a_second_ctrl_c_stops_at_once_and_records_the_doubt(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--faults", "hang-after=1")
    project.write(many(server.url, 3))
    said = project.folder / "said.log"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            project.command("run", "manifest.yaml"), cwd=project.folder, env=project.env, stderr=stderr
        )
    server.wait_until_accepted(3)
    process.send_signal(signal.SIGINT)
    while process.poll() is None and b"interrupt again" not in said.read_bytes():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    ledger = project.output / "ledger.jsonl"
    assert ledger.read_bytes().count(b'"in_doubt"') == 3
    assert project("status", "manifest.yaml").code == 0


def test_a_full_disk_ends_the_run_and_no_job_id_is_lost(simulate: Callable[..., Server], project: Project) -> None:
    """RLIMIT_FSIZE makes real writes fail: the ledger can grow no more after a few records."""
    server = simulate("--service-time", "1s")
    project.write(many(server.url, 40))
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); "
        "from rsbatch.cli import main; sys.exit(main(['run', 'manifest.yaml']))"
    )
    assert project.run("--limit", "0").code == 0  # its reserve would not fit under the limit
    done = subprocess.run(
        [project.command()[0], "-c", script], cwd=project.folder, env=project.env, capture_output=True, text=True
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    known = (project.output / "ledger.jsonl").read_text() + done.stderr
    rescue = project.output / "ledger.jsonl.rescue"
    known += rescue.read_text() if rescue.exists() else ""
    for job in server.audit()["jobs"]:
        assert job["job_id"] in known
    kept = [elsewhere.read_text() for elsewhere in project.folder.glob("rsbatch-*.rescue")]
    kept += (line for line in done.stderr.splitlines(keepends=True) if line.startswith('{"v":'))
    with rescue.open("a") as file:  # the limit is the rescue's, too: the rest is put there, as it says
        file.writelines(kept)
    again = project.run()
    assert again.code == 0, again.err
    assert max(Counter(job["prompt"] for job in server.audit()["jobs"]).values()) == 1
