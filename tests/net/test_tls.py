"""Connections by address still prove the name: TLS with a certificate made for the test."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from anyio.abc import SocketStream

from rsbatch.clock import SystemClock
from rsbatch.net.fetch import FetchError, FetchKind, HttpFetcher, guarded_transport
from rsbatch.net.guard import Policy
from rsbatch.net.service import HttpService
from rsbatch.net.transport import tls_context
from rsbatch.wire import NotSent

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with"),
]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, file = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=img.example", "-addext", "subjectAltName=DNS:img.example,DNS:two.example,DNS:localhost"]
    subprocess.run(
        [*command, *names, "-keyout", str(key), "-out", str(file)],
        check=True,
        capture_output=True,
    )
    return file, key


def listener(file: Path, key: Path) -> tuple[ssl.SSLContext, list[str | None]]:
    """Give a server's side of TLS, and the names that it is asked for."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    context.sni_callback = lambda _object, name, _context: names.append(name)
    return context, names


async def everything_is_here(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


async def nowhere(piece: bytes) -> None:
    pass


@pytest.mark.parametrize("host", ["img.example", "IMG.example.", "other.example", "127.0.0.1"])
async def test_the_certificate_is_checked_for_the_name(serve, send, certificate, host: str) -> None:
    file, key = certificate
    theirs, names = listener(file, key)
    ours = ssl.create_default_context(cafile=file)
    transport = guarded_transport(Policy(loopback=True), ours, everything_is_here)
    fetcher = HttpFetcher(transport)
    async with serve(send(b"image"), tls=theirs) as server:
        url = f"https://{host}:{server.port}/?sig=1"
        if "img" in host.lower():
            assert await fetcher.fetch(url, nowhere, max_bytes=1000) == 5
            assert names == ["img.example"]
        else:
            with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED") as caught:
                await fetcher.fetch(url, nowhere, max_bytes=1000)
            assert caught.value.kind is FetchKind.TRANSIENT
            assert names == [None if host == "127.0.0.1" else host]
            assert server.heads == []
    await fetcher.aclose()


async def test_a_kept_connection_is_for_its_name_alone(serve, certificate) -> None:
    """Many hosts share an address, and the certificate was checked for one of them."""

    async def answer(stream: SocketStream, head: bytes) -> None:
        for _ in range(2):
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await stream.receive()

    file, key = certificate
    theirs, names = listener(file, key)
    ours = ssl.create_default_context(cafile=file)
    fetcher = HttpFetcher(guarded_transport(Policy(loopback=True), ours, everything_is_here))
    async with serve(answer, tls=theirs) as server:
        for host in ("img.example", "img.example", "two.example"):
            assert await fetcher.fetch(f"https://{host}:{server.port}/", nowhere, max_bytes=1000) == 2
        with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetcher.fetch(f"https://other.example:{server.port}/", nowhere, max_bytes=1000)
    await fetcher.aclose()
    assert names == ["img.example", "two.example", "other.example"]
    assert len(server.heads) == 2


async def test_no_certificate_is_taken_from_the_environment(
    serve, send, certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that somebody else has set must not decide who gets the key."""
    file, key = certificate
    theirs, _ = listener(file, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    tls_context.cache_clear()
    fetcher = HttpFetcher(guarded_transport(Policy(loopback=True), resolve=everything_is_here))
    async with serve(send(b"{}"), tls=theirs) as server:
        with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetcher.fetch(f"https://img.example:{server.port}/", nowhere, max_bytes=1000)
        base = f"https://localhost:{server.port}"
        async with HttpService(base, "sk-canary", clock=SystemClock(), max_answer=1000) as service:
            outcome = await service.submit(b"{}")
        assert isinstance(outcome, NotSent)
        assert "CERTIFICATE_VERIFY_FAILED" in outcome.reason
        assert server.heads == []
    await fetcher.aclose()
