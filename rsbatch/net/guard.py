"""Keeps downloads from aiming inside: which addresses a URL from outside may lead to.

Rule: not what a URL looks like counts but what its host resolves to; every address of it has to pass, and the
connection goes to an address that was checked, not to the name again (rebinding). A class of special
addresses is open only where the service itself (`base_url`) is in it; link-local and metadata addresses never
are. The list is our own: `ipaddress.is_global` of Python 3.11 says yes to 64:ff9b::7f00:1 and 2002:7f00:1::
(docs/reliability.md).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import zip_longest
from typing import Literal
from urllib.parse import urlsplit

import anyio
import httpx

from rsbatch.text import printable

Address = IPv4Address | IPv6Address
Kind = Literal["loopback", "private", "shared", "never"]
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host and port; raises `OSError` if there are none."""

MAX_ADDRESSES = 4
"""How many addresses of one host are tried, each with its own connect timeout."""

NAMES_SECONDS = 10.0
"""How long the addresses of a name are remembered: a host that moves is found before a download is given up."""

MAX_NAMES = 100
"""How many names are remembered."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which special classes of addresses may be connected to; none by default.

    `shared` is 100.64/10 (carrier NAT, Tailscale) and 198.18/15 (benchmarks; proxies such as Clash give every
    name an address from there).
    """

    loopback: bool = False
    private: bool = False
    shared: bool = False


# First match counts. Sources: IANA's registries of special-purpose addresses (IPv4 and IPv6), and the clouds'
# documentation for metadata addresses outside of link-local.
_TABLE: tuple[tuple[str, Kind, str], ...] = (
    ("100.100.100.200/32", "never", "metadata"),  # Alibaba
    ("168.63.129.16/32", "never", "metadata"),  # Azure
    ("192.0.0.192/32", "never", "metadata"),  # Oracle
    ("fd00:ec2::/32", "never", "metadata"),  # AWS
    ("fd20:ce::254/128", "never", "metadata"),  # Google
    ("169.254.0.0/16", "never", "link-local"),
    ("127.0.0.0/8", "loopback", "loopback"),
    ("10.0.0.0/8", "private", "private"),
    ("172.16.0.0/12", "private", "private"),
    ("192.168.0.0/16", "private", "private"),
    ("100.64.0.0/10", "shared", "carrier-NAT"),
    ("198.18.0.0/15", "shared", "benchmark"),
    ("0.0.0.0/8", "never", "unspecified"),
    ("192.0.0.0/24", "never", "reserved"),
    ("192.0.2.0/24", "never", "documentation"),
    ("192.88.99.0/24", "never", "reserved"),
    ("198.51.100.0/24", "never", "documentation"),
    ("203.0.113.0/24", "never", "documentation"),
    ("224.0.0.0/4", "never", "multicast"),
    ("240.0.0.0/4", "never", "reserved"),
    ("::1/128", "loopback", "loopback"),
    ("::/128", "never", "unspecified"),
    ("fe80::/10", "never", "link-local"),
    ("ff00::/8", "never", "multicast"),
    ("fc00::/7", "private", "private"),
    ("2001::/23", "never", "reserved"),
    ("2001:db8::/32", "never", "documentation"),
    ("3fff::/20", "never", "documentation"),
)
_SPECIAL = tuple((ip_network(network), kind, name) for network, kind, name in _TABLE)
_GLOBAL_V6 = IPv6Network("2000::/3")

# Where an IPv4 address is inside an IPv6 one: (network, how many bits follow it, the bits to flip).
_EMBEDDED: tuple[tuple[IPv6Network, int, int], ...] = (
    (IPv6Network("::ffff:0:0/96"), 0, 0),  # mapped
    (IPv6Network("::ffff:0:0:0/96"), 0, 0),  # translated (SIIT)
    (IPv6Network("::/96"), 0, 0),  # compatible
    (IPv6Network("64:ff9b::/96"), 0, 0),  # NAT64
    (IPv6Network("64:ff9b:1::/96"), 0, 0),  # NAT64, local use; other lengths of that /48 are refused
    (IPv6Network("2002::/16"), 80, 0),  # 6to4
    (IPv6Network("2001::/32"), 64, 0),  # Teredo: the server
    (IPv6Network("2001::/32"), 0, 0xFFFFFFFF),  # Teredo: the client, inverted
)


def _classify(address: Address) -> tuple[Kind, str] | None:
    """Give the class and name of a special address, None for one of the public internet."""
    for network, kind, name in _SPECIAL:
        if address.version == network.version and address in network:
            return kind, name
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return "never", "reserved"
    return None


