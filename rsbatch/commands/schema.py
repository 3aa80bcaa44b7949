"""`rsbatch schema`: the manifest's JSON Schema, for editors.

Rule: prints and does nothing else.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace

from rsbatch.errors import Exit


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's options; it has none."""
    parser.description = (
        "Print the JSON Schema of manifests. Save it beside a manifest (rsbatch schema > rsbatch.schema.json) and "
        "begin the manifest with: # yaml-language-server: $schema=./rsbatch.schema.json"
    )


def run(args: Namespace) -> int:
    """Print the schema to standard output."""
    from rsbatch.manifest.schema import json_schema

    del args
    sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
    return int(Exit.OK)
