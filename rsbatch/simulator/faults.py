"""The faults that the simulator can show: one table, how rates are given by name, and how each is drawn.

Rule: pure. A draw is a hash of the seed and of what the draw is about, never of a generator's state, so that
the same request meets the same fault whatever else happens at the time. It must not know HTTP.

A *fault* is one line of the table. A *family* (`429`, `fail`) is one trouble in several shapes: its rate is
shared, each hit takes one shape. A *group* (`all`, `submit`, …) gives its rate to every fault in it. The
closer name wins: a fault over its family, a family over a group, a group over `all`.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from rsbatch.errors import UsageError

Stage = Literal["submit", "job", "query", "image"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table.

    `accepts` tells, for faults of submissions, whether a job was accepted (and is charged) all the same.
    `common` is false for those that stop a run or take minutes: they are not in the group `all`.
    """

    name: str
    stage: Stage
    family: str
    text: str
    accepts: bool = False
    common: bool = True


def _fault(stage: Stage, name: str, family: str, text: str, *, accepts: bool = False) -> Fault:
    return Fault(name, stage, family, text, accepts=accepts, common=family not in _UNCOMMON)


_UNCOMMON = frozenset({"fatal", "hang"})

FAULTS: tuple[Fault, ...] = (
    _fault("submit", "429-seconds", "429", "429 with `Retry-After` in seconds; nothing is accepted"),
    _fault("submit", "429-date", "429", "429 with `Retry-After` as an HTTP date; nothing is accepted"),
    _fault("submit", "429-bare", "429", "429 without `Retry-After`; nothing is accepted"),
    _fault("submit", "5xx-flat", "5xx", "500, 502 or 503 with `code` and `message`; nothing is accepted"),
    _fault("submit", "5xx-nested", "5xx", "500, 502 or 503 with an `error` object; nothing is accepted"),
    _fault("submit", "504-before", "504", "a gateway's 504 without a code; nothing was accepted"),
    _fault("submit", "504-after", "504", "a gateway's 504 without a code; the job was accepted", accepts=True),
    _fault("submit", "502-html-before", "502-html", "a gateway's HTML page with 502; nothing was accepted"),
    _fault(
        "submit",
        "502-html-after",
        "502-html",
        "a gateway's HTML page with 502; the job was accepted",
        accepts=True,
    ),
    _fault("submit", "408-before", "408", "408 without a code; nothing was accepted"),
    _fault("submit", "408-after", "408", "408 without a code; the job was accepted", accepts=True),
    _fault("submit", "reset-before", "reset", "the connection is reset; nothing was accepted"),
    _fault("submit", "reset-after", "reset", "the connection is reset; the job was accepted", accepts=True),
    _fault("submit", "unreadable-json", "unreadable", "200 with JSON cut in the middle; accepted", accepts=True),
    _fault("submit", "unreadable-html", "unreadable", "200 with an HTML page; accepted", accepts=True),
    _fault("submit", "unreadable-empty", "unreadable", "200 with an empty body; accepted", accepts=True),
    _fault(
        "submit",
        "unreadable-no-id",
        "unreadable",
        "200 with JSON that lacks `job_id`; accepted",
        accepts=True,
    ),
    _fault(
        "submit",
        "200-error-rate",
        "200-error",
        "200 with an empty `job_id` and a rate limit's error; refused",
    ),
    _fault(
        "submit",
        "200-error-final",
        "200-error",
        "200 with an empty `job_id` and a refusal of the prompt; refused",
    ),
    _fault(
        "submit",
        "moderation",
        "moderation",
        "400 from moderation; that request is refused whenever it is sent",
    ),
    _fault("submit", "bad-key", "fatal", "401, as if the key were withdrawn"),
    _fault("submit", "no-balance", "fatal", "402, as if the balance were used up"),
    _fault("submit", "no-quota", "fatal", "403 with a code that speaks of the balance"),
    _fault("submit", "forbidden", "fatal", "403, the key may not use the model"),
    _fault("submit", "moved", "fatal", "308 to another address"),
    _fault("submit", "hang-before", "hang", "no answer until the connection is closed; nothing was accepted"),
    _fault("submit", "hang-after", "hang", "no answer until the connection is closed; accepted", accepts=True),
    _fault("job", "fail-error-message", "fail", "FAIL with `error_message`"),
    _fault("job", "fail-message", "fail", "FAIL with `message`"),
    _fault("job", "fail-error-object", "fail", "FAIL with `error.message`"),
    _fault("job", "done-b64", "done", "DONE with `b64_json` in place of URLs"),
    _fault("job", "done-strings", "done", "DONE with the URLs as plain strings"),
    _fault("job", "done-several", "done", "DONE with three images"),
    _fault("job", "done-other-format", "done", "DONE with an image of another format than asked for"),
    _fault("job", "done-empty", "done-empty", "DONE without images, for good"),
    _fault("query", "query-429-seconds", "query-429", "429 with `Retry-After` in seconds"),
    _fault("query", "query-429-date", "query-429", "429 with `Retry-After` as an HTTP date"),
    _fault("query", "query-429-bare", "query-429", "429 without `Retry-After`"),
    _fault("query", "query-5xx-code", "query-5xx", "500, 502 or 503 with an error object"),
    _fault("query", "query-504", "query-5xx", "a gateway's 504 without a code"),
    _fault("query", "query-502-html", "query-5xx", "a gateway's HTML page with 502"),
    _fault("query", "query-html", "query-unreadable", "200 with an HTML page"),
    _fault("query", "query-cut-json", "query-unreadable", "200 with JSON cut in the middle"),
    _fault("query", "query-reset", "query-reset", "the connection is reset"),
    _fault("query", "query-state", "query-state", "a state of another name: `QUEUED_UPSTREAM`"),
    _fault("query", "query-unknown-job", "query-unknown-job", "404, as if the job were not known"),
    _fault("query", "query-done-early", "query-done-early", "DONE without images; asked again, they are there"),
    _fault("query", "query-hang", "hang", "no answer until the connection is closed"),
    _fault("image", "image-cut-length", "image-cut", "half a file, the connection closed before `Content-Length`"),
    _fault("image", "image-cut-clean", "image-cut", "half a file with a `Content-Length` that fits"),
    _fault("image", "image-html", "image-wrong-type", "an HTML page with 200"),
    _fault("image", "image-text", "image-wrong-type", "text with 200 and the content type of an image"),
    _fault("image", "image-slow", "image-slow", "a pause in the middle of the file"),
    _fault("image", "image-403", "image-error", "403, as if the URL had expired early"),
    _fault("image", "image-404", "image-error", "404"),
    _fault("image", "image-5xx", "image-error", "500, 502 or 503"),
    _fault("image", "image-429-seconds", "image-429", "429 with `Retry-After` in seconds"),
    _fault("image", "image-429-bare", "image-429", "429 without `Retry-After`"),
    _fault("image", "image-reset", "image-reset", "the connection is reset"),
    _fault("image", "image-redirect", "image-redirect", "302 to another URL of the same image"),
    _fault("image", "image-hang", "hang", "no answer until the connection is closed"),
)