def _unwrap(address: Address) -> list[Address]:
    """Give the IPv4 addresses that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address) or int(address) <= 1:  # `::` and `::1` are themselves
        return [address]
    bits = int(address)
    inside: list[Address] = [
        IPv4Address((bits >> shift & 0xFFFFFFFF) ^ flip) for network, shift, flip in _EMBEDDED if address in network
    ]
    return inside or [address]


@lru_cache(MAX_NAMES)
def refusal(address: str, policy: Policy) -> str | None:
    """Say why an address may not be connected to, None if it may. `address` is one that a resolver gave.

    Remembered, because thousands of images come from the same few, and it takes 20 µs.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return f"{printable(address, 60)} is not an address"
    for real in _unwrap(parsed):
        special = _classify(real)
        if special is None:
            continue
        kind, name = special
        allowed = {
            "loopback": policy.loopback,
            "private": policy.private,
            "shared": policy.shared,
            "never": False,
        }
        if not allowed[kind]:
            return f"{printable(address, 60)} is a {name} address"
    return None


def policy_for(base_url_addresses: Iterable[str]) -> Policy:
    """Open the classes that the service itself is in: those that all of its addresses belong to."""
    kinds: set[Kind | None] = set()
    for address in base_url_addresses:
        special = [_classify(real) for real in _unwrap(ip_address(address))]
        kinds.update(None if found is None else found[0] for found in special)
    return Policy(loopback=kinds == {"loopback"}, private=kinds == {"private"}, shared=kinds == {"shared"})


async def resolve_host(host: str, port: int) -> list[str]:
    """Look a host up as the system does, odd forms such as `2130706433` included.

    Raises `OSError` if the name cannot be found.
    """
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        raise OSError(f"{printable(host, 100)} is not a host name") from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Remembering:
    """A `Resolve` that asks `resolve` again for what it has not found within the last NAMES_SECONDS.

    Thousands of images come from one host. What is remembered are addresses, and those are checked at every use.
    """

    def __init__(self, resolve: Resolve = resolve_host) -> None:
        self._resolve = resolve
        self._found: dict[tuple[str, int], tuple[float, Sequence[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """See `Resolve`."""
        until, addresses = self._found.get((host, port), (0.0, ()))
        now = anyio.current_time()
        if now >= until:
            if len(self._found) >= MAX_NAMES:
                self._found.clear()
            addresses = await self._resolve(host, port)
            self._found[host, port] = now + NAMES_SECONDS, addresses
        return addresses


async def policy_for_url(base_url: str, resolve: Resolve = resolve_host) -> Policy:
    """Look up the host of `base_url` and give its policy; the strictest if it cannot be found now."""
    parts = urlsplit(base_url)
    try:
        return policy_for(await resolve(parts.hostname or "", parts.port or 443))
    except (OSError, ValueError):
        return Policy()


class AddressRefused(httpx.TransportError):
    """A URL led to where it must not; the message says why, without path and query."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """Resolves, checks, and connects to what was checked; everything else is the inner transport's.

    Raises `AddressRefused`, `httpx.ConnectError` if the name is not found, and what `inner` raises. `inner`
    must know the connections that it keeps by the name for TLS, too: by address alone it would use one whose
    certificate was checked for another name.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, policy: Policy, resolve: Resolve = resolve_host) -> None:
        self._inner = inner
        self._policy = policy
        self._resolve = resolve

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the first checked address that can be connected to."""
        url = request.url
        if url.scheme not in ("http", "https"):
            raise AddressRefused(f"only http and https are fetched, not {printable(url.scheme, 20)!r}")
        host = url.raw_host.decode("ascii")
        addresses = await self._checked(host, url.port or (443 if url.scheme == "https" else 80))
        problem: httpx.TransportError | None = None
        for address in addresses:
            # Nothing was sent where no connection came about, so the next address may be tried.
            try:
                return await self._inner.handle_async_request(_aimed(request, host, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                problem = exc
        raise problem or httpx.ConnectError(f"{printable(host, 100)} has no address")

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def _checked(self, host: str, port: int) -> list[str]:
        if not host:
            raise AddressRefused("the URL has no host")
        try:
            found = await self._resolve(host, port)
        except OSError as exc:
            raise httpx.ConnectError(f"{printable(host, 100)} cannot be found") from exc
        for address in found:
            reason = refusal(address, self._policy)
            if reason is not None:
                raise AddressRefused(f"{printable(host, 100)} leads inside: {reason}")
        return _mixed(found)[:MAX_ADDRESSES]


def _mixed(addresses: Sequence[str]) -> list[str]:
    """Alternate the families, beginning with the resolver's favourite: one of them may be broken here."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    second = [address for address in addresses if address not in first]
    pairs = zip_longest(first, second)
    return [address for pair in pairs for address in pair if address is not None]


def _aimed(request: httpx.Request, host: str, address: str) -> httpx.Request:
    """Copy the request to go to `address`, with `host` kept for the Host header and for TLS."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host.rstrip(".")},
    )
