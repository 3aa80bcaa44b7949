"""The page as text.

Rule: pure; one file that needs no other but the pictures, and no network. Jinja2 escapes all that it is given; the
data for the script is JSON in which no markup can begin. The policy in the page lets run only the one script, by its
hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rsbatch import __version__
from rsbatch.ledger.state import Bucket, Spend
from rsbatch.report.activity import RunSlots
from rsbatch.report.cards import STATES, Card, Entry, Picture, Reference
from rsbatch.report.plots import HEIGHT, WIDTH, Bar, Steps, histogram, quantile, steps
from rsbatch.summary import spend_words
from rsbatch.units import format_duration, format_money, format_size

GENERATOR: Final = '<meta name="generator" content="rsbatch report">'
"""By this a file is known as one that may be written anew."""
LISTED: Final = 10_000
"""How many tasks the list for browsers without scripts has."""
SHOWN_IDS: Final = 50
SHOWN_RUNS: Final = 6


@dataclass(frozen=True, slots=True)
class Assets:
    """The parts of the page that come with the package."""

    html: str
    css: str
    js: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows. `command` is MANIFEST with the options that find its ledger, quoted for a shell.

    `thumbnails` are URLs by the SHA-256 of the image. `made` is when, RFC 3339. `page_id` tells the pages of one
    browser apart. `stamp` is None, or the number of this writing of a page that is written again and again, and the
    URL of an image whose width is the newest such number.
    """

    name: str
    command: str
    made: str
    page_id: str
    simulated: bool
    going_on: bool
    entries: Sequence[Entry]
    cards: Sequence[Card]
    spend: Spend
    budget: Decimal | None
    runs: Sequence[RunSlots]
    thumbnails: Mapping[str, str]
    stamp: tuple[int, str] | None = None


