"""The world of the torture suite, for tests of whole runs."""

from __future__ import annotations

from torture.mishaps import Killed
from torture.world import BASE, Recorder, World, signal_at, task, tasks, within

__all__ = ["BASE", "Killed", "Recorder", "World", "signal_at", "task", "tasks", "within"]
