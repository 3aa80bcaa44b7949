"""How the simulated service is set up.

Rule: a frozen value that is right or does not exist; no IO, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite

from rsbatch.errors import UsageError
from rsbatch.simulator.faults import compile_faults


@dataclass(frozen=True, slots=True)
class Settings:
    """The service's settings. Durations are in seconds and are all divided by `speed`.

    `slots` jobs run at a time; more wait in a queue (`queueing`) or are refused with 429, as are submissions once
    `per_minute` were accepted within a minute (None for no such limit). `service_time` is
    the median of a lognormal with `sigma`. `faults` maps names of faults, families or groups to rates (0 to
    1). `url_ttl`: how long an image's URL is good. `stall`: the pause of a slow image; `hang`: how long an
    answer that never comes is held; `retry_after`: what a 429 asks for. `latency`: how long a request
    takes there and back; `download_time`: how long an image's bytes take besides. `key`: the one key that is accepted,
    None for any that begins with `sk-`. `balance`: how many images are paid for, None for no end. `models`:
    patterns of the models that exist.

    Raises UsageError for values that make no sense.
    """

    slots: int = 8
    queueing: bool = True
    per_minute: int | None = None
    service_time: float = 2.0
    sigma: float = 0.35
    speed: float = 1.0
    faults: Mapping[str, float] = field(default_factory=dict)
    url_ttl: float = 3600.0
    seed: int = 0
    key: str | None = None
    balance: int | None = None
    models: tuple[str, ...] = ("gpt-image-*",)
    stall: float = 5.0
    hang: float = 150.0  # longer than any client waits for a submission
    retry_after: float = 2.0
    latency: float = 0.0
    download_time: float = 0.0

    def __post_init__(self) -> None:
        compile_faults(self.faults)
        if self.slots < 1:
            raise UsageError(f"the simulator needs at least 1 slot, not {self.slots}")
        if self.per_minute is not None and self.per_minute < 1:
            raise UsageError(f"the simulator takes at least 1 submission a minute, not {self.per_minute}")
        if self.balance is not None and self.balance < 0:
            raise UsageError(f"the balance is a number of images, 0 or more, not {self.balance}")
        if self.key == "":
            raise UsageError("the key the simulator accepts must not be empty")
        for name in ("speed", "url_ttl"):
            self._check(name, above=True)
        for name in ("service_time", "sigma", "stall", "hang", "retry_after", "latency", "download_time"):
            self._check(name, above=False)

    def _check(self, name: str, *, above: bool) -> None:
        value: float = getattr(self, name)
        if not isfinite(value) or value < 0 or (above and value == 0):
            wanted = "above 0" if above else "0 or more"
            raise UsageError(f"the simulator's {name.replace('_', ' ')} must be {wanted}, not {value:g}")

    @property
    def one_way(self) -> float:
        """Seconds that a request takes to the service, and an answer back."""
        return self.latency / 2 / self.speed

    def knows_model(self, name: str) -> bool:
        """Whether a model of that name exists."""
        return any(fnmatchcase(name, pattern) for pattern in self.models)