@dataclass(slots=True)
class Trouble:
    """Tasks with one state and reason, and what settles them: commands with what each does."""

    state: str
    reason: str
    remedies: Sequence[tuple[str, str]]
    tasks: list[Card] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many tasks it has."""
        return len(self.tasks)


def render(report: Report, assets: Assets) -> str:
    """Give the whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": format_duration, "money": format_money, "bytes": format_size, "clock": _clock}
    policy = (
        "default-src 'none'; img-src 'self' file: data:; "
        f"script-src '{_hash(assets.js)}'; style-src '{_hash(assets.css)}'; base-uri 'none'; form-action 'none'"
    )
    counts = Counter(card.state for card in report.cards)
    return environment.from_string(
        assets.html
    ).render(
        report=report,
        generator=Markup(GENERATOR),  # noqa: S704 - ours
        policy=policy,
        css=Markup(assets.css),  # noqa: S704 - ours
        js=Markup(assets.js),  # noqa: S704 - ours
        data=Markup(embedded(_data(report))),  # noqa: S704 - no markup can begin in it
        version=__version__,
        counts=[(state, counts[state]) for state in STATES if counts[state]],
        listed=report.cards[:LISTED],
        troubles=(found := list(troubles(report))),
        urgent=sum(trouble.size for trouble in found if trouble.state != "pending"),
        shown_ids=SHOWN_IDS,
        spent=spend_words(report.spend),
        buckets=_buckets(report.spend),
        kinds=list(_kinds(report)),
        waits=_waits(report.cards),
        slots=[_slots(run) for run in report.runs if len(run.points) > 1][: -SHOWN_RUNS - 1 : -1],
        width=WIDTH,
        height=HEIGHT,
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(value: Any) -> str:
    """Write JSON that may stand between script tags: neither a tag nor a comment can begin or end in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


# the data of the script


def _data(report: Report) -> dict[str, Any]:
    params: dict[str, int] = {}
    cards = [_compact(card, report.thumbnails, params) for card in report.cards]
    return {
        "id": report.page_id,
        "name": report.name,
        "command": report.command,
        "states": STATES,
        "stamp": report.stamp,
        "entries": [
            {"label": entry.label, "axes": [{"name": a.name, "values": a.values} for a in entry.axes]}
            for entry in report.entries
        ],
        "params": [json.loads(text) for text in params],
        "cards": cards,
    }


def _compact(card: Card, thumbnails: Mapping[str, str], params: dict[str, int]) -> dict[str, Any]:
    """Give a card under short names, without what is empty: a page may have a hundred thousand of them."""
    fields = {
        "i": card.task,
        "k": card.key,
        "e": card.entry,
        "n": card.sample,
        "s": card.state,
        "r": card.reason,
        "p": card.prompt,
        "o": params.setdefault(json.dumps(card.params), len(params)),
        "x": card.axes,
        "f": [_picture(p, thumbnails) for p in card.pictures],
        "m": [_reference(r, thumbnails) for r in card.references],
        "u": None if card.usd is None else format_money(card.usd),
        "b": None if card.bucket is None else card.bucket.value,
        "z": card.size,
        "c": card.code,
        "j": card.job_id,
        "q": card.request_id,
        "a": card.attempts if card.attempts > 1 else None,
        "w": None if card.waited is None else format_duration(card.waited),
        "t": card.saved_at,
        "g": card.again,
    }
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}


def _picture(picture: Picture, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    file = picture.file
    made: dict[str, Any] = {"p": file.path, "h": picture.href, "b": format_size(file.bytes), "d": file.sha256}
    made |= {"w": file.width, "y": file.height}
    if picture.there:
        made["t"] = thumbnails.get(file.sha256, picture.href)
    return made


def _reference(reference: Reference, thumbnails: Mapping[str, str]) -> dict[str, str]:
    made = {"r": reference.role, "n": reference.name}
    if reference.sha256 in thumbnails:
        made["t"] = thumbnails[reference.sha256]
    if reference.href:
        made["h"] = reference.href
    return made


# what is in trouble, and what settles it


def troubles(report: Report) -> Iterator[Trouble]:
    """Give what needs a person, alike tasks together, the costliest doubts first."""
    found: dict[tuple[str, str], Trouble] = {}
    for state in ("held", "failed", "gone", "altered", "parked", "pending"):
        for card in report.cards:
            if card.state == state:
                reason = card.reason if state not in {"gone", "altered", "parked"} else ""
                name = state, reason
                if name not in found:
                    found[name] = Trouble(state, reason, _remedies(state, report.command, card.task))
                found[name].tasks.append(card)
    for trouble in found.values():
        if len(trouble.tasks) == 1:
            trouble.reason = trouble.tasks[0].reason
        elif trouble.state == "held":
            trouble.remedies = [
                (c, f"{w} (here for {trouble.tasks[0].task}, likewise for each)") for c, w in trouble.remedies
            ]
        yield trouble


def _remedies(state: str, command: str, task: str) -> list[tuple[str, str]]:
    return {
        "held": [
            (f"rsbatch resolve {command} {task} --attach JOB_ID", "the provider's records show a job: fetch its image"),
            (
                f"rsbatch resolve {command} {task} --not-sent",
                "they show none: it costs nothing, the next run submits it",
            ),
            (f"rsbatch resolve {command} {task} --resubmit", "take the risk of paying twice"),
        ],
        "failed": [
            (f"rsbatch run {command}", "goes on with what failed in passing, at no cost twice"),
            (f"rsbatch run {command} --retry-failed", "submits final failures again, which costs again"),
        ],
        "gone": [
            (f"rsbatch run {command}", "fetches it again where the job still answers"),
            (f"rsbatch run {command} --rebuy-missing", "buys it again where the job no longer answers"),
        ],
        "altered": [(f"rsbatch verify {command} --fix", "fetches the original again, the altered file stays beside")],
        "parked": [(f"rsbatch run {command}", "asks for the job again, at no cost")],
        "pending": [(f"rsbatch run {command}", "submits what is left, and fetches what is out")],
    }[state]


# money and time


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the money: what it is called, its US dollars and submissions without a price, percent of all."""

    name: str
    words: str
    usd: Decimal
    unpriced: int
    x: float
    percent: float


_BUCKET_WORDS: Final = {
    Bucket.DELIVERED: "images that came",
    Bucket.FAILED: "jobs that failed",
    Bucket.UNKNOWN: "nobody knows if it was charged",
    Bucket.OUT: "jobs still out",
}


def _buckets(spend: Spend) -> list[Share]:
    shares, x = [], 0.0
    for bucket in Bucket:
        percent = float(spend.usd[bucket] / spend.total * 100) if spend.total else 0.0
        shares.append(Share(bucket.value, _BUCKET_WORDS[bucket], spend.usd[bucket], spend.unpriced[bucket], x, percent))
        x += percent
    return shares


@dataclass(frozen=True, slots=True)
class Kind:
    """An entry of the manifest in numbers: its tasks, saved ones, money of the newest attempts, seconds waited."""

    label: str
    tasks: int
    saved: int
    usd: Decimal
    waits: Waits | None


def _kinds(report: Report) -> Iterator[Kind]:
    for index, entry in [*enumerate(report.entries), (None, None)]:
        mine = [card for card in report.cards if card.entry == index]
        if mine or entry is not None:
            yield Kind(
                entry.label if entry is not None else "no more in the manifest",
                len(mine),
                sum(card.state in {"saved", "redone"} for card in mine),
                sum((c.usd for c in mine if c.usd is not None and c.bucket is not None), Decimal(0)),
                _waits(mine),
            )


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from submission to result: how they are spread."""

    count: int
    median: float
    ninety: float
    most: float
    bars: Sequence[Bar]


def _waits(cards: Sequence[Card]) -> Waits | None:
    values = sorted(card.waited for card in cards if card.waited is not None)
    if not values:
        return None
    return Waits(len(values), quantile(values, 0.5), quantile(values, 0.9), values[-1], histogram(values))


@dataclass(frozen=True, slots=True)
class Slots:
    """The picture of one run."""

    run: RunSlots
    plot: Steps


def _slots(run: RunSlots) -> Slots:
    return Slots(run, steps(run.points, run.started, run.ended))


def _clock(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
