"""A command of `rsbatch` in a process that measures itself and loads nothing else."""

from __future__ import annotations

import sys

from benchmarks.meter import metered
from rsbatch.cli import main

if __name__ == "__main__":
    with metered():
        code = main(sys.argv[1:])
    sys.exit(code)
