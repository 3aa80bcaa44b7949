"""From a manifest's YAML to tasks: load it, check all of it in one pass, and go through its tasks."""

from rsbatch.manifest.expand import Manifest
from rsbatch.manifest.load import load_manifest
from rsbatch.manifest.survey import Checked, check

__all__ = ["Checked", "Manifest", "check", "load_manifest"]
