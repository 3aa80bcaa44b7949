from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import KEY, Project, Server, many

SIMPLE = """
version: 1
defaults: {size: 64x64}
tasks:
  - id: "{{ animal }}"
    prompt: "A {{ animal }}"
    matrix: {animal: [cat, dog, owl]}
    SAMPLES
"""


def test_a_manifest_through_its_life(project: Project) -> None:
    def run() -> dict[str, object]:
        done = project("run", "manifest.yaml", "--simulate", "--json", "--quiet")
        return {"code": done.code, "submitted": done.summary["this_run"]["submitted"], "tasks": done.summary["tasks"]}

    text = SIMPLE.replace("SAMPLES", "")
    out = project.folder / "outputs" / "manifest-simulated"
    project.write(text)
    assert (first := run())["code"] == 0
    assert first["submitted"] == 3
    again = run()
    assert (again["code"], again["submitted"]) == (0, 0)
    old = (out / "owl.png").read_bytes()
    bigger = text.replace('"A {{ animal }}"', "'{% if animal == \"owl\" %}Big {% endif %}A {{ animal }}'")
    assert bigger != text
    project.write(bigger)
    changed = run()
    assert (changed["code"], changed["submitted"]) == (0, 1)
    assert old in [p.read_bytes() for p in out.glob("owl~*.png")]
    renamed = project.manifest.read_text().replace('id: "{{ animal }}"', 'id: "my-{{ animal }}"')
    project.write(renamed)
    third = run()
    assert (third["code"], third["submitted"]) == (0, 0)
    (out / "cat.png").unlink()
    restored = run()
    assert (restored["code"], restored["submitted"]) == (0, 0)
    assert (out / "cat.png").exists()
    (out / "dog.png").write_bytes(b"my own")
    altered = run()
    assert (altered["code"], altered["submitted"]) == (1, 0)
    assert (out / "dog.png").read_bytes() == b"my own"
    assert project("verify", "manifest.yaml", "--simulate").code == 1
    assert project("verify", "manifest.yaml", "--simulate", "--fix").code == 0
    assert b"my own" in [p.read_bytes() for p in out.glob("dog~*.png")]
    assert run()["code"] == 0


