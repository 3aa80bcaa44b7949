"""What a run has freed stays with it for the next image."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from rsbatch.session import _keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        image = [b"x" * 2**18 for _ in range(32)]
        del image
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
_keep_freed_memory()
touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
faults()
print(first, touched, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own way with freed memory")
def test_freed_blocks_are_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, touched, after = map(int, done.stdout.split())
    assert after * 10 < before
    assert touched < 100, "the block itself takes memory"
