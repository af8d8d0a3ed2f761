"""Whether the packages that tracing requires are installed."""

from importlib import import_module

from gateway.config.errors import ConfigError, InvalidConfig


def require_tracing_packages(variable: str) -> None:
    """Raise InvalidConfig when a variable enables tracing and its packages are not installed."""
    try:
        if variable:
            import_module("gateway.drivers.telemetry.tracing")
    except ImportError:
        message = "enables tracing, which requires: pip install 'console-gateway[otel]'"
        raise InvalidConfig([ConfigError("environment", 0, variable, message)]) from None
