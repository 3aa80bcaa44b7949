"""What people do between two runs: they edit the manifest, and touch the files.

Rule: all chance comes from the night's random source. A body is never used for two meanings: its prompt tells whose
and which version it is, so that jobs can be counted by prompt.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

from rsbatch.lifecycle import State
from rsbatch.model import Task
from rsbatch.simulator.brief import Picture
from torture.world import World, task

if TYPE_CHECKING:
    from torture.judge import Judge


@dataclass(frozen=True)
class _Entry:
    id: str
    prompt: str
    usd: str | None
    format: str


class Manifest:
    """A manifest that changes. `priced` tells if every task has a price."""

    def __init__(self, rng: Random, size: int) -> None:
        self._rng = rng
        self.priced = rng.random() < 0.8
        self._count = 0
        self._removed: list[_Entry] = []
        self._entries = [self._new() for _ in range(size)]

    def tasks(self) -> list[Task]:
        """The tasks as they are now."""
        return [task(e.id, e.prompt, usd=e.usd, output_format=e.format) for e in self._entries]

    def _new(self) -> _Entry:
        self._count += 1
        name = f"t{self._count:03}"
        return _Entry(name, f"{name} v1", self._price(), self._rng.choice(("png", "png", "jpeg", "webp")))

    def _price(self) -> str | None:
        return self._rng.choice(("0.01", "0.0072", "0.25")) if self.priced or self._rng.random() < 0.5 else None

    def edit(self, world: World, judge: Judge) -> None:
        """Make some changes."""
        rng = self._rng
        for _ in range(rng.randint(1, 5)):
            rng.choice(
                (
                    self._change, self._rename, self._remove, self._put_back, self._add, self._twin, self._reprice,
                    lambda: self._touch_files(world, judge), lambda: self._touch_files(world, judge),
                )
            )()  # fmt: skip

    def _pick(self) -> int:
        return self._rng.randrange(len(self._entries))

    def _change(self) -> None:
        at = self._pick()
        old = self._entries[at]
        self._count += 1
        self._entries[at] = replace(old, prompt=f"{old.id} v{self._count}")

    def _rename(self) -> None:
        at = self._pick()
        self._count += 1
        self._entries[at] = replace(self._entries[at], id=f"r{self._count:03}")

    def _remove(self) -> None:
        if len(self._entries) > 1:
            self._removed.append(self._entries.pop(self._pick()))

    def _put_back(self) -> None:
        if self._removed:
            old = self._removed.pop()
            if all(e.id != old.id for e in self._entries):
                self._entries.append(old)

    def _add(self) -> None:
        self._entries.append(self._new())

    def _twin(self) -> None:
        self._count += 1
        self._entries.append(replace(self._entries[self._pick()], id=f"w{self._count:03}"))

    def _reprice(self) -> None:
        at = self._pick()
        self._entries[at] = replace(self._entries[at], usd=self._price())

    def _touch_files(self, world: World, judge: Judge) -> None:
        """Delete or alter a saved file, or put one of one's own where an image or a sidecar is to go."""
        rng, files = self._rng, world.storage._files
        saved = [f.path for h in world.state.histories() if h.state is State.SAVED for f in h.files if f.path in files]
        mine = f"mine {rng.random()}".encode()
        way = rng.randrange(5)
        if way == 0 and saved:
            path = rng.choice(saved)
            judge.deleted.add(path)
            del files[path]
        elif way == 1 and saved:
            path = rng.choice(saved)
            files[path] = mine
            judge.planted.add(mine)
        elif way == 2 and saved:
            path = rng.choice(saved)
            files[path] = mine + b"x" * (len(files[path]) - len(mine))
            judge.planted.add(files[path])
        elif way in {3, 4}:
            path = f"{rng.choice(self._entries).id}.{rng.choice(('png', 'jpg', 'webp'))}" + (
                ".json" if way == 4 else ""
            )
            if path not in files:
                files[path] = mine
                judge.planted.add(mine)


async def draw_tiny(picture: Picture) -> bytes:
    """Draw what only this picture looks like, in a fraction of a millisecond."""
    return tiny(picture.brief.sha256, picture.brief.variation, picture.brief.index, picture.brief.format)


@lru_cache(maxsize=4096)
def tiny(sha256: str, variation: int, index: int, form: str) -> bytes:
    """An image of 8 by 8 pixels that stands for exactly these values."""
    from PIL import Image

    digest = hashlib.sha256(f"{sha256} {variation} {index}".encode()).digest()
    file = io.BytesIO()
    Image.frombytes("RGB", (8, 8), digest * 6).save(file, form, quality=90)
    return file.getvalue()
