"""`rsbatch simulate`: the service on loopback, for trying things out and for tests.

Rule: options to settings, nothing else.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rsbatch.errors import UsageError
from rsbatch.simulator.faults import listing, parse_faults
from rsbatch.simulator.settings import Settings

HELP = "the service on loopback, for trying things out and for tests"
_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(ms|s|m|h|)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch simulate`."""
    default = Settings()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = listing()
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)")
    add(
        "--port",
        default="8765",
        metavar="N",
        help="port to listen on, 0 for any free one (default: %(default)s)",
    )
    add("--slots", default=str(default.slots), metavar="N", help="jobs that run at a time (default: %(default)s)")
    full = parser.add_mutually_exclusive_group()
    full.add_argument(
        "--queue",
        dest="queueing",
        action="store_true",
        default=True,
        help="further jobs wait in a queue (default)",
    )
    full.add_argument("--refuse", dest="queueing", action="store_false", help="further jobs are refused with 429")
    add("--per-minute", metavar="N", help="submissions that are taken within a minute, then 429 (default: any number)")
    add(
        "--service-time",
        default="2s",
        metavar="DUR",
        help="how long a job takes, the median (default: %(default)s)",
    )
    add("--latency", default="0", metavar="DUR", help="how long a request takes there and back (default: 0)")
    add("--download-time", default="0", metavar="DUR", help="how long an image's bytes take besides (default: 0)")
    add(
        "--speed",
        default="1",
        metavar="X",
        help="make all of the service's durations X times shorter (default: 1)",
    )
    add("--faults", default="", metavar="NAME=RATE,…", help="what goes wrong how often; the names are below")
    add(
        "--url-ttl",
        default="1h",
        metavar="DUR",
        help="how long an image's URL is good (default: %(default)s)",
    )
    add("--seed", default="0", metavar="N", help="another seed, other service times, faults and ids (default: 0)")
    add("--key", metavar="KEY", help="the only key that is accepted (default: any that begins with sk-)")
    add("--balance", metavar="N", help="images that are paid for, then 402 (default: no end)")
    add(
        "--state",
        type=Path,
        metavar="FILE",
        help="remember the jobs in FILE over a restart (default: forget them)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted. Raises UsageError for values that make no sense."""
    settings = Settings(
        slots=_whole("--slots", args.slots),
        queueing=args.queueing,
        per_minute=None if args.per_minute is None else _whole("--per-minute", args.per_minute),
        service_time=_duration("--service-time", args.service_time),
        latency=_duration("--latency", args.latency),
        download_time=_duration("--download-time", args.download_time),
        speed=_number("--speed", args.speed),
        faults=parse_faults(args.faults),
        url_ttl=_duration("--url-ttl", args.url_ttl),
        seed=_whole("--seed", args.seed),
        key=args.key,
        balance=None if args.balance is None else _whole("--balance", args.balance),
    )
    port = _whole("--port", args.port)
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be between 0 and 65535, not {port}")

    from rsbatch.simulator.server import serve

    serve(settings, host=args.host, port=port, state=args.state)
    return 0


def _whole(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} must be a whole number, not `{text}`") from None


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} must be a number, not `{text}`") from None


def _duration(option: str, text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} must be a duration such as 2, 500ms, 90s, 15m or 6h, not `{text}`")
    return float(match[1]) * _UNITS[match[2]]
