"""Python's cycle collector, told to wait.

Rule: only for code that makes many objects and no cycles: the collector goes through all of them again and again, which
took two thirds of the time of loading a large manifest.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Collect no cycles inside."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
