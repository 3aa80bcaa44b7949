"""`rsbatch redo` for real, against the simulator: it buys what was asked for, once, and every command knows it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from report_help import GRID, Batch

from rsbatch.cli import main
from rsbatch.commands.redo import _record
from rsbatch.progress.interface import Silent
from rsbatch.redo import Verdict
from rsbatch.session import Options, _opened, open_project


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path, GRID, {"cat-ink-dawn-2": "failed", "fox-oil-noon-2": "new"}, simulated=True)


def ledger(batch: Batch) -> list[dict[str, Any]]:
    return [json.loads(line) for line in batch.ledger.read_text("utf-8").splitlines()]


def submitted(batch: Batch) -> Counter[str]:
    return Counter(record["task"] for record in ledger(batch) if record["type"] == "submitting")


def reject(batch: Batch, *names: str) -> str:
    found = [record for record in ledger(batch) if record["type"] == "saved" and record["task"] in names]
    rejected = [{"task": one["task"], "key": one["key"], "sha256": one["files"][0]["sha256"]} for one in found]
    file = batch.manifest.with_name("rejects.json")
    file.write_text(json.dumps({"rejects": 1, "manifest": "batch", "rejected": rejected}))
    return str(file)


def redo(batch: Batch, file: str, *more: str) -> int:
    return main(["redo", str(batch.manifest), "--simulate", "--from", file, *more])


@pytest.mark.slow
def test_new_samples_are_bought_once_and_nothing_else_is(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    before = submitted(batch)
    file = reject(batch, "hero", "owl-ink-dawn-2")
    assert redo(batch, file, "--dry-run") == 0
    assert capsys.readouterr().out == "2 new samples to submit: $0.10\n"
    assert submitted(batch) == before
    assert redo(batch, file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["this_run"]["submitted"] == 2
    after = before + Counter(["hero-r2", "owl-ink-dawn-2-r2"])
    assert submitted(batch) == after
    assert (batch.output / "hero-r2.png").exists()
    assert redo(batch, file) == 0
    assert "0 new samples to submit: $0.00; 2 were asked for before" in capsys.readouterr().out
    assert submitted(batch) == after
    assert sum(record["type"] == "redo" for record in ledger(batch)) == 2
    main(["status", str(batch.manifest), "--simulate"])
    said = capsys.readouterr().out
    assert "27 tasks: 25 saved" in said
    assert "orphaned" not in said
    assert main(["report", str(batch.manifest), "--simulate"]) == 0
    page = (batch.output / "report.html").read_text("utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    cards = {card["i"]: card for card in data["cards"]}
    assert (cards["hero"]["s"], cards["hero"]["g"], cards["hero-r2"]["s"]) == ("redone", "hero-r2", "saved")
    # more samples later clash with nothing, and a new name takes all along
    batch.manifest.write_text(GRID.replace("samples: 2", "samples: 3").replace("id: hero", "id: heroine"))
    capsys.readouterr()
    assert main(["plan", str(batch.manifest), "--simulate", "--json"]) == 0
    plan = {line["task"]: line for line in map(json.loads, capsys.readouterr().out.splitlines()) if "task" in line}
    assert plan["heroine-r2"]["state"] == "saved"
    assert plan["owl-ink-dawn-2-r2"]["state"] == "saved"
    assert sum(line["action"] == "submit" for line in plan.values()) == 13  # twelve third ones, and the new one


def test_images_of_another_ledger_buy_nothing(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(reject(batch, "hero"))
    value = json.loads(file.read_text())
    value["rejected"][0]["sha256"] = "0" * 64
    file.write_text(json.dumps(value))
    assert redo(batch, str(file)) == 2
    said = capsys.readouterr().err
    assert "hero: its image is not the one that was rejected" in said
    assert main(["redo", str(batch.manifest), "--from", str(file)]) == 2
    assert "there is no ledger" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_before_it_is_recorded(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    file = reject(batch, "hero")
    before = batch.ledger.read_bytes()
    batch.manifest.write_text(GRID + "run: {budget: 1.20}\n")
    assert redo(batch, file, "--dry-run") == 0
    batch.manifest.write_text(GRID.replace("{usd: 0.05}", "{size: 1x1, usd: 0.05}") + "run: {budget: 9}\n")
    assert redo(batch, file) == 2
    assert "has no price" in capsys.readouterr().err
    clash = "  - {id: hero-r2, prompt: Another}\nprices"
    batch.manifest.write_text(GRID.replace("prices", clash))
    for command in (["redo", "--from", file], ["redo", "--from", file, "--dry-run"]):
        assert main([*command, str(batch.manifest), "--simulate"]) == 2
        said = capsys.readouterr().err
        assert "the id 'hero-r2' is that of tasks[" in said
        assert "The manifest by itself is right: this is about new samples" in said
    batch.manifest.write_text(GRID.replace("prompt: A", "prompt: A {{ nope }}"))
    assert redo(batch, file) == 2
    said = capsys.readouterr().err
    assert "the name 'nope' is not known here" in said
    assert "new samples" not in said
    assert batch.ledger.read_bytes() == before


def test_nothing_is_recorded_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ROUTESCOPE_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    batch = Batch(tmp_path, GRID + "api: {base_url: 'http://127.0.0.1:9'}\n")
    before = batch.ledger.read_bytes()
    assert main(["redo", str(batch.manifest), "--from", reject(batch, "hero")]) == 2
    said = capsys.readouterr()
    assert "1 new sample to submit: $0.05" in said.out
    assert "ROUTESCOPE_API_KEY" in said.err
    assert batch.ledger.read_bytes() == before


def test_what_another_asked_for_meanwhile_is_not_asked_for_twice(batch: Batch) -> None:
    project = open_project(batch.manifest, Options(simulate=True))
    hero = next(task for task in batch.tasks if task.id == "hero")
    verdict = Verdict(new=[(hero.id, hero.key, 1)])
    for _ in range(2):
        anyio.run(_record, project, verdict)
    assert sum(record["type"] == "redo" for record in ledger(batch)) == 1
    _, file, _, matcher = anyio.run(_opened, project, Silent(), None)
    file.close()
    assert matcher.total == len(batch.tasks) + 1, "every run knows of it"


@pytest.mark.slow
def test_the_budget_holds(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    spent = 24 * 5  # cents: all but the new one were submitted
    batch.manifest.write_text(GRID + f"run: {{budget: {spent / 100 + 0.05:.2f}}}\n")
    file = reject(batch, "hero", "owl-ink-dawn-2")
    assert redo(batch, file) == 3
    assert sum((submitted(batch) & Counter(["hero-r2", "owl-ink-dawn-2-r2"])).values()) == 1
    said = capsys.readouterr().out
    command = f"{batch.manifest} --simulate"
    assert f"raise run.budget (or --budget) and run again: rsbatch redo {command} --from {file}\n" in said
    assert f"stay asked for: `rsbatch run {command}` buys them, too" in said
    assert redo(batch, file, "--budget", "9") == 0
    assert "stay asked for" not in capsys.readouterr().out
    wanted = Counter(["hero-r2", "owl-ink-dawn-2-r2"])
    assert submitted(batch) & wanted == wanted


def test_only_a_file_is_read(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = batch.manifest.with_name("pipe")
    os.mkfifo(pipe)
    for path in (pipe, batch.output):
        assert redo(batch, str(path)) == 2
        assert "is not a file; save the rejects in one. Nothing was submitted" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", '{"rejects": 1, "rejected": [{}]}'])
def test_a_file_that_the_page_did_not_write(batch: Batch, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = batch.manifest.with_name("rejects.json")
    file.write_text(text)
    assert redo(batch, str(file)) == 2
    assert "rejects.json: is not a list of rejected images" in capsys.readouterr().err
    file.unlink()
    assert redo(batch, str(file)) == 2
    assert "rejects.json: No such file or directory; nothing was submitted" in capsys.readouterr().err


@pytest.mark.slow
def test_what_lost_records_may_have_bought_is_held(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    """The records of a redo are lost with the ledger, and its job is out: nobody can know of it."""
    file = reject(batch, "hero")
    lines = batch.ledger.read_bytes().splitlines(keepends=True)
    batch.ledger.write_bytes(b"".join(line for line in lines if b'"downloaded"' not in line))
    assert main(["repair", str(batch.manifest), "--simulate"]) == 0
    before = submitted(batch)
    for _ in range(2):
        assert redo(batch, file) == 1
        assert "0 new samples to submit: $0.00" in capsys.readouterr().out
    assert submitted(batch) == before
    told = [record["type"] for record in ledger(batch) if record.get("task") == "hero-r2"]
    assert told == ["in_doubt"]
    assert sum(record["type"] == "redo" for record in ledger(batch)) == 1
    assert main(["resolve", str(batch.manifest), "hero-r2", "--simulate", "--not-sent"]) == 0
    assert redo(batch, file) == 0, "settled by a person, it is bought"
    assert (batch.output / "hero-r2.png").exists()
    assert redo(batch, reject(batch, "hero-r2")) == 0, "what came after the repair is known"
    assert (batch.output / "hero-r3.png").exists()


@pytest.mark.slow
def test_a_new_sample_that_an_older_copy_of_the_ledger_lacks(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    file, before = reject(batch, "hero"), batch.ledger.read_bytes()
    assert redo(batch, file) == 0
    batch.ledger.write_bytes(before)
    assert redo(batch, file) == 4
    assert main(["repair", str(batch.manifest), "--simulate"]) == 0
    assert "it knows nothing of the image hero-r2.png" in capsys.readouterr().out
    assert redo(batch, file) == 0
    assert submitted(batch)["hero-r2"] == 1, "as the image says"
    assert main(["repair", str(batch.manifest), "--simulate"]) == 0
    assert "nothing to repair" in capsys.readouterr().out


@pytest.mark.slow
def test_a_rejected_image_may_be_deleted(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not fetched again, nor bought: not even where missing ones are."""
    assert redo(batch, reject(batch, "hero")) == 0
    assert redo(batch, reject(batch, "hero-r2")) == 0
    before = submitted(batch)
    for name in ("hero.png", "hero-r2.png", "simulator.jsonl"):
        (batch.output / name).unlink()
    capsys.readouterr()
    assert main(["run", str(batch.manifest), "--simulate", "--select", "hero*", "--rebuy-missing"]) == 0
    assert submitted(batch) == before
    assert "hero.png is gone" not in capsys.readouterr().err
    (batch.output / "hero-r3.png").unlink()
    assert main(["run", str(batch.manifest), "--simulate", "--select", "hero*"]) == 1
    assert "hero-r3.png is gone" in capsys.readouterr().err
