"""The key for the service: from the environment or `.env`, and only for a service it is meant for.

Rule: this is the one place that reads the key. It is given to no host that only a manifest names: a manifest from
a stranger must not be able to send secrets away.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from rsbatch.errors import UsageError
from rsbatch.model import DEFAULT_BASE_URL, DEFAULT_KEY_ENV, Api

BASE_URL_ENV = "RSBATCH_BASE_URL"
_MOST = 4096
_PREFIX = "sk-"
_SECRET = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
_SHORTEST = 8
"""Shorter texts are no keys, and to take them out of messages would make those unreadable."""


def find_key(api: Api, environ: Mapping[str, str], folder: Path) -> str:
    """Give the key for `api` from `environ`, else from `.env` in `folder`; raises UsageError.

    A base URL that is neither the default nor loopback has to be named by the environment too.
    """
    path = folder / ".env"
    _check_host(api, lambda: environ.get(BASE_URL_ENV) or _read_dotenv(path).get(BASE_URL_ENV) or "")
    # What the environment has is not looked for in a file, which may be no good.
    key = (environ.get(api.key_env) or _read_dotenv(path).get(api.key_env) or "").strip()
    if not key:
        raise UsageError(
            f"no key: set {api.key_env} in the environment or in {path} "
            f"(to try rsbatch without a key: --simulate); nothing was submitted"
        )
    if len(key) > _MOST or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{api.key_env} does not hold a key: it has characters that no key has")
    if api.key_env != DEFAULT_KEY_ENV and not key.startswith(_PREFIX) and not is_loopback(api.base_url):
        raise UsageError(
            f"{api.key_env} does not hold a key of the service (they begin with {_PREFIX}): the manifest names it "
            f"under api.key_env, and a manifest must not be able to send other secrets away"
        )
    return key


def is_loopback(url: str) -> bool:
    """Tell if a URL's host is this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def secrets(environ: Mapping[str, str], folder: Path) -> list[str]:
    """Give what must not be told, by its name or its form, of `environ` and of `.env` in `folder`; never fails."""
    given = list(environ.items())
    with suppress(UsageError):
        given += _read_dotenv(folder / ".env").items()
    found = (value.strip() for name, value in given if name.endswith(_SECRET) or value.strip().startswith(_PREFIX))
    return [value for value in found if len(value) >= _SHORTEST]


def _check_host(api: Api, named: Callable[[], str]) -> None:
    if _origin(api.base_url) == _origin(DEFAULT_BASE_URL) or is_loopback(api.base_url):
        return
    allowed = named()
    try:
        agreed = bool(allowed) and _origin(allowed) == _origin(api.base_url)
    except ValueError:  # not a URL at all
        agreed = False
    if not agreed:
        raise UsageError(
            f"the manifest names the service {api.base_url}; it gets the key only if you say so: "
            f"set {BASE_URL_ENV}={api.base_url} in the environment"
        )


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port


def _read_dotenv(path: Path) -> dict[str, str]:
    from dotenv import dotenv_values

    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(kind):  # to read a pipe may take for ever
        raise UsageError(f"cannot read {path}: it is not a regular file; put the key into the environment instead")
    try:
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {exc}") from exc
