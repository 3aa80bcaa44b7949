"""Whose ledger it is, and what is refused before anything is made or bought: the commands, in this process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.from_thread
import pytest

from rsbatch import cli, session
from rsbatch.asking import FixedInterval
from rsbatch.body import ImageChanged
from rsbatch.clock import Clock
from rsbatch.commands import common
from rsbatch.commands import run as run_command
from rsbatch.errors import Interrupted
from rsbatch.ledger import records
from rsbatch.ledger.local import NAME, RESERVE, open_ledger
from rsbatch.model import LocalImage
from rsbatch.net.fetch import HttpFetcher
from rsbatch.net.service import HttpService
from rsbatch.progress.interface import Silent
from rsbatch.sidecar import MOST_BYTES
from rsbatch.simulator import Settings, SimulatorTransport, open_simulator
from rsbatch.summary import Result
from rsbatch.unrecorded import find_sidecars

MANIFEST = "version: 1\ntasks:\n  - {id: cat, prompt: A cat, size: 64x64}\n"
KEY = "sk-canary-5f0e9d1c7b3a4e62"


def _enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("RSBATCH", "ROUTESCOPE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROUTESCOPE_API_KEY", KEY)
    (folder / "m.yaml").write_text(MANIFEST)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return _enter(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that saved its one image."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = _enter(tmp_path_factory.mktemp("made"), monkeypatch)
        project = session.open_project(Path("m.yaml"), session.Options(simulate=True))
        result = anyio.run(partial(session.run, project, connect=_quickly, schedule=FixedInterval(0.05)))
    assert result.exit_code == 0
    return folder / "outputs"


@asynccontextmanager
async def _quickly(
    project: session.Project, clock: Clock, key: str | None
) -> AsyncIterator[tuple[HttpService, HttpFetcher]]:
    """As `session.open_edges` does it, with a service that takes no time."""
    settings = Settings(models=("*",), service_time=0.01)
    engine = open_simulator(settings, project.folder / session.SIMULATOR_STATE, clock.wall)
    transport = SimulatorTransport(engine, clock=clock.wall)
    url = session.SIMULATED_URL
    async with HttpService(url, "sk-simulated", clock=clock, max_answer=10**7, transport=transport) as service:
        yield service, HttpFetcher(transport)


@pytest.fixture
def output(here: Path, made: Path) -> Path:
    """The folder of such a run."""
    shutil.copytree(made, here / "outputs")
    return here / "outputs" / "m-simulated"


def simulated(command: str, *more: str) -> int:
    return cli.main([command, "m.yaml", *more, "--simulate"])


def types(output: Path) -> list[str]:
    return [json.loads(line)["type"] for line in (output / NAME).read_bytes().splitlines()]


ALL = {"run": (), "plan": (), "status": (), "verify": (), "show": ("cat",), "resolve": ("cat", "--not-sent")}
each_command = pytest.mark.parametrize("command", ALL)


@each_command
def test_another_manifests_ledger_is_refused(output: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (output / NAME).read_bytes()
    Path("m.yaml").write_text("name: another\noutput: {dir: outputs/m}\n" + MANIFEST)
    assert simulated(command, *ALL[command]) == 4
    assert "belongs to the manifest named m" in capsys.readouterr().err
    assert (output / NAME).read_bytes() == before


@each_command
def test_another_services_ledger_is_refused(output: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.rename(output.with_name("m"))
    assert cli.main([command, "m.yaml", *ALL[command]]) == 4
    assert "belongs to the service simulator" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_a_ledger_that_is_gone_is_not_taken_for_a_new_one(output: Path, command: str) -> None:
    for path in (NAME, "cat.png", "cat.png.json"):
        (output / path).unlink()
    assert simulated(command) == 4
    assert not (output / NAME).exists()
    (output / RESERVE).unlink()
    assert simulated("plan") == 0, "a person said that nothing of it is wanted"


@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_images_without_a_ledger_are_refused(output: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (NAME, RESERVE):
        (output / path).unlink()
    assert simulated(command) == 4
    assert "cat.png.json" in capsys.readouterr().err
    assert not (output / NAME).exists()


def test_a_huge_file_in_a_sidecars_place_is_none(output: Path) -> None:
    with (output / "cat.png.json").open("ab") as file:
        file.write(b" " * MOST_BYTES)
    assert next(find_sidecars(output), None) is None


def test_prices_are_checked_before_anything_is_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated("run", "--budget", "5") == 2
    assert "cat (line 3 of m.yaml) has no price" in capsys.readouterr().err
    assert not (here / "outputs").exists()


def test_prices_are_checked_before_anything_is_submitted(output: Path) -> None:
    before = types(output)
    Path("m.yaml").write_text(
        MANIFEST + "  - {id: dog, prompt: A dog, size: 32x32}\n  - {id: owl, prompt: An owl, size: 16x16}\n"
        "prices: [{size: 32x32, usd: 1}]\n"
    )
    assert simulated("run", "--budget", "5") == 2
    assert types(output) == before


def test_a_manifest_is_right_before_anything_is_made(here: Path) -> None:
    (here / "m.yaml").write_text(MANIFEST + "  - {id: cat, prompt: Another}\n")
    assert simulated("run") == 2
    assert not (here / "outputs").exists()


def test_settling_makes_no_ledger(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated("resolve", "cat", "--not-sent") == 2
    assert "there is no ledger" in capsys.readouterr().err
    assert not (here / "outputs").exists()


def test_verify_fetches_and_buys_nothing(output: Path) -> None:
    (output / "cat.png").unlink()
    Path("m.yaml").write_text(MANIFEST + "  - {id: dog, prompt: A dog, size: 64x64}\n")
    assert simulated("verify", "--fix") == 0
    assert (output / "cat.png").exists()
    assert types(output).count("submitting") == 1


def test_verify_sees_a_file_of_the_same_size(output: Path) -> None:
    image = output / "cat.png"
    image.write_bytes(bytes(image.stat().st_size))
    assert simulated("verify") == 1


def test_a_simulation_has_a_ledger_of_its_own(output: Path) -> None:
    assert [path.name for path in output.parent.iterdir()] == ["m-simulated"]
    assert json.loads((output / NAME).read_bytes().splitlines()[0])["service"] == "simulator"


def test_a_selection_that_fits_nothing_is_told(here: Path) -> None:
    assert simulated("run", "--select", "dog*") == 2
    assert not (here / "outputs").exists()


def test_a_reference_image_that_went_meanwhile_is_not_sent_as_another(tmp_path: Path) -> None:
    with pytest.raises(ImageChanged):
        session.read_image(LocalImage("0" * 64, "image/png", 1, tmp_path / "gone.png"))


# what a person settles


def test_only_what_is_open_is_settled_by_hand(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (output / NAME).read_bytes()
    for how in (("--not-sent",), ("--resubmit",), ("--attach", "task_1")):
        assert simulated("resolve", "cat", *how) == 2
        assert "only held, parked and failed tasks" in capsys.readouterr().err
    assert (output / NAME).read_bytes() == before


@pytest.mark.parametrize("job", ["", "x" * 513, "task\x1b[2J"])
def test_what_is_attached_looks_like_a_job(output: Path, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    _cut_after(output, "submitting")
    assert simulated("resolve", "cat", "--attach", job) == 2
    assert "takes a job id" in capsys.readouterr().err


def test_a_job_is_attached_to_one_task(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.yaml").write_text(MANIFEST + "  - {id: dog, prompt: A dog, size: 64x64}\n")
    project = session.open_project(Path("m.yaml"), session.Options(simulate=True))
    (dog,) = [task for task in project.manifest.tasks([]) if task.id == "dog"]

    async def doubt() -> None:
        async with session.writing(project) as ledger:
            await ledger.write(records.in_doubt(dog.id, dog.key, attempt=1, reason="it was sent"))

    anyio.run(doubt)
    (job,) = project.read_state().jobs()
    assert simulated("resolve", "dog", "--attach", job) == 2
    assert f"job {job} is the job of cat" in capsys.readouterr().err


def _cut_after(output: Path, kind: str) -> None:
    lines = (output / NAME).read_bytes().splitlines(keepends=True)
    (output / NAME).write_bytes(b"".join(lines[: types(output).index(kind) + 1]))


def test_an_intent_without_an_answer_is_a_doubt_that_is_settled(output: Path) -> None:
    _cut_after(output, "submitting")
    assert simulated("resolve", "cat", "--not-sent") == 0
    assert types(output)[-2:] == ["in_doubt", "resolved"]


# repair


def _damage(output: Path) -> bytes:
    data = (output / NAME).read_bytes().replace(b'"saved","task"', b'"saves","task"')
    (output / NAME).write_bytes(data)
    return data


def test_a_sound_ledger_is_left_as_it_is(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (output / NAME).read_bytes()
    assert simulated("repair") == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert (output / NAME).read_bytes() == before


def _older(output: Path, more: str = "  - {id: dog, prompt: A dog, size: 32x32}\n") -> bytes:
    """Save one more image, then put the ledger back as it was before that; gives what it was after."""
    before = (output / NAME).read_bytes()
    Path("m.yaml").write_text(MANIFEST + more)
    assert simulated("run") == 0
    after = (output / NAME).read_bytes()
    (output / NAME).write_bytes(before)
    return after


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_older_copy_of_the_ledger_buys_nothing_again(
    output: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _older(output)
    before = (output / NAME).read_bytes()
    assert simulated(command) == 4
    said = capsys.readouterr().err
    assert "dog.png.json says that its image was paid for (job task_" in said
    assert "rsbatch repair" in said
    assert (output / NAME).read_bytes() == before


def _cut_after_the_intent(output: Path) -> dict[str, Any]:
    """Leave the ledger as it was while the second image's submission was open; gives its intent."""
    after = _older(output).splitlines(True)
    (number, intent) = next((n, line) for n, line in enumerate(after) if b'"dog"' in line)
    (output / NAME).write_bytes(b"".join(after[: number + 1]))
    value: dict[str, Any] = json.loads(intent)
    return value


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_intent_whose_image_lies_there_tells_of_an_older_copy(output: Path, command: str) -> None:
    _cut_after_the_intent(output)
    Path("m.yaml").write_text(Path("m.yaml").read_text() + "  - {id: owl, prompt: An owl, size: 16x16}\n")
    before = (output / NAME).read_bytes()
    assert simulated(command) == 4
    assert (output / NAME).read_bytes() == before, "the owl may have been bought, too"
    assert simulated("repair") == 0
    assert simulated("run") == 1
    assert [kind for kind in types(output) if kind in {"submitting", "saved", "in_doubt"}] == [
        *("submitting", "saved", "submitting", "saved", "in_doubt")
    ]


