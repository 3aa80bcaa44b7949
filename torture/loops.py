"""Runs that can be stopped at any step of the scheduler, on trio and on asyncio, both on virtual time.

Rule: a *step* is one go of one task on trio, one callback on asyncio; `Steps.action` is called just before step `at`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import anyio
import trio

from rsbatch.summary import Result
from torture.world import Main, on_trio


@dataclass
class Steps:
    """Counts steps from when `counting` is set; `at` is 1-based, None for never. `acted` once the action is done."""

    action: Callable[[], None]
    at: int | None = None
    count: int = 0
    counting: bool = False
    acted: bool = False

    def step(self) -> None:
        if not self.counting:
            return
        self.count += 1
        if self.count == self.at:
            self.action()
            self.acted = True


class _Instrument(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps.step()


def stepped_on_trio(main: Main, steps: Steps) -> Result:
    """Run on trio."""
    return on_trio(main, _Instrument(steps))


class _Jump(selectors.DefaultSelector):
    """Instead of waiting for the next timer, makes it the time of that timer."""

    elapsed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing is left that could happen: the run hangs")
            self.elapsed += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time that counts its callbacks. Knows no threads."""

    def __init__(self, steps: Steps) -> None:
        self._jump = _Jump()
        self._steps = steps
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.elapsed

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        def counted(*inner: Any) -> None:
            self._steps.step()
            callback(*inner)

        return super().call_soon(counted, *args, context=context)


def stepped_on_asyncio(main: Main, steps: Steps) -> Result:
    """Run on asyncio, which is what ships."""
    return anyio.run(main, backend="asyncio", backend_options={"loop_factory": lambda: VirtualLoop(steps)})