BY_NAME: Mapping[str, Fault] = MappingProxyType({fault.name: fault for fault in FAULTS})
STAGES: tuple[Stage, ...] = ("submit", "job", "query", "image")

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "all": "every fault but those of `fatal` and `hang`",
        "submit": "those of submissions, without `fatal` and `hang`",
        "job": "those of a job's outcome",
        "query": "those of queries, without `hang`",
        "image": "those of downloads, without `hang`",
        "fatal": "those that stop a run",
        "hang": "those that answer nothing until `hang` seconds are over",
    }
)


def _families() -> dict[str, tuple[Fault, ...]]:
    found: dict[str, tuple[Fault, ...]] = {}
    for fault in FAULTS:
        found[fault.family] = (*found.get(fault.family, ()), fault)
    return {name: members for name, members in found.items() if name not in GROUPS and name not in BY_NAME}


FAMILIES: Mapping[str, tuple[Fault, ...]] = MappingProxyType(_families())


@dataclass(frozen=True, slots=True)
class Chance:
    """One draw: with `rate` (0 to 1) one of `faults` happens, each as likely as the other."""

    name: str
    rate: float
    faults: tuple[Fault, ...]


Chances = Mapping[Stage, tuple[Chance, ...]]


def _in_group(group: str) -> tuple[Fault, ...]:
    if group in _UNCOMMON:
        return tuple(fault for fault in FAULTS if fault.family == group)
    return tuple(fault for fault in FAULTS if fault.common and group in {"all", fault.stage})


