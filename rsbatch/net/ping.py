"""Telling a monitor that a run began and how it ended (Healthchecks' convention).

Rule: a ping carries no key and nothing of the run but its exit code; one that fails is a note, never more, and the
run does not wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import httpx

from rsbatch.errors import Exit

if TYPE_CHECKING:
    from rsbatch.summary import Result

SECONDS = 10.0
"""For a whole ping: a monitor that hangs must not hold a process up."""


async def ping(url: str, suffix: str, *, transport: httpx.AsyncBaseTransport | None = None) -> str:
    """GET `url`/`suffix` (`start`, or an exit code); gives a sentence if that did not work, else an empty text."""
    try:
        base = httpx.URL(url)
        target = base.copy_with(path=f"{base.path.rstrip('/')}/{suffix}")  # a query stays behind it
        with anyio.fail_after(SECONDS):
            client = httpx.AsyncClient(transport=transport, trust_env=False, timeout=SECONDS)
            async with client, client.stream("GET", target) as answer:  # its body is not read, however long it is
                status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:  # ValueError: IDNA
        why = f"no answer in {SECONDS:g} s" if isinstance(exc, TimeoutError) else type(exc).__name__
        return f"the ping {suffix} was not delivered ({why}); the run is not affected, check notify.ping"
    if 200 <= status < 300:
        return ""
    return f"the ping {suffix} was not taken (HTTP {status}); the run is not affected, check notify.ping"


async def around(
    url: str,
    run: Callable[[], Awaitable[Result]],
    say: Callable[[str], None],
    *,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Result:
    """Run, with a ping while it begins and one with its exit code when it has ended (70 for a bug, which is raised).

    The second ping waits for the first, so that a monitor sees them in order.
    """

    async def tell(suffix: str) -> None:
        if trouble := await ping(url, suffix, transport=transport):
            say(trouble)

    code = Exit.BUG
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(tell, "start")
            result = await run()
            code = result.exit_code
    finally:
        await tell(str(int(code)))
    return result
