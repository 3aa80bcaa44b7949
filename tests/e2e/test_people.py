"""People in trouble, who do what the program says and nothing else."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsbatch.ledger.records import UNDER_REPAIR
from tests.e2e.conftest import KEY, Done, Project, Server, many


def _follow(project: Project, told: Done, start: str, **names: str) -> Done:
    """Run the command that was told after the words `start`, with the names in capitals filled in."""
    found = re.search(re.escape(start) + r"`?(?:rsbatch )([^`\n]*)", told.out + told.err)
    assert found is not None, told.out + told.err
    words = shlex.split(found[1].split(" | ")[0].split(";")[0].split(" (")[0])
    return project(*(names.get(word, word) for word in words))


def _bought(server: Server) -> Counter[str]:
    return Counter(job["prompt"] for job in server.audit()["jobs"])


def test_a_damaged_ledger(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--service-time", "0.2s")
    project.write(many(server.url, 3))
    assert project.run().code == 0
    ledger = project.output / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"seq":4', b'"seq":5')
    ledger.write_bytes(b"".join(lines))
    for command in ("run", "plan", "status", "verify"):
        refused = project(command, "manifest.yaml")
        assert refused.code == 4, command
    repaired = _follow(project, refused, "submitted. `", MANIFEST="manifest.yaml")
    assert repaired.code == 0, repaired.err
    done = _follow(project, repaired, "to go on: ")
    assert done.code == 0, done.out + done.err
    assert _bought(server) == {f"Picture number {n}": 1 for n in range(3)}


def test_a_ledger_that_is_lost_while_jobs_are_out(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--service-time", "2s")
    project.write(many(server.url, 2))
    stopped = project.start("run", "manifest.yaml", "--grace", "0s")
    server.wait_until_accepted(2)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(60) == 130
    (project.output / "ledger.jsonl").unlink()
    for command in ("run", "plan", "status"):
        refused = project(command, "manifest.yaml")
        assert (refused.code, "is gone" in refused.err) == (4, True), refused.err
    assert project("repair", "manifest.yaml").code == 0
    held = project("run", "manifest.yaml")
    assert held.code == 1
    assert "2 held" in held.out
    assert sum(_bought(server).values()) == 2
    for job in server.audit()["jobs"]:
        task = f"task-{job['prompt'][-1]}"
        attached = _follow(project, held, "settle one with `", TASK=task, JOB_ID=job["job_id"])
        assert attached.code == 0, attached.err
    assert _follow(project, attached, "fetches it: ").code == 0
    assert sum(_bought(server).values()) == 2


def test_held_tasks(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--faults", "reset-after=1", "--service-time", "0.2s")
    project.write(many(server.url, 2))
    held = project("run", "manifest.yaml")
    assert held.code == 1
    status = _follow(project, held, "See them with `")
    assert status.code == 0
    for job in server.audit()["jobs"]:
        task = f"task-{job['prompt'][-1]}"
        assert task in status.out
        attached = _follow(project, status, "settle a held task: ", TASK=task, JOB_ID=job["job_id"])
        assert attached.code == 0, attached.err
    done = _follow(project, attached, "fetches it: ")
    assert done.code == 0, done.out
    assert sum(_bought(server).values()) == 2


def test_a_rescue_that_went_elsewhere(simulate: Callable[..., Server], project: Project) -> None:
    """Real writes fail (RLIMIT_FSIZE), and in the place of the rescue is a folder."""
    server = simulate("--service-time", "0.2s")
    project.write(many(server.url, 30))
    assert project("run", "manifest.yaml", "--limit", "0").code == 0
    (project.output / "ledger.jsonl.rescue").mkdir()
    refused = project("run", "manifest.yaml")
    assert refused.code == 4
    assert "ledger.jsonl.rescue: it is a folder" in refused.err
    script = (
        "import os, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from rsbatch.ledger import local; opened = local.open_ledger; "
        "from rsbatch import cli, session; "
        "session.open_ledger = lambda folder: (opened(folder), os.mkdir(folder / local.RESCUE), "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))[0]; "
        "sys.exit(cli.main(['run', 'manifest.yaml']))"
    )
    (project.output / "ledger.jsonl.rescue").rmdir()
    project.env["TMPDIR"] = str(project.folder)
    done = subprocess.run(
        [project.command()[0], "-c", script], cwd=project.folder, env=project.env, capture_output=True, text=True
    )
    assert done.returncode == 4, done.stderr
    (project.output / "ledger.jsonl.rescue").rmdir()
    commands = set(re.findall(r"before the next run: (cat .+)", done.stderr))
    assert commands, done.stderr
    for command in commands:
        subprocess.run(command, shell=True, check=True)
    if "put these lines into" in done.stderr:  # under load there may be more than the limit leaves room for
        lines = (line for line in done.stderr.splitlines(keepends=True) if line.startswith('{"v":'))
        with (project.output / "ledger.jsonl.rescue").open("a") as rescue:
            rescue.writelines(lines)
    told = _follow(project, Done(4, done.stdout, done.stderr), "mend the disk, then: ")
    assert told.code == 0, told.out + told.err
    assert "were taken in" in told.err
    assert max(_bought(server).values()) == 1


def test_an_image_that_cannot_be_downloaded(simulate: Callable[..., Server], project: Project) -> None:
    """Its job is asked again by every run; only a person gives the paid image up."""
    server = simulate("--faults", "image-text=1", "--service-time", "0.1s", "--seed", "1")
    project.write(many(server.url, 1))
    script = (
        "from rsbatch import retry; retry.BACKOFF_FIRST = 0.01; "
        "import sys; from rsbatch.cli import main; sys.exit(main(['run', 'manifest.yaml']))"
    )
    command = [project.command()[0], "-c", script]
    for _ in range(2):
        done = subprocess.run(command, cwd=project.folder, env=project.env, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert "1 not downloaded, though paid" in done.stdout
        assert "--retry-failed" not in done.stdout
    assert sum(_bought(server).values()) == 1
    status = project("status", "manifest.yaml")
    refused = project("resolve", "manifest.yaml", "task-0", "--not-sent")
    assert (refused.code, "--resubmit" in refused.err) == (2, True)
    settled = _follow(project, status, "its price, with `", TASK="task-0")
    assert settled.code == 0, settled.err
    again = subprocess.run(command, cwd=project.folder, env=project.env, capture_output=True, text=True)
    assert sum(_bought(server).values()) == 2
    assert "$0.01 unknown" in again.stdout


def test_an_image_that_took_a_deleted_ones_place_is_not_taken_for_it(
    simulate: Callable[..., Server], project: Project
) -> None:
    server = simulate("--service-time", "0.1s")
    project.write(many(server.url, 1))
    assert project.run().code == 0
    first = project.output / "task-0.png"
    kept = first.read_bytes()
    first.unlink()
    project.write(many(server.url, 1).replace("Picture number", "Painting number"))
    assert project.run().code == 0
    assert first.read_bytes() != kept
    found = json.loads(project("verify", "manifest.yaml", "--json").out)
    assert [row["differs"] for row in found["differ"]] == ["missing"]


ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
}
COMMANDS = {
    "run": ("run", "manifest.yaml"),
    "plan": ("plan", "manifest.yaml"),
    "status": ("status", "manifest.yaml"),
    "show": ("show", "manifest.yaml", "task-0"),
    "verify": ("verify", "manifest.yaml"),
    "resolve": ("resolve", "manifest.yaml", "task-0", "--not-sent"),
    "repair": ("repair", "manifest.yaml"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_in_the_place_of_one(
    project: Project, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which is quicker: none may hang, and each error names the file."""
    from rsbatch import cli

    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("ROUTESCOPE_API_KEY", KEY)
    text = many("http://127.0.0.1:9", 1)
    for place, readers in (("ledger.jsonl", set(COMMANDS)), ("ledger.jsonl.rescue", set(COMMANDS) - {"repair"})):
        shutil.rmtree(project.output, ignore_errors=True)
        project.write(text)
        assert cli.main(["run", "manifest.yaml", "--limit", "0"]) == 0
        path = project.output / place
        path.unlink(missing_ok=True)
        ODD[kind](path)
        for name in sorted(readers):
            capsys.readouterr()
            assert cli.main([*COMMANDS[name]]) == 4, (place, name)
            said = capsys.readouterr().err
            assert place in said, (name, said)
            assert "Traceback" not in said
            assert said.count("\n") == 1
    shutil.rmtree(project.output)
    assert cli.main(["run", "manifest.yaml", "--limit", "0"]) == 0
    ODD[kind](project.output / "ledger.jsonl.torn")
    with (project.output / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"v":1')
    capsys.readouterr()
    assert cli.main(["run", "manifest.yaml"]) == 4
    assert "ledger.jsonl.torn" in capsys.readouterr().err
    project.manifest.unlink()
    ODD[kind](project.manifest)
    for words in COMMANDS.values():
        assert cli.main([*words]) == 2, words
        assert "manifest.yaml: " in capsys.readouterr().err


def test_a_key_that_stands_in_dotenv_alone_is_told_nowhere(project: Project) -> None:
    del project.env["ROUTESCOPE_API_KEY"]
    secret = "0123456789-quite-secret"
    (project.folder / ".env").write_text(f"ROUTESCOPE_API_KEY={secret}\n")
    project.write(many("http://127.0.0.1:9", 1).replace("prices:", f"name: {secret}é/\nprices:"))
    done = project("run", "manifest.yaml", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err
    assert secret not in done.out + done.err


def test_a_fix_that_was_cut_off_is_told_and_gone_on_with(project: Project) -> None:
    project.write("version: 1\ndefaults: {size: 64x64}\ntasks: [{id: a, prompt: x}, {id: b, prompt: y}]\n")
    assert project("run", "manifest.yaml", "--simulate").code == 0
    output = project.folder / "outputs" / "manifest-simulated"
    (output / "a.png").unlink()
    assert project("verify", "manifest.yaml", "--simulate", "--fix").code == 0
    lines = (output / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"type":"generated"' in line)
    assert b'"task":"a"' in lines[last]
    (output / "ledger.jsonl").write_bytes(b"".join(lines[: last + 1]))
    (output / "a.png").unlink()
    cut_off = project("verify", "manifest.yaml", "--simulate")
    assert (cut_off.code, "missing  a.png  (a)" in cut_off.out) == (1, True)
    fixed = project("verify", "manifest.yaml", "--simulate", "--fix")
    assert (fixed.code, "2 files, all as saved" in fixed.out) == (0, True)
    assert (output / "a.png").exists()


@pytest.mark.parametrize("module", ["yaml", "PIL"])
def test_ctrl_c_at_any_moment_is_no_traceback(project: Project, tmp_path: Path, module: str) -> None:
    """It comes while modules are imported: at the start, and when all is saved and the page is to be written."""
    project.write("version: 1\ndefaults: {size: 64x64}\ntasks: [{id: a, prompt: x}]\n")
    assert project("run", "manifest.yaml", "--simulate").code == 0
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / f"{module}.py").write_text("raise KeyboardInterrupt\n")
    project.env["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "stub"), project.env.get("PYTHONPATH", "")])
    done = project("run", "manifest.yaml", "--simulate", "--report", "--json")
    assert "Traceback" not in done.err
    if module == "yaml":
        assert (done.code, done.out) == (130, "")
        return
    assert (done.code, done.summary["tasks"]["saved"]) == (0, 1)
    assert "no report: interrupted; to write it: rsbatch report manifest.yaml --simulate" in done.err


def test_a_working_directory_that_was_deleted(project: Project, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    project.write(many("http://127.0.0.1:9", 1))
    for words in (("run", str(project.manifest)), ("status", str(project.manifest)), ("simulate",)):
        gone.mkdir()
        command = f"rmdir {shlex.quote(str(gone))}; exec {shlex.join(project.command(*words))}"
        done = subprocess.run(["sh", "-c", command], cwd=gone, env=project.env, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "the working directory is gone" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_check_of_a_long_manifest(project: Project, number: int, code: int) -> None:
    axes = f"{{a: {list(range(1000))}, b: {list(range(1000))}}}"
    project.write(
        "version: 1\napi: {base_url: 'http://127.0.0.1:9'}\n"
        f"tasks: [{{id: '{{{{ a }}}}-{{{{ b }}}}', prompt: x, matrix: {axes}}}]\n"
    )
    script = (
        "import signal, sys, threading, anyio; from rsbatch import cli, session; real = session.match; "
        "session.match = lambda *a, **k: (print('checking', file=sys.stderr, flush=True), real(*a, **k))[1]; "
        "sys.exit(cli.main(['run', 'manifest.yaml']))"
    )
    process = subprocess.Popen(
        [project.command()[0], "-c", script], cwd=project.folder, env=project.env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "checking" in process.stderr.readline()
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "nothing was submitted" in said
    assert not project.output.exists()


def test_edited_sidecars_lead_nowhere(project: Project) -> None:
    """Where a sidecar lies is true, not what it says of that; one whose names were edited is none of ours."""
    simulated = project.folder / "outputs" / "manifest-simulated"
    text = many("http://127.0.0.1:9", 3)
    project.write(text)
    assert project("run", "manifest.yaml", "--simulate").code == 0
    _edit(simulated / "task-0.png.json", path="../../evil.png")
    _edit(simulated / "task-1.png.json", path="/tmp/evil.png")
    _edit(simulated / "task-2.png.json", key="../" * 21 + "a")
    (simulated / "ledger.jsonl").unlink()
    repaired = project("repair", "manifest.yaml", "--simulate")
    assert repaired.code == 0, repaired.err
    assert "2 saved" in repaired.out
    assert "1 held" in repaired.out
    assert project("verify", "manifest.yaml", "--simulate").code == 0
    after = project("run", "manifest.yaml", "--simulate", "--json")
    assert (after.code, after.summary["this_run"]["submitted"]) == (1, 0)
    assert not list(project.folder.rglob("evil*"))


def test_a_manifest_edited_between_two_rebuilds(project: Project) -> None:
    simulated = project.folder / "outputs" / "manifest-simulated"
    project.write(many("http://127.0.0.1:9", 2))
    assert project("run", "manifest.yaml", "--simulate").code == 0
    images = {path.name: path.read_bytes() for path in simulated.glob("*.png")}
    (simulated / "ledger.jsonl").unlink()
    project.write(many("http://127.0.0.1:9", 3).replace("Picture number", "Painting number"))
    assert project("repair", "manifest.yaml", "--simulate").code == 0
    held = project("run", "manifest.yaml", "--simulate", "--json")
    assert (held.code, held.summary["this_run"]["submitted"], held.summary["tasks"]["held"]) == (1, 0, 3)
    assert held.summary["tasks"]["orphaned"] == 2
    (simulated / "ledger.jsonl").unlink()
    project.write(many("http://127.0.0.1:9", 2))
    assert project("repair", "manifest.yaml", "--simulate").code == 0
    done = project("run", "manifest.yaml", "--simulate", "--json")
    assert (done.code, done.summary["this_run"]["submitted"], done.summary["tasks"]["saved"]) == (0, 0, 2)
    assert {path.name: path.read_bytes() for path in simulated.glob("*.png")} == images


def _edit(file: Path, **more: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **more}), "utf-8")


def test_a_repair_of_a_lost_ledger_that_was_killed_is_done_again(project: Project) -> None:
    simulated = project.folder / "outputs" / "manifest-simulated"
    project.write(many("http://127.0.0.1:9", 2))
    assert project("run", "manifest.yaml", "--simulate").code == 0
    for path in simulated.glob("*.png*"):
        path.unlink()
    (simulated / "ledger.jsonl").write_bytes(UNDER_REPAIR)
    refused = project("run", "manifest.yaml", "--simulate")
    assert refused.code == 4
    assert "rsbatch repair" in refused.err
    assert project("repair", "manifest.yaml", "--simulate").code == 0
    assert not list(simulated.glob("*.damaged*"))
    held = project("run", "manifest.yaml", "--simulate", "--json")
    assert (held.code, held.summary["this_run"]["submitted"], held.summary["tasks"]["held"]) == (1, 0, 2)
