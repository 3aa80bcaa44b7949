"""From a manifest's YAML to tasks: `load.load_manifest`, `expand.Manifest`, `check.check`."""
