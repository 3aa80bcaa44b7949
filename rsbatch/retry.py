"""How long to wait, and when to give up: pure decisions.

Rule: `now` and the random source come in as arguments; times are in seconds. Every constant says where it is from.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

SUBMIT_ATTEMPTS = 5
"""Attempts a task and run, where the service refuses with 5xx and an error object."""
DOWNLOAD_ATTEMPTS = 5
DOWNLOAD_SECONDS = 600.0
"""A download fails after this many attempts, or this long after the first of them. Where its host wants fewer requests
no attempt counts, and it fails at a refusal this long after that host gave an image last."""
UNKNOWN_JOB_SECONDS = 600.0
"""How long the service is asked again for a job that it says it does not know."""
EMPTY_DONE_QUERIES = 3
"""How often a job that is DONE without images is asked for."""
UNAVAILABLE_SECONDS = 900.0
"""Without one acceptance and with nothing out for this long, the service counts as unavailable."""

BACKOFF_FIRST = 1.0
BACKOFF_MOST = 60.0


def backoff(failures: int, rng: Random) -> float:
    """Give the wait before the next try after `failures` (1, 2, …) in a row: doubling, capped, jittered by half.

    The jitter keeps many tasks that failed at once from coming back at once.
    """
    ceiling = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 30))
    return ceiling * rng.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after `after` seconds."""

    after: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again in this run."""


def after_refusal(attempts: int, rng: Random) -> Again | GiveUp:
    """Decide on a submission that the service refused for a passing reason `attempts` times in this run."""
    return GiveUp() if attempts >= SUBMIT_ATTEMPTS else Again(backoff(attempts, rng))


def after_download(attempts: int, since_first: float, rng: Random, at_least: float = 0.0) -> Again | GiveUp:
    """Decide on a download that failed `attempts` times, the first attempt having begun `since_first` seconds ago.

    `at_least` is what the server asked to wait, 0 where it did not.
    """
    wait = max(backoff(attempts, rng), at_least)
    if attempts >= DOWNLOAD_ATTEMPTS or since_first + wait > DOWNLOAD_SECONDS:
        return GiveUp()
    return Again(wait)


def after_unknown(since_first: float) -> Again | GiveUp:
    """Decide on a job that the service has not known for `since_first` seconds."""
    return GiveUp() if since_first >= UNKNOWN_JOB_SECONDS else Again(min(15.0, 3.0 + since_first / 4))
