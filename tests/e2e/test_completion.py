"""Completion in real shells: bash always, zsh and fish where they are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsbatch.cli import COMMANDS

# What bash does at a TAB, without a terminal: the words go in, COMPREPLY comes out.
BASH = """
source completion
complete -p rsbatch >/dev/null
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_rsbatch
printf '%s\\n' "${COMPREPLY[@]}"
"""


def write(folder: Path, shell: str) -> None:
    """Put the script for a shell into a folder, and something to complete."""
    words = [sys.executable, "-m", "rsbatch", "completion", shell]
    (folder / "completion").write_bytes(subprocess.run(words, capture_output=True, check=True).stdout)
    (folder / "manifest.yaml").touch()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rsbatch re", {"resolve", "repair", "report", "redo"}),
        ("rsbatch run --met", {"--metrics"}),
        ("rsbatch run --progress ", {"auto", "bar", "log", "none"}),
        ("rsbatch plan man", {"manifest.yaml"}),
        ("rsbatch completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash(tmp_path: Path, line: str, found: set[str]) -> None:
    write(tmp_path, "bash")
    words = ["bash", "--norc", "-c", BASH, "bash", *line.split(" ")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stderr == ""
    assert set(done.stdout.split()) == (found & set(COMMANDS) or found)


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
def test_fish(tmp_path: Path) -> None:
    write(tmp_path, "fish")
    words = ["fish", "--no-config", "-c", "source completion; complete -C 'rsbatch run manifest.yaml --met'"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout.startswith("--metrics\t")


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_zsh(tmp_path: Path) -> None:
    write(tmp_path, "zsh")
    code = 'autoload -Uz compinit; compinit -u -d dump; eval "$(<completion)"; print $_comps[rsbatch]'
    done = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("_shtab_rsbatch", "")


def test_another_shell_is_refused_with_those_there_are() -> None:
    done = subprocess.run([sys.executable, "-m", "rsbatch", "completion", "tcsh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "bash" in done.stderr
