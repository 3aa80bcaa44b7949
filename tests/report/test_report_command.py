"""`rsbatch report` on real files: where the page goes, what it replaces, and what it makes of a batch in any state."""

from __future__ import annotations

import json
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_help import GRID, Batch

from rsbatch.cli import main
from rsbatch.commands.report import Writer, watch
from rsbatch.errors import UsageError
from rsbatch.ledger import records
from rsbatch.model import SavedFile
from rsbatch.report import thumbnails
from rsbatch.session import Options, open_project


def data_of(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def report(batch: Batch, *words: str) -> Any:
    assert main(["report", str(batch.manifest), *words]) == 0
    return data_of(batch.output / "report.html")


def test_a_page_goes_to_the_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = Batch(tmp_path, GRID, {"hero": "failed", "cat-ink-dawn-1": "held", "cat-ink-dawn-2": "new"})
    data = report(batch)
    assert capsys.readouterr().out == f"25 tasks: {batch.output / 'report.html'}\n"
    cards = {card["i"]: card for card in data["cards"]}
    assert (cards["hero"]["s"], cards["hero"]["c"]) == ("failed", "moderated")
    assert cards["cat-ink-dawn-1"]["s"] == "held"
    assert cards["cat-ink-dawn-2"]["s"] == "pending"
    fox = cards["fox-oil-noon-2"]
    assert fox["x"] == {"animal": "fox", "style": "oil", "light": "noon"}
    assert (fox["n"], fox["u"], fox["f"][0]["h"]) == (2, "$0.05", "./fox-oil-noon-2.png")
    assert fox["f"][0]["t"].startswith("data:image/webp;base64,")
    assert [axis["name"] for axis in data["entries"][0]["axes"]] == ["animal", "style", "light"]
    assert not (batch.output / ".report").exists()


def test_many_pictures_are_beside_the_page_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "EMBEDDED", 5)
    batch = Batch(tmp_path, GRID)
    data = report(batch)
    made = [batch.output / card["f"][0]["t"] for card in data["cards"]]
    for path in made:
        with Image.open(path) as image:
            assert image.format == "WEBP"
    before = made[0].stat().st_mtime_ns
    report(batch)
    assert made[0].stat().st_mtime_ns == before
    assert not list(batch.output.rglob("*.new"))


def test_a_page_elsewhere_leads_back_to_the_images(tmp_path: Path) -> None:
    batch = Batch(tmp_path, GRID)
    assert main(["report", str(batch.manifest), "--out", str(tmp_path / "pages" / "p.html")]) == 0
    href = data_of(tmp_path / "pages" / "p.html")["cards"][0]["f"][0]["h"]
    assert (tmp_path / "pages" / href).resolve() == batch.output / "cat-ink-dawn-1.png"


def test_what_a_power_cut_left_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "EMBEDDED", 3)
    batch = Batch(tmp_path, GRID)
    page = batch.output / "report.html"
    for _ in range(2):
        assert main(["report", str(batch.manifest)]) == 0
        pictures = [page, *(batch.output / ".report").glob("*.webp")]
        assert len(pictures) == 26
        assert all(path.stat().st_size for path in pictures)
        for path in pictures:
            path.write_bytes(b"")


def test_what_is_no_report_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = Batch(tmp_path, GRID)
    before = batch.manifest.read_bytes()
    assert main(["report", str(batch.manifest), "--out", str(batch.manifest)]) == 2
    assert "is not a report of rsbatch" in capsys.readouterr().err
    assert batch.manifest.read_bytes() == before
    assert main(["report", str(batch.manifest), "--out", str(tmp_path)]) == 4


def test_without_a_ledger_it_shows_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.yaml").write_text(GRID)
    assert main(["report", str(tmp_path / "m.yaml")]) == 0
    assert "there is no ledger" in capsys.readouterr().err
    data = data_of(tmp_path / "outputs" / "m" / "report.html")
    assert {card["s"] for card in data["cards"]} == {"pending"}


def test_a_damaged_ledger_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = Batch(tmp_path, GRID)
    batch.ledger.write_bytes(batch.ledger.read_bytes().replace(b'"saved"', b'"saveD"', 1))
    assert main(["report", str(batch.manifest)]) == 4
    assert "The ledger is damaged" in capsys.readouterr().err
    assert not (batch.output / "report.html").exists()


def test_files_that_are_gone_altered_or_no_images(tmp_path: Path) -> None:
    batch = Batch(tmp_path, GRID)
    (batch.output / "hero.png").unlink()
    (batch.output / "cat-ink-dawn-1.png").write_bytes((batch.output / "owl-ink-dawn-1.png").read_bytes() + b"more")
    broken = batch.output / "cat-ink-dawn-2.png"
    broken.write_bytes(b"x" * broken.stat().st_size)
    cards = {card["i"]: card for card in report(batch)["cards"]}
    assert (cards["hero"]["s"], "t" in cards["hero"]["f"][0]) == ("gone", False)
    assert (cards["cat-ink-dawn-1"]["s"], cards["cat-ink-dawn-1"]["f"][0]["t"]) == ("altered", "./cat-ink-dawn-1.png")
    assert cards["cat-ink-dawn-2"]["f"][0]["t"] == "./cat-ink-dawn-2.png"


def test_what_the_manifest_has_no_more_is_shown_all_the_same(tmp_path: Path) -> None:
    batch = Batch(tmp_path, GRID)
    batch.manifest.write_text(GRID.replace("id: hero, prompt: The hero", "id: hero, prompt: Another hero"))
    orphans = [card for card in report(batch)["cards"] if card["s"] == "orphaned"]
    assert [(card["i"], card["p"]) for card in orphans] == [("hero", "The hero")]


