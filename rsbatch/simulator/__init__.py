"""The simulator: RouteScope's async image API as a pure engine, and the shells that serve it.

Rule: this is a second implementation of the wire on purpose. It shares no code with the client (of rsbatch it
imports only the error tree and the version), so that both cannot be wrong alike. Importing this package is
cheap: names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsbatch.simulator.app import create_app
    from rsbatch.simulator.engine import Engine
    from rsbatch.simulator.faults import parse_faults
    from rsbatch.simulator.journal import Journal, open_simulator
    from rsbatch.simulator.settings import Settings
    from rsbatch.simulator.transport import SimulatorTransport

__all__ = [
    "Engine",
    "Journal",
    "Settings",
    "SimulatorTransport",
    "create_app",
    "open_simulator",
    "parse_faults",
]

_HOMES = {
    "Engine": "engine",
    "Journal": "journal",
    "Settings": "settings",
    "SimulatorTransport": "transport",
    "create_app": "app",
    "open_simulator": "journal",
    "parse_faults": "faults",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
