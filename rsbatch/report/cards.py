"""What the page says of each task.

Rule: pure. Text from outside is made visible here (controls, bidi, lone surrogates) and escaped for HTML nowhere but
in the template and in the JSON, which know their places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from rsbatch.body import ledger_form
from rsbatch.ledger.state import Bucket, History
from rsbatch.model import LocalImage, SavedFile, Task
from rsbatch.planning import ORPHANED, Differs, category
from rsbatch.text import escape, redact

GONE: Final = "gone"
ALTERED: Final = "altered"
REDONE: Final = "redone"
STATES: Final = ("saved", REDONE, "failed", "held", "parked", "pending", GONE, ALTERED, ORPHANED)
"""How the page tells tasks apart; `gone` and `altered` were saved, and their files are not as they were."""

_APART: Final = frozenset(("prompt", "images", "mask"))
# Controls but newline and tab; bidi marks, embeddings and isolates; lone surrogates; the byte order mark.
_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def visible(text: str) -> str:
    r"""Write what a reader could not see, or what would turn text around, as `\x1b` or `\u202e`.

    Line breaks stay (`\r\n` as one), and so do the joiners that emoji and many scripts are written with.
    """
    text = text.replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: escape(ord(found[0])), text)


@dataclass(frozen=True, slots=True)
class Picture:
    """A file of a card. `there` is whether it can be looked at, `href` its URL relative to the page."""

    file: SavedFile
    href: str
    there: bool


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that a request refers to: `sha256` and `name` of a local one, else `name` is its URL or hash."""

    role: str
    name: str
    sha256: str = ""
    href: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One task as the page shows it.

    `entry` is its 0-based index under `tasks`, None where the manifest has it no more; `sample` is 1-based, `usd` in
    US dollars and of the newest attempt, `waited` in seconds, `saved_at` RFC 3339. `again` is the id of the task
    that was bought in its place.
    """

    task: str
    key: str
    entry: int | None
    sample: int
    state: str
    reason: str
    prompt: str
    params: Mapping[str, str]
    axes: Mapping[str, str]
    pictures: Sequence[Picture] = ()
    references: Sequence[Reference] = ()
    usd: Decimal | None = None
    bucket: Bucket | None = None
    code: str = ""
    job_id: str = ""
    request_id: str = ""
    attempts: int = 0
    waited: float | None = None
    saved_at: str = ""
    again: str = ""

    @property
    def size(self) -> str:
        """The first picture's size in pixels, else the size that was asked for."""
        if self.pictures:
            file = self.pictures[0].file
            return f"{file.width}×{file.height}"
        return self.params.get("size", "").replace("x", "×")

    @property
    def alt(self) -> str:
        """What the picture shows, as far as anybody knows: its prompt."""
        text = " ".join(self.prompt.split()) or self.task
        return text if len(text) <= 200 else text[:199] + "…"


def href_of(path: str, base: str) -> str:
    """Give the relative URL of a file in the output folder, which is at `base` (empty, or ending in a slash)."""
    return quote(f"./{base}{path}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the ledger's records tell beyond its state, of one task: seconds waited, and when it was saved."""

    waited: float | None = None
    saved_at: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be said of a task: how its files differ, why it is as it is, which other took its place."""

    differs: Differs | None = None
    reason: str = ""
    again: str = ""


def card_of(task: Task, history: History | None, judged: Judged, pictures: Sequence[Picture], seen: Seen) -> Card:
    """Make the card of a task of the manifest."""
    state = category(history.state if history is not None else None).value
    if judged.differs is not None:
        state = GONE if judged.differs is Differs.MISSING else ALTERED
    elif judged.again:
        state = REDONE
    request = ledger_form(task.body)
    return Card(
        task=task.id,
        key=task.key,
        entry=task.origin.entry,
        sample=task.sample,
        state=state,
        reason=visible(redact(judged.reason)),
        prompt=visible(str(request.get("prompt", ""))),
        params=params_of(request),
        axes={name: visible(_text(value)) for name, value in task.axes.items()},
        references=tuple(references(task.body)),
        again=judged.again,
        **_of_history(history, pictures, seen),
    )


def orphan(history: History, request: Any, pictures: Sequence[Picture], seen: Seen) -> Card:
    """Make the card of a history that no task of the manifest has; `request` is as recorded."""
    known = request if isinstance(request, Mapping) else {}
    reason = "it is in the ledger, and no more in the manifest"
    if history.message:
        reason += f": {history.message}"
    return Card(
        task=visible(history.task),
        key=visible(history.key),
        entry=None,
        sample=1,
        state=ORPHANED,
        reason=visible(redact(reason)),
        prompt=visible(str(known.get("prompt", ""))),
        params=params_of(known),
        axes={},
        references=tuple(references(known)),
        **_of_history(history, pictures, seen),
    )


def _of_history(history: History | None, pictures: Sequence[Picture], seen: Seen) -> dict[str, Any]:
    if history is None:
        return {}
    return {
        "pictures": tuple(pictures),
        "usd": history.usd,
        "bucket": history.bucket,
        "code": visible(redact(history.code)),
        "job_id": visible(redact(history.job_id or "")),
        "request_id": visible(redact(str(history.request_id or ""))),
        "attempts": history.attempt,
        "waited": seen.waited,
        "saved_at": seen.saved_at,
    }


def params_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Give a request's fields as text, without its prompt and its images."""
    return {visible(name): visible(redact(_text(value))) for name, value in request.items() if name not in _APART}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def references(body: Mapping[str, Any]) -> Iterator[Reference]:
    """Give the images that a body refers to, the mask last."""
    images = body.get("images")
    for value in images if isinstance(images, list | tuple) else ():
        yield _reference("reference", value)
    if body.get("mask"):
        yield _reference("mask", body["mask"])


def _reference(role: str, value: Any) -> Reference:
    if isinstance(value, LocalImage):
        name = value.path.name if value.path is not None else "an image in the manifest"
        return Reference(role, visible(name), value.sha256)
    shown = redact(str(value))
    # A URL whose query was left out, as it may be signed, leads nowhere.
    link = str(value) if shown == value and re.match(r"https?://", shown) else ""
    return Reference(role, visible(shown), "", link if link.isprintable() else "")


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of an entry: its name and its values, in the order in which they come."""

    name: str
    values: Sequence[str]


MOST_VALUES: Final = 500
"""An axis with more values than this is no way to look at pictures."""


@dataclass(slots=True)
class Entry:
    """An entry of `tasks` as the page shows it: what it is called, its axes, how many samples there are."""

    label: str
    values: dict[str, dict[str, None]] = field(default_factory=dict)

    def take(self, axes: Mapping[str, str]) -> None:
        """Take in the axes of one task."""
        for name, value in axes.items():
            self.values.setdefault(name, {})[value] = None

    @property
    def axes(self) -> list[Axis]:
        """The axes that have more than one value."""
        return [Axis(n, tuple(v)) for n, v in self.values.items() if 1 < len(v) <= MOST_VALUES]
