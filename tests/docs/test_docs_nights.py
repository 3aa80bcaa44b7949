"""The files in the page on nights are what their readers take: systemd, GitHub, logrotate."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs_help import DOCS, blocks

FILES = {b.words[0]: b.text for b in blocks(DOCS / "nightly.md") if b.language != "sh" and b.words}


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_has_a_file_for_each() -> None:
    assert set(FILES) == {"service", "timer", "workflow", "cronjob", "logrotate"}


def test_the_workflow_fits_the_schema_of_github(tmp_path: Path) -> None:
    path = tmp_path / "nightly.yml"
    path.write_text(FILES["workflow"])
    tool = str(Path(sys.executable).with_name("check-jsonschema"))
    assert "ok" in run(tool, "--builtin-schema", "vendor.github-workflows", str(path))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    # The command and the folder of the page are not on this machine; everything else is judged.
    service = FILES["service"].replace("/srv/images/.venv/bin/rsbatch", "/bin/true")
    (tmp_path / "rsbatch.service").write_text(service)
    (tmp_path / "rsbatch.timer").write_text(FILES["timer"])
    said = run("systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir()))
    assert not [line for line in said.splitlines() if "rsbatch." in line], said
    run("systemd-analyze", "calendar", FILES["timer"].partition("OnCalendar=")[2].splitlines()[0])


@pytest.mark.skipif(not shutil.which("logrotate"), reason="no logrotate here")
def test_logrotate_takes_its_rule(tmp_path: Path) -> None:
    path = tmp_path / "rsbatch"
    path.write_text(FILES["logrotate"])
    path.chmod(0o644)
    assert "error" not in run("logrotate", "--debug", "--state", str(tmp_path / "state"), str(path))