def test_an_image_that_may_be_of_another_submission_leaves_its_task_held(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _cut_after_the_intent(output)
    _change_sidecar(output / "dog.png.json", run="the one that went on with it")
    assert simulated("run") == 4
    assert simulated("repair") == 0
    job = json.loads((output / "dog.png.json").read_text())["job_id"]
    told = f"rsbatch resolve m.yaml --simulate dog --attach {job}"
    said = capsys.readouterr().out
    assert f"dog.png.json names job {job}, and dog was not given it" in said
    assert told in said
    assert simulated("run") == 1
    assert [kind for kind in types(output) if kind in {"submitting", "saved", "in_doubt"}] == [
        *("submitting", "saved", "submitting", "in_doubt")
    ]
    assert simulated("repair") == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert cli.main(told.split()[1:]) == 0
    assert simulated("run") == 0
    assert types(output).count("saved") == 2


def _cut_and_go_on(output: Path, *more: Callable[[str, str], records.Record]) -> None:
    """Leave the ledger as if the second image's submission had come to these records."""
    value = _cut_after_the_intent(output)
    for number, record in enumerate(more, value["seq"] + 1):
        stamp = {"ts": records.seconds_of(value["ts"]), "run": value["run"]}
        line, _ = records.encode(record(value["task"], value["key"]), seq=number, **stamp)
        with (output / NAME).open("ab") as file:
            file.write(line)


REFUSED = partial(records.not_submitted, attempt=1, reason="HTTP 429", status=429)
FAILED = partial(records.failed, stage="submit", final=True, code="policy", message="not allowed")
DOUBTED = partial(records.in_doubt, attempt=1, reason="a crash")
RELEASED = partial(records.resolved, how="resubmit")


def _change_sidecar(path: Path, **change: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_a_refusal_in_an_older_copy_of_the_ledger_hides_no_payment(output: Path) -> None:
    _cut_and_go_on(output, REFUSED)
    before = types(output)
    assert simulated("run") == 4
    assert types(output) == before


@pytest.mark.parametrize(
    "records_",
    [[REFUSED], [REFUSED, FAILED], [DOUBTED], [DOUBTED, RELEASED]],
    ids=["refused", "failed", "held", "released"],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_was_asked_for_by_an_older_copy_is_not_bought_again(
    output: Path, command: str, records_: list[Callable[[str, str], records.Record]]
) -> None:
    _cut_and_go_on(output, *records_)
    _change_sidecar(output / "dog.png.json", attempt=2, run="the one that tried again")
    more = ("--retry-failed", "--in-doubt", "resubmit")
    assert simulated(command, *more) == 4
    assert simulated("repair") == 0
    assert simulated("run", *more) == 0
    assert types(output).count("saved") == 2
    assert types(output)[-1] == "run_ended"


def test_a_task_that_was_settled_is_not_refused_for_what_repair_would_leave(output: Path) -> None:
    _cut_and_go_on(output, DOUBTED)
    _change_sidecar(output / "dog.png.json", images=2)
    assert simulated("run") == 1
    assert simulated("run", "--in-doubt", "resubmit") == 0


def test_nor_for_an_image_of_another_task_with_the_same_request(output: Path) -> None:
    """By its sidecar it is the cat's, which is saved: no repair could give it to the twin, which is held."""
    Path("m.yaml").write_text(MANIFEST + "  - {id: twin, prompt: A cat, size: 64x64}\n")
    shutil.copy(output / "cat.png", output / "twin.png")
    shutil.copy(output / "cat.png.json", output / "twin.png.json")
    _change_sidecar(output / "twin.png.json", attempt=2, job_id="another")
    assert simulated("run") == 4
    assert simulated("repair") == 0
    assert simulated("run") == 1
    assert simulated("repair") == 0
    assert types(output).count("repaired") == 1


def _rename_the_dog(more: str = "") -> None:
    Path("m.yaml").write_text(Path("m.yaml").read_text().replace("id: dog", "id: hound") + more)


SAME_PATH = "output: {path: \"{{ id | replace('hound', 'dog') }}.{{ ext }}\"}\n"


@pytest.mark.parametrize("more", ["", SAME_PATH])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_another_name_today_hides_no_payment(output: Path, command: str, more: str) -> None:
    _cut_and_go_on(output, REFUSED)
    _rename_the_dog(more)
    before = types(output)
    assert simulated(command) == 4
    assert types(output) == before
    assert simulated("repair") == 0
    assert simulated("run") == 0
    assert types(output).count("saved") == 2
    assert types(output)[-2:] == ["renamed", "run_ended"]


def test_a_task_of_another_name_is_held_once_it_was_repaired(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _cut_after_the_intent(output)
    _change_sidecar(output / "dog.png.json", run="the one that went on with it")
    _rename_the_dog(SAME_PATH)
    assert simulated("run") == 4
    assert simulated("repair") == 0
    assert simulated("run") == 1, "and it does not refuse again"
    assert [kind for kind in types(output) if kind in {"submitting", "saved", "in_doubt"}] == [
        *("submitting", "saved", "submitting", "in_doubt")
    ]
    assert simulated("repair") == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_a_path_that_is_another_today_hides_no_payment(output: Path) -> None:
    _cut_and_go_on(output, REFUSED)
    Path("m.yaml").write_text(Path("m.yaml").read_text() + "output: {path: 'now/{{ id }}.{{ ext }}'}\n")
    assert simulated("run") == 4
    assert simulated("repair") == 0
    assert simulated("run") == 0
    assert types(output).count("saved") == 2


def test_repair_takes_what_an_older_copy_of_the_ledger_lacks(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _older(output)
    Path("m.yaml").write_text(Path("m.yaml").read_text() + "  - {id: owl, prompt: An owl, size: 16x16}\n")
    assert simulated("repair") == 0
    assert "it knows nothing of the image dog.png\n" in capsys.readouterr().out
    assert simulated("run") == 1, "the owl may have been submitted, too"
    assert [kind for kind in types(output) if kind in {"saved", "in_doubt"}] == ["saved", "saved", "in_doubt"]
    assert simulated("repair") == 0
    assert "nothing to repair" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [{"key": "0" * 64}, {"manifest": "another"}, {"service": "https://elsewhere.example"}]
)
def test_an_image_of_something_else_is_no_payment_of_this_task(output: Path, change: dict[str, str]) -> None:
    _older(output)
    _change_sidecar(output / "dog.png.json", **change)
    assert simulated("run") == 0
    assert types(output).count("saved") == 2


def test_an_older_copy_of_the_ledger_is_told_wherever_the_image_belongs_today(output: Path) -> None:
    more = "  - {id: dog, prompt: A dog, size: 32x32}\noutput: {path: '{{ ext }}/{{ id }}.{{ ext }}'}\n"
    _older(output, more)
    assert (output / "png" / "dog.png.json").exists()
    assert simulated("run") == 4


def test_a_plan_while_a_run_goes_on_is_no_alarm(output: Path) -> None:
    state = session.open_project(Path("m.yaml"), session.Options(simulate=True)).read_state()
    (output / NAME).write_bytes(_older(output))
    matcher, _ = session.match(session.open_project(Path("m.yaml"), session.Options(simulate=True)), state)
    assert matcher.total == 2


def test_an_image_whose_job_is_known_is_in_nobodys_way(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _older(output, "  - {id: dog, prompt: A dog, size: 32x32}\n  - {id: owl, prompt: An owl, size: 16x16}\n")
    theirs = json.loads((output / "cat.png.json").read_text())
    _change_sidecar(output / "dog.png.json", job_id=theirs["job_id"])
    assert simulated("run") == 4
    assert "owl.png.json says" in capsys.readouterr().err, "and that of the dog says nothing"
    (output / "owl.png.json").unlink()
    assert simulated("run") == 0


def test_what_submits_nothing_does_not_mind_an_older_copy(output: Path) -> None:
    _older(output)
    assert simulated("status") == 0
    (output / "cat.png").unlink()
    assert simulated("verify", "--fix") == 0
    assert (output / "cat.png").exists()


def test_nor_where_a_task_has_another_name_today(output: Path) -> None:
    _cut_and_go_on(output, REFUSED)
    _rename_the_dog()
    (output / "cat.png").unlink()
    assert simulated("verify", "--fix") == 0
    assert (output / "cat.png").exists()


def test_a_job_that_has_the_name_of_something_else_in_the_ledger_is_not_known(output: Path) -> None:
    _older(output)
    _change_sidecar(output / "dog.png.json", job_id="cat")
    assert simulated("run") == 4


def test_repair_needs_to_see_the_folder(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(output)
    output.write_text("not a folder")
    assert simulated("repair") == 4
    assert f"cannot look into {output}: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan", "status", "verify", "repair", "report"])
def test_a_folder_on_a_disk_that_is_not_mounted_is_not_an_empty_one(
    output: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    away = output.rename(output.with_name("away"))
    output.symlink_to(output.with_name("mounted"))
    assert simulated(command) == 4
    assert f"{output}: it leads to a place that is not there" in capsys.readouterr().err
    assert {*output.parent.iterdir()} == {output, away}


@pytest.mark.parametrize("lacks", ["service", "name", "ts"])
def test_a_first_record_that_does_not_say_whose_the_ledger_is_gets_one_before_it(output: Path, lacks: str) -> None:
    first, *rest = (output / NAME).read_bytes().splitlines(True)
    value = {name: "" if lacks == name == "ts" else v for name, v in json.loads(first).items() if name != "crc"}
    if lacks != "ts":
        del value[lacks]
    body = records.to_json(value)[:-1]
    line = b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    (output / NAME).write_bytes(b"".join([line, *rest]))
    assert simulated("run") == 4
    assert simulated("repair") == 0
    assert simulated("run") == 0
    assert [kind for kind in types(output) if kind in {"submitting", "saved"}] == ["submitting", "saved"]


def test_repair_is_for_the_manifests_own_ledger_and_a_manifest_that_is_right(output: Path) -> None:
    before = _damage(output)
    Path("m.yaml").write_text("name: another\noutput: {dir: outputs/m}\n" + MANIFEST)
    assert simulated("repair") == 4
    Path("m.yaml").write_text(MANIFEST + "  - {id: cat, prompt: Another}\n")
    assert simulated("repair") == 2
    assert (output / NAME).read_bytes() == before


def test_repair_waits_for_no_run_and_takes_nothing_from_it(output: Path) -> None:
    file, _, _ = open_ledger(output)
    before = _damage(output)
    assert simulated("repair") == 75
    assert (output / NAME).read_bytes() == before
    file.close()


def test_repair_takes_images_of_its_own_manifest_alone(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output / NAME).unlink()
    ours = json.loads((output / "cat.png.json").read_text())
    for number, theirs in enumerate(({"manifest": "another"}, {"service": "https://elsewhere.example"})):
        value = {**ours, "task": f"dog-{number}", "job_id": f"job-{number}", **theirs}
        (output / f"dog-{number}.png.json").write_text(json.dumps(value))
    assert simulated("repair") == 0
    assert "1 saved" in capsys.readouterr().out


def test_a_lost_ledger_holds_every_task_of_the_manifest(output: Path) -> None:
    for path in (NAME, "cat.png", "cat.png.json"):
        (output / path).unlink()
    assert simulated("repair") == 0
    assert simulated("run") == 1
    assert "submitting" not in types(output)


# signals


def test_a_signal_at_the_end_of_the_check_is_heard(here: Path) -> None:
    (here / "m.yaml").write_text(MANIFEST + "  - {id: twin, prompt: A cat, size: 64x64}\n")
    project = session.open_project(Path("m.yaml"), session.Options(simulate=True))

    async def main() -> None:
        told, came = anyio.Event(), anyio.Event()

        class Telling(Silent):
            def note(self, text: str) -> None:
                """The last that is done: tasks are checked, and nothing looks for signals any more."""

                async def wait() -> None:
                    told.set()
                    await came.wait()

                anyio.from_thread.run(wait)

        async def signals() -> AsyncIterator[int]:
            await told.wait()
            came.set()
            yield signal.SIGINT

        with pytest.raises(Interrupted):
            await session._opened(project, Telling(), signals())

    anyio.run(main)
    open_ledger(project.folder)[0].close()


def test_signals_that_are_to_be_ignored_are_not_taken() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in run_command._signals()
    finally:
        signal.signal(signal.SIGHUP, before)


# what is told


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_no_error_tells_a_key(here: Path, debug: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", f"{KEY}.yaml", *debug]) == 2
    said = capsys.readouterr().err
    assert "there is no such file" in said
    assert KEY not in said


def test_no_bug_tells_a_key_or_steers_the_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "0123456789-without-a-form"
    monkeypatch.setenv("ROUTESCOPE_API_KEY", secret)
    for debug in (False, True):
        assert cli._report(RuntimeError(f"\x1b[2J {secret}\r"), debug=debug, as_json=False) == 70
    said = capsys.readouterr().err
    assert secret not in said
    assert "\\x1b[2J" in said


def test_errors_and_results_do_not_steer_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "a\x1b[2J.yaml"]) == 2
    common.say("a\x1b[2J")
    args = SimpleNamespace(json=False, quiet=False)
    run_command._tell(cast(Any, args), cast(Result, SimpleNamespace(exit_code=0)), ["a\x1b[2J"], Silent())
    streams = capsys.readouterr()
    assert "\x1b" not in streams.err + streams.out
    assert streams.out == "a\\x1b[2J\n" * 2


def test_a_place_whose_name_is_no_text_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        assert cli.main(["status", "m.yaml", "--output", "out\udcff"]) == 2
    assert "the name is not UTF-8" in capsys.readouterr().err


def test_init_overwrites_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / ".env.example").write_text("mine")
    assert cli.main(["init"]) == 0
    assert (here / ".env.example").read_text() == "mine"
    (here / "manifest.yaml").write_text("mine")
    assert cli.main(["init"]) == 2
    assert (here / "manifest.yaml").read_text() == "mine"


def test_the_overview_is_what_argparse_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On any terminal, though argparse is asked on a narrow one only. That of Python 3.13 leaves wider gaps."""
    parser = cli.build_parser(only="")
    gaps = "-h, --help  show" in parser.format_help()
    for columns in (20, *range(60, 200)):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.main(["--help"]) == cli.main(["-h"]) == 0
        said, meant = capsys.readouterr().out, parser.format_help() * 2
        assert (said == meant) if gaps or columns < 60 else (said.split() == meant.split()), columns


def test_what_is_no_command_is_told_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runn"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in cli.COMMANDS)
