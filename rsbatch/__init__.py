"""rsbatch: a batch runner for RouteScope's async image API."""

__version__ = "0.1.0"