def compile_faults(rates: Mapping[str, float]) -> Chances:
    """Return what is to be drawn at each stage. Raises UsageError for an unknown name or a rate that is none."""
    for name, rate in rates.items():
        _check(name, rate)
    chances: dict[str, Chance] = {}
    for group in (name for name in GROUPS if name in rates):
        for fault in _in_group(group):
            chances[fault.name] = Chance(fault.name, rates[group], (fault,))
    for family in (name for name in FAMILIES if name in rates):
        for fault in FAMILIES[family]:
            chances.pop(fault.name, None)
        own = tuple(fault for fault in FAMILIES[family] if fault.name not in rates)
        if own:
            chances[family] = Chance(family, rates[family], own)
    for name in (name for name in BY_NAME if name in rates):
        chances[name] = Chance(name, rates[name], (BY_NAME[name],))
    wanted = [chance for chance in chances.values() if chance.rate > 0]
    return {stage: tuple(c for c in wanted if c.faults[0].stage == stage) for stage in STAGES}


def _check(name: str, rate: float) -> None:
    known = [*GROUPS, *FAMILIES, *BY_NAME]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else "; `rsbatch simulate --help` lists them"
        raise UsageError(f"there is no fault named `{name}`{hint}")
    if not 0 <= rate <= 1:
        raise UsageError(f"the rate of fault `{name}` must be between 0 and 1, not {rate:g}")


def parse_faults(text: str) -> dict[str, float]:
    """`all=0.05,reset-after=0` as a mapping of name to rate (0 to 1). A name alone has the rate 1.

    Raises UsageError for an unknown name or a rate that is none.
    """
    rates: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            rate = float(number) if equals else 1.0
        except ValueError:
            raise UsageError(f"the rate of fault `{name}` must be a number between 0 and 1, not `{number}`") from None
        _check(name.lower(), rate)
        rates[name.lower()] = rate
    return rates


def fraction(seed: int, *about: object) -> float:
    """Return a number from 0 up to, without, 1 that only depends on the seed and on what it is about."""
    text = "\x1f".join(str(part) for part in (seed, *about))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)


def draw(chances: tuple[Chance, ...], seed: int, *about: object) -> Fault | None:
    """Return the fault that strikes, if any. When several would, each is as likely as the other."""
    hits = [chance for chance in chances if fraction(seed, "fault", chance.name, *about) < chance.rate]
    if not hits:
        return None
    hit = hits[int(fraction(seed, "which", *about) * len(hits))]
    return hit.faults[int(fraction(seed, "shape", hit.name, *about) * len(hit.faults))]


def table() -> str:
    """Return the faults as a Markdown table, for the documentation."""
    lines = ["| fault | family | what happens |", "|---|---|---|"]
    lines += [f"| `{f.name}` | {_family_of(f)} | {f.text} |" for f in FAULTS]
    return "\n".join(lines)


def _family_of(fault: Fault) -> str:
    return f"`{fault.family}`" if fault.family != fault.name else ""


def listing() -> str:
    """Return the groups and faults as plain text, for `rsbatch simulate --help`."""
    width = max(len(name) for name in BY_NAME) + 2
    lines = ["faults, by NAME or NAME=RATE (0 to 1), several separated by commas:", ""]
    lines += [f"  {name:<{width}}{text}" for name, text in GROUPS.items()]
    for family, members in FAMILIES.items():
        shapes = ", ".join(fault.name for fault in members)
        lines += [f"  {family:<{width}}one of {shapes}"] if len(members) > 1 else []
    lines += ["", *(f"  {fault.name:<{width}}{fault.text}" for fault in FAULTS)]
    return "\n".join(lines).replace("`", "")
