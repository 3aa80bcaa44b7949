"""The commit that figures belong to."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit_of(*paths: str) -> str:
    """Give the short hash of HEAD, and say if anything under `paths` (from the project's folder) is not in it."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent.parent
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=folder).stdout.strip()

    changed = " and changes" if git("status", "--porcelain", "--", *paths) else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