def test_one_sample_more_is_one_submission_more(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", "samples: 1").replace("[cat, dog, owl]", "[cat]"))
    assert project("run", "manifest.yaml", "--simulate", "--json").summary["this_run"]["submitted"] == 1
    project.write(SIMPLE.replace("SAMPLES", "samples: 2").replace("[cat, dog, owl]", "[cat]"))
    assert project("run", "manifest.yaml", "--simulate", "--json").summary["this_run"]["submitted"] == 1


def test_every_fault_at_once_over_real_http(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--slots", "32", "--service-time", "1s", "--faults", "all=0.01", "--speed", "5", "--seed", "3")
    project.write(many(server.url, 100, more="run: {max_in_doubt: 1000, max_failures: 1000}"))
    for _ in range(3):
        done = project.run()
        assert done.code in (0, 1), done.err
    audit, tasks = server.audit(), done.summary["tasks"]
    assert max(Counter(job["prompt"] for job in audit["jobs"]).values()) == 1
    assert tasks["saved"] + tasks["failed"] + tasks["held"] == 100
    assert tasks["pending"] == tasks["parked"] == 0
    saved = {r["job_id"] for r in project.records() if r["type"] == "saved"}
    assert len(saved) == tasks["saved"]
    # What the service delivered an answer for is saved, unless the job itself came to nothing or its files
    # could not be had in three runs: then it is still known, and the next run goes on with it.
    known = {r["job_id"] for r in project.records() if r["type"] == "submitted"}
    assert {job["job_id"] for job in audit["jobs"] if job["delivered"]} == known
    done_well = {r["job_id"] for r in project.records() if r["type"] == "generated"}
    assert len(done_well - saved) <= 3
    assert sum(not job["delivered"] for job in audit["jobs"]) <= tasks["held"]


def test_wrong_key_then_the_right_one(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--key", KEY, "--service-time", "1s")
    project.write(many(server.url, 5))
    project.env["ROUTESCOPE_API_KEY"] = "sk-wrong-one"
    refused = project.run()
    assert (refused.code, refused.summary["reason"]) == (3, "key_refused")
    assert refused.summary["tasks"]["failed"] == 0
    assert "refused the key" in refused.err
    project.env["ROUTESCOPE_API_KEY"] = KEY
    assert project.run().code == 0
    assert server.audit()["totals"]["accepted"] == 5


def test_no_balance_then_some(simulate: Callable[..., Server], project: Project, tmp_path: Path) -> None:
    state = str(tmp_path / "service.jsonl")
    server = simulate("--balance", "2", "--service-time", "1s", "--state", state)
    project.write(many(server.url, 5))
    done = project.run()
    assert (done.code, done.summary["reason"]) == (3, "balance")
    assert (done.summary["tasks"]["saved"], done.summary["tasks"]["failed"]) == (2, 0)
    server.stop()
    server = simulate("--service-time", "1s", "--state", state, "--port", server.url.rpartition(":")[2])
    assert project.run().code == 0
    assert server.audit()["totals"]["accepted"] == 5


@pytest.mark.parametrize("path", ["/nowhere", "/v2"])
def test_wrong_address(simulate: Callable[..., Server], project: Project, path: str) -> None:
    server = simulate()
    project.write(many(server.url + path, 5))
    done = project.run()
    assert (done.code, done.summary["reason"]) == (3, "wrong_address")
    assert done.summary["tasks"]["failed"] == 0


def test_no_key_at_all(project: Project) -> None:
    del project.env["ROUTESCOPE_API_KEY"]
    project.write(many("https://api.routescope.ai", 2))
    done = project.run()
    assert done.code == 2
    assert "ROUTESCOPE_API_KEY" in done.err
    assert not project.output.exists()


def test_a_strangers_host_does_not_get_the_key(project: Project) -> None:
    project.write(many("https://example.invalid", 2))
    done = project.run()
    assert done.code == 2
    assert "RSBATCH_BASE_URL" in done.err


def test_ten_mistakes_are_shown_at_once(project: Project) -> None:
    project.write(
        """
version: 1
nmae: typo
defaults: {qualty: low, output_compression: 400}
tasks:
  - id: a/b
    prompt: x
  - id: twin
    prompt: one
  - id: twin
    prompt: two
  - id: lonely
  - id: many
    prompt: y
    n: 3
  - id: undefined
    prompt: "{{ nobody }}"
  - id: number
    prompt: 007
  - id: rows
    prompt: "{{ row.x }}"
    rows: missing.csv
limits: {in_flight: 0, task_timeout: soon}
"""
    )
    done = project.run()
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if "manifest.yaml:" in line]
    assert len(lines) >= 10, done.err
    assert all(line.split("manifest.yaml:")[1][0].isdigit() for line in lines)
    assert not project.output.exists()
    assert "Traceback" not in done.err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which is not here")
def test_plan_of_a_million_tasks_in_200_mb(project: Project) -> None:
    axis = ", ".join(str(n) for n in range(100))
    project.write(
        f"""
version: 1
tasks:
  - id: "{{{{ a }}}}-{{{{ b }}}}-{{{{ c }}}}"
    prompt: "{{{{ a }}}} {{{{ b }}}} {{{{ c }}}}"
    matrix: {{a: [{axis}], b: [{axis}], c: [{axis}]}}
"""
    )
    # Not ru_maxrss: Linux counts what the test's own process had before exec.
    script = """
import re, sys
from pathlib import Path
from rsbatch.cli import main
code = main(["plan", "manifest.yaml"])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""
    command = project.command()[0]
    done = subprocess.run([command, "-c", script], cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1000000 tasks" in done.stdout.replace(",", "")
    assert int(done.stderr.split()[-1]) < 200 * 1024


def test_bad_usage_is_exit_2(project: Project) -> None:
    assert project("run").code == 2
    assert project("run", "nowhere.yaml").code == 2
    assert project("nonsense").code == 2
    project.write(SIMPLE.replace("SAMPLES", ""))
    assert project("run", "manifest.yaml", "--simulate", "--budget", "lots").code == 2
    priced = project("run", "manifest.yaml", "--simulate", "--budget", "5")
    assert priced.code == 2
    assert "price" in priced.err


def test_another_manifests_ledger_is_exit_4(project: Project) -> None:
    project.write("name: one\n" + SIMPLE.replace("SAMPLES", "").strip())
    assert project("run", "manifest.yaml", "--simulate", "--output", "here").code == 0
    project.write("name: two\n" + SIMPLE.replace("SAMPLES", "").strip())
    done = project("run", "manifest.yaml", "--simulate", "--output", "here")
    assert done.code == 4
    assert "one" in done.err


def test_damage_is_refused_and_repaired(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", ""))
    assert project("run", "manifest.yaml", "--simulate").code == 0
    ledger = project.folder / "outputs" / "manifest-simulated" / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if b'"saved"' in line)
    lines[number] = lines[number].replace(b"saved", b"sav3d")
    ledger.write_bytes(b"".join(lines))
    refused = project("run", "manifest.yaml", "--simulate")
    assert refused.code == 4
    assert f"line {number + 1}" in refused.err
    assert project("repair", "manifest.yaml", "--simulate").code == 0
    assert list(ledger.parent.glob("ledger.jsonl.damaged-*"))
    after = project("run", "manifest.yaml", "--simulate", "--json")
    assert (after.code, after.summary["this_run"]["submitted"]) == (0, 0)


def test_a_lost_ledger_is_rebuilt_from_the_sidecars(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", ""))
    assert project("run", "manifest.yaml", "--simulate").code == 0
    (project.folder / "outputs" / "manifest-simulated" / "ledger.jsonl").unlink()
    refused = project("run", "manifest.yaml", "--simulate")
    assert refused.code == 4
    assert "repair" in refused.err
    assert project("repair", "manifest.yaml", "--simulate").code == 0
    after = project("run", "manifest.yaml", "--simulate", "--json")
    assert (after.code, after.summary["this_run"]["submitted"], after.summary["tasks"]["saved"]) == (0, 0, 3)


def test_held_tasks_are_settled_by_hand(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--faults", "reset-after=1", "--service-time", "1s")
    project.write(many(server.url, 3))
    held = project.run()
    assert held.summary["tasks"]["held"] == 3
    jobs = {job["prompt"][-1]: job["job_id"] for job in server.audit()["jobs"]}
    assert project("resolve", "manifest.yaml", "task-0", "--attach", jobs["0"]).code == 0
    taken = project("resolve", "manifest.yaml", "task-1", "--attach", jobs["0"])
    assert taken.code == 2
    assert "task-0" in taken.err
    assert project("resolve", "manifest.yaml", "task-1", "--not-sent").code == 0
    status = json.loads(project("status", "manifest.yaml", "--json").out)
    assert status["tasks"]["held"] == 1
    assert project("resolve", "manifest.yaml", "task-2", "--resubmit").code == 0
    done = project.run()
    assert done.summary["tasks"]["saved"] == 1
    assert done.summary["this_run"]["submitted"] == 2
    shown = project("show", "manifest.yaml", "task-0")
    assert "resolved" in shown.out
    assert "saved" in shown.out


def test_nothing_secret_is_said_even_with_debug(simulate: Callable[..., Server], project: Project) -> None:
    server = simulate("--service-time", "1s", "--faults", "all=0.2")
    project.write(many(server.url, 10))
    done = project("run", "manifest.yaml", "--debug")
    assert KEY not in done.out + done.err
    assert "sig=" not in done.out + done.err


def test_a_selection_that_matches_nothing_is_wrong_usage(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", ""))
    done = project("run", "manifest.yaml", "--simulate", "--select", "nothing-*")
    assert done.code == 2
    assert "nothing-*" in done.err


def test_a_hint_to_go_on_has_what_is_left_of_the_limit(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", "samples: 4") + "prices: [{usd: 1}]\n")
    done = project("run", "manifest.yaml", "--simulate", "--limit", "3", "--budget", "2.5")
    assert done.code == 3
    assert "this run submitted 2 " in done.out
    assert "rsbatch run manifest.yaml --simulate --limit 1 --budget 2.5\n" in done.out


def test_remedies_keep_the_selection(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", "") + "prices: [{usd: 1}]\n")
    words = ["run", "manifest.yaml", "--simulate"]
    for paid_again in ([], ["--retry-failed", "--rebuy-missing", "--in-doubt", "resubmit"]):
        done = project(*words, "--select", "c*", "--budget", "0.5", *paid_again)
        assert done.code == 3
        assert "and run again: rsbatch run manifest.yaml --simulate --budget 0.5 --select 'c*'\n" in done.out
    held = project(*words, "--budget", "0.5", "--in-doubt", "hold")
    assert "rsbatch run manifest.yaml --simulate --budget 0.5 --in-doubt hold\n" in held.out


def test_pings_frame_a_run_and_never_fail_it(simulate: Callable[..., Server], project: Project) -> None:
    """The simulator's server stands in for the monitor: it counts what it is asked for and answers 404."""
    server = simulate("--service-time", "1s")
    project.write(many(server.url, 2, more=f"notify: {{ping: '{server.url}/uuid'}}"))
    done = project.run()
    assert done.code == 0
    assert done.err.count("was not taken (HTTP 404)") == 2


def test_a_name_the_locale_cannot_write_is_refused_before_anything_is_paid(project: Project) -> None:
    project.write('version: 1\ntasks: [{id: "猫", prompt: x, size: 64x64}]\n')
    project.env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = project("run", "manifest.yaml", "--simulate")
    assert done.code == 2, done.err
    assert "LANG=C.UTF-8" in done.err


def test_a_pipe_in_the_place_of_a_sidecar_hangs_nothing(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", ""))
    out = project.folder / "outputs" / "manifest-simulated"
    out.mkdir(parents=True)
    os.mkfifo(out / "cat.png.json")
    assert project("plan", "manifest.yaml", "--simulate").code == 0


def test_images_of_another_manifest_are_not_taken_over_by_repair(project: Project) -> None:
    project.write("name: one\n" + SIMPLE.replace("SAMPLES", "").strip())
    assert project("run", "manifest.yaml", "--simulate", "--output", "here").code == 0
    (project.folder / "here-simulated" / "ledger.jsonl").unlink()
    project.write("name: two\n" + SIMPLE.replace("SAMPLES", "").strip())
    done = project("repair", "manifest.yaml", "--simulate", "--output", "here")
    assert done.code == 4, done.out
    assert "another manifest" in done.err


def test_a_manifest_whose_name_is_no_text(project: Project) -> None:
    project.write(SIMPLE.replace("SAMPLES", ""))
    named = os.fsdecode(b"b\xff.yaml")
    project.manifest.rename(project.folder / named)
    for command in ("run", "plan", "report"):
        done = project(command, named, "--simulate")
        assert done.code == 2, done.err
        assert "not UTF-8; rename it" in done.err
