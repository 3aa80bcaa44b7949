"""What a program of its own cost, told by itself on its last line: its start and its imports are left out."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time (user and system, all threads) and time in seconds, memory at its peak and before it began in MB."""

    cpu: float
    seconds: float
    peak: float
    before: float

    @property
    def growth(self) -> float:
        """MB that it took on top of what was there when it began."""
        return self.peak - self.before


@contextmanager
def metered() -> Iterator[None]:
    """Measure what happens inside and print it."""
    before = resident()
    cpu, start = time.process_time(), time.perf_counter()
    yield
    spent, seconds = time.process_time() - cpu, time.perf_counter() - start
    print(json.dumps({"cpu": spent, "seconds": seconds, "peak": peak(), "before": before}), flush=True)


def peak() -> float:
    """The most memory this process had, in MB.

    On Linux not from getrusage: a program starts there with the peak of the one that started it (vfork).
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def resident() -> float:
    """The memory this process has now, in MB (Linux; elsewhere its peak)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_metered(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Cost:
    """Run a program that ends with `metered`'s line, with the same interpreter; raises what it died of."""
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **(env or {})}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=surroundings, stdout=subprocess.PIPE, text=True, check=True
    )
    return Cost(**json.loads(done.stdout.splitlines()[-1]))
