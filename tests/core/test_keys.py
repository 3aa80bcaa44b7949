"""The key is found where it should be, and goes to no host that only a manifest names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rsbatch.errors import UsageError
from rsbatch.keys import find_key, is_loopback, secrets
from rsbatch.model import Api

KEY = "sk-canary-0123456789"
ENV = {"ROUTESCOPE_API_KEY": KEY}


def test_the_environment_wins_over_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ROUTESCOPE_API_KEY=sk-file\nOTHER=sk-x\nEMPTY\n")
    assert find_key(Api(), ENV, tmp_path) == KEY
    assert find_key(Api(), {"ROUTESCOPE_API_KEY": ""}, tmp_path) == "sk-file"
    assert find_key(Api(key_env="OTHER"), {}, tmp_path) == "sk-x"


def test_dotenv_is_not_interpolated_and_spaces_at_the_edge_go(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('ROUTESCOPE_API_KEY="  sk-${HOME}  "\n')
    assert find_key(Api(), {}, tmp_path) == "sk-${HOME}"


def test_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no key: set ROUTESCOPE_API_KEY .*--simulate"):
        find_key(Api(), {}, tmp_path)


@pytest.mark.parametrize("key", ["a b", "clé", "a\x00b", "x" * 4097, "a\nb"])
def test_what_is_no_key_is_not_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_key(Api(), {"ROUTESCOPE_API_KEY": key}, tmp_path)
    assert key not in str(caught.value)


def test_a_dotenv_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        find_key(Api(), {}, tmp_path)
    assert find_key(Api(), ENV, tmp_path) == KEY, "the environment wins"
    assert secrets(ENV, tmp_path) == [KEY]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_dotenv_that_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / ".env")
    with pytest.raises(UsageError, match=r"\.env: it is not a regular file"):
        find_key(Api(), {}, tmp_path)
    assert find_key(Api(), ENV, tmp_path) == KEY


def test_a_dotenv_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(tmp_path / ".env")
    with pytest.raises(UsageError, match=r"cannot read .*\.env"):
        find_key(Api(), {}, tmp_path)


def test_secrets_are_known_by_their_names_or_their_form(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "A_KEY=0123456789\nPLACE=sk-0123456789\nRSBATCH_BASE_URL=https://x.example\nB_KEY=123\n"
    )
    assert secrets({"C_TOKEN": "abcdefgh", "HOME": "/home/somebody"}, tmp_path) == [
        "abcdefgh",
        "0123456789",
        "sk-0123456789",
    ]


@pytest.mark.parametrize(
    ("base_url", "named", "given"),
    [
        ("https://api.routescope.ai", None, True),
        ("https://API.routescope.ai/x", None, True),
        ("http://127.0.0.1:8765", None, True),
        ("http://localhost", None, True),
        ("http://[::1]:1", None, True),
        ("https://relay.example", None, False),
        ("https://relay.example", "https://relay.example/v1", True),
        ("https://relay.example", "https://RELAY.example", True),
        ("https://relay.example", "http://relay.example", False),
        ("https://relay.example", "https://other.example", False),
        ("https://relay.example:444", "https://relay.example", False),
        ("https://relay.example", "https://[::1", False),
        ("https://relay.example", "https://relay.example:99999", False),
        ("https://relay.example", "rubbish", False),
        ("https://api.routescope.ai.evil.example", None, False),
        ("https://api.routescope.ai@evil.example", None, False),
        ("https://127.0.0.1.evil.example", None, False),
        ("https://localhost.evil.example", None, False),
        ("http://api.routescope.ai", None, False),
    ],
)
@pytest.mark.parametrize("where", ["environment", "dotenv"])
def test_who_gets_the_key(tmp_path: Path, base_url: str, named: str | None, given: bool, where: str) -> None:
    environ = dict(ENV)
    if named is not None and where == "environment":
        environ["RSBATCH_BASE_URL"] = named
    if named is not None and where == "dotenv":
        (tmp_path / ".env").write_text(f"RSBATCH_BASE_URL={named}\n")
    if given:
        assert find_key(Api(base_url), environ, tmp_path) == KEY
        return
    with pytest.raises(UsageError, match="it gets the key only if you say so") as caught:
        find_key(Api(base_url), environ, tmp_path)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [("http://127.8.9.1", True), ("http://10.0.0.1", False), ("http:///x", False), ("http://LOCALHOST:1", True)],
)
def test_loopback(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


def test_a_manifest_cannot_name_another_secret(tmp_path: Path) -> None:
    api = Api(key_env="AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match="other secrets"):
        find_key(api, {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI"}, tmp_path)
    assert find_key(Api(key_env="MY_KEY"), {"MY_KEY": "sk-mine"}, tmp_path) == "sk-mine"
    assert find_key(Api("http://127.0.0.1:1", "MY_KEY"), {"MY_KEY": "mine"}, tmp_path) == "mine"