def test_a_path_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x" * 10)
    batch = Batch(tmp_path, "version: 1\ntasks: [{id: hero, prompt: h}]\n", {"hero": "out"})
    hero = batch.tasks[0]
    file = SavedFile("../../secret.png", 10, "ab" * 32, "png", 1, 1)
    batch.put(records.generated(hero.id, hero.key, job_id="job-hero", images=1, waited_s=1, queries=1))
    batch.put(records.downloaded(hero.id, hero.key, job_id="job-hero", files=[file]))
    batch.put(records.saved(hero.id, hero.key, job_id="job-hero", files=[file]))
    batch.write()
    assert "t" not in report(batch)["cards"][0]["f"][0]


def test_references_get_small_pictures(tmp_path: Path) -> None:
    Image.new("RGBA", (900, 300), (255, 0, 0, 90)).save(tmp_path / "photo.png")
    text = "version: 1\ntasks: [{id: edit, prompt: e, images: [photo.png], mask: photo.png}]\n"
    references = report(Batch(tmp_path, text))["cards"][0]["m"]
    assert [(one["r"], one["n"]) for one in references] == [("reference", "photo.png"), ("mask", "photo.png")]
    assert references[0]["t"].startswith("data:image/webp;base64,")


def test_watching_writes_a_new_page_when_the_ledger_grows(tmp_path: Path) -> None:
    batch = Batch(tmp_path, GRID, {"hero": "out"})
    writer = Writer(open_project(batch.manifest, Options()), batch.output / "report.html", "batch.yaml")
    seen: list[tuple[int, str, int]] = []

    class Enough(Exception):
        pass

    def sleep(_: float) -> None:
        data = data_of(batch.output / "report.html")
        width = int(re.findall(r'width="(\d+)"', (batch.output / ".report" / "stamp.svg").read_text())[0])
        seen.append((data["stamp"][0], data["cards"][-1]["s"], width))
        if len(seen) == 2:
            hero = batch.tasks[-1]
            batch.put(records.parked(hero.id, hero.key, job_id="job-hero", waited_s=9))
            batch.write()
        if len(seen) == 3:
            raise Enough

    with pytest.raises(Enough):
        watch(writer, sleep)
    assert seen == [(1, "pending", 1), (1, "pending", 1), (2, "parked", 2)]
    writer.write()
    assert data_of(batch.output / "report.html")["stamp"] is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = Batch(tmp_path, GRID)
    batch.output.chmod(0o500)
    try:
        assert main(["report", str(batch.manifest)]) == 4
    finally:
        batch.output.chmod(0o700)
    assert "cannot write" in capsys.readouterr().err


def test_what_is_being_sent_is_in_doubt_only_after_the_run(tmp_path: Path) -> None:
    batch = Batch(tmp_path, GRID, {"hero": "sending"})
    writer = Writer(open_project(batch.manifest, Options()), batch.output / "report.html", "batch.yaml")
    writer.write(1)
    assert data_of(batch.output / "report.html")["cards"][-1]["s"] == "pending"
    assert report(batch)["cards"][-1]["s"] == "held"


def test_a_run_writes_it_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\ntasks: [{id: a, prompt: x, size: 64x64}]\n", encoding="utf-8")
    page = tmp_path / "outputs" / "m-simulated" / "report.html"
    assert main(["run", str(manifest), "--simulate", "--quiet", "--report"]) == 0
    assert [card["s"] for card in data_of(page)["cards"]] == ["saved"]
    page.write_text("mine", encoding="utf-8")
    assert main(["run", str(manifest), "--simulate", "--report"]) == 0
    assert "no report: " in capsys.readouterr().out
    assert page.read_text("utf-8") == "mine"


def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = Batch(tmp_path, GRID, {})
    os.mkfifo(tmp_path / "pipe")
    assert main(["report", str(batch.manifest), "--out", str(tmp_path / "pipe")]) == 4
    assert "a pipe or a device" in capsys.readouterr().err


def test_what_stands_beside_is_left_alone(tmp_path: Path) -> None:
    batch = Batch(tmp_path, GRID, {})
    mine = tmp_path / ".icons" / "stamp.svg"
    mine.parent.mkdir()
    mine.write_text("mine")
    project = open_project(batch.manifest, Options())
    writer = Writer(project, tmp_path / "icons.html", "m.yaml")
    writer.write(1)
    assert mine.read_text() == "mine"
    (tmp_path / "icons.html").write_text("mine, too")
    with pytest.raises(UsageError, match="is not a report"):
        writer.write(2)
    assert (tmp_path / "icons.html").read_text() == "mine, too"


def test_small_pictures_have_a_pixel_cap_and_plain_names(tmp_path: Path) -> None:
    data = BytesIO()
    Image.new("1", (10_000, 9_000)).save(data, "PNG")
    assert thumbnails.small(data.getvalue()) is None
    small = BytesIO()
    Image.new("1", (10, 10)).save(small, "PNG")
    made = thumbnails.Thumbnails(tmp_path / "report.html")
    assert made.urls([thumbnails.Original("../../evil", small.getvalue())]) == {}


def test_a_page_takes_the_place_of_another_in_one_step(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_bytes(b"old")
    number = page.stat().st_ino
    thumbnails.write_whole(page, b"new")
    assert (page.read_bytes(), page.stat().st_ino == number) == (b"new", False)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        thumbnails.write_whole(tmp_path / "folder", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "report.html"}, "no half one stays"
