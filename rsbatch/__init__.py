"""rsbatch: a batch runner for RouteScope's async image API.

    from rsbatch import Manifest, plan, run

    manifest = Manifest("manifests/quickstart.yaml", simulate=True)
    for planned in plan(manifest):
        print(planned.task.id, planned.action, planned.usd)
    result = run(manifest)
    print(result.exit_code, [file.path for _, file in manifest.ledger.saved()])

Rule: importing this package imports nothing else; names are loaded when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rsbatch.api import Ledger, Manifest, plan, run
    from rsbatch.errors import ManifestError, RsbatchError
    from rsbatch.model import SavedFile, Selection, Task
    from rsbatch.planning import Planned
    from rsbatch.summary import Result

__version__ = "0.1.0"

__all__ = [
    "Ledger",
    "Manifest",
    "ManifestError",
    "Planned",
    "Result",
    "RsbatchError",
    "SavedFile",
    "Selection",
    "Task",
    "__version__",
    "plan",
    "run",
]

_HOMES = {
    "Ledger": "api",
    "Manifest": "api",
    "ManifestError": "errors",
    "Planned": "planning",
    "Result": "summary",
    "RsbatchError": "errors",
    "SavedFile": "model",
    "Selection": "model",
    "Task": "model",
    "plan": "api",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"rsbatch.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'rsbatch' has no attribute {name!r}")
