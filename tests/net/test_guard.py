"""The address rules, and that connections go where was checked and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Callable

import anyio
import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.net.guard import (
    MAX_NAMES,
    NAMES_SECONDS,
    AddressRefused,
    GuardedTransport,
    Policy,
    Remembering,
    Resolve,
    policy_for,
    policy_for_url,
    refusal,
    resolve_host,
)

STRICT = Policy()
LOCAL = Policy(loopback=True)
PRIVATE = Policy(private=True)
SHARED = Policy(shared=True)
ALL = Policy(loopback=True, private=True, shared=True)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "8.8.8.8",
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "198.17.255.255",
            "198.20.0.0",
        ),
        *(
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::8.8.8.8",
            "2002:0808:0808::1",
            "::ffff:8.8.8.8",
        ),
    ],
)
def test_the_public_internet_is_open(address: str) -> None:
    assert refusal(address, STRICT) is None


NEVER = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"),
    *("::", "fe80::1", "fe80::1%eth0", "ff02::1", "fec0::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
    *("2001:10::1", "2001:2::1", "4000::1", "64:ff9b:1:1::8.8.8.8", "64:ff9b:2::1"),
    *("::ffff:169.254.169.254", "::ffff:0.0.0.0", "::169.254.169.254", "::ffff:0:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::", "2002:a9fe:a9fe::8.8.8.8"),
    # Teredo: a bad server; a bad client (inverted).
    *("2001:0:a9fe:a9fe:0:0:f7f7:f7f7", "2001:0:808:808:0:0:5601:5601"),
    *("", "localhost", "1.2.3", "2130706433", "\x1b[31m"),
]


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_open(address: str) -> None:
    reason = refusal(address, ALL)
    assert reason is not None
    assert reason.isprintable()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("2001:0:808:808:0:0:80ff:fffe",),
    ],
)
def test_loopback_is_open_only_beside_a_service_on_loopback(address: str) -> None:
    assert "loopback" in (refusal(address, STRICT) or "")
    assert refusal(address, PRIVATE) is not None
    assert refusal(address, SHARED) is not None
    assert refusal(address, LOCAL) is None


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1", "::ffff:10.0.0.1"),
        *(
            "64:ff9b::a00:1",
            "2002:a00:1::",
        ),
    ],
)
def test_private_ranges_are_open_only_beside_a_service_in_one(address: str) -> None:
    assert "private" in (refusal(address, STRICT) or "")
    assert refusal(address, LOCAL) is not None
    assert refusal(address, SHARED) is not None
    assert refusal(address, PRIVATE) is None


@pytest.mark.parametrize("address", ["100.64.0.1", "100.127.255.255", "198.18.0.7", "198.19.255.255"])
def test_shared_ranges_are_open_only_beside_a_service_in_one(address: str) -> None:
    assert refusal(address, STRICT) is not None
    assert refusal(address, PRIVATE) is not None
    assert refusal(address, LOCAL) is not None
    assert refusal(address, SHARED) is None


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([], STRICT),
        (["8.8.8.8"], STRICT),
        (["127.0.0.1"], LOCAL),
        (["::1", "127.0.0.1"], LOCAL),
        (["192.168.1.5"], PRIVATE),
        (["192.168.1.5", "fd00::5"], PRIVATE),
        (["100.64.3.4"], SHARED),
        (["198.18.0.9"], SHARED),
        (["127.0.0.1", "8.8.8.8"], STRICT),
        (["192.168.1.5", "127.0.0.1"], STRICT),
        (["192.168.1.5", "2606:4700::1"], STRICT),
        (["169.254.169.254"], STRICT),
        (["fe80::1%eth0"], STRICT),
    ],
)
def test_the_policy_is_the_class_that_the_whole_service_is_in(addresses: list[str], expected: Policy) -> None:
    assert policy_for(addresses) == expected


@given(st.ip_addresses(v=6))
def test_every_ipv6_address_outside_of_the_global_range_is_special_or_stands_for_another(
    address: object,
) -> None:
    text = str(address)
    reason = refusal(text, STRICT)
    if int(address) >> 125 != 1 and not text.startswith(("::", "64:ff9b:")):  # type: ignore[call-overload]
        assert reason is not None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_any_disguise_is_judged_alike(address: object) -> None:
    bits = int(address)  # type: ignore[call-overload]
    plain = refusal(str(address), STRICT) is None
    high, low = bits >> 16, bits & 0xFFFF
    for disguise in (f"::ffff:{address}", f"64:ff9b::{high:x}:{low:x}", f"2002:{high:x}:{low:x}::1"):
        assert (refusal(disguise, STRICT) is None) == plain
    if bits > 1:
        assert (refusal(f"::{high:x}:{low:x}", STRICT) is None) == plain


# The transport. Its inner one is httpx's own double, which shows what would be connected to.


def recorder(seen: list[httpx.Request], fail: Callable[[str], bool] = lambda host: False) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if fail(request.url.host):
            raise httpx.ConnectError("refused")
        return httpx.Response(200)

    return httpx.MockTransport(answer)


def names(**hosts: list[str]) -> Resolve:
    async def resolve(host: str, port: int) -> list[str]:
        if host not in hosts:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return hosts[host]

    return resolve


def get(url: str) -> httpx.Request:
    return httpx.Request("GET", url)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("address", "netloc"), [("93.184.216.34", "93.184.216.34"), ("2606:4700::1111", "[2606:4700::1111]")]
)
async def test_the_checked_address_is_connected_to_under_the_hosts_name(address: str, netloc: str) -> None:
    seen: list[httpx.Request] = []
    guarded = GuardedTransport(recorder(seen), STRICT, names(**{"img.example": [address]}))
    await guarded.handle_async_request(get("https://img.example:8443/a%2Fb.png?sig=%20x"))
    (request,) = seen
    assert str(request.url) == f"https://{netloc}:8443/a%2Fb.png?sig=%20x"
    assert request.headers["Host"] == "img.example:8443"
    assert request.extensions["sni_hostname"] == "img.example"


@pytest.mark.anyio
async def test_international_names_go_out_in_ascii() -> None:
    seen: list[httpx.Request] = []
    resolve = names(**{"xn--r8jz45g.jp.": ["93.184.216.34"]})
    await GuardedTransport(recorder(seen), STRICT, resolve).handle_async_request(get("https://例え.jp./x"))
    assert seen[0].extensions["sni_hostname"] == "xn--r8jz45g.jp"
    assert seen[0].headers["Host"] == "xn--r8jz45g.jp."


@pytest.mark.anyio
async def test_one_bad_address_of_several_is_enough() -> None:
    seen: list[httpx.Request] = []
    resolve = names(**{"img.example": ["93.184.216.34", "10.0.0.1"]})
    with pytest.raises(AddressRefused, match=r"img\.example leads inside: 10\.0\.0\.1 is a private"):
        await GuardedTransport(recorder(seen), STRICT, resolve).handle_async_request(
            get("https://img.example/secret?sig=1")
        )
    assert seen == []


@pytest.mark.anyio
async def test_a_name_that_changes_its_address_is_checked_each_time() -> None:
    answers = [["93.184.216.34"], ["169.254.169.254"]]

    async def rebinding(host: str, port: int) -> list[str]:
        return answers.pop(0)

    seen: list[httpx.Request] = []
    guarded = GuardedTransport(recorder(seen), STRICT, rebinding)
    await guarded.handle_async_request(get("http://evil.example/"))
    with pytest.raises(AddressRefused, match="link-local"):
        await guarded.handle_async_request(get("http://evil.example/"))
    assert [request.url.host for request in seen] == ["93.184.216.34"]


def test_a_name_is_looked_up_once_in_a_while() -> None:
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        if host == "gone":
            raise OSError("no such name")
        return [f"8.8.8.{len(asked)}"]

    async def main() -> None:
        names = Remembering(resolve)
        assert [await names("a", 443), await names("a", 443), await names("a", 80)] == [
            ["8.8.8.1"],
            ["8.8.8.1"],
            ["8.8.8.2"],
        ]
        await anyio.sleep(NAMES_SECONDS - 0.5)
        assert await names("a", 443) == ["8.8.8.1"]
        await anyio.sleep(0.5)
        assert await names("a", 443) == ["8.8.8.3"]
        for _ in range(2):
            with pytest.raises(OSError, match="no such name"):
                await names("gone", 443)
        assert len(asked) == 5, "what is not found is asked for again"
        for number in range(MAX_NAMES):
            await names(f"host-{number}", 443)
        assert len(names._found) <= MAX_NAMES

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.anyio
async def test_other_addresses_are_tried_where_nothing_was_sent() -> None:
    addresses = ["2606:4700::1", "2606:4700::2", "2606:4700::3", "8.8.8.8", "8.8.4.4"]
    seen: list[httpx.Request] = []
    inner = recorder(seen, lambda host: ":" in host)
    guarded = GuardedTransport(inner, STRICT, names(h=addresses))
    assert (await guarded.handle_async_request(get("http://h/"))).status_code == 200
    assert [request.url.host for request in seen] == ["2606:4700::1", "8.8.8.8"]

    seen.clear()
    guarded = GuardedTransport(recorder(seen, lambda host: True), STRICT, names(h=addresses))
    with pytest.raises(httpx.ConnectError, match="refused"):
        await guarded.handle_async_request(get("http://h/"))
    assert len(seen) == 4


@pytest.mark.anyio
async def test_names_that_are_not_found_and_hosts_without_addresses() -> None:
    guarded = GuardedTransport(recorder([]), STRICT, names(empty=[]))
    for url, message in (("http://none/", "none cannot be found"), ("http://empty/", "empty has no address")):
        with pytest.raises(httpx.ConnectError, match=message):
            await guarded.handle_async_request(get(url))


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["ftp://h/x", "file:///etc/passwd", "gopher://h", "http:///x", "/x"])
async def test_only_http_with_a_host(url: str) -> None:
    guarded = GuardedTransport(recorder([]), ALL, names(h=["8.8.8.8"]))
    with pytest.raises(AddressRefused):
        await guarded.handle_async_request(get(url))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        *("http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://[::1]/", "http://0/"),
        *(
            "http://localhost/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::ffff:7f00:1]/",
            "http://2852039166/",
        ),
    ],
)
async def test_odd_forms_of_inner_addresses_by_the_systems_own_resolver(url: str) -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(AddressRefused):
        await GuardedTransport(recorder(seen), STRICT).handle_async_request(get(url))
    assert seen == []


@pytest.mark.anyio
async def test_hosts_that_no_resolver_takes() -> None:
    for host in ("a" * 300, "a..b", "a" * 64 + ".example"):
        with pytest.raises(OSError):
            await resolve_host(host, 80)


@pytest.mark.anyio
async def test_the_policy_of_a_base_url() -> None:
    resolve = names(box=["192.168.1.2"], api=["8.8.8.8"])
    assert await policy_for_url("http://127.0.0.1:8765") == LOCAL
    assert await policy_for_url("http://localhost:8765/v1") == LOCAL
    assert await policy_for_url("http://[::1]:8765") == LOCAL
    assert await policy_for_url("https://box/", resolve) == PRIVATE
    assert await policy_for_url("https://api/", resolve) == STRICT
    for odd in ("https://none/", "https://api:99999/", "nonsense", ""):
        assert await policy_for_url(odd, resolve) == STRICT


@pytest.mark.anyio
async def test_closing_closes_the_inner_one() -> None:
    class Inner(httpx.AsyncBaseTransport):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    inner = Inner()
    await GuardedTransport(inner, STRICT).aclose()
    assert inner.closed
