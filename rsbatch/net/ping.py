"""Telling a monitor that a run began and how it ended (Healthchecks' convention).

Rule: a ping carries no key and nothing of the run but its exit code; one that fails is a note, never more.
"""

from __future__ import annotations

import anyio
import httpx

SECONDS = 10.0
"""For a whole ping: a monitor that hangs must not hold a run up."""


async def ping(url: str, suffix: str, *, transport: httpx.AsyncBaseTransport | None = None) -> str:
    """GET `url`/`suffix` (`start`, or an exit code); gives a sentence if that did not work, else an empty text."""
    target = f"{url.rstrip('/')}/{suffix}"
    try:
        with anyio.fail_after(SECONDS):
            async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=SECONDS) as client:
                answer = await client.get(target)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
        return f"the ping {suffix} was not delivered: {type(exc).__name__}"
    return "" if answer.is_success else f"the ping {suffix} was not taken: HTTP {answer.status_code}"
