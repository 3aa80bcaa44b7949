"""The key for the service: from the environment or `.env`, and only for a service it is meant for.

Rule: this is the one place that reads the key. It is given to no host that only a manifest names: a manifest from
a stranger must not be able to send secrets away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rsbatch.errors import UsageError
from rsbatch.model import DEFAULT_BASE_URL, DEFAULT_KEY_ENV, Api

BASE_URL_ENV = "RSBATCH_BASE_URL"
_MOST = 4096
_PREFIX = "sk-"


def find_key(api: Api, environ: Mapping[str, str], folder: Path) -> str:
    """Give the key for `api` from `environ`, else from `.env` in `folder`; raises UsageError.

    A base URL that is neither the default nor loopback has to be named by the environment too.
    """
    dotenv = _read_dotenv(folder / ".env")
    _check_host(api, environ.get(BASE_URL_ENV) or dotenv.get(BASE_URL_ENV) or "")
    key = (environ.get(api.key_env) or dotenv.get(api.key_env) or "").strip()
    if not key:
        raise UsageError(
            f"no key: set {api.key_env} in the environment or in {folder / '.env'} "
            f"(to try rsbatch without a key: --simulate)"
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


def _check_host(api: Api, allowed: str) -> None:
    if _origin(api.base_url) == _origin(DEFAULT_BASE_URL) or is_loopback(api.base_url):
        return
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
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {exc}") from exc
