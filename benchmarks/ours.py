"""`rsbatch run` in a process that measures itself, with the queries as far apart as a row says."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import anyio._backends._asyncio
import PIL.PngImagePlugin

import rsbatch.runner
import rsbatch.storage.local
from benchmarks.meter import metered
from rsbatch.asking import FixedInterval
from rsbatch.net import fetch, service
from rsbatch.session import Options, open_project, run

_LOADED = anyio._backends._asyncio, PIL.PngImagePlugin, rsbatch.runner, rsbatch.storage.local, fetch, service
"""Imported before the clock runs, as the peers' libraries are."""


async def main(manifest: Path, interval: float | None) -> None:
    """Run the manifest to its end; without `interval` (seconds) jobs are asked for as a run does by itself."""
    project = open_project(manifest, Options())
    result = await run(project, schedule=FixedInterval(interval) if interval else None)
    if result.exit_code:
        sys.exit(f"the run ended with {result.exit_code}: {result.message}")


if __name__ == "__main__":
    with metered():
        anyio.run(main, Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None)
